"""The phase diagram as a figure: the plane, and both ξ_c point by point."""

from typing import Any

import numpy as np

from experiments.common import plots
from experiments.phase_diagram import finite_width
from experiments.phase_diagram.records import Diagram, Point, in_view
from experiments.runtime.experiment import Result

_SHORTEST, _LONGEST = 0.5, 100.0  # ξ_c on the colour scale
PHASES = {"ordered": plots.COLORS[0], "chaotic": plots.COLORS[1]}
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def figure(result: Result) -> Any:
  """The plane, with measured points in its colours; and both ξ_c compared."""
  from matplotlib.colors import LogNorm
  from matplotlib.figure import Figure

  diagram = result["_diagram"]
  drawn = Figure(figsize=(14, 4.6), layout="constrained")
  left, right, last = drawn.subplots(1, 3, width_ratios=(1.3, 1, 1))
  norm = LogNorm(_SHORTEST, _LONGEST)
  mesh = _draw_plane(left, diagram, norm)
  _draw_points(left, diagram, norm)
  left.set_title(
    result["activation"] + r": depth scale $\xi_c$, theory and measured"
  )
  entries = left.get_legend_handles_labels()
  drawn.legend(*entries, loc="outside lower left", ncols=4)
  drawn.colorbar(mesh, ax=left, label=r"$\xi_c$ (layers)", extend="both")
  _draw_comparison(right, diagram)
  _draw_shifts(last, diagram)
  widths = " and ".join(map(str, diagram.widths))
  plots.setting(
    drawn,
    f"depth {result['depth']}, widths {widths} (left and middle: "
    f"{diagram.widths[-1]}), {diagram.seeds} networks a point",
    x=0.7,
  )
  return drawn


def _draw_plane(axis: Any, result: Diagram, norm: Any) -> Any:
  plane = result.plane
  axis.set_facecolor("0.85")  # shows where there is no fixed point
  mesh = axis.pcolormesh(
    plane.sigma_w2,
    plane.sigma_b2,
    np.ma.masked_invalid(np.minimum(plane.xi_c, 1e9)),
    norm=norm,
    cmap="viridis",
    shading="nearest",
    rasterized=True,
  )
  _draw_line(axis, result)
  _label_phases(axis, result)
  axis.set_xlim(plane.sigma_w2[0], plane.sigma_w2[-1])
  axis.set_ylim(plane.sigma_b2[0], plane.sigma_b2[-1])
  axis.set_xlabel(r"$\sigma_w^2$: variance of weights · fan_in")
  axis.set_ylabel(r"$\sigma_b^2$: variance of biases")
  return mesh


def _draw_line(axis: Any, result: Diagram) -> None:
  """Where χ₁ = 1, dotted where lengths drift away; for ReLU a single star."""
  line = result.line
  inside = in_view(result.plane, line.sigma_w2, line.sigma_b2)
  for stable, style, label in (
    (True, "--", "critical"),
    (False, ":", "critical, length unstable"),
  ):
    shown = inside & (line.stable == stable)
    if not shown.any():
      continue
    w = np.where(shown, line.sigma_w2, np.nan)
    if np.nanmax(w) - np.nanmin(w) > 1e-9:
      axis.plot(w, line.sigma_b2, color="black", ls=style, label=label)
    else:
      at = (np.nanmax(w), line.sigma_b2[shown].max())
      axis.plot(*at, "k*", ms=13, clip_on=False, zorder=4, label=label)


def _label_phases(axis: Any, result: Diagram) -> None:
  """A word in the middle of each phase, where no measured point is near."""
  plane = result.plane
  w, b = np.meshgrid(plane.sigma_w2, plane.sigma_b2)
  regions = {
    "ordered": plane.chi_1 < 1,
    "chaotic": plane.chi_1 > 1,
    "no fixed point": np.isnan(plane.q),
  }
  for name, region in regions.items():
    if region.mean() > 0.03:
      x, y = _middle(w, b, region, result.points)
      font = {"weight": "bold", "color": "white", "path_effects": _outline()}
      axis.text(x, y, name, ha="center", va="center", **font)


def _middle(
  w: np.ndarray, b: np.ndarray, region: np.ndarray, points: list[Point]
) -> tuple[float, float]:
  """Inside the region, far from its border and from markers' rows."""
  from scipy import ndimage

  depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
  rows = np.unique([point.sigma_b2 for point in points])
  gaps = abs(b[..., None] - rows).min(axis=-1)
  half = gaps.max() if rows.size < 2 else np.diff(rows).min() / 2
  score = depth * np.minimum(gaps / half, 1.0)
  best = np.unravel_index(score.argmax(), score.shape)
  return float(w[best]), float(b[best])


def _outline() -> list[Any]:
  from matplotlib import patheffects

  return [patheffects.withStroke(linewidth=2.5, foreground="0.2")]


def _draw_points(axis: Any, result: Diagram, norm: Any) -> None:
  fitted = result.fitted
  others = [point for point in result.points if point.note]
  style: dict[str, Any] = {"linewidths": 1.2, "zorder": 3}
  if fitted:
    scale = {"cmap": "viridis", "norm": norm, "edgecolors": "white"}
    values, label = _each(fitted, "measured_xi_c"), "measured, same colours"
    axis.scatter(*_place(fitted), s=70, c=values, label=label, **scale, **style)
  if others:
    style |= {"color": "white", "path_effects": _outline()}
    label = "not measurable"
    axis.scatter(*_place(others), s=30, marker="x", label=label, **style)


def _each(points: list[Point], name: str) -> list[float]:
  return [getattr(point, name) for point in points]


def _place(points: list[Point]) -> tuple[list[float], list[float]]:
  return _each(points, "sigma_w2"), _each(points, "sigma_b2")


def _draw_comparison(axis: Any, result: Diagram) -> None:
  """Measured over theory, in the colours of the phases."""
  fitted = result.fitted
  axis.set_title("point by point, ± 2 standard errors")
  axis.set_xlabel(r"$\xi_c$ of theory (layers)")
  axis.set_ylabel(r"measured $\xi_c$ (layers)")
  if not fitted:
    middle = {"ha": "center", "va": "center", "transform": axis.transAxes}
    axis.text(0.5, 0.5, "nothing measured", **middle)
    return
  for phase, color in PHASES.items():
    own = [point for point in fitted if point.phase == phase]
    if own:
      theory, measured, error = np.transpose(
        [(point.xi_c, point.measured_xi_c, point.error) for point in own]
      )
      _dots(axis, theory, measured, 2 * error, color, phase)
  ends = _each(fitted, "xi_c") + _each(fitted, "measured_xi_c")
  span = np.array([min(ends) / 1.3, max(ends) * 1.3])
  axis.plot(span, span, color="black", zorder=0, label="equal", **plots.THEORY)
  axis.set(xscale="log", yscale="log", xlim=span, ylim=span, aspect="equal")
  for side in (axis.xaxis, axis.yaxis):
    side.set_major_formatter("{x:g}")
    ticks = [t for t in _TICKS if span[0] < t < span[1]]
    side.set_ticks(ticks)
    side.set_minor_formatter(lambda x, _: "")
  axis.legend(loc="upper left")


def _dots(
  axis: Any, x: Any, y: Any, error: Any, color: str, label: str, **style: Any
) -> None:
  style = {"fmt": "o", "ms": 4, "capsize": 2, "lw": 1, **style}
  axis.errorbar(x, y, error, color=color, label=label, **style)


def _draw_shifts(axis: Any, diagram: Diagram) -> None:
  """What width n shifts the slope by, times n: alike if it goes as 1/n."""
  axis.set_title("what width n shifts f'(c*) by")
  axis.set_xlabel(r"$\xi_c$ of theory (layers)")
  axis.set_ylabel("n·(1/ξ_c theory - 1/ξ_c measured)")
  for phase, color in PHASES.items():
    points = finite_width.measured_at_all(diagram, phase)
    if not points:
      continue
    xi_c = np.array(_each(points, "xi_c"))
    found = finite_width.shift(diagram, phase)
    mean, error = found.mean()
    for i, width in enumerate(diagram.widths):
      fill = "none" if i == 0 and len(diagram.widths) > 1 else "full"
      label = f"{phase}, n = {width}: {mean[i]:.1f} ± {2 * error[i]:.1f}"
      aside = xi_c * (0.98 + 0.04 * i)
      shift, error_bar = found.value[i], 2 * found.error[i]
      _dots(axis, aside, shift, error_bar, color, label, fillstyle=fill)
  plots.level(axis, 0, "infinite width")
  axis.set_xscale("log")
  axis.legend(fontsize=8)
