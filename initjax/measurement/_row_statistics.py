"""The statistics of a report as arrays over its rows, and as plain records."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from initjax._sharding import fetched
from initjax._statistics import Statistics
from initjax.graph import Row, SignalGraph, fed_by
from initjax.measurement._detail import Detail, saturation
from initjax.typing import Record

if TYPE_CHECKING:
  from initjax.measurement._report import SignalReport

_WORST = ("largest", "nonfinite")  # of several draws the worst is given


class RowStatistics(NamedTuple):
  """Arrays [rows], in the order of execution; several draws are averaged.

  Of logarithms that is the geometric mean; of `largest` and `nonfinite` the
  worst draw is given.
  """

  graph: SignalGraph
  forward: Statistics
  backward: Statistics
  detail: Detail
  """NaN unless measured with `detail=True`"""
  log2_moments: dict[str, np.ndarray]
  """by direction, log₂ second moments [draws, rows]"""
  draws: int | None
  """how many there are; None for parameters that were no stack of draws"""
  has_detail: bool

  @property
  def rows(self) -> tuple[Row, ...]:
    """What stands in each place of the arrays."""
    return self.graph.rows

  def along(self, direction: str) -> Statistics:
    """Those of the signal ("forward") or of the gradient."""
    return self.forward if direction == "forward" else self.backward


def row_statistics(report: "SignalReport") -> RowStatistics:
  """The arrays of a report."""
  graph = report.graph
  forward, backward, details, slopes = fetched(
    (report.forward, report.backward, report.details, report.slopes)
  )
  if details:
    ops = zip(graph.ops, details, slopes, strict=True)
    details = [d._replace(saturation=saturation(op, *s)) for op, d, s in ops]
  moments = {
    direction: _by_row(graph, [one.log2_second_moment for one in found])
    for direction, found in (("forward", forward), ("backward", backward))
  }
  stacked = graph.ops and forward[0].size.ndim > len(graph.ops[0].repeats)
  return RowStatistics(
    graph,
    _averaged(graph, forward, Statistics),
    _averaged(graph, backward, Statistics),
    _averaged(graph, details, Detail),
    {
      direction: np.ascontiguousarray(np.atleast_2d(np.array(rows, float).T))
      for direction, rows in moments.items()
    },
    moments["forward"][0].size if stacked else None,
    bool(details),
  )


def _by_row(graph: SignalGraph, leaves: Sequence[Any]) -> list[np.ndarray]:
  """Of each row, [draws] of a number given for each operation [..., *repeats].

  One number may stand for all draws.
  """
  return [
    np.ravel(leaves[row.number][(..., *row.repeat)]) for row in graph.rows
  ]


def _averaged(graph: SignalGraph, found: Sequence[Any], kind: Any) -> Any:
  """`kind` of arrays [rows], from one of each operation; NaN without any."""
  averaged = {}
  for name in kind._fields:
    numbers = [math.nan] * len(graph.rows)
    if found:
      rows = _by_row(graph, [getattr(one, name) for one in found])
      numbers = [x.max() if name in _WORST else x.mean() for x in rows]
    averaged[name] = np.array(numbers, float)
  return kind(**averaged)


_BANDS = ("forward_band", "backward_band")
_THEORY = ("forward_predicted", "backward_predicted", "theory_silent")


def to_records(
  found: RowStatistics, bands: Sequence[Any], predicted: Sequence[Any]
) -> list[Record]:
  """A plain dict for each row, in the order of execution."""
  columns: dict[str, Iterable[Any]] = {}
  for direction, moments in found.log2_moments.items():
    for name, numbers in found.along(direction)._asdict().items():
      columns[f"{direction}_{name}"] = numbers.tolist()
    if found.draws is not None:
      columns["draws"] = [found.draws] * len(found.rows)
      columns[f"{direction}_log2_second_moment_std"] = _std(moments).tolist()
  if found.has_detail:
    columns |= {n: x.tolist() for n, x in found.detail._asdict().items()}
  for names, tuples in ((_BANDS, bands), (_THEORY, predicted)):
    if tuples:
      columns |= zip(names, zip(*tuples, strict=True), strict=True)
  return [
    _identity(row) | dict(zip(columns, numbers, strict=True))
    for row, *numbers in zip(found.rows, *columns.values(), strict=True)
  ]


def _std(moments: np.ndarray) -> np.ndarray:
  """[rows]: standard deviation over draws; NaN of a single one."""
  if len(moments) < 2:
    return np.full(moments.shape[1], np.nan)
  with np.errstate(invalid="ignore"):
    return np.ascontiguousarray(moments.T, np.float32).std(axis=1, ddof=1)


def _identity(row: Row) -> Record:
  return {
    "path": row.op.path,
    "repeat": row.repeat,
    "kind": row.op.kind,
    "fan_in": row.op.fan_in,
    "fan_out": row.op.fan_out,
    "valid_fan_in": row.op.valid_fan_in,
    "valid_fan_out": row.op.valid_fan_out,
    "fed_by": fed_by(row.feed),
  }
