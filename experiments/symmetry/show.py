"""Tables and figure of `symmetry`; when symmetries break."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.tables import new_table
from experiments.runtime.experiment import Result

LEAST = 1e-10
"""Singular value over the largest below which none is told from 0"""


def break_times(asymmetry: np.ndarray, threshold: float) -> np.ndarray:
  """First update at which [..., updates] exceeds it, interpolated; or NaN."""
  above = asymmetry > threshold
  first = above.argmax(-1)
  at = np.take_along_axis(asymmetry, first[..., None], -1)[..., 0]
  before = np.maximum(first - 1, 0)
  below = np.take_along_axis(asymmetry, before[..., None], -1)[..., 0]
  with np.errstate(divide="ignore", invalid="ignore"):
    part = np.log(threshold / below) / np.log(at / below)
  time = np.where(first > 0, before + part, 0.0)
  return np.where(above.any(-1), time, np.nan)


def slopes(noises: Any, times: np.ndarray) -> np.ndarray:
  """Of times [noises, seeds] on ln(1/ε): least squares for each seed."""
  x = -np.log(np.asarray(noises))
  x = x - x.mean()
  found: np.ndarray = (x[:, None] * times).sum(0) / (x**2).sum()
  return found


def tables(result: Result) -> list[Any]:
  """What equal units learn; when noise tells them apart."""
  return [_learning(result), _breaking(result)]


def _learning(result: Result) -> Any:
  title = "after training, by initial weights"
  learnt = "train accuracy", "test accuracy", "ranks of kernels"
  spread = "units differ by", f"on {result['devices']} devices"
  one = "one unit's accuracy"
  table = new_table(title, "weights × fan_in", *learnt, *spread, one)
  constant = result["constant"]
  for index, value in enumerate(result["constants"]):
    table.add_row(
      f"{value:g}",
      f"{constant['accuracy'][index, -1]:.1%}",
      f"{constant['test_accuracy'][index]:.1%}",
      ", ".join(map(str, result["ranks"][index])),
      f"{constant['spread'][index].max():.1e}",
      f"{result['parallel_spread'][index].max():.1e}",
      f"{result['one_unit_accuracy'][index, -1]:.1%}",
    )
  random = result["random"]
  cells = []
  for values in (random["accuracy"][:, -1], random["test_accuracy"]):
    mean, error = plots.mean_and_error(values)
    cells.append(f"{mean:.1%} ± {2 * error:.1%}")
  ranks = ", ".join(map(str, result["random_ranks"].min(0)))
  table.add_row("random", *cells, ranks, "", "", "")
  return table


def _breaking(result: Result) -> Any:
  titles = "ε", "linearised", "observed", "train accuracy"
  table = new_table("updates until units differ", *titles)
  for index, noise in enumerate(result["noises"]):
    cells = []
    for values in (result["predicted"][index], result["observed"][index]):
      mean, error = plots.mean_and_error(values)
      broken = np.isfinite(mean)
      cells.append(f"{mean:.1f} ± {2 * error:.1f}" if broken else "not all do")
    final = result["noisy"]["accuracy"][index, :, -1].mean()
    table.add_row(f"{noise:g}", *cells, f"{final:.1%}")
  cells = []
  for name in ("predicted", "observed"):
    mean, error = plots.mean_and_error(slopes(result["noises"], result[name]))
    cells.append(f"{mean:.2f} ± {2 * error:.2f}")
  table.add_section()
  table.add_row("by ln(1/ε)", *cells, "")
  return table


def figure(result: Result) -> Any:
  """Accuracy, singular values; asymmetry, time to break."""
  drawn, axes = plots.grid(2, 2)
  _draw_accuracy(axes[0, 0], result)
  _draw_rank(axes[0, 1], result)
  _draw_asymmetry(axes[1, 0], result)
  _draw_times(axes[1, 1], result)
  seeds = result["random"]["accuracy"].shape[0]
  plots.setting(
    drawn,
    f"tanh, {result['kernels']} layers, width {result['width']}; {seeds} "
    "networks of each noise, and random ones; descent on all images at once",
  )
  return drawn


def _draw_accuracy(axis: Any, result: Result) -> None:
  one = result["constants"].index(1.0)
  updates = np.arange(result["random"]["accuracy"].shape[-1])
  lines = {"random": result["random"]["accuracy"]}
  for index in (0, -1):
    name = f"equal + noise {result['noises'][index]:g}"
    lines[name] = result["noisy"]["accuracy"][index]
  for (name, values), color in plots.colored(lines.items()):
    plots.line_with_band(axis, updates, values, color, name)
  equal = result["constant"]["accuracy"][one]
  axis.plot(updates, equal, color=plots.COLORS[3], label="equal")
  alone = result["one_unit_accuracy"][one]
  plots.law(axis, updates, alone, "a single unit, theory")
  axis.axhline(0.1, color="gray", linestyle=":", label="chance")
  plots.label(axis, "what equal weights learn", "updates", "training accuracy")
  axis.set_ylim(0, 1.02)
  axis.legend(fontsize=8)


def _draw_rank(axis: Any, result: Result) -> None:
  """Of the second kernel."""
  one = result["constants"].index(1.0)
  index = min(1, result["kernels"] - 1)
  random, noisy, equal = (
    result[name]["singular_values"] for name in ("random", "noisy", "constant")
  )
  noise = f"equal + noise {result['noises'][0]:g}"
  lines = (("random", random[0]), (noise, noisy[0, 0]), ("equal", equal[one]))
  last = index == result["kernels"] - 1
  colors = (plots.COLORS[0], plots.COLORS[1], plots.COLORS[3])
  for (name, values), marker, color in zip(lines, "os^", colors, strict=True):
    shown = values[index][: 10 if last else None]  # what follows is padding
    _draw_values(axis, name, shown, marker, color)
  axis.plot([], [], "v", color="gray", label="below all shown")
  bound = max(result["width"], 64) * np.finfo(np.float32).eps
  plots.level(axis, bound, "rounding: rank 1 is below")
  axis.set_yscale("log")
  axis.set_title("singular values of kernel 2, trained")
  axis.set_xlabel("index")
  axis.set_ylim(LEAST, 3)
  axis.set_ylabel("singular value over the largest")
  axis.legend(fontsize=8)


def _draw_values(
  axis: Any, name: str, values: np.ndarray, marker: str, color: str
) -> None:
  """Singular values; those below all that is shown at the lower edge."""
  index_of, seen = np.arange(1, len(values) + 1), values > LEAST
  style: dict[str, Any] = {"color": color, "markersize": 4}
  axis.plot(index_of[seen], values[seen], marker, label=name, **style)
  lost = index_of[~seen]
  axis.plot(lost, np.full(len(lost), 1.5 * LEAST), "v", **style)


def _draw_asymmetry(axis: Any, result: Result) -> None:
  updates = np.arange(result["log_linear"].shape[-1])
  for index, (noise, color) in enumerate(plots.colored(result["noises"])):
    measured = result["noisy"]["asymmetry"][index]
    axis.plot(updates, measured.T, color=color, linewidth=0.8)
    axis.plot([], [], color=color, label=f"ε = {noise:g}")
    line = result["log_linear"].mean(0) + np.log(noise)
    shown = line < 0
    plots.law(axis, updates[shown], np.exp(line[shown]))
  plots.law(axis, [], [], label="linearised descent")
  dotted = {"color": "gray", "linestyle": ":"}
  axis.axhline(result["threshold"], label="counts as broken", **dotted)
  axis.set_yscale("log")
  axis.set_title("how noise grows")
  axis.set_xlabel("updates")
  axis.set_ylabel("differences of units over weights (norms)")
  axis.legend(fontsize=7)


def _draw_times(axis: Any, result: Result) -> None:
  noises = np.array(result["noises"])
  mean, error = plots.mean_and_error(result["observed"], 1)
  axis.errorbar(
    noises, mean, 2 * error, fmt="o", color=plots.COLORS[0], label="measured"
  )
  plots.law(
    axis, noises, result["predicted"].mean(1), label="linearised descent"
  )
  axis.set_xscale("log")
  axis.invert_xaxis()
  axis.set_title("time to break the symmetry")
  axis.set_xlabel("noise ε over the equal weights")
  axis.set_ylabel("updates until broken")
  axis.legend()
