"""Records as a text table that fits the available width, or becomes a list."""

import dataclasses
import functools
import io
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from initjax._checks import check_integer
from initjax.reports._encoding import encoding_of_stdout, in_place, printable
from initjax.reports._fold import Piece, fold, one_by_one
from initjax.reports._names import crops
from initjax.reports._words import MARKS, SEVERITIES
from initjax.typing import Record

if TYPE_CHECKING:
  from rich.console import Console, ConsoleOptions, RenderableType
  from rich.segment import Segment
  from rich.text import Text

_Say = Callable[[str], str]
"""What stands for a text where it is printed."""

STYLES = {"error": "red", "warning": "yellow", "note": "cyan", "": ""}
_GAP = 2  # spaces between columns
_ROOM = 40  # columns of a terminal that has room to indent
_READABLE = 100  # columns of a paragraph: longer lines are hard to follow


class Column(NamedTuple):
  """One column; it is left out where it says nothing of any record."""

  title: str
  one: Callable[[Record], str]
  """the cell of a row"""
  many: Callable[[Sequence[Record]], str] = lambda records: ""
  """the cell of folded rows"""
  unit: str = ""
  """the second line of the heading"""
  is_number: bool = False
  """whether its cells end in one place, rather than begin there"""


def number_column(
  title: str, field: str, digits: int = 4, *, spans: bool = False
) -> Column:
  """A number of the records; of folded rows nothing, or what it `spans`."""

  def one(record: Record) -> str:
    return "" if record[field] is None else f"{record[field]:.{digits}g}"

  def many(records: Sequence[Record]) -> str:
    numbers = sorted((r for r in records if one(r)), key=lambda r: r[field])
    ends = map(one, (numbers[:1] + numbers[-1:]) * spans)
    return " … ".join(dict.fromkeys(ends))

  return Column(title, one, many, is_number=True)


class Line(NamedTuple):
  """One line of the table: a row, or several rows folded."""

  severity: str
  """the worst of the verdicts on its rows; "" if there is none"""
  cells: tuple[str, ...]
  piece: Piece


class Note(NamedTuple):
  """A paragraph below the table."""

  text: str
  style: str = ""
  indent: int = 0
  mark: str = ""
  """what stands before it in `mark_style`"""
  mark_style: str = ""


@dataclasses.dataclass(frozen=True)
class TextTable:
  """A table for `rich.print`, as wide as the console; `str` gives its text."""

  records: Sequence[Record]
  columns: Sequence[Column]
  """the first names the rows"""
  crop: Sequence[tuple[str, int]] = ()
  """titles and least widths of columns that may be cropped, in this order"""
  drop: Sequence[Sequence[str]] = ()
  """titles that give way one group after the other, until the rest has room"""
  drops_first: bool = False
  """whether nothing is cropped as long as something is left to drop"""
  notes: Sequence[Note] = ()
  severities: Sequence[str] | None = None
  """of the verdicts on each row; None for a table without marks"""
  pinned: Collection[int] = ()
  """rows that are never folded"""
  folds: bool = True
  only_alike: bool = False
  """whether rows that differ in more than a number never fold"""
  empty: str = "nothing to show"
  """what is said without records"""
  encoding: str = ""
  """of where it is printed; that of the console if empty"""

  def __str__(self) -> str:
    width = shutil.get_terminal_size((100, 24)).columns
    return self.to_text(width, encoding_of_stdout())

  def to_text(self, width: int = 100, encoding: str = "utf-8") -> str:
    """Plain text, no line wider than `width`."""
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
    console.print(dataclasses.replace(self, encoding=encoding))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

  def __rich_console__(
    self, console: "Console", options: "ConsoleOptions"
  ) -> "Iterator[Segment]":
    from rich.segment import Segment

    encoding = self.encoding or options.encoding
    say = functools.partial(printable, encoding=encoding)
    parts = [_grid(self, options.max_width, say)]
    parts += [_paragraph(note, options.max_width, say) for note in self.notes]
    for part in parts:
      for text, style, control in console.render(part, options):
        yield Segment(in_place(text, encoding), style, control)


def leaf_table(
  rows: Sequence[Any],
  columns: Sequence[Column],
  *crop: tuple[str, int],
  notes: Sequence[Note] = (),
  pinned: Collection[int] = (),
) -> TextTable:
  """What each leaf is, beside more `columns`; those alike in all of it fold.

  Rows are named tuples that have path, shape and dtype.
  """
  leaf = (
    Column("leaf", lambda row: row["path"]),
    Column("shape", lambda row: "×".join(map(str, row["shape"])) or "scalar"),
    Column("dtype", lambda row: row["dtype"]),
  )
  return TextTable(
    [row._asdict() for row in rows],
    (*leaf, *columns),
    crop=(("leaf", 40), *crop),
    drop=(("dtype",), ("shape",)),
    drops_first=True,
    notes=notes,
    pinned=pinned,
    only_alike=True,
  )


def filled(table: TextTable) -> tuple[list[Column], list[Line]]:
  """The columns that say something, and the lines: rows, and rows folded."""
  columns = [c for c in table.columns if any(map(c.one, table.records))]
  pieces = [Piece(range(len(table.records)))]
  if table.folds:
    options = {"only_alike": table.only_alike}
    pieces = fold(table.records, table.pinned, **options)
  found = [
    line_of(table, columns, part)
    for piece in pieces
    for part in ([piece] if piece.folded else one_by_one(piece))
  ]
  return columns, found


def line_of(table: TextTable, columns: Sequence[Column], piece: Piece) -> Line:
  """The line of `piece`: of one row, or of several folded."""
  rows = [table.records[row] for row in piece.rows]
  marks = [table.severities[row] for row in piece.rows if table.severities]
  worst = min(filter(None, marks), key=SEVERITIES.index, default="")
  if not piece.folded:
    return Line(worst, tuple(column.one(rows[0]) for column in columns), piece)
  cells = [column.many(rows) for column in columns]
  cells[0] = f"⋮ {len(rows)} more {'like these' if piece.period else 'rows'}"
  if piece.period > 1:
    blocks = len(rows) // piece.period
    cells[0] = f"⋮ {blocks} more blocks of {piece.period}"
  return Line(worst, tuple(cells), piece)


def _grid(table: TextTable, width: int, say: _Say) -> "RenderableType":
  """The grid; a list if it has no room."""
  from rich.table import Table
  from rich.text import Text

  if not table.records:
    return Text(say(table.empty), overflow="fold")
  columns, lines = filled(table)
  lines = [line._replace(cells=tuple(map(say, line.cells))) for line in lines]
  has_marks = table.severities is not None
  widths = _fit(table, columns, lines, width - has_marks * (1 + _GAP), say)
  if widths is None:
    return _list(table, columns, lines, say)
  grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
  if has_marks:
    grid.add_column("", width=1)
  for column in (c for c in columns if c.title in widths):
    grid.add_column(
      Text(say(f"{column.title}\n{column.unit}".rstrip()), style="bold"),
      justify="right" if column.is_number else "left",
      width=widths[column.title],
      no_wrap=True,
    )
  named = [line.cells[0] for line in lines if not line.piece.folded]
  names = crops(named, widths[columns[0].title])
  for line in lines:
    mark = Text(say(MARKS[line.severity]), STYLES[line.severity])
    grid.add_row(*[mark] * has_marks, *_cells(line, columns, widths, names))
  return grid


def _cells(
  line: Line,
  columns: Sequence[Column],
  widths: dict[str, int],
  names: dict[str, str],
) -> "Iterator[Text]":
  """Of a row's name the ends say most; a fold says its number first."""
  from rich.text import Text

  style = "dim" if line.piece.folded else ""
  for place, (column, cell) in enumerate(zip(columns, line.cells, strict=True)):
    if not place and not line.piece.folded:
      yield Text(names[cell], STYLES[line.severity])
    elif column.title in widths:
      yield Text(cell, style)


def _list(
  table: TextTable, columns: Sequence[Column], lines: Sequence[Line], say: _Say
) -> "Text":
  """A line for each row's words, and for each number: for narrow terminals."""
  from rich.text import Text

  dropped = {title for titles in table.drop for title in titles}
  kept = [i for i, c in enumerate(columns) if c.title not in dropped]
  found = []
  for line in lines:
    cells = [line.cells[i] for i in kept if not columns[i].is_number]
    words = " ".join(filter(None, (say(MARKS[line.severity]), *cells)))
    found.append(Text(words, STYLES[line.severity]))
    found += [
      Text(f" {say(columns[i].title)} {line.cells[i]}")
      for i in kept
      if columns[i].is_number and line.cells[i]
    ]
  return Text("\n", overflow="fold").join(found)


def _fit(
  table: TextTable,
  columns: Sequence[Column],
  lines: Sequence[Line],
  width: int,
  say: _Say,
) -> dict[str, int] | None:
  """The width of each column that has room, by its title; None for a list."""
  from rich.cells import cell_len

  widths = {}
  for place, column in enumerate(columns):
    cells = (line.cells[place] for line in lines)
    words = (say(column.title), say(column.unit), *cells)
    widths[column.title] = max(map(cell_len, words))
  for dropped in (stages := ((), *table.drop)):
    for title in dropped:
      widths.pop(title, None)
    fitted = dict(widths)
    if not table.drops_first or dropped is stages[-1]:
      for title, least in table.crop:
        if title in widths and fitted[title] > least:
          excess = max(0, _total_width(fitted) - width)
          fitted[title] = max(least, fitted[title] - excess)
    if _total_width(fitted) <= width:
      return fitted
  return None


def _total_width(widths: dict[str, int]) -> int:
  return sum(_GAP + width for width in widths.values()) - _GAP


def _paragraph(note: Note, full: int, say: _Say) -> "RenderableType":
  from rich.padding import Padding
  from rich.text import Text

  width = min(full, _READABLE)
  mark = (say(note.mark), note.mark_style)
  text = Text.assemble(mark, (say(note.text), note.style), overflow="fold")
  indent = note.indent if width >= _ROOM else 0
  return Padding(text, (0, max(0, full - width), 0, indent))
