"""The plan of `auto_init`: what it sets and why, printed as a table."""

from collections.abc import Iterator
from typing import NamedTuple

from initjax.reports import (
  Column,
  Note,
  TextTable,
  alike_names,
  fans,
  number_column,
  remarks,
  repeat_of,
  short_paths,
)

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
  valid_fan_in: float
  """without terms that are padding"""
  valid_fan_out: float
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
  """What `auto_init` would set; `print(plan)` shows a table."""

  rows: tuple[VarianceRow, ...]
  """in the order of execution"""
  kept: tuple[str, ...]
  """paths of parameters that keep their values"""
  notes: tuple[str, ...]
  """what theory says of the whole"""

  def __repr__(self) -> str:
    """Short: how much it sets, keeps and notes; `print` shows all."""
    said = f"{len(self.rows)} rows, {len(self.kept)} kept"
    return f"VariancePlan({said}, {len(self.notes)} notes)"

  def __str__(self) -> str:
    return str(_variances_table(self))

  def to_text(self, width: int = 100, encoding: str = "utf-8") -> str:
    """Returns the table as plain text, with no line wider than `width`.

    Args:
      width: in characters; if the columns do not fit, rows become a list.
      encoding: the encoding of the destination.

    Raises:
      ValueError: if `width` is too small.
    """
    return _variances_table(self).to_text(width, encoding)

  def __rich__(self) -> TextTable:
    return _variances_table(self)


def _variances_table(plan: VariancePlan) -> TextTable:
  """Reasons are numbered, and written out below."""
  names = short_paths(row.path for row in plan.rows)
  whys = dict.fromkeys(row.why for row in plan.rows if row.why)
  marks = {why: f"({number})" for number, why in enumerate(whys, 1)}
  records = [row._asdict() for row in plan.rows]
  return TextTable(
    records,
    (
      Column("operation", lambda row: names[row["path"]] or "(constant)"),
      Column("repeat", repeat_of),
      Column("in→out", fans),
      Column("fed by", lambda row: row["fed_by"]),
      number_column("E[φ²]", "second_moment", spans=True),
      number_column("gain", "gain", spans=True),
      number_column("std", "std", spans=True),
      Column("", lambda row: marks.get(row["why"], "")),
    ),
    crop=(("operation", 24), ("fed by", 8), ("operation", 12)),
    drop=(("fed by",), ("in→out",)),
    notes=(
      *(Note(f"{mark} {why}", indent=2) for why, mark in marks.items()),
      *(Note(f"· {note}") for note in (*remarks(records), *plan.notes)),
      *_kept(plan.kept),
    ),
  )


def _kept(paths: tuple[str, ...]) -> Iterator[Note]:
  names = alike_names(short_paths(paths).values())
  if names:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    listed = ", ".join(names[:_MOST])
    yield Note(f"· kept as they are: {listed}{more}", "dim")
