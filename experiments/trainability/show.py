"""Which depths train, beside 6 ξ_c: table, figure and claims."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.common.tables import new_table
from experiments.runtime.experiment import Claim, Result
from experiments.trainability import linear
from experiments.trainability.fit import HALF_WAY, PUBLISHED, THRESHOLDS, Line
from initjax import meanfield

HALF = "half-way to perfect"


def tables(result: Result) -> list[Any]:
  """Measured frontier beside ξ_c; and what the two have in common."""
  title = "greatest depth that trains, tanh"
  headings = "σ_w²", "ξ_c", "6 ξ_c", "measured", "measured/ξ_c"
  table = new_table(title, *headings)
  for w, xi, seeds in zip(
    result["sigma_w2"], result["xi_c"], result["frontier"], strict=True
  ):
    mean, error = plots.mean_and_error(seeds)
    known = np.isfinite(mean)
    table.add_row(
      f"{w:g}",
      f"{xi:.1f}",
      f"{PUBLISHED * xi:.0f}",
      f"{mean:.1f} ± {2 * error:.1f}" if known else "beyond the grid",
      f"{mean / xi:.2f}" if known else "",
    )
  line = Line(**result["line"])
  if line.found:
    table.caption = (
      f"up to half of the critical frontier: ξ_c^({line.exponent:.2f} ± "
      f"{2 * line.exponent_error:.2f}), times {line.prefactors[0]:.2f} "
      f"(ordered) and {line.prefactors[1]:.2f} (chaotic); with exponent 1, "
      f"{line.factor:.2f} ξ_c"
    )
  return [table, _choices(result), linear.table(result["linear"])]


def _choices(result: Result) -> Any:
  """What the "6" is with other budgets, and other accuracies for "trains"."""
  title = "trainable depth over ξ_c, and what sets it"
  table = new_table(title, "what counts", "depth/ξ_c", left=1)
  updates, levels = result["updates"], result["thresholds"]
  choices = [(HALF_WAY, n) for n in updates] + [
    (x, updates[-1]) for x in levels
  ]
  factors = [*result["by_budget"], *result["by_threshold"]]
  for (level, count), factor in zip(choices, factors, strict=True):
    told = f"accuracy {level:g} after {count} updates"
    table.add_row(told, _two(factor))
  return table


def _two(factor: float) -> str:
  return f"{factor:.2f}" if np.isfinite(factor) else "too few points"


def figure(result: Result) -> Any:
  """Accuracy over the plane, frontier against ξ_c, what the "6" depends on."""
  drawn, axes = plots.grid(1, 3)
  _draw_plane(drawn, axes[0, 0], result)
  _draw_frontier(axes[0, 1], result)
  _draw_choices(axes[0, 2], result)
  seeds = result["accuracy"].shape[-1]
  plots.setting(
    drawn,
    f"tanh, width {result['width']}, {seeds} networks of each kind, σ_b² = "
    f"{result['sigma_b2']:g}, SGD, {result['updates'][-1]} updates",
  )
  return drawn


def _draw_plane(drawn: Any, axis: Any, result: Result) -> None:
  axis.grid(visible=False)
  axis.set_facecolor("0.85")  # deeper than was tried
  image = axis.pcolormesh(
    result["sigma_w2"],
    result["depths"],
    np.ma.masked_invalid(result["accuracy"][-1].mean(-1)),
    cmap="cividis",
    vmin=0,
    vmax=1,
    shading="nearest",
  )
  drawn.colorbar(image, ax=axis, label="training accuracy after the budget")
  w = result["sigma_w2"]
  dense = np.linspace(w[0], w[-1], 64)
  scale = PUBLISHED * _xi_c(dense, result)
  plots.law(axis, dense, scale, label="6 ξ_c, theory", color="white")
  plots.points(axis, w, result["frontier"].T, plots.COLORS[1], HALF)
  axis.set_yscale("log")
  axis.set_ylim(result["depths"][0], result["depths"][-1])
  axis.set_yticks(result["depths"], labels=map(_label, result["depths"]))
  axis.minorticks_off()
  axis.set_xlabel("weight variance σ_w² (× fan_in)")
  axis.set_ylabel("depth (layers)")
  axis.legend(loc="lower right", facecolor="gray", fontsize=8)


def _label(depth: float) -> str:
  return f"{depth:g}"


def _xi_c(sigma_w2: np.ndarray, result: Result) -> np.ndarray:
  points = (
    meanfield.fixed_point(jnp.tanh, w, result["sigma_b2"]) for w in sigma_w2
  )
  return np.array([point.xi_c for point in points])


def _frontier_and_error(result: Result) -> tuple[np.ndarray, np.ndarray]:
  """Mean over seeds, and two standard errors; NaN beyond the grid."""
  mean, error = plots.mean_and_error(result["frontier"], 1)
  return mean, 2 * error


def _draw_frontier(axis: Any, result: Result) -> None:
  """Filled: what the fit rests on; hollow: where the budget ends first."""
  line, ordered = Line(**result["line"]), result["ordered"]
  mean, error = _frontier_and_error(result)
  xi_c, near = result["xi_c"], result["xi_c"] < 1e3
  phases = (("ordered", ordered, "o"), ("chaotic", ~ordered, "s"))
  for (name, phase, marker), color in plots.colored(phases):
    for used, fill in ((True, "full"), (False, "none")):
      chosen = phase & near & (line.used == used)
      label = f"{name}" if used else None
      style = {"fmt": marker, "color": color, "fillstyle": fill}
      here = xi_c[chosen], mean[chosen], error[chosen]
      axis.errorbar(*here, label=label, **style)
    fitted = np.sort(xi_c[phase & line.used])
    prefactor = line.prefactors[0 if name == "ordered" else 1]
    axis.plot(fitted, prefactor * fitted**line.exponent, color=color, lw=0.8)
  axis.plot([], [], "o", color="gray", fillstyle="none", label="not fitted")
  ends = np.array([xi_c[near].min(), xi_c[near].max()])
  plots.law(axis, ends, PUBLISHED * ends, label="6 ξ_c, paper")
  axis.set(xscale="log", yscale="log", ylim=(2, 1.5 * result["depths"][-1]))
  _draw_limit(axis, result, mean)
  axis.set_title(
    f"exponent {line.exponent:.2f} ± {2 * line.exponent_error:.2f}", fontsize=10
  )
  axis.set_xlabel("depth scale ξ_c from theory (layers)")
  axis.set_ylabel("greatest depth that trains (layers)")
  axis.legend(loc="lower right", fontsize=8)


def _draw_limit(axis: Any, result: Result, mean: np.ndarray) -> None:
  """The frontier of the critical network: set by the budget alone."""
  most = mean[np.argmax(result["xi_c"])]
  if np.isfinite(most):
    axis.axhline(most, color="gray", linestyle=":")
    where = axis.get_xlim()[0] * 1.1
    axis.text(
      where, most, "critical: limited by the budget", va="bottom", fontsize=8
    )


def _draw_choices(axis: Any, result: Result) -> None:
  updates, levels = result["updates"], result["thresholds"]
  labels = [f"{n}" for n in updates] + [f"{level:g}" for level in levels]
  factors = [*result["by_budget"], *result["by_threshold"]]
  places = [*range(len(updates)), *range(len(updates) + 1, len(labels) + 1)]
  colors = [plots.COLORS[2]] * len(updates) + [plots.COLORS[4]] * len(levels)
  axis.bar(places, np.nan_to_num(factors), color=colors)
  for place, factor in zip(places, factors, strict=True):
    if not np.isfinite(factor):
      note = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 8}
      axis.text(place, 0.1, "too few points", **note)
  plots.level(axis, PUBLISHED, "paper: 6")
  axis.set_xticks(places, labels)
  axis.set_xlabel("updates (at 0.55) | accuracy (at the last)")
  axis.set_ylabel("greatest depth that trains over ξ_c")
  axis.set_title("what the 6 depends on", fontsize=10)
  axis.legend(fontsize=8)


def claims(result: Result) -> list[Claim]:
  """What trains reaches as deep as a pair of inputs can be told apart."""
  line = Line(**result["line"])
  found = [linear.claim(result["linear"])]
  return (_depth_scale(result, line) if line.found else []) + found


def _depth_scale(result: Result, line: Line) -> list[Claim]:
  """The factor of ξ_c, and the exponent."""
  source = "Schoenholz et al. 2017, Fig. 5"
  name = "log of trainable depth over ξ_c"
  law, ours = float(np.log(PUBLISHED)), float(np.log(line.factor))
  factor = Claim(source, name, law, ours, 2 * line.log_factor_error)
  chosen = np.log(result["by_threshold"])
  choice = float(np.nanmax(chosen) - np.nanmin(chosen)) / 2
  ends = f"{THRESHOLDS[0]:g} and {THRESHOLDS[-1]:g}"
  why = f"half of what accuracies of {ends} change is allowed"
  source = f"{source} (implied by 6 ξ_c)"
  name = "exponent of ξ_c in trainable depth"
  error = 2 * line.exponent_error
  both = "one exponent, a prefactor for each phase"
  return [
    factor.allowing(choice, f"6 ξ_c is drawn, not fitted: {why}"),
    Claim(source, name, 1.0, line.exponent, error, why=both),
  ]
