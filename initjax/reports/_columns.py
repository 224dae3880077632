"""The columns of a report: what each says of one row, and of folded rows."""

from collections.abc import Callable, Sequence

from initjax.reports import _words
from initjax.reports._text_table import Column
from initjax.typing import Record


def _dead(record: Record) -> float | None:
  dead, units = (_words.measured(record, x) for x in ("dead_units", "units"))
  return None if dead is None or not units else dead / units


def _saturation(record: Record) -> float | None:
  return _words.measured(record, "saturation")


def _correlation(record: Record) -> float | None:
  return _words.measured(record, "correlation")


def columns(records: Sequence[Record]) -> list[Column]:
  """Those of a report on `records`; the operation first."""
  names = _words.short_paths(record["path"] for record in records)
  found = [
    Column("operation", lambda row: names[row["path"]]),
    Column("repeat", _words.repeat_of),
    Column("fans", _words.fans, unit="in→out", is_number=True),
    Column("fed by", lambda row: row["fed_by"]),
    _size_column("signal", "forward"),
    _theory_column("→ theory", "forward"),
    _size_column("gradient", "backward"),
    _theory_column("← theory", "backward"),
  ]
  two_digits = "{:.2f}".format
  extras = (
    ("dead", "units", _dead, _words.share, lambda x: x > 0.05),
    ("slope", "|φ'|", _saturation, two_digits, lambda x: x < 0.1),
    ("corr.", "samples", _correlation, two_digits, lambda x: x > 0.9),
  )
  return found + [
    _extra_column(title, unit, value, words)
    for title, unit, value, words, is_noteworthy in extras
    if any(map(is_noteworthy, _known(value, records)))
  ]


def _size_column(title: str, direction: str) -> Column:
  return Column(
    title,
    lambda row: _words.size(row, direction),
    lambda rows: _words.size_range(rows, direction),
    "log₂ E[x²]",
    is_number=True,
  )


def _theory_column(title: str, direction: str) -> Column:
  def one(record: Record) -> str:
    value = _words.measured(record, f"{direction}_predicted")
    return "" if value is None else _words.decimal(value, 2)

  return Column(title, one, unit="log₂ E[x²]", is_number=True)


def _extra_column(
  title: str,
  unit: str,
  value: Callable[[Record], float | None],
  words: Callable[[float], str],
) -> Column:
  """A measurement that has a column only where it is worth a look."""

  def one(record: Record) -> str:
    return "".join(map(words, _known(value, [record])))

  def many(records: Sequence[Record]) -> str:
    values = sorted(_known(value, records))
    return "…".join(dict.fromkeys(map(words, values[:1] + values[-1:])))

  return Column(title, one, many, unit, is_number=True)


def _known(
  value: Callable[[Record], float | None], records: Sequence[Record]
) -> list[float]:
  return [x for x in map(value, records) if x is not None]
