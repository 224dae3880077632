"""How the phase diagram shows itself in the terminal."""

import numpy as np
import rich.table
import rich.text

from experiments.phase_diagram import finite_width
from experiments.phase_diagram.records import Diagram, Point
from experiments.runtime.experiment import Result

_COLORS = {"ordered": "blue", "critical": "magenta", "chaotic": "red"}


def tables(result: Result) -> list[rich.table.Table]:
  """One row for each measured point, and how they agree in all."""
  diagram = result["_diagram"]
  table = rich.table.Table(
    title="Depth scale ξ_c of correlations: {activation}, {depth} layers of "
    f"width {diagram.widths[-1]}".format(**result),
    caption=_summary(diagram),
    caption_justify="left",
    box=None,
    padding=(0, 2, 0, 0),
    pad_edge=False,
  )
  for name in ("σ_w²", "σ_b²"):
    table.add_column(name, justify="right", no_wrap=True)
  table.add_column("phase", no_wrap=True)
  for name in ("q*", "c*", "theory", "measured"):
    table.add_column(name, justify="right", no_wrap=True)
  table.add_column("off by")
  for point in diagram.points:
    table.add_row(*_cells(point))
  return [table]


def _cells(point: Point) -> list[str | rich.text.Text]:
  theory = [f"{point.q:.3g}", f"{point.c:.3f}", f"{point.xi_c:.3f}"]
  found: list[str | rich.text.Text]
  if point.note:
    found = ["-", rich.text.Text(point.note, style="dim")]
  else:
    found = [
      f"{point.measured_xi_c:.3f} ± {point.error:.3f}",
      f"{point.sigmas:+.1f} s.e.",
    ]
  return [
    f"{point.sigma_w2:.4g}",
    f"{point.sigma_b2:.3g}",
    rich.text.Text(point.phase, style=_COLORS.get(point.phase, "dim")),
    *(["-"] * 3 if point.phase == "none" else theory),
    *found,
  ]


def _summary(result: Diagram) -> str:
  fitted = result.fitted
  if not fitted:
    return "At none of these points could ξ_c be measured."
  sigmas = np.array([abs(point.sigmas) for point in fitted])
  relative = [abs(point.measured_xi_c / point.xi_c - 1) for point in fitted]
  return (
    f"ξ_c could be measured at {len(fitted)} of {len(result.points)} points. "
    f"Of them {np.mean(sigmas < 1):.0%} lie within one standard error (s.e.) "
    f"of theory, {np.mean(sigmas < 2):.0%} within two; half within "
    f"{np.median(relative):.1%} of its value. {_bias(result)}"
    "Too slow: fewer than three ξ_c "
    "fit into the depth; too fast: too few layers before noise takes over; "
    "too noisy: an error above 25 %."
  )


def _bias(result: Diagram) -> str:
  """What finite width does, and what is left without it."""
  if len(result.widths) < 2 or not finite_width.measured_at_all(result):
    return ""
  said = []
  for phase in ("ordered", "chaotic"):
    found = finite_width.shift(result, phase)
    if found.value.size:
      means = zip(*found.mean(), result.widths, strict=True)
      each = [f"{m:+.2f} ± {2 * e:.2f} at n = {n}" for m, e, n in means]
      said.append(f"{phase}, " + ", ".join(each))
  sigmas, chance = finite_width.extrapolated(result)
  return (
    f"Finite width n shifts log f'(c*) = -1/ξ_c by b/n, b: {'; '.join(said)}. "
    f"Without it {(abs(sigmas) < 2).mean():.1%} lie within two s.e. (chance: "
    f"{chance.mean():.1%}). "
  )
