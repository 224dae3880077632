"""The report as a figure: signal and gradient through the network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.reports import _words
from initjax.reports._names import crops, short_paths
from initjax.typing import Record, Verdict

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

INK = "#000000"
"""Of all that is no data; a page replaces it by its own colour."""

_LINE = "#3f84c8"
_BAND = "#8a919c"
_COLORS = {"error": "#dd3c3c", "warning": "#e08a00"}
_LOST = (  # drawn at the lower and at the upper border
  ("exactly zero", _words.is_zero, "v", 0.0),
  ("non-finite", _words.is_nonfinite, "X", 1.0),
)
_LEAST_SPAN = 4.0  # of an axis, in bits: what chance does shall look small


def figure(
  records: Sequence[Record], verdicts: Sequence[Verdict] | None = None
) -> "Figure":
  """Plots log₂ second moments against position, the signal above the gradient.

  Behind them is the band in which a healthy network of these widths stays and,
  if the records contain it, a dashed line with the theoretical prediction for
  the weights as they are. Rows of errors and warnings are coloured, and a
  number marks where each verdict begins, errors first. Exact zeros are drawn at
  the lower border, and values that are not finite at the upper one.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`.

  Raises:
    ImportError: if matplotlib is not installed.
    ValueError: if there are no records, or a verdict names a row that does not
      exist.

  >>> import initjax, jax.numpy as jnp
  >>> report = initjax.measure(jnp.dot, jnp.ones((3, 8)), jnp.ones((8, 2)))
  >>> [axes.get_ylabel() for axes in figure(report.to_records()).axes]
  ['signal, log₂ E[x²]', 'gradient, log₂ E[x²]']
  """
  return draw(records, verdicts or (), 9.0, 6.0)


def draw(
  records: Sequence[Record],
  verdicts: Sequence[Verdict],
  width: float,
  height: float,
) -> "Figure":
  """The figure, `width` by `height` inches."""
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ImportError(
      "figures need matplotlib: pip install 'initjax[plot]'."
    ) from error
  if not records:
    raise ValueError("there is nothing to draw: the report has no records.")
  severities = _words.severities(records, verdicts)
  drawn = Figure(figsize=(width, height), layout="constrained")
  panels = drawn.subplots(2, 1, sharex=True)
  for axes, direction in zip(panels, _words.NOUNS, strict=True):
    _draw_panel(axes, records, direction, severities)
    axes.set_ylabel(f"{_words.NOUNS[direction]}, log₂ E[x²]")
  _number_verdicts(panels, records, verdicts, int(5 * width))
  _name_operations(panels[1], records, int(1.6 * width))
  drawn.align_ylabels()
  _add_legend(drawn, panels, int(width / 1.6))
  return drawn


def _draw_panel(
  axes: "Axes",
  records: Sequence[Record],
  direction: str,
  severities: Sequence[str],
) -> None:
  """One direction; rows are counted from 1."""
  words = [_words.size(record, direction) for record in records]
  is_number = np.array([_words.is_number(word) for word in words])
  bits = _column(records, f"{direction}_log2_second_moment")
  bits = np.where(is_number, bits, np.nan)
  rows = np.arange(1, len(records) + 1)
  spread = _column(records, f"{direction}_log2_second_moment_std")
  unknown = (np.nan, np.nan)
  bands = [record.get(f"{direction}_band") or unknown for record in records]
  low, high = np.array(bands, float).T
  _fill(axes, low, high, _BAND, "healthy range")
  _fill(axes, bits - spread, bits + spread, _LINE, "± std over draws")
  size = float(np.clip(250 / len(records), 2, 5))
  axes.axhline(0, color=_BAND, lw=0.6, zorder=0)
  theory = _column(records, f"{direction}_predicted")
  if np.isfinite(theory).any():
    axes.plot(rows, theory, "--", color=INK, lw=0.8, label="theory", zorder=4)
  axes.plot(rows, bits, "o-", color=_LINE, ms=size, lw=1.2, label="measured")
  colors = np.array([_COLORS.get(each, _LINE) for each in severities])
  for severity, color in _COLORS.items():
    sick = colors == color
    if sick.any():
      axes.plot(
        rows[sick], bits[sick], "o", color=color, ms=size + 1.5, label=severity
      )
  _mark_lost(axes, words, colors)
  _widen(axes)


def _mark_lost(axes: "Axes", words: Sequence[str], colors: np.ndarray) -> None:
  """At the borders: rows without a number, unless they did not run."""
  for label, is_lost, marker, border in _LOST:
    rows = np.array([is_lost(word) for word in words])
    if rows.any():
      axes.scatter(
        np.flatnonzero(rows) + 1,
        np.full(rows.sum(), border),
        c=colors[rows],
        marker=marker,
        s=36,
        label=label,
        transform=axes.get_xaxis_transform(),
        clip_on=False,
        zorder=3,
      )


def _column(records: Sequence[Record], name: str) -> np.ndarray:
  """Numbers [rows]; NaN where a record has none."""
  return np.array([record.get(name) for record in records], float)


def _fill(
  axes: "Axes", low: np.ndarray, high: np.ndarray, color: str, label: str
) -> None:
  """A band half a row wider on both sides, so that one row is seen too."""
  known = np.isfinite(low) & np.isfinite(high)
  if known.any():
    ends = (0.5, *range(1, len(low) + 1), len(low) + 0.5)
    low, high = (
      np.pad(np.where(known, edge, np.nan), 1, mode="edge")
      for edge in (low, high)
    )
    axes.fill_between(
      ends, low, high, color=color, alpha=0.25, lw=0, label=label, zorder=1
    )


def _widen(axes: "Axes") -> None:
  low, high = axes.get_ylim()
  missing = _LEAST_SPAN - (high - low)
  if missing > 0:
    axes.set_ylim(low - missing / 2, high + missing / 2)


def _number_verdicts(
  panels: Sequence["Axes"],
  records: Sequence[Record],
  verdicts: Sequence[Verdict],
  labels: int,
) -> None:
  """Above the row that each names; numbers that would collide share one."""
  ordered = _words.ordered(verdicts)
  groups: dict[int, list[int]] = {}
  for number, verdict in enumerate(ordered, 1):
    if verdict.rows:
      row = _words.row_of(verdict, records)
      groups.setdefault(row * labels // len(records), []).append(number)
  for numbers in groups.values():
    first = ordered[numbers[0] - 1]
    row = _words.row_of(first, records) + 1
    panels[0].text(
      row,
      1.05,
      ",".join(map(str, numbers)) if len(numbers) < 3 else f"{numbers[0]}…",
      transform=panels[0].get_xaxis_transform(),
      ha="center",
      color=_COLORS.get(first.severity, INK),
      fontweight="bold",
    )
    for axes in panels:
      axes.axvline(row, color=_BAND, lw=0.8, ls=":", zorder=0)


def _name_operations(
  axes: "Axes", records: Sequence[Record], most: int
) -> None:
  """Short paths below the axis, as many as have room."""
  step = -(-len(records) // most)
  rows = np.arange(0, len(records), step)
  short = short_paths(record["path"] for record in records)
  cropped = crops((short[records[row]["path"]] for row in rows.tolist()), 24)
  names = []
  for row in rows.tolist():
    repeat = _words.repeat_of(records[row])
    name = cropped[short[records[row]["path"]]]
    names.append(f"{name} [{repeat}]" if repeat else name)
  axes.set_xticks(rows + 1, names)
  if len(rows) > 1:
    axes.tick_params("x", rotation=40)
    for label in axes.get_xticklabels():
      label.set(ha="right", rotation_mode="anchor")
  axes.set_xlim(0.5, len(records) + 0.5)


def _add_legend(drawn: "Figure", panels: Sequence["Axes"], most: int) -> None:
  """One entry for each kind of mark that was drawn."""
  entries: dict[str, Any] = {}
  for axes in panels:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      entries.setdefault(label, handle)
  drawn.legend(
    entries.values(),
    entries.keys(),
    loc="outside upper center",
    ncols=min(most, len(entries)),
    frameon=False,
  )
