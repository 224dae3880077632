"""How the phase diagram shows itself in the terminal."""

import numpy as np
import rich.table
import rich.text

from experiments.phase_diagram.records import Diagram, Point
from experiments.runtime.experiment import Result

_COLORS = {"ordered": "blue", "critical": "magenta", "chaotic": "red"}


def tables(result: Result) -> list[rich.table.Table]:
  """One row for each measured point, and how they agree in all."""
  diagram = result["_diagram"]
  table = rich.table.Table(
    title="Depth scale ξ_c of correlations: {activation}, {depth} layers of "
    "width {width}".format(**result),
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
    f"{np.median(relative):.1%} of its value. Too slow: fewer than three ξ_c "
    "fit into the depth; too fast: too few layers before noise takes over; "
    "too noisy: an error above 25 %."
  )
