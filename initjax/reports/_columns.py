"""The columns of a report: what each says of one row, and of folded rows."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from initjax.reports import _words
from initjax.reports._text_table import Column
from initjax.typing import Record


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
  return found + [
    _extra_column(extra)
    for extra in _EXTRAS
    if any(map(extra.is_noteworthy, _measured(extra, records)))
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


def _extra_column(extra: _Extra) -> Column:
  def one(record: Record) -> str:
    value = extra.value(record)
    return "" if value is None else extra.words(value)

  def many(records: Sequence[Record]) -> str:
    values = sorted(_measured(extra, records))
    ends = [extra.words(value) for value in (values[:1] + values[-1:])]
    return "…".join(dict.fromkeys(ends))

  return Column(extra.title, one, many, extra.unit, is_number=True)


def _measured(extra: _Extra, records: Sequence[Record]) -> list[float]:
  values = map(extra.value, records)
  return [value for value in values if value is not None]
