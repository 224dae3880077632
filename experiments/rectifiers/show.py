"""Tables, figure and claims of `rectifiers`."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.claims import of_mean
from experiments.common.tables import new_table
from experiments.runtime.experiment import Claim, Result

STYLES = (("o", "-", 3.5), ("^", "--", 8), ("s", ":", 3.5))
"""Marker, line and size for each activation, for curves may coincide."""


GUESS = 0.1
"""accuracy of a network that diverged"""
STALLED = 0.9
"""of the variance, left by a network that has learnt but a constant"""


def claims(result: Result) -> list[Claim]:
  """How many networks are born dead, and what dying costs the others.

  A share of n independent networks has the deviation √(p(1 - p)/n).
  """
  found = []
  for width, law in result["theory"].items():
    born = 1 - result["born_alive"][width]["symmetric"][-1]
    name = f"ReLU, {len(law)} layers of {width}: share born dead"
    found.append(_share(name, 1 - law[-1], born, result["born_networks"]))
  return found + _of_cost(result)


def _share(name: str, law: float, ours: Any, count: int) -> Claim:
  error = 3 * float(np.sqrt(law * (1 - law) / count))
  return Claim(
    "Lu et al. 2020, §3", name, float(law), float(ours), error, "law"
  )


def counted(found: dict[str, Any], bias: int, rate: int) -> np.ndarray:
  """Final test accuracy [seeds], of one that diverged that of a guess."""
  return np.nan_to_num(found["test_accuracy"][bias, rate, :, -1], nan=GUESS)


def _of_cost(result: Result) -> list[Claim]:
  """In pairs of the same first weights and batches, at the least rate."""
  known = result["activations"]
  if not {"relu", "leaky_relu"} <= set(known):
    return []
  rate = int(np.argmin(result["rates"]))
  relu, leaky = (counted(known[n], 0, rate) for n in ("relu", "leaky_relu"))
  quantity = (
    f"rate {result['rates'][rate]:g}: accuracy of leaky ReLU less ReLU's, "
    "diverged ones counted"
  )
  source = "Maas et al. 2013, §4 (nearly identical)"
  claim = of_mean(source, quantity, 0.0, leaky - relu)
  return [claim.allowing(0.01, "a point of accuracy is nearly nothing")]


def tables(result: Result) -> list[Any]:
  """Dead units, those that came back, and accuracy at the end."""
  table = new_table(
    "after training: dead units, revived of all that died, test accuracy",
    "activation",
    "bias",
    *(f"rate {rate:g}" for rate in result["rates"]),
    left=1,
  )
  for name, found in result["activations"].items():
    for i, bias in enumerate(result["biases"]):
      cells = [_cell(found, i, j) for j in range(len(result["rates"]))]
      table.add_row(name, f"{bias:g}", *cells)
  return [table, _born_table(result)]


def _cell(found: dict[str, Any], bias: int, rate: int) -> str:
  """Means over the networks that are finite at the end, if there are any."""
  diverged = found["diverged"][bias, rate]
  lost = f"{int(diverged.sum())} of {len(diverged)} diverged"
  if diverged.all():
    return lost
  back = plots.of_finite(found["revived"][bias, rate])[0]
  dead = plots.of_finite(found["dead"][bias, rate, :, -1].mean(-1))[0]
  right = plots.of_finite(found["test_accuracy"][bias, rate, :, -1])[0]
  told = f"{back:.0%}" if np.isfinite(back) else "-"
  cell = f"{dead:.1%}, {told}, {right:.0%}"
  return f"{cell} ({lost})" if diverged.any() else cell


def _born_table(result: Result) -> Any:
  title = "share of thin ReLU networks born dead"
  headings = "width, layers", "symmetric", "theory", "asymmetric"
  table = new_table(title, *headings)
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
  """Rows: each bias, a panel for each rate; then cost, revival, births."""
  rates, biases = result["rates"], result["biases"]
  columns = max(3, len(rates))
  drawn, axes = plots.grid(len(biases) + 1, columns)
  for i, bias in enumerate(biases):
    for j, rate in enumerate(rates):
      _draw_course(axes[i, j], result, i, j)
      axes[i, j].set_title(f"first bias {bias:g}, learning rate {rate:g}")
    for axis in axes[i, len(rates) :]:
      axis.set_visible(False)
  axes[0, 0].legend(fontsize=8, loc="upper right")
  _draw_cost(axes[-1, 0], result)
  _draw_revival(axes[-1, 1], result)
  _draw_born(axes[-1, 2], result)
  for axis in axes[-1, 3:]:
    axis.set_visible(False)
  plots.setting(drawn, result["about"])
  return drawn


def _draw_course(axis: Any, result: Result, bias: int, rate: int) -> None:
  lost = {}
  for (name, found), color, style in zip(
    result["activations"].items(), plots.COLORS, STYLES, strict=False
  ):
    dead = found["dead"][bias, rate].mean(-1)
    _line(axis, result["steps"], dead, color, style, name)
    lost[name] = int(found["diverged"][bias, rate].sum())
  if any(lost.values()):
    told = ", ".join(f"{name} {count}" for name, count in lost.items())
    told = f"diverged, of {len(dead)}: {told}"
    axis.text(0.02, 0.95, told, fontsize=8, transform=axis.transAxes)
  _shares(axis)


def _line(
  axis: Any,
  x: Any,
  values: Any,
  color: Any,
  style: tuple[str, str, float],
  label: str,
) -> None:
  """Mean of finite networks, two standard errors around; else a gap."""
  mean, error = plots.of_finite(values)
  marker, line, size = style
  fill = {"markerfacecolor": "none"} if size > 4 else {}
  shape = {"markersize": size, "color": color, **fill}
  axis.plot(x, mean, marker + line, label=label, **shape)
  axis.fill_between(
    x, mean - error, mean + error, color=color, alpha=0.2, linewidth=0
  )


def _shares(axis: Any) -> None:
  """Linear up to a unit in a hundred, logarithmic beyond."""
  axis.set_yscale("symlog", linthresh=0.01)
  axis.set_ylim(-0.002, 2)
  axis.set_yticks([0, 0.01, 0.1, 1], ["0", "1 %", "10 %", "100 %"])
  axis.set_xlabel("updates")
  axis.set_ylabel("share of dead units")


def _draw_cost(axis: Any, result: Result) -> None:
  """Accuracy by rate, at the first bias."""
  rates = np.arange(len(result["rates"]))
  for (name, found), color, style in zip(
    result["activations"].items(), plots.COLORS, STYLES, strict=False
  ):
    right = np.array([counted(found, 0, int(rate)) for rate in rates]).T
    _line(axis, rates, right, color, style, name)
  axis.axhline(GUESS, color="gray", linestyle=":", label="guess")
  axis.set_xticks(rates, [f"{rate:g}" for rate in result["rates"]])
  axis.set_ylim(0, 1)
  axis.set_title(f"bias {result['biases'][0]:g}; diverged: a guess")
  axis.set_xlabel("learning rate")
  axis.set_ylabel("test accuracy after training")
  axis.legend(fontsize=7, loc="lower left")


def _draw_revival(axis: Any, result: Result) -> None:
  """A point for each kind of network of which units died."""
  rates = np.arange(len(result["rates"]))
  kinds = [
    (f"{name}, bias {bias:g}", found["revived"][i].T, marker, color, i)
    for (name, found), (marker, _, _), color in zip(
      result["activations"].items(), STYLES, plots.COLORS, strict=False
    )
    for i, bias in enumerate(result["biases"])
    if np.isfinite(found["revived"][i]).any()
  ]
  for place, (label, back, marker, color, i) in enumerate(kinds):
    mean, error = plots.of_finite(back)  # [rates]
    within = np.minimum(error, [mean, 1 - mean])  # [below and above, rates]
    x = rates + 0.5 * ((place + 0.5) / len(kinds) - 0.5)
    fill = {"markerfacecolor": None if i == 0 else "white"}
    style = {"fmt": marker, "color": color, "capsize": 3, **fill}
    axis.errorbar(x, mean, within, label=label, **style)
  axis.set_xticks(rates, [f"{rate:g}" for rate in result["rates"]])
  axis.set_xlim(-0.5, len(rates) - 0.5)
  axis.set_ylim(-0.05, 1.3)
  axis.set_yticks(np.linspace(0, 1, 6))
  axis.set_title("do dead units come back?")
  axis.set_xlabel("learning rate")
  axis.set_ylabel("revived of all that died")
  if kinds:
    axis.legend(fontsize=7, ncols=2, loc="upper center")


def _draw_born(axis: Any, result: Result) -> None:
  """Shades of grey, darker the wider: colours are activations' elsewhere."""
  shades = np.linspace(0.7, 0, len(result["theory"]))
  for (width, law), shade in zip(
    result["theory"].items(), map(str, shades), strict=True
  ):
    layers = np.arange(1, len(law) + 1)
    alive = result["born_alive"][width]
    axis.plot(layers, 1 - alive["symmetric"], "o", color=shade, markersize=3)
    axis.plot(layers, 1 - alive["asymmetric"], "x", color=shade, markersize=4)
    plots.law(axis, layers, 1 - np.array(law), color=shade)
    stalled = (np.asarray(result["left"][width]) > STALLED).mean()
    style = {"color": shade, "markerfacecolor": "white", "zorder": 3}
    axis.plot(result["trained_layers"], stalled, "D", **style)
    axis.plot([], [], color=shade, label=f"width {width}")
  for marker, label in (
    ("o", "symmetric, untrained"),
    ("x", "asymmetric"),
    ("D", "trained: learns but the mean"),
  ):
    style = {"color": "gray", "markersize": 4, "markerfacecolor": "none"}
    axis.plot([], [], marker, label=label, **style)
  plots.law(axis, [], [], label="1 - (1 - 2⁻ⁿ)ᴸ, theory", color="gray")
  axis.set_ylim(0, 1.5)
  axis.set_yticks(np.linspace(0, 1, 6))
  plots.label(axis, "networks born dead", "layers L", "share of networks")
  axis.legend(fontsize=7, ncols=2, loc="upper center")
