"""The figure of a coordinate check: sizes against width, both logarithmic."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from initjax.parametrization._coordinates_verdicts import Found
from initjax.reports import short_paths
from initjax.typing import Verdict

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_HEALTHY = "#3f84c8"
_COLORS = {"error": "#dd3c3c", "warning": "#e08a00"}
_BAND = "#8a919c"
_MOST = 8  # lines that the legend names


def draw(
  found: Found, verdicts: Sequence[Verdict], width: float, height: float
) -> "Figure":
  """Signal and change after the last step, a line for each operation.

  Points are geometric means over seeds, with bars of one standard deviation;
  dashed, what does not depend on width.
  """
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ImportError(
      "figures need matplotlib: pip install 'initjax[plot]'."
    ) from error
  drawn = Figure(figsize=(width, height), layout="constrained")
  panels = drawn.subplots(1, 2, sharex=True)
  step = found.steps
  for axes, noun in zip(panels, ("signal", "change"), strict=True):
    sizes = getattr(found.sizes, noun)[:, :, step]  # [widths, seeds, rows]
    _panel(axes, found, sizes, _severities(found, verdicts))
    what = "h" if noun == "signal" else "h − h₀"
    axes.set(xlabel="width", ylabel=f"rms of {what}, step {step}")
  _name_lines(drawn, panels[1])
  return drawn


def _severities(found: Found, verdicts: Sequence[Verdict]) -> list[str]:
  worst = [""] * len(found.operations)
  for verdict in reversed(verdicts):
    for row in verdict.rows:
      worst[row] = verdict.severity
  return worst


def _panel(
  axes: "Axes", found: Found, sizes: np.ndarray, severities: Sequence[str]
) -> None:
  names = short_paths(operation.path for operation in found.operations)
  markers = "osD^vP*X"
  for row, operation in enumerate(found.operations):
    logs = sizes[..., row]
    if not np.isfinite(logs).all():
      continue
    middle, spread = logs.mean(axis=1), logs.std(axis=1, ddof=1)
    bars = (
      2**middle - 2 ** (middle - spread),
      2 ** (middle + spread) - 2**middle,
    )
    repeat = "".join(f" [{at}]" for at in operation.repeat)
    axes.errorbar(
      found.widths,
      2**middle,
      yerr=bars,
      marker=markers[row % len(markers)],
      color=_COLORS.get(severities[row], _HEALTHY),
      lw=1.2,
      ms=4,
      label=names[operation.path] + repeat,
    )
  axes.set_xscale("log", base=2)
  axes.set_yscale("log", base=2)
  axes.set_xticks(found.widths, [str(width) for width in found.widths])
  axes.grid(color=_BAND, alpha=0.3, lw=0.6)


def _name_lines(drawn: "Figure", axes: "Axes") -> None:
  """Of so many that they have room, those with a verdict first."""
  handles, labels = axes.get_legend_handles_labels()
  if 0 < len(handles) <= _MOST:
    drawn.legend(
      handles, labels, loc="outside upper center", ncols=4, frameon=False
    )
