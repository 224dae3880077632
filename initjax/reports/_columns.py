"""The columns of the table: what each says of one row, and of folded rows."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from initjax.reports import _words
from initjax.reports._fold import Piece, fold
from initjax.typing import Record, Verdict


class Column(NamedTuple):
  """One column of the table."""

  title: str
  unit: str
  """the second line of the heading"""
  one: Callable[[Record], str]
  """the cell of a row"""
  many: Callable[[Sequence[Record]], str] = lambda records: ""
  """the cell of folded rows"""


class Line(NamedTuple):
  """One line of the table: a row, or several rows folded."""

  severity: str
  """the worst of the verdicts on its rows; "" if there is none"""
  cells: tuple[str, ...]
  piece: Piece


class _Extra(NamedTuple):
  """A measurement that has a column only where it is worth a look."""

  title: str
  unit: str
  value: Callable[[Record], float | None]
  words: Callable[[float], str]
  is_noteworthy: Callable[[float], bool]


def _dead(record: Record) -> float | None:
  dead, units = (_words.measured(record, x) for x in ("dead_units", "units"))
  return None if dead is None or not units else dead / units


_EXTRAS = (
  _Extra("dead", "units", _dead, _words.share, lambda x: x > 0.05),
  _Extra(
    "slope",
    "|φ'|",
    lambda record: _words.measured(record, "saturation"),
    lambda x: f"{x:.2f}",
    lambda x: x < 0.1,
  ),
  _Extra(
    "corr.",
    "samples",
    lambda record: _words.measured(record, "correlation"),
    lambda x: f"{x:.2f}",
    lambda x: x > 0.9,
  ),
)


def columns(records: Sequence[Record]) -> list[Column]:
  """Those that have something to say about `records`; the operation first."""
  names = _words.short_paths(record["path"] for record in records)
  found = [Column("operation", "", lambda row: names[row["path"]], _how_many)]
  if any(record["repeat"] for record in records):
    found.append(Column("repeat", "", _words.repeat))
  found += [
    Column("fans", "in→out", _words.fans),
    Column("fed by", "", lambda row: row["fed_by"]),
    _size_column("signal", "forward"),
    *_theory_column("→ theory", "forward", records),
    _size_column("gradient", "backward"),
    *_theory_column("← theory", "backward", records),
  ]
  return found + [
    _extra_column(extra)
    for extra in _EXTRAS
    if any(map(extra.is_noteworthy, _measured(extra, records)))
  ]


def lines(
  records: Sequence[Record],
  verdicts: Sequence[Verdict],
  shown: Sequence[Column],
) -> list[Line]:
  """The table, folded, as cells of text."""
  severities = _words.severities(records, verdicts)
  pieces = fold(records, _words.beginnings(verdicts))
  return [
    line(records, severities, shown, part)
    for piece in pieces
    for part in ([piece] if piece.folded else one_by_one(piece))
  ]


def line(
  records: Sequence[Record],
  severities: Sequence[str],
  shown: Sequence[Column],
  piece: Piece,
) -> Line:
  """The line of `piece`: of one row, or of several folded."""
  rows = [records[row] for row in piece.rows]
  worst = min(
    (severities[row] for row in piece.rows if severities[row]),
    key=_words.SEVERITIES.index,
    default="",
  )
  if not piece.folded:
    return Line(worst, tuple(column.one(rows[0]) for column in shown), piece)
  cells = [column.many(rows) for column in shown]
  if piece.period > 1:
    blocks = len(rows) // piece.period
    cells[0] = f"⋮ {blocks} more blocks of {piece.period}"
  elif not piece.period:
    cells[0] = f"⋮ {len(rows)} more rows"
  return Line(worst, tuple(cells), piece)


def one_by_one(piece: Piece) -> list[Piece]:
  """A piece for each row."""
  return [Piece(range(row, row + 1)) for row in piece.rows]


def _how_many(records: Sequence[Record]) -> str:
  return f"⋮ {len(records)} more like these"


def _size_column(title: str, direction: str) -> Column:
  return Column(
    title,
    "log₂ E[x²]",
    lambda row: _words.size(row, direction),
    lambda rows: _words.size_range(rows, direction),
  )


def _theory_column(
  title: str, direction: str, records: Sequence[Record]
) -> list[Column]:
  """What is predicted beside what was measured, if anything is."""
  name = f"{direction}_predicted"

  def one(record: Record) -> str:
    value = _words.measured(record, name)
    return "" if value is None else _words.decimal(value, 2)

  known = any(map(one, records))
  return [Column(title, "log₂ E[x²]", one)] if known else []


def _extra_column(extra: _Extra) -> Column:
  def one(record: Record) -> str:
    value = extra.value(record)
    return "" if value is None else extra.words(value)

  def many(records: Sequence[Record]) -> str:
    values = sorted(_measured(extra, records))
    ends = [extra.words(value) for value in (values[:1] + values[-1:])]
    return "…".join(dict.fromkeys(ends))

  return Column(extra.title, extra.unit, one, many)


def _measured(extra: _Extra, records: Sequence[Record]) -> list[float]:
  values = map(extra.value, records)
  return [value for value in values if value is not None]
