"""Which depths train, beside 6 ξ_c: table, figure and claims."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.runtime.experiment import Claim, Result
from experiments.trainability.fit import PUBLISHED, Line
from initjax import meanfield


def tables(result: Result) -> list[Any]:
  """Measured frontier beside ξ_c; and what the two have in common."""
  import rich.table

  table = rich.table.Table(title="greatest depth that trains, tanh")
  for title in ("σ_w²", "ξ_c", "6 ξ_c", "measured", "measured/ξ_c"):
    table.add_column(title, justify="right")
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
  if line.points:
    table.caption = (
      f"frontier = {line.factor:.2f} ξ_c (× or ÷ "
      f"{np.exp(2 * line.log_factor_error):.2f}); correlation of logarithms "
      f"{line.correlation:.3f}; exponent {line.exponent:.2f} ± "
      f"{2 * line.exponent_error:.2f}"
    )
  return [table]


def figure(result: Result) -> Any:
  """Accuracy over the plane with 6·ξ_c; frontier against ξ_c."""
  drawn, axes = plots.grid(1, 2)
  _draw_plane(drawn, axes[0, 0], result)
  _draw_frontier(axes[0, 1], result)
  return drawn


def _draw_plane(drawn: Any, axis: Any, result: Result) -> None:
  axis.grid(visible=False)
  image = axis.pcolormesh(
    result["sigma_w2"],
    result["depths"],
    result["accuracy"].mean(-1),
    cmap="cividis",
    vmin=0,
    vmax=1,
    shading="nearest",
  )
  drawn.colorbar(image, ax=axis, label="training accuracy after the budget")
  w = result["sigma_w2"]
  dense = np.linspace(w[0], w[-1], 64)
  scale = PUBLISHED * _xi_c(dense, result)
  axis.plot(dense, scale, color="white", **plots.THEORY, label="6 ξ_c, theory")
  axis.errorbar(
    w, *_frontier_and_error(result), fmt="o", color=plots.COLORS[1],
    markersize=4, label="half-way to perfect",
  )  # fmt: skip
  axis.set_yscale("log")
  axis.set_ylim(result["depths"][0], result["depths"][-1])
  axis.set_yticks(result["depths"], labels=map(_label, result["depths"]))
  axis.minorticks_off()
  axis.set_xlabel("weight variance σ_w² (× fan_in)")
  axis.set_ylabel("depth (layers)")
  axis.legend(loc="lower right", facecolor="gray")


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
  ordered = np.array(result["sigma_w2"]) < result["critical_sigma_w2"]
  inside = PUBLISHED * result["xi_c"] <= 2 * result["depths"][-1]
  mean, error = _frontier_and_error(result)
  kinds = (("ordered", ordered, "o"), ("chaotic", ~ordered, "s"))
  for (name, phase, marker), color in plots.colored(kinds):
    chosen = phase & inside
    axis.errorbar(
      result["xi_c"][chosen], mean[chosen], error[chosen], fmt=marker,
      color=color, label=f"measured, {name} phase",
    )  # fmt: skip
  if inside.any():
    xi = np.sort(result["xi_c"][inside])[[0, -1]]
    axis.plot(
      xi, PUBLISHED * xi, color="black", **plots.THEORY, label="6 ξ_c, theory"
    )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.axhline(result["depths"][-1], color="gray", linestyle=":")
    axis.text(xi[0], result["depths"][-1], "deepest of the grid", va="bottom")
  axis.set_xlabel("depth scale ξ_c from theory (layers)")
  axis.set_ylabel("greatest depth that trains (layers)")
  axis.legend(loc="lower right")


def claims(result: Result) -> list[Claim]:
  """What trains reaches as deep as a pair of inputs can be told apart."""
  line = Line(**result["line"])
  if line.points < 4:
    return []
  source = "Schoenholz et al. 2017, §5"
  step = np.diff(np.log(result["depths"])).max() / 2
  error = 2 * line.log_factor_error + step
  return [
    Claim(
      source, "log of trainable depth over ξ_c", float(np.log(PUBLISHED)),
      float(np.log(line.factor)), float(error),
    ),
    Claim(
      source, "exponent of ξ_c in trainable depth", 1.0, line.exponent,
      2 * line.exponent_error,
    ),
  ]  # fmt: skip
