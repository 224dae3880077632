"""What `auto_init` sets and why: a record that prints as a table."""

import functools
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from initjax._checks import check_integer
from initjax.reports._encoding import (
  encoding_of_stdout,
  in_place,
  printable,
)
from initjax.reports._fold import fold
from initjax.reports._words import crop, fans, repeat, short_paths

if TYPE_CHECKING:
  from rich.console import Console, ConsoleOptions
  from rich.segment import Segment

_Say = Callable[[str], str]
"""What stands for a text where it is printed."""

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
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    return self.to_text(width, encoding_of_stdout())

  def to_text(self, width: int = 100, encoding: str = "utf-8") -> str:
    """The table as plain text, no line wider than `width`.

    Args:
      width: in characters; where the columns have no room, rows are a list.
      encoding: of where it will be written.

    Raises:
      ValueError: if `width` is too small.
    """
    from rich.console import Console

    check_integer("width", width, low=1)
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None)
    console.print(_Printed(self, encoding))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

  def __rich_console__(
    self, console: "Console", options: "ConsoleOptions"
  ) -> "Iterator[Segment]":
    printed = _Printed(self, options.encoding)
    yield from printed.__rich_console__(console, options)


class _Printed(NamedTuple):
  """A plan in an encoding; it knows its width when printed."""

  plan: VariancePlan
  encoding: str

  def __rich_console__(
    self, console: "Console", options: "ConsoleOptions"
  ) -> "Iterator[Segment]":
    from rich.segment import Segment

    say = functools.partial(printable, encoding=self.encoding)
    table = _table(self.plan.rows, options.max_width, say)
    for part in (table, *_below(self.plan, say)):
      for text, style, control in console.render(part, options):
        yield Segment(in_place(text, self.encoding), style, control)


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
_NUMBERS = ("E[φ²]", "gain", "std")
_CROPPED = (("operation", 24), ("fed by", 8), ("operation", 12))  # in turn
_DROPPED = ("fed by", "in→out")  # one after the other
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


def _table(rows: Sequence[VarianceRow], width: int, say: _Say) -> Any:
  """Repeated blocks fold, as in a report; a list if the table has no room."""
  from rich.table import Table
  from rich.text import Text

  lines = [[say(cell) for cell in line] for line in _lines(rows)]
  widths = _widths(lines, width, say)
  if _total(widths) > width:
    return _list(lines, say)
  grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
  kept = [place for place, size in enumerate(widths) if size]
  for place in kept:
    grid.add_column(
      Text(say(_TITLES[place]), style="bold"),
      justify="right" if _TITLES[place] in _NUMBERS else "left",
      width=widths[place],
      no_wrap=True,
    )
  for line in lines:
    style = "dim" if line[0].startswith(say("⋮")) else ""
    grid.add_row(*(Text(crop(line[i], widths[i]), style) for i in kept))
  return grid


def _list(lines: Sequence[Sequence[str]], say: _Say) -> Any:
  """A line for each name and for each number: for narrow terminals."""
  from rich.text import Text

  found = []
  for line in lines:
    cells = dict(zip(_TITLES, line, strict=True))
    name = " ".join(
      filter(None, (cells["operation"], cells["repeat"], cells[""]))
    )
    found.append(name)
    found += [f" {say(t)} {cells[t]}" for t in _NUMBERS if cells[t]]
  return Text("\n".join(found), overflow="fold")


def _lines(rows: Sequence[VarianceRow]) -> list[list[str]]:
  """The cells of each line that is shown."""
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
  return lines


def _widths(lines: Sequence[Sequence[str]], width: int, say: _Say) -> list[int]:
  """Of each column; 0 for one that says nothing."""
  from rich.cells import cell_len

  widths = []
  for place, title in enumerate(_TITLES):
    longest = max((cell_len(line[place]) for line in lines), default=0)
    widths.append(max(longest, cell_len(say(title))) if longest else 0)
  for title, least in _CROPPED:
    excess = _total(widths) - width
    place = _TITLES.index(title)
    if excess > 0 and widths[place] > least:
      widths[place] = max(least, widths[place] - excess)
  for title in _DROPPED:
    if _total(widths) > width:
      widths[_TITLES.index(title)] = 0
  return widths


def _total(widths: Sequence[int]) -> int:
  return sum(size + _GAP for size in widths if size) - _GAP


def _marks(rows: Sequence[VarianceRow]) -> dict[str, str]:
  """A number for each reason, which is written out below the table."""
  reasons = dict.fromkeys(row.why for row in rows if row.why)
  return {why: f"({number})" for number, why in enumerate(reasons, 1)}


def _below(plan: VariancePlan, say: _Say) -> Any:
  """Reasons by their numbers, and the notes."""
  from rich.padding import Padding
  from rich.text import Text

  for why, mark in _marks(plan.rows).items():
    reason = say(f"{mark} {why}")
    yield Padding(Text(reason, overflow="fold"), (0, 0, 0, 2))
  for note in plan.notes:
    yield Text(say(f"· {note}"), overflow="fold")
  if plan.kept:
    kept = list(short_paths(plan.kept).values())
    more = f" and {len(kept) - _MOST} more" if len(kept) > _MOST else ""
    listed = ", ".join(kept[:_MOST])
    words = say(f"· kept as they are: {listed}{more}")
    yield Text(words, style="dim", overflow="fold")
