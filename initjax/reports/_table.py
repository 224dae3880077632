"""The report in a terminal: a table, and the verdicts below it."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from initjax._checks import check_integer
from initjax.reports import _words
from initjax.reports._columns import Column, Line, columns, lines
from initjax.typing import Record, Verdict

if TYPE_CHECKING:
  from rich.console import Console, ConsoleOptions, RenderableType
  from rich.text import Text

_STYLES = {"error": "red", "warning": "yellow", "note": "cyan", "": ""}
_GAP = 2  # spaces between columns
_CROP = (("operation", 28), ("fed by", 8), ("operation", 20))  # in this order
_DROP = (  # one after the other, until the rest has room
  ("→ theory", "← theory"),
  *(("fed by",), ("fans",), ("corr.",), ("slope",), ("dead",), ("repeat",)),
)


def table(
  records: Sequence[Record], verdicts: Sequence[Verdict] = ()
) -> "RenderableType":
  """The report for `rich.print`: as wide as the console, in colour.

  One row for each operation, repeated blocks folded; then the verdicts, errors
  first. A row with ✗ or ! before it belongs to an error or a warning.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`.

  Raises:
    ValueError: if a verdict names a row that does not exist.

  >>> import rich
  >>> rich.print(table([]))
  no linear operation was found
  healthy: nothing to report
  """
  _words.severities(records, verdicts)  # raises here, not while printing
  return _Report(tuple(records), tuple(_words.ordered(verdicts)))


def to_text(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] = (),
  *,
  width: int = 100,
) -> str:
  """The same as plain text, no line wider than `width`.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`.
    width: in characters, at least 60.

  Raises:
    ValueError: if a verdict names a row that does not exist, or `width` is
      too small.

  >>> verdict = Verdict("unused", "note", "['b']", "Nothing reads it.", "")
  >>> print(to_text([], [verdict]))
  no linear operation was found
  · 1. unused (note), b
    Nothing reads it.
  """
  from rich.console import Console

  check_integer("width", width, low=60)
  file = io.StringIO()
  console = Console(
    file=file,
    width=width,
    color_system=None,
    force_terminal=False,
    force_jupyter=False,
    legacy_windows=False,
  )
  console.print(table(records, verdicts))
  printed = file.getvalue().splitlines()
  return "\n".join(line.rstrip() for line in printed)


@dataclasses.dataclass(frozen=True)
class _Report:
  """Knows its width when it is printed."""

  records: tuple[Record, ...]
  verdicts: tuple[Verdict, ...]

  def __rich_console__(
    self, console: "Console", options: "ConsoleOptions"
  ) -> "Iterator[RenderableType]":
    del console
    yield _rows(self.records, self.verdicts, options.max_width)
    yield from _findings(self.records, self.verdicts)


def _rows(
  records: Sequence[Record], verdicts: Sequence[Verdict], width: int
) -> "RenderableType":
  """The table of operations."""
  from rich.table import Table
  from rich.text import Text

  if not records:
    return Text("no linear operation was found")
  possible = columns(records)
  filled = lines(records, verdicts, possible)
  widths = _fit(possible, filled, width)
  grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
  grid.add_column("", width=1)
  for place, title in enumerate(column.title for column in possible):
    if title in widths:
      grid.add_column(
        Text(f"{title}\n{possible[place].unit}".rstrip(), style="bold"),
        justify="right" if possible[place].unit else "left",
        width=widths[title],
        no_wrap=True,
      )
  for line in filled:
    grid.add_row(*_cells(line, possible, widths))
  return grid


def _cells(
  line: Line, possible: Sequence[Column], widths: dict[str, int]
) -> "Iterator[Text]":
  from rich.text import Text

  style = _STYLES[line.severity]
  yield Text(_words.MARKS[line.severity], style=style)
  for column, cell in zip(possible, line.cells, strict=True):
    if column.title == "operation" and not line.piece.folded:
      yield Text(_words.crop(cell, widths["operation"]), style=style)
    elif column.title in widths:
      yield Text(cell, style="dim" if line.piece.folded else "")


def _fit(
  possible: Sequence[Column], filled: Sequence[Line], width: int
) -> dict[str, int]:
  """The width of each column that has room, by its title."""
  from rich.cells import cell_len

  widths = {}
  for place, column in enumerate(possible):
    cells = (line.cells[place] for line in filled)
    widths[column.title] = max(
      map(cell_len, (column.title, column.unit, *cells))
    )
  for dropped in ((), *_DROP):
    for title in dropped:
      widths.pop(title, None)
    fitted = _cropped(widths, width)
    if _total(fitted) <= width:
      break
  return fitted


def _cropped(widths: dict[str, int], width: int) -> dict[str, int]:
  widths = dict(widths)
  for title, least in _CROP:
    excess = max(0, _total(widths) - width)
    if title in widths and widths[title] > least:
      widths[title] = max(least, widths[title] - excess)
  return widths


def _total(widths: dict[str, int]) -> int:
  return 1 + sum(_GAP + width for width in widths.values())  # 1 for the mark


def _findings(
  records: Sequence[Record], verdicts: Sequence[Verdict]
) -> "Iterator[RenderableType]":
  """The verdicts, each with its cure."""
  from rich.padding import Padding
  from rich.text import Text

  names = _words.names(records, verdicts)
  if records:
    yield Text("")
  if not verdicts:
    yield Text(_words.NOTHING, style="green")
  for number, verdict in enumerate(verdicts, 1):
    if number > 1:
      yield Text("")
    mark = f"{_words.MARKS[verdict.severity]} {number}. {verdict.kind}"
    where = f", {names[verdict.path]}" if verdict.path else ""
    style = f"bold {_STYLES[verdict.severity]}"
    yield Text.assemble((mark, style), f" ({verdict.severity}){where}")
    message = _words.readable(verdict.message, names)
    yield Padding(Text(message), (0, 0, 0, 2))
    if verdict.cure:
      cure = Text(verdict.cure, style="bold", overflow="fold")
      yield Padding(cure, (0, 0, 0, 6))
