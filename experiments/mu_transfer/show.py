"""Loss by rate and size, in both parametrizations: table, figure, claims."""

import math
from typing import Any

import numpy as np

from experiments.common import plots
from experiments.mu_transfer.fit import Slope
from experiments.runtime.experiment import Claim, Result

WAYS = ("standard", "μP")
FLAT, STEEP, SURELY = 0.15, -0.3, -0.2
"""Slopes of the best rate: of what transfers at most; of what does not, and of
the upper end of its interval"""


def claims(result: Result) -> list[Claim]:
  """The best standard rate falls with width, μP's stays where it is."""
  found = []
  for name, sweep in result["sweeps"].items():
    if len(sweep["sizes"]) < 3:
      continue
    standard, scaled = (Slope(*sweep["slope"][way]) for way in WAYS)
    found.append(_flat(name, scaled))
    if name.endswith("width"):
      found += _steep(name, standard)
  return found


def _flat(name: str, found: Slope) -> Claim:
  """0, within 0.15 or its interval."""
  reach = found.high if found.slope < 0 else -found.low
  holds_0 = found.low <= 0 <= found.high
  error = max(FLAT, reach + abs(found.slope)) if holds_0 else FLAT
  source = "Yang et al. 2022, Fig. 1"
  if name.endswith("depth"):
    source = "Dey et al. 2025, Fig. 2"
  quantity = f"{name}: slope of μP's best rate"
  return Claim(source, quantity, 0.0, found.slope, error)


def _steep(name: str, found: Slope) -> list[Claim]:
  """Towards -1, at which the rate of hidden kernels would have to fall."""
  source = "Yang et al. 2022, Table 8: hidden rates as 1/width"
  ends = (
    ("slope of the standard best rate", found.slope, STEEP),
    ("upper end of its interval", found.high, SURELY),
  )
  return [
    Claim(source, f"{name}: {quantity}", -1.0, ours, 1.0 + bound)
    for quantity, ours, bound in ends
  ]


def tables(result: Result) -> list[Any]:
  """The best rate at each size, and its slope."""
  import rich.table

  found = []
  for name, sweep in result["sweeps"].items():
    kind = name.rpartition(" ")[2]
    table = rich.table.Table(title=f"{name}: best rate of Adam (loss)")
    table.add_column(kind, justify="right")
    for way in WAYS:
      table.add_column(way, justify="right")
    for row, size in enumerate(sweep["sizes"]):
      table.add_row(str(size), *(_cell(sweep, way, row) for way in WAYS))
    slopes = (Slope(*sweep["slope"][way]) for way in WAYS)
    table.add_row("slope", *map(_slope, slopes))
    found.append(table)
  return found


def _cell(sweep: dict[str, Any], way: str, row: int) -> str:
  best = sweep["optimum"][way][row]
  loss = np.asarray(sweep["loss"][way])[row].mean(-1).min()
  said = "at the edge" if math.isnan(best) else f"2^{best:.2f}"
  return f"{said} ({loss:.3f})"


def _slope(found: Slope) -> str:
  return f"{found.slope:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def figure(result: Result) -> Any:
  """Loss against rate by size, side by side; the best rate against size."""
  sweeps = result["sweeps"]
  drawn, axes = plots.grid(len(sweeps), 3)
  for row, (name, sweep) in zip(axes, sweeps.items(), strict=True):
    top = _top(sweep)
    for axis, way in zip(row, WAYS, strict=False):
      _draw_losses(axis, name, sweep, way)
      axis.set_ylim(top=top)
      axis.set_title(f"{name}, {way}")
    _draw_optima(row[2], name, sweep)
  return drawn


def _top(sweep: dict[str, Any]) -> float:
  """So that what diverged does not hide the rest."""
  means = [np.asarray(sweep["loss"][way]).mean(-1) for way in WAYS]
  known = np.concatenate([mean[np.isfinite(mean)] for mean in means])
  return float(np.quantile(known, 0.9)) if known.size else 1.0


def _draw_losses(axis: Any, name: str, sweep: dict[str, Any], way: str) -> None:
  losses, best = np.asarray(sweep["loss"][way]), sweep["optimum"][way]
  for (row, size), color in plots.colored(enumerate(sweep["sizes"])):
    mean, error = plots.of_finite(losses[row].T)
    axis.errorbar(
      sweep["rates"], mean, error, marker="o", markersize=3, color=color,
      label=str(size),
    )  # fmt: skip
    if not math.isnan(best[row]):
      axis.axvline(2 ** best[row], color=color, linestyle=":", linewidth=1)
  axis.set_xscale("log", base=2)
  if name.startswith("MLP"):
    axis.set_yscale("log")
  axis.set_xlabel("rate of Adam")
  axis.set_ylabel("training loss")
  axis.legend(title=name.rpartition(" ")[2], fontsize="small")


def _draw_optima(axis: Any, name: str, sweep: dict[str, Any]) -> None:
  for way, color in plots.colored(WAYS):
    best = np.asarray(sweep["optimum"][way], float)
    line = Slope(*sweep["slope"][way])
    label = f"{way}: slope {line.slope:+.2f}"
    axis.plot(sweep["sizes"], best, "o-", color=color, label=label)
  axis.set_xscale("log", base=2)
  axis.set_xlabel(name.rpartition(" ")[2])
  axis.set_ylabel("log₂ of the best rate")
  axis.legend(fontsize="small")
