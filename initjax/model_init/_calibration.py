"""What `calibrate` reports about each operation."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from initjax._sharding import fetched
from initjax.graph import SignalGraph
from initjax.model_init._factors import CALIBRATED, REASONS, SHARED, Row
from initjax.model_init._tables import decided_by_readout
from initjax.reports import (
  Column,
  Note,
  TextTable,
  not_followed,
  number_column,
  repeat_of,
  short_paths,
)

READ_OUT = (
  "table that is read out: one factor, from its readout, also for positions "
  "that are added to its rows"
)


class Operation(NamedTuple):
  """One operation at one repeat of the scans around it."""

  path: str
  repeat: tuple[int, ...]
  factor: float
  """what its output, and so its kernel, was multiplied by"""
  before: float
  """the statistic without that factor; NaN if not measured"""
  reason: str
  """"calibrated", or why its statistic need not be the target"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Calibration:
  """What was done: a pytree of arrays, which can pass through jit and vmap.

  Rows are in the order of `graph.ops`. Under scans, the lengths of the scans
  are the last axes of their leaves.
  """

  rows: tuple[Row, ...]
  graph: SignalGraph = dataclasses.field(metadata={"static": True})
  """what the rows are"""
  statistic: str = dataclasses.field(metadata={"static": True})
  """what was calibrated"""
  tied: str = dataclasses.field(metadata={"static": True})
  """how kernels that are used several times were treated"""

  @property
  def operations(self) -> tuple[Operation, ...]:
    """Every operation and repeat, in the order of execution.

    Raises:
      ValueError: if several calibrations are stacked, as under vmap.
    """
    rows = fetched(self.rows)
    read_out = decided_by_readout(self.graph) if self.tied == "readout" else ()
    found = []
    for index, op, repeat in self.graph.rows:
      row = rows[index]
      if np.ndim(row.code) != len(op.repeats):
        raise ValueError(
          "expected one calibration, got several along leading axes, as "
          "under vmap; select one with jax.tree.map(lambda leaf: leaf[0], "
          "info)."
        )
      code = int(row.code[repeat])
      bits = float(row.log2_before[repeat])
      before = math.inf if bits >= 1024 else math.exp2(bits)
      factor = float(row.factor[repeat])
      reason = REASONS[code]
      if code == SHARED and op.place.site in read_out:
        reason = READ_OUT
      found.append(Operation(op.path, repeat, factor, before, reason))
    return tuple(found)

  @property
  def skipped(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """(path, repeat, reason) of operations whose statistic may miss the target.

    This includes later uses of a kernel that has one factor for all its uses.
    """
    return tuple(
      (op.path, op.repeat, op.reason)
      for op in self.operations
      if op.reason != REASONS[CALIBRATED]
    )

  def __repr__(self) -> str:
    """Short: the range of the factors; `print` shows all."""
    ops = len(self.graph)
    said = f"{ops} operation{'s' * (ops != 1)}"
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self)):
      return f"Calibration({said}, being traced)"
    factors = sorted(op.factor for op in self.operations)
    if factors:
      said += f", factors {factors[0]:.3g} to {factors[-1]:.3g}"
    return f"Calibration({said})"

  def __str__(self) -> str:
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self)):
      return repr(self)
    missed = not_followed(self.graph.not_followed)
    return str(_factors_table(self.operations, self.statistic, missed))


def _factors_table(
  operations: Sequence[Operation], statistic: str, missed: str
) -> TextTable:
  """Why a statistic need not be the target is numbered, and said below."""
  names = short_paths(op.path for op in operations)
  reasons = dict.fromkeys(op.reason for op in operations)
  reasons.pop(REASONS[CALIBRATED], None)
  marks = {reason: f"({number})" for number, reason in enumerate(reasons, 1)}
  before = f"{statistic} before"
  return TextTable(
    [op._asdict() for op in operations],
    (
      Column("operation", lambda row: names[row["path"]] or "(constant)"),
      Column("repeat", repeat_of),
      number_column("factor", "factor", spans=True),
      number_column(before, "before", spans=True),
      Column("", lambda row: marks.get(row["reason"], "")),
    ),
    crop=(("operation", 24),),
    notes=(
      *(Note(f"{mark} {why}", indent=2) for why, mark in marks.items()),
      *[Note(f"· {missed}")] * bool(missed),
    ),
    empty="no linear operation was found",
  )
