"""Tables, figure and claims of `rectifiers`."""

from typing import Any

import numpy as np

from experiments import _plots
from experiments._experiment import Claim, Result


def claims(result: Result) -> list[Claim]:
  """What has a slope everywhere cannot die; how many are born dead.

  A share of n independent networks has the deviation √(p(1 - p)/n).
  """
  found = []
  sources = {"leaky_relu": "Maas et al. 2013", "elu": "Clevert et al. 2016"}
  for name, source in sources.items():
    if name in result["activations"]:
      most = float(np.max(result["activations"][name]["dead"]))
      found.append(Claim(source, f"dead {name} units", 0.0, most, 0.0))
  for width, law in result["theory"].items():
    share = 1 - law[-1]
    ours = 1 - float(result["born_alive"][width]["symmetric"][-1])
    deviation = float(np.sqrt(share * (1 - share) / result["born_networks"]))
    name = f"ReLU, {len(law)} layers of {width}: share born dead"
    source = "Lu et al. 2020, §3"
    found.append(Claim(source, name, float(share), ours, 2 * deviation))
  return found


def tables(result: Result) -> list[Any]:
  """Dead units, those that came back, and accuracy at the end."""
  import rich.table

  table = rich.table.Table(
    title="after training: dead units, revived of all that died, test accuracy"
  )
  table.add_column("activation")
  table.add_column("bias", justify="right")
  for rate in result["rates"]:
    table.add_column(f"rate {rate:g}", justify="right")
  for name, found in result["activations"].items():
    for i, bias in enumerate(result["biases"]):
      cells = [_cell(found, i, j) for j in range(len(result["rates"]))]
      table.add_row(name, f"{bias:g}", *cells)
  return [table, _born_table(result)]


def _cell(found: dict[str, Any], bias: int, rate: int) -> str:
  dead = found["dead"][bias, rate, :, -1].mean()
  back = found["revived"][bias, rate]
  back = back[np.isfinite(back)]
  right = found["test_accuracy"][bias, rate, :, -1].mean()
  told = f"{back.mean():.0%}" if len(back) else "-"
  lost = int(found["diverged"][bias, rate].sum())
  cell = f"{dead:.1%}, {told}, {right:.0%}"
  return f"{cell} ({lost} diverged)" if lost else cell


def _born_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(title="share of thin ReLU networks born dead")
  for name in ("width, layers", "symmetric", "theory", "asymmetric"):
    table.add_column(name, justify="right")
  for width, law in result["theory"].items():
    alive = result["born_alive"][width]
    table.add_row(
      f"{width}, {len(law)}",
      f"{1 - alive['symmetric'][-1]:.3f}",
      f"{1 - law[-1]:.3f}",
      f"{1 - alive['asymmetric'][-1]:.3f}",
    )
  return table


def figure(result: Result) -> Any:
  """Rows: each bias, a panel for each rate; then layers, revival, births."""
  rates, biases = result["rates"], result["biases"]
  columns = max(3, len(rates))
  drawn, axes = _plots.grid(len(biases) + 1, columns)
  for i, bias in enumerate(biases):
    for j, rate in enumerate(rates):
      _draw_course(axes[i, j], result, i, j)
      axes[i, j].set_title(f"first bias {bias:g}, learning rate {rate:g}")
    for axis in axes[i, len(rates) :]:
      axis.set_visible(False)
  axes[0, 0].legend(fontsize=8)
  _draw_layers(axes[-1, 0], result)
  _draw_revival(axes[-1, 1], result)
  _draw_born(axes[-1, 2], result)
  for axis in axes[-1, 3:]:
    axis.set_visible(False)
  return drawn


def _draw_course(axis: Any, result: Result, bias: int, rate: int) -> None:
  for (name, found), color in zip(
    result["activations"].items(), _plots.COLORS, strict=False
  ):
    dead = found["dead"][bias, rate].mean(-1)
    _plots.line_with_band(axis, result["steps"], dead, color, name)
  lost = {
    name: int(found["diverged"][bias, rate].sum())
    for name, found in result["activations"].items()
  }
  if any(lost.values()):
    told = ", ".join(f"{name} {count}" for name, count in lost.items())
    count = len(dead)
    axis.text(0, 0.9, f"diverged, of {count}: {told}", fontsize=8)
  axis.set_ylim(-0.02, 1.02)
  axis.set_xlabel("updates")
  axis.set_ylabel("share of dead units")


def _draw_layers(axis: Any, result: Result) -> None:
  """ReLU at the greatest rate and the first bias, by layer."""
  import matplotlib

  name = next(iter(result["activations"]))
  dead = result["activations"][name]["dead"][0, -1]
  count = dead.shape[-1]
  colors = matplotlib.colormaps["cividis"](np.linspace(0, 0.9, count))
  for layer, color in enumerate(colors):
    _plots.line_with_band(
      axis, result["steps"], dead[..., layer], color, f"layer {layer + 1}"
    )
  axis.set_ylim(-0.02, 1.02)
  axis.set_title(f"{name} by layer, learning rate {result['rates'][-1]:g}")
  axis.set_xlabel("updates")
  axis.set_ylabel("share of dead units")
  axis.legend(fontsize=8)


def _draw_revival(axis: Any, result: Result) -> None:
  rates = np.arange(len(result["rates"]))
  count = len(result["biases"]) * len(result["activations"])
  bars = 0
  for (name, found), color in zip(
    result["activations"].items(), _plots.COLORS, strict=False
  ):
    for i, bias in enumerate(result["biases"]):
      back = np.asarray(found["revived"][i])  # [rates, seeds]
      died = np.isfinite(back)
      known = died.any(1)
      mean = np.where(died, back, 0).sum(1) / np.maximum(died.sum(1), 1)
      if known.any():
        axis.bar(
          rates[known] + 0.8 * ((bars + 0.5) / count - 0.5),
          mean[known], 0.8 / count, color=color,
          hatch=None if i == 0 else "//", edgecolor="white",
          label=f"{name}, bias {bias:g}",
        )  # fmt: skip
      bars += 1
  axis.set_xticks(rates, [f"{rate:g}" for rate in result["rates"]])
  axis.set_ylim(0, 1.02)
  axis.set_title("do dead units come back?")
  axis.set_xlabel("learning rate")
  axis.set_ylabel("revived of all that died")
  if axis.get_legend_handles_labels()[0]:
    axis.legend(fontsize=8)


def _draw_born(axis: Any, result: Result) -> None:
  for (width, law), color in zip(
    result["theory"].items(), _plots.COLORS, strict=False
  ):
    layers = np.arange(1, len(law) + 1)
    alive = result["born_alive"][width]
    axis.plot(
      layers, 1 - alive["symmetric"], "o", color=color, markersize=3,
      label=f"width {width}, symmetric",
    )  # fmt: skip
    axis.plot(
      layers, 1 - alive["asymmetric"], "x", color=color, markersize=4,
      label=f"width {width}, asymmetric",
    )  # fmt: skip
    axis.plot(layers, 1 - np.array(law), color=color, **_plots.THEORY)
  axis.plot(
    [], [], color="gray", label="1 - (1 - 2⁻ⁿ)ᴸ, theory", **_plots.THEORY
  )
  axis.set_title("networks born dead (one input)")
  axis.set_xlabel("layers L")
  axis.set_ylabel("share of networks")
  axis.legend(fontsize=7)
