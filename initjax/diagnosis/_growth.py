"""Exploding and vanishing: growth along the graph, against what chance allows.

One draw of the weights proves little: the logarithm of |x_L|² of a healthy
network performs a random walk. For a chain of layers the law of this walk is
known (`_law`); elsewhere a bound is (`_spread`). Only growth beyond it is
called sick. Each piece of a model is judged separately (`_pieces`): towers do
not follow each other, and corresponding operations of blocks are compared.

Reference: Hanin 2018; Hanin and Nica 2020; Roberts, Yaida and Hanin 2022, §5.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np

from initjax.diagnosis._causes import explain, shape_of, typical
from initjax.diagnosis._chain import Chain
from initjax.diagnosis._law import Drift
from initjax.diagnosis._observe import Observed
from initjax.diagnosis._pieces import Piece
from initjax.diagnosis._spread import added
from initjax.graph import LinearOp
from initjax.reports import NOUNS
from initjax.typing import Direction, Verdict

_NOTABLE = 4.0  # log₂ of the second moment: a factor 4 in size
_GRAVE = 20.0  # a factor 1000 in size
_SIGMAS = 3.0  # of what chance does
_FALSE_ALARM = 0.003  # as in the assertions
_ASSERTIONS = {
  "signal": "initjax.testing.assert_variance_stable",
  "gradient": "initjax.testing.assert_gradients_flow",
}


class Growth(NamedTuple):
  """One direction of a piece, in the order the signal takes it."""

  direction: str
  rows: list[int]
  """which records"""
  bits: np.ndarray
  """log₂ second moments of these rows [draws, rows]"""
  per_row: float
  """log₂ growth of one row, robust, mean over draws"""
  total: float
  """over all rows"""
  spread: float
  """standard deviation of the total, of the mean over draws"""
  drift: float
  """what a healthy network loses"""
  unsure: float
  """by how much that may be off, either way"""
  in_time: bool
  """whether it is over time steps, which share their weights"""

  @property
  def beyond(self) -> float:
    """By how many bits it is more than chance and a factor 4 in size allow."""
    allowed = _SIGMAS * self.spread + self.unsure + _NOTABLE
    low, high = min(self.drift, 0.0) - allowed, max(self.drift, 0.0) + allowed
    return max(low - self.total, self.total - high)


def check_growth(observed: Observed) -> Iterator[Verdict]:
  """Verdicts on both directions of each piece.

  What uses kernels that were judged in another piece, as derivatives of a model
  do, has the same cause and is not told again.
  """
  rows = observed.found.rows
  for direction in get_args(Direction):
    said: set[str] = set()
    for piece in observed.parts.pieces:
      paths = {rows[at].op.path for at in piece.rows}
      verdict = _on_piece(observed, piece, direction)
      if verdict is not None and not paths <= said:
        said |= paths
        yield verdict


def _on_piece(
  observed: Observed, piece: Piece, direction: Direction
) -> Verdict | None:
  growth = growth_of(observed, piece, direction)
  if growth is not None and growth.beyond > 0:
    return _in_words(observed, piece, growth)
  if piece.chain is None:
    return None
  return _slow_drift(observed, piece.chain, direction)


def cause_of_drift(
  observed: Observed, chain: Chain, direction: str, drift: Drift
) -> tuple[str, str]:
  """The cause of a drift, and its fix."""
  ops = [observed.found.rows[at].op for at in chain.rows]
  growth = (drift.measured[-1] - drift.measured[0]) / (chain.length - 1)
  growth = growth if direction == "forward" else -growth
  layer = typical(ops, observed.leaves)
  rows = [observed.found.rows[at] for at in chain.rows]
  return explain(direction, growth, layer, shape_of(rows, in_time=False))


def allowed_sigmas(false_alarm: float, chains: int) -> float:
  """Of a drift: half of all false alarms are its own, which chains share."""
  from statistics import NormalDist

  return -NormalDist().inv_cdf(false_alarm / 4 / max(chains, 1))


def _slow_drift(
  observed: Observed, chain: Chain, direction: str
) -> Verdict | None:
  """A drift that chance does not explain, though it is small.

  By the test of the assertions: what one of them fails on is a warning here.
  """
  odd = {one.row for group in observed.odd() for one in group}
  if not odd.isdisjoint(chain.rows):
    return None  # that layer is said to be
  drift = observed.drift(chain, direction, None)
  allowed = allowed_sigmas(_FALSE_ALARM, len(observed.chains))
  if drift is None or abs(drift.sigmas) <= allowed:
    return None
  noun = NOUNS[direction]
  cause, mended = cause_of_drift(observed, chain, direction, drift)
  total = drift.per_layer * (chain.length - 1)
  return Verdict(
    f"slow drift of the {noun}",
    "warning",
    observed.found.rows[chain.rows[0]].op.path,
    f"The {noun} changes by a factor of 2^{total:+.1f} over {chain.length} "
    f"operations beyond what chance explains ({abs(drift.sigmas):.1f} "
    f"standard deviations), so {_ASSERTIONS[noun]} fails. A change this small "
    f"seldom does harm. {cause}",
    mended,
    chain.rows,
  )


def growth_of(
  observed: Observed, piece: Piece, direction: Direction
) -> Growth | None:
  """The growth of a piece in one direction; None if too few rows are alive.

  Of blocks that of the operations that stand for the others: forward the
  median, backward those which the largest gradient reaches, the stream's.
  """
  found = observed.found
  ops = [row.op for row in found.rows]
  bits = found.log2_moments[direction]
  if direction == "backward":  # what strides and pooling share out is kept
    bits = bits + np.log2(np.maximum(found.backward.size, 1))
  every = [
    _growth(ops, _without_odd(observed, bits, each, direction), each, direction)
    for each in piece.sequences
  ]
  growths = [each for each in every if each is not None]
  if not growths:
    return None
  if direction == "forward":
    growths.sort(key=lambda growth: growth.total)
    growth = growths[len(growths) // 2]
  else:
    growth = max(growths, key=lambda growth: float(growth.bits.mean()))
  if piece.chain is None:
    return growth
  drift = observed.drift(piece.chain, direction, None)
  return growth if drift is None else _by_law(growth, drift)


def _without_odd(
  observed: Observed,
  bits: np.ndarray,
  sequence: Sequence[int],
  direction: Direction,
) -> np.ndarray:
  """Sizes as they were if none of its layers was odd: see `_innovations`."""
  found = {
    one.row: one.bits.get(direction, 0.0)
    for group in observed.odd()
    for one in group
  }
  shift, places = np.zeros(bits.shape[1]), list(sequence)
  for row in set(found).intersection(places):
    at = places.index(row)
    passed = places[at:] if direction == "forward" else places[:at]
    shift[passed] += found[row]
  return bits - shift


def _growth(
  ops: Sequence[LinearOp],
  bits: np.ndarray,
  sequence: Sequence[int],
  direction: Direction,
) -> Growth | None:
  order = np.array(sequence)[:: 1 if direction == "forward" else -1]
  order = order[np.isfinite(bits[:, order]).all(axis=0)]
  if order.size < max(2, len(sequence) / 2):
    return None
  rows = order.tolist()
  slopes = np.array([_median_slope(draw) for draw in bits[:, rows]])
  steps = len(rows) - 1
  variance = added((ops[row] for row in rows[1:]), direction)
  spread = math.sqrt(variance) / math.log(2)
  if len(slopes) >= 4:
    spread = steps * float(slopes.std(ddof=1))
  return Growth(
    direction,
    rows,
    bits[:, rows],
    float(slopes.mean()),
    float(slopes.mean()) * steps,
    spread / math.sqrt(len(slopes)),
    -variance / (2 * math.log(2)),
    0.0,
    in_time=sum(ops[at].is_shared for at in rows) > len(rows) / 2,
  )


def _by_law(growth: Growth, drift: Drift) -> Growth:
  """With what the law of its own chain allows."""
  steps = len(growth.rows) - 1
  change = float(drift.expected[-1] - drift.expected[0])
  return growth._replace(
    drift=change if growth.direction == "forward" else -change,
    unsure=float(max(drift.unsure[0], drift.unsure[-1])),
    spread=drift.error * steps,
  )


def _median_slope(values: np.ndarray) -> float:
  """Theil's slope: the median over all pairs, deaf to single odd rows.

  A first layer of another scale, or a readout, would bend a least-squares line;
  up to 29% of all rows may be anything before this one moves far.
  """
  far, near = np.triu_indices(values.size, 1)[::-1]
  return float(np.median((values[far] - values[near]) / (far - near)))


# The verdict in words


def _in_words(observed: Observed, piece: Piece, growth: Growth) -> Verdict:
  ops, leaves = [row.op for row in observed.found.rows], observed.leaves
  grave = abs(growth.total) > _GRAVE and not growth.in_time
  noun = NOUNS[growth.direction]
  measured = "second moment" if noun == "signal" else "sum of squares"
  word, verb = "vanishing", "shrinks"
  if growth.total > 0:
    word, verb = "exploding", "grows"
  margin = _SIGMAS * growth.spread / (growth.bits.shape[1] - 1)
  factor = 2**growth.per_row
  low, high = factor * 2**-margin, factor * 2**margin
  own = [ops[row] for row in growth.rows]
  mean = growth.bits.mean(axis=0)
  strayed = abs(mean - mean[0]) > _NOTABLE
  cause, mended = explain(
    growth.direction,
    growth.per_row,
    typical(own, leaves),
    shape_of([observed.found.rows[at] for at in piece.rows], growth.in_time),
  )
  return Verdict(
    f"{word} {noun}",
    "error" if grave else "warning",
    own[0].path,
    f"The {noun} {verb} from operation to operation, beyond what chance "
    f"explains. Its {measured} changes by a factor of {factor:.3g} per "
    f"operation ({low:.3g} to {high:.3g}), 2^{growth.total:.0f} over "
    f"{len(growth.rows)} operations, where chance allows 2^{growth.drift:.1f} "
    f"± {_SIGMAS * growth.spread + growth.unsure:.1f}. {cause}",
    mended,
    tuple(sorted(np.array(growth.rows)[strayed].tolist())),
  )
