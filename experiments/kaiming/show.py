"""Tables, figure and claims of `kaiming`."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.fan_networks import ends
from experiments.common.plots import mean_and_error
from experiments.runtime.experiment import Claim, Result

HE = "He et al. 2015"
MODES = {
  "fan_in": "2/n_in",
  "fan_out": "2/n_out",
  "fan_avg": "4/(n_in + n_out)",
}


def kept(result: Result, direction: str) -> tuple[np.ndarray, np.ndarray]:
  """What a layer keeps, by slope [slopes]: mean and its error over networks."""
  return mean_and_error(np.asarray(result["slopes"][direction]).mean(-1), 1)


def claims(result: Result) -> list[Claim]:
  """What a layer keeps, how products of fans telescope, and what stalls."""
  return [
    *_slope_claims(result),
    *_fan_claims(result),
    *_training_claims(result),
  ]


def _slope_claims(result: Result) -> list[Claim]:
  found = []
  slopes = result["config"]["slopes"]
  for direction, equation in (("forward", "Eq. 10"), ("backward", "Eq. 14")):
    mean, error = kept(result, direction)
    for a, value, deviation in zip(slopes, mean, error, strict=True):
      name = f"slope {a:g}: share kept by a layer, {direction}"
      source = f"{HE}, {equation if a == 0 else 'Eq. 15'}"
      error_of_two = 2 * float(deviation)
      law = (1 + a * a) / 2
      found.append(Claim(source, name, law, float(value), error_of_two))
  return found


def _fan_claims(result: Result) -> list[Claim]:
  found = []
  for mode, seen in result["fans"].items():
    for direction, (value, error) in ends(seen).items():
      law = result["theory"]["fans"][mode][direction]
      published = float(np.log2(law[-1 if direction == "forward" else 0]))
      source = f"{HE}, §2.2" if mode != "fan_avg" else "product of fans"
      name = f"{mode}: log₂ {direction} second moment at its end"
      found.append(Claim(source, name, published, value, 2 * error))
  return found


def _training_claims(result: Result) -> list[Claim]:
  """A network that stalls names one class, right for about a tenth.

  The classes are not quite equal: their largest deviation from a tenth counts.
  """
  found = []
  uneven = float(np.abs(result["classes"] - 0.1).max())
  for kind, depths in result["courses"].items():
    depth = max(depths, key=int)
    if int(depth) < 30:  # may learn
      continue
    mean, error = mean_and_error(depths[depth]["Xavier"]["accuracy"][:, -1])
    name = f"{kind}, {depth} layers, Xavier: accuracy after training"
    found.append(
      Claim(f"{HE}, Fig. 3", name, 0.1, float(mean), uneven + 2 * float(error))
    )
  return found


def tables(result: Result) -> list[Any]:
  """By slope, by fan, and after training."""
  return [_slope_table(result), _fan_table(result), _course_table(result)]


def _slope_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(title="leaky ReLU, Var W = 1/n: kept by a layer")
  for name in ("slope a", "(1 + a²)/2", "forward", "backward", "gain", "ours"):
    table.add_column(name, justify="right")
  (forward, df), (backward, db) = (
    kept(result, direction) for direction in ("forward", "backward")
  )
  for i, a in enumerate(result["config"]["slopes"]):
    table.add_row(
      f"{a:g}",
      f"{(1 + a * a) / 2:.4f}",
      f"{forward[i]:.4f} ± {2 * df[i]:.4f}",
      f"{backward[i]:.4f} ± {2 * db[i]:.4f}",
      f"{np.sqrt(2 / (1 + a * a)):.4f}",
      f"{forward[i] ** -0.5:.4f}",
    )
  return table


def _fan_table(result: Result) -> Any:
  import rich.table

  n = result["widths"]
  table = rich.table.Table(
    title=f"ReLU, widths {n[0]}, {n[1]}, ..., {n[-1]}: log₂ at the end (theory)"
  )
  for name in ("Var W", "signal", "gradient"):
    table.add_column(name)
  for mode, seen in result["fans"].items():
    law = result["theory"]["fans"][mode]
    cells = [
      f"{value:+.2f} ± {2 * error:.2f} "
      f"({np.log2(law[direction][-1 if direction == 'forward' else 0]):+.2f})"
      for direction, (value, error) in ends(seen).items()
    ]
    table.add_row(MODES[mode], *cells)
  return table


def _course_table(result: Result) -> Any:
  import rich.table

  table = rich.table.Table(
    title="training loss (nats), test accuracy at the end"
  )
  for name in ("network", "He", "Xavier"):
    table.add_column(name)
  for kind, depths in result["courses"].items():
    for depth, inits in depths.items():
      cells = []
      for course in inits.values():
        loss, error = mean_and_error(course["loss"][:, -1])
        right = course["test_accuracy"][:, -1].mean()
        told = "diverged" if np.isnan(right) else f"{right:.1%}"
        cells.append(f"{loss:.3f} ± {2 * error:.3f}, {told}")
      table.add_row(f"{kind}, {depth} layers", *cells)
  return table


def figure(result: Result) -> Any:
  """Above: random networks; below: training."""
  panels = [
    (kind, depth)
    for kind, depths in result["courses"].items()
    for depth in depths
  ]
  drawn, axes = plots.grid(2, max(4, len(panels)))
  _draw_kept(axes[0, 0], result)
  _draw_gain(axes[0, 1], result)
  for axis, direction in zip(
    axes[0, 2:4], ("forward", "backward"), strict=True
  ):
    _draw_fans(axis, result, direction)
  for axis, panel in zip(axes[1], panels, strict=False):
    _draw_courses(axis, result, *panel)
  for axis in (*axes[0, 4:], *axes[1, len(panels) :]):
    axis.set_visible(False)
  return drawn


def _draw_kept(axis: Any, result: Result) -> None:
  slopes = np.array(result["config"]["slopes"])
  for direction, marker, color in zip(
    ("forward", "backward"), "os", plots.COLORS[:2], strict=True
  ):
    mean, error = kept(result, direction)
    axis.errorbar(
      slopes, mean, 2 * error, fmt=marker, color=color, markersize=5,
      markerfacecolor="none", label=direction,
    )  # fmt: skip
  dense = np.linspace(slopes[0], slopes[-1], 50)
  axis.plot(
    dense, (1 + dense**2) / 2, color="black", label="(1 + a²)/2, theory",
    **plots.THEORY,
  )  # fmt: skip
  axis.set_title("leaky ReLU, Var W = 1/n")
  axis.set_xlabel("slope a below 0")
  axis.set_ylabel("second moment kept by a layer")
  axis.legend(fontsize=8)


def _draw_gain(axis: Any, result: Result) -> None:
  slopes = np.array(result["config"]["slopes"])
  mean, error = kept(result, "forward")
  axis.errorbar(
    slopes, mean**-0.5, error * mean**-1.5, fmt="o", color=plots.COLORS[0],
    label="measured",
  )  # fmt: skip
  dense = np.linspace(slopes[0], slopes[-1], 50)
  axis.plot(
    dense, np.sqrt(2 / (1 + dense**2)), color="black",
    label="√(2/(1 + a²)), theory", **plots.THEORY,
  )  # fmt: skip
  axis.set_title("gain that makes up for it")
  axis.set_xlabel("slope a below 0")
  axis.set_ylabel("gain")
  axis.legend(fontsize=8)


def _draw_fans(axis: Any, result: Result, direction: str) -> None:
  for mode, color in plots.colored(MODES):
    mean, error = mean_and_error(result["fans"][mode][direction])
    layers = np.arange(len(mean))
    axis.errorbar(
      layers, mean, 2 * error, fmt="o", markersize=4, color=color,
      label=MODES[mode],
    )  # fmt: skip
    law = result["theory"]["fans"][mode][direction]
    axis.plot(layers, law, color=color, **plots.THEORY)
  axis.plot([], [], color="gray", label="theory", **plots.THEORY)
  axis.set_yscale("log", base=2)
  n = result["widths"]
  what = "signal" if direction == "forward" else "gradient"
  axis.set_title(f"ReLU, widths {n[0]}, {n[1]}, {n[0]}, ...: {what}")
  axis.set_xlabel("layer")
  axis.set_ylabel(f"second moment of the {what}")
  axis.legend(fontsize=7)


def _draw_courses(axis: Any, result: Result, kind: str, depth: str) -> None:
  inits = result["courses"][kind][depth]
  for (init, course), color in plots.colored(inits.items()):
    losses = course["loss"]
    steps = np.linspace(0, result["config"]["steps"], losses.shape[1])
    plots.line_with_band(axis, steps, losses, color, init)
  axis.axhline(np.log(10), color="gray", linestyle=":", label="ln 10: chance")
  axis.set_ylim(0, 3)
  axis.set_title(f"{kind}, {depth} layers")
  axis.set_xlabel("updates")
  axis.set_ylabel("training loss (nats)")
  axis.legend(fontsize=8)
