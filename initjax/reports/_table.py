"""The report in a terminal: a table, and the verdicts below it."""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from initjax._checks import check_integer
from initjax.reports import _words
from initjax.reports._columns import Column, Line, columns, lines
from initjax.reports._encoding import in_place, printable
from initjax.typing import Record, Verdict

if TYPE_CHECKING:
  from rich.console import Console, ConsoleOptions, RenderableType
  from rich.segment import Segment
  from rich.text import Text

_Say = Callable[[str], str]
"""What stands for a text where it is printed."""

_STYLES = {"error": "red", "warning": "yellow", "note": "cyan", "": ""}
_GAP = 2  # spaces between columns
_LEAST = 40  # columns of a terminal that has room to indent
_CROP = (("operation", 28), ("fed by", 8), ("operation", 20))  # in this order
_DROP = (  # one after the other, until the rest has room
  ("→ theory", "← theory"),
  *(("fed by",), ("fans",), ("corr.",), ("slope",), ("dead",), ("repeat",)),
)


def table(
  records: Sequence[Record], verdicts: Sequence[Verdict] | None = None
) -> "RenderableType":
  """The report for `rich.print`: as wide as the console, in colour.

  One row for each operation, repeated blocks folded; then the verdicts, errors
  first. A row with ✗ or ! before it belongs to an error or a warning.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`. None if
      nobody judged, which the report then says.

  Raises:
    ValueError: if a verdict names a row that does not exist.

  >>> import rich
  >>> rich.print(table([]))
  no linear operation was found
  nothing to judge: no linear operation of a parameter was seen...
  """
  return _report(records, verdicts, "")


def to_text(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None = None,
  *,
  width: int = 100,
  encoding: str = "utf-8",
) -> str:
  """The same as plain text, no line wider than `width`.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`. None if
      nobody judged.
    width: in characters; where the columns have no room, rows are a list.
    encoding: of where it will be written; ASCII stands in for what it lacks.

  Raises:
    ValueError: if a verdict names a row that does not exist, or `width` is
      too small.

  >>> verdict = Verdict("unused", "note", "b", "Nothing reads it.", "")
  >>> print(to_text([], [verdict], encoding="ascii"))
  no linear operation was found
  nothing to judge: no linear operation of a parameter was seen...
  <BLANKLINE>
  . 1. unused (note), b
    Nothing reads it.
  """
  from rich.console import Console

  check_integer("width", width, low=1)
  file = io.StringIO()
  console = Console(
    file=file,
    width=width,
    color_system=None,
    force_terminal=False,
    force_jupyter=False,
    legacy_windows=False,
  )
  console.print(_report(records, verdicts, encoding))
  printed = file.getvalue().splitlines()
  return "\n".join(line.rstrip() for line in printed)


def _report(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None,
  encoding: str,
) -> "_Report":
  _words.severities(records, verdicts or ())  # raises here, not while printing
  found = None if verdicts is None else tuple(_words.ordered(verdicts))
  return _Report(tuple(records), found, encoding)


@dataclasses.dataclass(frozen=True)
class _Report:
  """Knows its width, and its encoding if that is empty, when printed."""

  records: tuple[Record, ...]
  verdicts: tuple[Verdict, ...] | None
  encoding: str

  def __rich_console__(
    self, console: "Console", options: "ConsoleOptions"
  ) -> "Iterator[Segment]":
    from rich.segment import Segment

    encoding = self.encoding or options.encoding
    say = functools.partial(printable, encoding=encoding)
    width = options.max_width
    parts = [_rows(self.records, self.verdicts or (), width, say)]
    parts += _findings(self.records, self.verdicts, width, say)
    for part in parts:
      for text, style, control in console.render(part, options):
        yield Segment(in_place(text, encoding), style, control)


def _rows(
  records: Sequence[Record],
  verdicts: Sequence[Verdict],
  width: int,
  say: _Say,
) -> "RenderableType":
  """The table of operations; a list if it has no room."""
  from rich.table import Table
  from rich.text import Text

  if not records:
    return Text("no linear operation was found", overflow="fold")
  possible = columns(records)
  filled = [
    line._replace(cells=tuple(map(say, line.cells)))
    for line in lines(records, verdicts, possible)
  ]
  widths = _fit(possible, filled, width, say)
  if _total(widths) > width:
    return _list(possible, filled, say)
  grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
  grid.add_column("", width=1)
  for title, unit in ((column.title, column.unit) for column in possible):
    if title in widths:
      grid.add_column(
        Text(say(f"{title}\n{unit}".rstrip()), style="bold"),
        justify="right" if unit else "left",
        width=widths[title],
        no_wrap=True,
      )
  for line in filled:
    grid.add_row(*_cells(line, possible, widths, say))
  return grid


def _list(
  possible: Sequence[Column], filled: Sequence[Line], say: _Say
) -> "Text":
  """A line for each name and for each size: for narrow terminals."""
  from rich.text import Text

  found = []
  for line in filled:
    cells = dict(
      zip((column.title for column in possible), line.cells, strict=True)
    )
    name = " ".join(filter(None, (cells["operation"], cells.get("repeat"))))
    mark = say(_words.MARKS[line.severity])
    found.append(Text(f"{mark} {name}".strip(), _STYLES[line.severity]))
    found += [
      Text(f" {title} {cells[title]}")
      for title in ("signal", "gradient")
      if cells[title]
    ]
  return Text("\n", overflow="fold").join(found)


def _cells(
  line: Line, possible: Sequence[Column], widths: dict[str, int], say: _Say
) -> "Iterator[Text]":
  from rich.text import Text

  style = _STYLES[line.severity]
  yield Text(say(_words.MARKS[line.severity]), style=style)
  for column, cell in zip(possible, line.cells, strict=True):
    if column.title == "operation" and not line.piece.folded:
      yield Text(_words.crop(cell, widths["operation"]), style=style)
    elif column.title in widths:
      yield Text(cell, style="dim" if line.piece.folded else "")


def _fit(
  possible: Sequence[Column], filled: Sequence[Line], width: int, say: _Say
) -> dict[str, int]:
  """The width of each column that has room, by its title."""
  from rich.cells import cell_len

  widths = {}
  for place, column in enumerate(possible):
    cells = (line.cells[place] for line in filled)
    words = (say(column.title), say(column.unit), *cells)
    widths[column.title] = max(map(cell_len, words))
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
  records: Sequence[Record],
  found: Sequence[Verdict] | None,
  width: int,
  say: _Say,
) -> "Iterator[RenderableType]":
  """What theory leaves open, the conclusion, the verdicts with their fixes."""
  from rich.text import Text

  verdicts = found or ()
  silences = _words.silences(records)
  for number, silence in enumerate(silences):
    yield Text("" if number else "\n", "dim", overflow="fold").append(
      say(silence)
    )
  if records:
    yield Text("")
  words = _words.conclusion(records, found)
  if words:
    style = "green" if words == _words.HEALTHY else "yellow"
    yield Text(say(words), style=style, overflow="fold")
  for number, verdict in enumerate(verdicts, 1):
    if number > 1 or words:
      yield Text("")
    yield from _finding(number, verdict, width, say)


def _finding(
  number: int,
  verdict: Verdict,
  width: int,
  say: _Say,
) -> "Iterator[RenderableType]":
  from rich.padding import Padding
  from rich.text import Text

  indent = 0 if width < _LEAST else 1
  mark = f"{_words.MARKS[verdict.severity]} {number}. {verdict.kind}"
  where = f", {verdict.path}" if verdict.path else ""
  style = f"bold {_STYLES[verdict.severity]}"
  yield Text.assemble(
    (say(mark), style), say(f" ({verdict.severity}){where}"), overflow="fold"
  )
  message = say(verdict.message)
  yield Padding(Text(message, overflow="fold"), (0, 0, 0, 2 * indent))
  if verdict.fix:
    fix = Text(say(verdict.fix), style="bold", overflow="fold")
    yield Padding(fix, (0, 0, 0, 6 * indent))
