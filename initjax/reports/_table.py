"""The report in a terminal: a table, and the verdicts below it."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from initjax.reports import _words
from initjax.reports._names import short_paths
from initjax.reports._text_table import STYLES, Column, Note, TextTable
from initjax.typing import Record, Verdict


def table(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None = None,
  *,
  missed: Mapping[str, str] = MappingProxyType({}),
) -> TextTable:
  """Returns the report for `rich.print`, as wide as the console and in colour.

  It has one row for each operation, with repeated blocks folded, and then the
  verdicts, errors first. A row marked with ✗ or ! belongs to an error or a
  warning.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`. Pass None
      if nothing was judged; the report then says so.
    missed: parameters that were not followed, as in `graph.not_followed`.

  Raises:
    ValueError: if a verdict names a row that does not exist.

  >>> import rich
  >>> rich.print(table([]))
  no linear operation was found
  nothing to judge: no linear operation of a parameter was found...
  """
  return TextTable(
    records,
    _columns(records),
    crop=(("operation", 28), ("fed by", 8), ("operation", 20)),
    drop=(
      ("→ theory", "← theory"),
      *(("fed by",), ("fans",), ("corr.",), ("slope",), ("dead",)),
    ),
    notes=tuple(_notes(records, verdicts, missed)),
    severities=_words.severities(records, verdicts or ()),
    pinned={verdict.rows[0] for verdict in verdicts or () if verdict.rows},
    empty="no linear operation was found",
  )


def to_text(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None = None,
  *,
  width: int = 100,
  encoding: str = "utf-8",
  missed: Mapping[str, str] = MappingProxyType({}),
) -> str:
  """Returns the same as plain text, with no line wider than `width`.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`. Pass None
      if nothing was judged.
    width: in characters; if the columns do not fit, rows become a list.
    encoding: the encoding of the destination; ASCII replaces what it lacks.
    missed: parameters that were not followed, as in `graph.not_followed`.

  Raises:
    ValueError: if a verdict names a row that does not exist, or `width` is
      too small.

  >>> verdict = Verdict("unused", "note", "b", "Nothing reads it.", "")
  >>> print(to_text([], [verdict], encoding="ascii"))
  no linear operation was found
  nothing to judge: no linear operation of a parameter was found...
  <BLANKLINE>
  . 1. unused (note), b
    Nothing reads it.
  """
  return table(records, verdicts, missed=missed).to_text(width, encoding)


def _notes(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None,
  missed: Mapping[str, str],
) -> Iterator[Note]:
  """What theory leaves open, the conclusion, the verdicts with their fixes."""
  for number, remark in enumerate(_words.remarks(records)):
    if not number:
      yield Note("")
    yield Note(remark, "dim")
  if records:
    yield Note("")
  words = _words.conclusion(records, verdicts, missed)
  healthy = _words.is_healthy(records, verdicts, missed)
  if words:
    yield Note(words, "green" if healthy else "yellow")
  for number, verdict in enumerate(_words.each_fix_once(verdicts or ()), 1):
    if number > 1 or words:
      yield Note("")
    where = f", {verdict.path}" if verdict.path else ""
    yield Note(
      f" ({verdict.severity}){where}",
      mark=f"{_words.MARKS[verdict.severity]} {number}. {verdict.kind}",
      mark_style=f"bold {STYLES[verdict.severity]}",
    )
    yield Note(verdict.message, indent=2)
    if verdict.fix:
      yield Note(verdict.fix, "bold", indent=6)


# What each column says of one row, and of folded rows


def _dead(record: Record) -> float | None:
  dead, units = (_words.measured(record, x) for x in ("dead_units", "units"))
  return None if dead is None or not units else dead / units


def _columns(records: Sequence[Record]) -> list[Column]:
  """Those of a report on `records`; the operation first."""
  names = short_paths(record["path"] for record in records)
  found = [
    Column("operation", lambda row: names[row["path"]]),
    Column("repeat", _words.repeat_of),
    Column("fans", _words.fans, unit="in→out", is_number=True),
    Column("fed by", lambda row: row["fed_by"]),
    *_size_and_theory("→", "forward"),
    *_size_and_theory("←", "backward"),
  ]
  slope = lambda row: _words.measured(row, "saturation")
  correlation = lambda row: _words.measured(row, "correlation")
  two_digits = "{:.2f}".format
  extras = (
    ("dead", "units", _dead, _words.share, lambda x: x > 0.05),
    ("slope", "|φ'|", slope, two_digits, lambda x: x < 0.1),
    ("corr.", "samples", correlation, two_digits, lambda x: x > 0.9),
  )
  return found + [
    _extra_column(title, unit, value, words)
    for title, unit, value, words, is_noteworthy in extras
    if any(map(is_noteworthy, _known_values(value, records)))
  ]


def _size_and_theory(arrow: str, direction: str) -> Iterator[Column]:
  """What was measured in one direction, and what theory predicts."""

  def predicted(record: Record) -> str:
    value = _words.measured(record, f"{direction}_predicted")
    return "" if value is None else _words.decimal(value, 2)

  size = functools.partial(_words.size, direction=direction)
  span = functools.partial(_words.size_range, direction=direction)
  unit = "log₂ E[x²]"
  yield Column(_words.NOUNS[direction], size, span, unit, is_number=True)
  yield Column(f"{arrow} theory", predicted, unit=unit, is_number=True)


def _extra_column(
  title: str,
  unit: str,
  value: Callable[[Record], float | None],
  words: Callable[[float], str],
) -> Column:
  """A measurement that has a column only where it is worth a look."""

  def one(record: Record) -> str:
    return "".join(map(words, _known_values(value, [record])))

  def many(records: Sequence[Record]) -> str:
    values = sorted(_known_values(value, records))
    return "…".join(dict.fromkeys(map(words, values[:1] + values[-1:])))

  return Column(title, one, many, unit, is_number=True)


def _known_values(
  value: Callable[[Record], float | None], records: Sequence[Record]
) -> list[float]:
  return [x for x in map(value, records) if x is not None]
