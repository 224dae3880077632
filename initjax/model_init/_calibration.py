"""What `calibrate` says of each operation."""

import dataclasses
import math
from typing import NamedTuple

import jax
import numpy as np

from initjax.graph import SignalGraph
from initjax.model_init._factors import CALIBRATED, REASONS, SHARED, Row
from initjax.reports._encoding import encoding_of_stdout, printable

_POOLED = "kernel used several times: one factor, pooled over live uses"


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
  """What was done: a pytree of arrays, so it passes through jit and vmap.

  Rows stand in the order of `graph.ops`; under scans their leaves have the
  lengths of the scans as last axes.
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
    rows = jax.device_get(self.rows)
    found = []
    for index, repeat in self.graph.rows():
      row, op = rows[index], self.graph.ops[index]
      if np.ndim(row.code) != len(op.repeats):
        raise ValueError(
          "wanted one calibration, got several along leading axes, as under "
          "vmap; take one by jax.tree.map(lambda leaf: leaf[0], info)."
        )
      code = int(row.code[repeat])
      bits = float(row.log2_before[repeat])
      before = math.inf if bits >= 1024 else math.exp2(bits)
      factor = float(row.factor[repeat])
      reason = REASONS[code]
      if code == SHARED and self.tied == "pooled":
        reason = _POOLED
      found.append(Operation(op.path, repeat, factor, before, reason))
    return tuple(found)

  @property
  def skipped(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """(path, repeat, reason) of those whose statistic need not be the target.

    Among them later uses of a kernel that has one factor for all its uses.
    """
    return tuple(
      (op.path, op.repeat, op.reason)
      for op in self.operations
      if op.reason != REASONS[CALIBRATED]
    )

  def __str__(self) -> str:
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(self)):
      return f"Calibration of {len(self.graph)} operations, being traced"
    lines = [f"{'factor':>10} {self.statistic + ' before':>21}  operation"]
    for op in self.operations:
      where = "".join(f"[{step}]" for step in op.repeat)
      name = f"{op.path} {where}".rstrip()
      note = "" if op.reason == REASONS[CALIBRATED] else f"  ({op.reason})"
      lines.append(f"{op.factor:10.4g} {op.before:21.4g}  {name}{note}")
    return printable("\n".join(lines), encoding_of_stdout())
