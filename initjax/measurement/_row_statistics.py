"""The statistics of a report as arrays over its rows, and as plain records."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from initjax._sharding import fetched
from initjax._statistics import Statistics, bound_of, statistics_in_numpy
from initjax.graph import Row, SignalGraph, fed_by
from initjax.measurement._detail import Detail, detail_of, saturation
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
    (
      [tally.numbers for tally in report.forward_tallies],
      [tally.numbers for tally in report.backward_tallies],
      report.detail_sums,
      report.slopes,
    )
  )
  both = {
    "forward": _statistics(graph, forward),
    "backward": _statistics(graph, backward),
  }
  detail = Detail(*(np.full((1, len(graph.rows)), np.nan),) * 5)
  if details:
    feeds = zip(graph.ops, slopes, strict=True)
    saturated = [saturation(op, *each)[..., None] for op, each in feeds]
    detail = detail_of(_by_row(graph, details))._replace(
      saturation=_by_row(graph, saturated)[..., 0]
    )
  stacked = graph.ops and forward[0].ndim > 1 + len(graph.ops[0].repeats)
  return RowStatistics(
    graph,
    _averaged(both["forward"]),
    _averaged(both["backward"]),
    _averaged(detail),
    {name: np.asarray(of.log2_second_moment) for name, of in both.items()},
    len(both["forward"].size) if stacked else None,
    bool(details),
  )


def _statistics(graph: SignalGraph, tallies: list[np.ndarray]) -> Statistics:
  """Of all rows, arrays [draws, rows]."""
  numbers = _by_row(graph, tallies)
  bounds = [bound_of(tally.dtype) for tally in tallies]
  bound = np.array([bounds[row.number] for row in graph.rows])
  found = statistics_in_numpy(numbers, bound)
  return Statistics(*(number.astype(float) for number in found))


def _by_row(graph: SignalGraph, leaves: Sequence[np.ndarray]) -> np.ndarray:
  """[draws, rows, n] from n numbers of each operation, [..., *repeats, n].

  One number may stand for all draws.
  """
  if not leaves:
    return np.zeros((1, 0, 6))
  counts = [math.prod(op.repeats) for op in graph.ops]
  flat = []
  for op, leaf, count in zip(graph.ops, leaves, counts, strict=True):
    draws = math.prod(leaf.shape[: -1 - len(op.repeats)])
    flat.append(leaf.reshape(draws, count, leaf.shape[-1]))
  draws = max(map(len, flat))
  flat = [np.broadcast_to(x, (draws, *x.shape[1:])) for x in flat]
  first = np.cumsum([0, *counts]).tolist()
  places = [first[row.number] + _place(row) for row in graph.rows]
  return np.concatenate(flat, axis=1, dtype=float)[:, places]


def _place(row: Row) -> int:
  """Of a repeat, among all of its operation."""
  place = 0
  for repeat, length in zip(row.repeat, row.op.repeats, strict=True):
    place = place * length + repeat
  return place


def _averaged(found: Any) -> Any:
  """The same with arrays [rows], from those [draws, rows]."""
  return found._replace(
    **{
      name: numbers.max(0) if name in _WORST else numbers.mean(0)
      for name, numbers in found._asdict().items()
    }
  )


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
