"""How the main experiment shows itself: table, figure."""

from typing import Any

import numpy as np
import rich.console
import rich.table
import rich.text

from experiments.common import plots
from experiments.runtime.experiment import Result
from experiments.signal_propagation.overview import conclusion, overview
from experiments.signal_propagation.records import Course, Record
from experiments.signal_propagation.theory import SIGMAS, Conditions

_COLOR_CYCLE = (*plots.COLORS[:6], "#f0e442", "#999999")  # theory is black
_COLORS = {"stable": "green", "vanishes": "blue", "explodes": "red"}
_BAND = "0.8"  # light grey
_THEORY = "theory; where it runs alone, exactly 0 was measured"
_FULL_WIDTH = 91  # columns for a table that also says by how much


def tables(result: Result) -> list[rich.table.Table]:
  """All on one screen, or every number; then what happened."""
  given = result["records"], result["conditions"]
  first = _full_table if result["full"] else overview
  return [first(*given), conclusion(*given)]


def _full_table(
  records: list[Record], conditions: Conditions
) -> rich.table.Table:
  """One block of rows for each activation."""
  in_full = rich.console.Console().width >= _FULL_WIDTH
  table, last = _headings(conditions), ""
  for record in records:
    if record.activation != last:
      table.add_row(rich.text.Text(record.activation, style="bold underline"))
      last = record.activation
    cells = (
      _cells(course, in_full) for course in (record.forward, record.backward)
    )
    table.add_row(
      record.initializer, *(cell for three in cells for cell in three)
    )
  return table


def _headings(conditions: Conditions) -> rich.table.Table:
  table = rich.table.Table(
    title=(
      f"Second moments through {conditions.depth} layers of width "
      f"{conditions.width}"
    ),
    caption=_caption(conditions),
    caption_justify="left",
    box=None,
    padding=(0, 1, 0, 0),
    pad_edge=False,
  )
  table.add_column("initializer", no_wrap=True)
  for title in ("signal", "gradient"):
    table.add_column(title, justify="right", no_wrap=True)
    table.add_column("theory", justify="right", no_wrap=True)
    table.add_column("in all", no_wrap=True)
  return table


def _caption(conditions: Conditions) -> str:
  return (
    "signal, gradient: measured factor of the second moment per layer ± its "
    "standard error over seeds. theory: the same as predicted at this width, "
    f"in a band of {SIGMAS:.0f} standard deviations of a mean over "
    f"{conditions.seeds} networks; ! marks a measurement outside. in all: what "
    "the whole stack does; stable is what a healthy ReLU network (He) of this "
    "depth and width does by chance. The band is that of Gaussian weights, to "
    "first order in depth/width; orthogonal ones drift and fluctuate less, so "
    "theirs reaches from infinite width to that. Where the signal has "
    "underflowed, the gradient meets φ'(0), not the slopes of theory."
  )


def _cells(course: Course, in_full: bool) -> tuple[str | rich.text.Text, ...]:
  measured, theory = "-", rich.text.Text("- ")
  if np.isfinite(course.growth):
    measured = _with_error(course.growth, course.growth_error)
  if course.in_band is not None:
    predicted = _with_error(course.predicted_growth, course.predicted_band)
    theory = rich.text.Text(predicted + " ")
    if not course.in_band:
      theory = rich.text.Text(predicted + "!", style="yellow")
  word = course.verdict.split()[0]
  shown = course.verdict if in_full or word not in _COLORS else word
  return (
    measured,
    theory,
    rich.text.Text(shown, style=_COLORS.get(word, "magenta")),
  )


def _with_error(value: float, error: float) -> str:
  return f"{value:.3f}±{error:.3f}".replace("±0.", "±.")


def figure(result: Result) -> Any:
  """A column for each activation, signal above gradient.

  Theory is dashed, in the band where means over seeds should lie; it is alone
  where what was measured is 0.
  """
  from matplotlib.figure import Figure

  records, conditions = result["records"], result["conditions"]
  activations = list(dict.fromkeys(record.activation for record in records))
  groups = _groups(records)
  colors = dict(zip(groups, _COLOR_CYCLE, strict=False))
  count = len(activations)
  size = (max(2.4 * count + 1.2, 8.0), 6.2)
  drawn = Figure(figsize=size, layout="constrained")
  axes = drawn.subplots(2, count, sharex=True, sharey=True, squeeze=False)
  for column, activation in enumerate(activations):
    alike = [one for one in records if one.activation == activation]
    _draw_column(axes[:, column], alike, colors)
    axes[0, column].set_title(activation)
    axes[1, column].set_xlabel("layer")
    _say_what_else_is_equal(axes[0, column], records, groups, activation)
  axes[0, 0].set_ylabel("signal: log₂ second moment")
  axes[1, 0].set_ylabel("gradient: log₂ second moment")
  axes[0, 0].set_ylim(-110, 45)
  lines = {", ".join(groups[name]): color for name, color in colors.items()}
  _legend(drawn, lines, 4 if count > 4 else 2)
  plots.setting(
    drawn,
    f"{conditions.depth} layers of width {conditions.width}, mean over "
    f"{conditions.seeds} networks, {conditions.batch} digits each",
  )
  return drawn


def _draw_column(
  axes: Any, records: list[Record], colors: dict[str, str]
) -> None:
  """Of one activation; an initializer without a color equals one that has."""
  for record in records:
    if record.initializer in colors:
      width = 4.0 - 0.5 * list(colors).index(record.initializer)
      color = colors[record.initializer]
      _draw(axes[0], record.forward, color, width)
      _draw(axes[1], record.backward, color, width)


def _groups(records: list[Record]) -> dict[str, list[str]]:
  """Initializers of one variance for every activation, by the first of them."""
  variances: dict[str, list[float]] = {}
  for record in records:
    known = variances.setdefault(record.initializer, [])
    known.append(record.log2_sigma_w2)
  groups: dict[str, list[str]] = {}
  for name, own in variances.items():
    equal = (n for n in groups if np.allclose(variances[n], own, atol=0.05))
    groups.setdefault(next(equal, name), []).append(name)
  return groups


def _say_what_else_is_equal(
  axis: Any, records: list[Record], groups: dict[str, Any], activation: str
) -> None:
  """For one activation alone, such as own gain and He for ReLU."""
  found = {
    record.initializer: record.log2_sigma_w2
    for record in records
    if record.activation == activation and record.initializer in groups
  }
  own = found.get("own gain", np.nan)
  same = [
    n for n, w in found.items() if n != "own gain" and abs(w - own) < 0.05
  ]
  if same:
    axis.text(2, 30, f"own gain = {same[0]}", fontsize=8)


def _legend(figure: Any, colors: dict[str, str], columns: int) -> None:
  """One entry for each initializer, and one for theory."""
  from matplotlib.lines import Line2D
  from matplotlib.patches import Patch

  handles: list[Any] = [
    Line2D([], [], color=c, label=name) for name, c in colors.items()
  ]
  handles.append(Line2D([], [], color="black", ls="--", lw=0.8, label=_THEORY))
  handles.append(Patch(color=_BAND, label=f"±{SIGMAS:.0f} std"))
  figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def _draw(axis: Any, course: Course, color: str, linewidth: float) -> None:
  """One pair; the first are the thickest, so that none hides another."""
  layers = np.arange(1, course.log2_second_moment.size + 1)
  measured = np.where(
    np.isfinite(course.log2_second_moment), course.log2_second_moment, np.nan
  )
  axis.plot(layers, measured, color=color, lw=linewidth)
  theory = course.predicted_log2_second_moment
  half = course.predicted_log2_band
  axis.fill_between(
    layers, theory - half, theory + half, color=_BAND, lw=0, zorder=1
  )
  axis.plot(layers, theory, color="black", ls="--", lw=0.6)
  axis.axhline(0, color="0.8", lw=0.6, zorder=0)
