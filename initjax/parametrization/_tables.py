"""A plan as a table: leaf, role, growth, init, rate, what was absorbed."""

from collections.abc import Sequence
from typing import Any

from initjax.parametrization._scaling import Scaling, as_text
from initjax.reports import Column, Note, TextTable, short_paths
from initjax.typing import Record

_MOST = 12


def plan_table(
  rows: Sequence[Scaling], notes: Sequence[str], incomplete: Sequence[str]
) -> TextTable:
  """Repeats are folded; reasons are numbered, and written out below."""
  names = short_paths(row.path for row in rows)
  whys = dict.fromkeys(row.why for row in rows if row.why)
  marks = {why: f"({number})" for number, why in enumerate(whys, 1)}
  return TextTable(
    [_record(row) for row in rows],
    (
      Column("leaf", lambda row: names[row["path"]]),
      Column("role", lambda row: row["role"]),
      Column("growth", lambda row: row["growths"], unit="in × out"),
      Column("std", lambda row: row["std_text"]),
      Column("init ×", lambda row: row["init_text"]),
      Column("Adam ×", lambda row: row["adam_text"]),
      Column("SGD ×", lambda row: row["sgd_text"]),
      Column("absorbed", lambda row: row["absorbed_text"]),
      Column("", lambda row: marks.get(row["why"], "")),
    ),
    crop=(("leaf", 24),),
    drop=(("SGD ×",), ("std",), ("growth",)),
    notes=(
      *(Note(f"{mark} {why}", indent=2) for why, mark in marks.items()),
      *(Note(f"· {note}") for note in notes),
      *(Note(f"incomplete: {line}", "yellow") for line in incomplete),
    ),
    empty="no leaf of floats",
  )


def _record(row: Scaling) -> Record:
  c = row.absorbed
  growths = f"{row.growth_in:.4g} × {row.growth_out:.4g}"
  found: dict[str, Any] = {
    "path": row.path,
    "repeat": (),
    "kind": row.role,
    "fan_in": row.growth_in,
    "fan_out": row.growth_out,
    "fed_by": row.why,
    "role": row.role,
    "why": row.why,
    "growths": growths if row.role not in ("fixed", "vector") else "",
    "std_text": "unknown" if row.std is None else f"{row.std:.3g}",
    "init_text": as_text(row.init_total),
    "adam_text": as_text(row.adam * c),
    "sgd_text": as_text(row.sgd * c * c),
    "absorbed_text": "" if as_text(c) == "1" else as_text(c),
  }
  return found
