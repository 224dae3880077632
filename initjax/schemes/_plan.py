"""What `auto_init` sets and why: a record that prints as a table."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from initjax._checks import check_integer
from initjax.reports._fold import fold
from initjax.reports._words import crop, fans, readable, repeat, short_paths

if TYPE_CHECKING:
  from rich.console import Console, ConsoleOptions

_MOST = 12  # paths that are listed


class VarianceRow(NamedTuple):
  """One use of a kernel, in one repeat of the scans around it."""

  path: str
  """of the parameters, joined by ", "; "" for a constant"""
  repeat: tuple[int, ...]
  kind: str
  """"dot", "convolution", "embedding" or "ragged_dot" """
  shape: tuple[int, ...]
  """of the kernel as this use sees it"""
  fan_in: float
  fan_out: float
  fed_by: str
  """the activation, or what it is if there is none"""
  second_moment: float
  """of what feeds it, after the activation: E[φ²]"""
  gain: float | None
  """√(Var W·fan_in): fan_out backward; None for what cannot be set"""
  std: float | None
  """of the entries of the parameter"""
  why: str
  """what decides, and what was assumed; "" for the plain rule"""


class VariancePlan(NamedTuple):
  """What `auto_init` would set; `print(plan)` is a table."""

  rows: tuple[VarianceRow, ...]
  """in the order of execution"""
  kept: tuple[str, ...]
  """paths of parameters that keep their values"""
  notes: tuple[str, ...]
  """what theory says of the whole"""

  def __str__(self) -> str:
    return self.to_text()

  def to_text(self, width: int = 100) -> str:
    """The table as plain text, no line wider than `width`, at least 60."""
    from rich.console import Console

    check_integer("width", width, low=60)
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(self)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

  def __rich_console__(
    self, console: "Console", options: "ConsoleOptions"
  ) -> Any:
    del console
    yield _table(self.rows, options.max_width)
    yield from _below(self)


_TITLES = (
  "operation",
  "repeat",
  "in→out",
  "fed by",
  "E[φ²]",
  "gain",
  "std",
  "",
)
_CROPPED = (("operation", 24), ("fed by", 10), ("operation", 12))  # in turn
_GAP = 2


def _cells(
  row: VarianceRow, names: dict[str, str], marks: dict[str, str]
) -> list[str]:
  record = row._asdict()
  numbers = (row.second_moment, row.gain, row.std)
  return [
    names[row.path] if row.path else "(constant)",
    repeat(record),
    fans(record),
    row.fed_by,
    *("" if x is None else f"{x:.4g}" for x in numbers),
    marks.get(row.why, ""),
  ]


def _table(rows: Sequence[VarianceRow], width: int) -> Any:
  """Repeated blocks fold, as in a report."""
  from rich.table import Table
  from rich.text import Text

  names, marks = short_paths(row.path for row in rows), _marks(rows)
  pieces = fold([row._asdict() for row in rows])
  lines = []
  for piece in pieces:
    shown = [rows[index] for index in piece.rows]
    if piece.folded:
      more = f"⋮ {len(shown)} more rows"
      lines.append([more, *[""] * (len(_TITLES) - 1)])
    else:
      lines += [_cells(row, names, marks) for row in shown]
  widths = _widths(lines, width)
  grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
  kept = [place for place, size in enumerate(widths) if size]
  for place in kept:
    right = _TITLES[place] in ("E[φ²]", "gain", "std")
    grid.add_column(
      Text(_TITLES[place], style="bold"),
      justify="right" if right else "left",
      width=widths[place],
      no_wrap=True,
    )
  for line in lines:
    style = "dim" if line[0].startswith("⋮") else ""
    grid.add_row(*(Text(crop(line[i], widths[i]), style) for i in kept))
  return grid


def _widths(lines: Sequence[Sequence[str]], width: int) -> list[int]:
  """Of each column; 0 for one that says nothing."""
  from rich.cells import cell_len

  widths = []
  for place, title in enumerate(_TITLES):
    longest = max((cell_len(line[place]) for line in lines), default=0)
    widths.append(max(longest, cell_len(title)) if longest else 0)
  for title, least in _CROPPED:
    excess = sum(size + _GAP for size in widths if size) - width
    place = _TITLES.index(title)
    if excess > 0 and widths[place] > least:
      widths[place] = max(least, widths[place] - excess)
  return widths


def _marks(rows: Sequence[VarianceRow]) -> dict[str, str]:
  """A number for each reason, which is written out below the table."""
  reasons = dict.fromkeys(row.why for row in rows if row.why)
  return {why: f"({number})" for number, why in enumerate(reasons, 1)}


def _below(plan: VariancePlan) -> Any:
  """Reasons by their numbers, and the notes."""
  from rich.padding import Padding
  from rich.text import Text

  names = short_paths(row.path for row in plan.rows)
  for why, mark in _marks(plan.rows).items():
    yield Padding(Text(f"{mark} {readable(why, names)}"), (0, 0, 0, 2))
  for note in plan.notes:
    yield Text(f"· {readable(note, names)}")
  if plan.kept:
    kept = list(short_paths(plan.kept).values())
    more = f" and {len(kept) - _MOST} more" if len(kept) > _MOST else ""
    listed = ", ".join(kept[:_MOST])
    yield Text(f"· kept as they are: {listed}{more}", style="dim")
