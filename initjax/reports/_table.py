"""The report in a terminal: a table, and the verdicts below it."""

from collections.abc import Iterator, Sequence

from initjax.reports import _words
from initjax.reports._columns import columns
from initjax.reports._text_table import STYLES, Note, TextTable
from initjax.typing import Record, Verdict


def table(
  records: Sequence[Record], verdicts: Sequence[Verdict] | None = None
) -> TextTable:
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
  return TextTable(
    records,
    columns(records),
    crop=(("operation", 28), ("fed by", 8), ("operation", 20)),
    drop=(
      ("→ theory", "← theory"),
      *(("fed by",), ("fans",), ("corr.",), ("slope",), ("dead",), ("repeat",)),
    ),
    notes=tuple(_notes(records, verdicts)),
    severities=_words.severities(records, verdicts or ()),
    pinned=_words.beginnings(verdicts or ()),
    empty="no linear operation was found",
  )


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
  return table(records, verdicts).to_text(width, encoding)


def _notes(
  records: Sequence[Record], verdicts: Sequence[Verdict] | None
) -> Iterator[Note]:
  """What theory leaves open, the conclusion, the verdicts with their fixes."""
  for number, silence in enumerate(_words.silences(records)):
    if not number:
      yield Note("")
    yield Note(silence, "dim")
  if records:
    yield Note("")
  words = _words.conclusion(records, verdicts)
  if words:
    yield Note(words, "green" if words == _words.HEALTHY else "yellow")
  for number, verdict in enumerate(_words.ordered(verdicts or ()), 1):
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
