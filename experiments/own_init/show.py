"""Three initializations of every model beside each other."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.common.training import best_rate
from experiments.runtime.experiment import Claim, Result

SHARE = 0.02
"""of the loss's drop, by which `auto_init` may be worse"""


def best_rates(rates: tuple[float, ...], loss: np.ndarray) -> tuple[float, ...]:
  """Of each way, from losses [ways, rates, seeds, points]."""
  return tuple(rates[best_rate(each)] for each in loss)


def final(found: dict[str, Any]) -> np.ndarray:
  """Losses at the end, [seeds]; what diverged ends where it started."""
  loss = np.asarray(found["loss"], np.float64)
  return np.where(np.isfinite(loss[:, -1]), loss[:, -1], loss[:, 0])


def excess(ways: dict[str, Any], way: str) -> tuple[float, float, float]:
  """By how much a way's loss is above the own one's, and two errors.

  Returns:
    The mean difference of pairs, two standard errors of it, and what is
    allowed: these, or 2 % of the drop of the own loss, if that is more.
  """
  own = final(ways["own"])
  mean, error = plots.mean_and_error(final(ways[way]) - own)
  start = float(np.mean(np.asarray(ways["own"]["loss"])[:, 0]))
  drop = max(start - float(own.mean()), 0.0)
  return float(mean), float(2 * error), max(float(2 * error), SHARE * drop)


def verdict(ways: dict[str, Any], way: str) -> str:
  """Better, worse, or neither."""
  mean, _, allowed = excess(ways, way)
  return "worse" if mean > allowed else "better" if mean < -allowed else "equal"


def claims(result: Result) -> list[Claim]:
  """`auto_init` is nowhere worse."""
  found = []
  for name, ways in result["compared"].items():
    mean, _, allowed = excess(ways, "auto_init")
    found.append(
      Claim("the model's own initialization",
            f"{name}: loss from auto_init above it", 0.0, max(mean, 0.0),
            allowed)
    )  # fmt: skip
  return found


def tables(result: Result) -> list[Any]:
  """Losses at the end, and the differences of pairs."""
  import rich.table

  seeds = result["config"]["seeds"]
  table = rich.table.Table(
    title=f"training loss at the end, mean of {seeds} seeds (rate); difference "
    "to the own, ± 2 SE of pairs"
  )
  table.add_column("model")
  for way in next(iter(result["compared"].values())):
    table.add_column(way, justify="right")
    if way != "own":
      table.add_column("difference", justify="right")
  for name, ways in result["compared"].items():
    cells = []
    for way, found in ways.items():
      rate = result["rates"][name][way]
      cells.append(f"{final(found).mean():.3f} ({rate:g})")
      if way != "own":
        mean, error, _ = excess(ways, way)
        cells.append(f"{mean:+.3f} ± {error:.3f} {verdict(ways, way)}")
    table.add_row(name, *cells)
  return [table]


def figure(result: Result) -> Any:
  """Loss by update."""
  names = list(result["compared"])
  columns = min(len(names), 5)
  drawn, axes = plots.grid(-(-len(names) // columns), columns)
  for axis in axes.flat[len(names) :]:
    axis.set_visible(False)
  for axis, name in zip(axes.flat, names, strict=False):
    ways = result["compared"][name]
    for (way, found), color in plots.colored(ways.items()):
      loss = np.asarray(found["loss"])
      loss = np.where(np.isfinite(loss), loss, np.nan)
      steps = np.linspace(0, result["config"]["steps"], loss.shape[-1])
      plots.line_with_band(axis, steps, loss, color, way, plots.DIVERGED)
    axis.set_title(f"{name}: auto_init {verdict(ways, 'auto_init')}")
    axis.set_xlabel("updates")
    axis.set_ylabel("training loss")
    starts = [np.asarray(found["loss"])[:, 0].mean() for found in ways.values()]
    axis.set_ylim(0, 1.3 * min(starts))
  axes.flat[0].legend(fontsize="small")
  return drawn
