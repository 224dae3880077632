"""Exploding and vanishing: growth per operation, against what chance allows.

One draw of the weights proves little: the logarithm of |x_L|² of a healthy
network walks at random. For a chain of layers the law is known (`_law`).
Elsewhere each layer of fan n adds, at order 1/n,

    mean -κ/(2n), variance κ/n,  κ = E[φ⁴]/E[φ²]² - 1 forward,
                                 κ = 3E[φ'⁴]/E[φ'²]² - 1 backward

(`fluctuation`: 2 for a linear layer, 5 both ways for ReLU), which is an upper
bound. Only growth beyond it is called sick.

Reference: Hanin 2018; Hanin and Nica 2020; Roberts, Yaida and Hanin 2022, §5.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np

from initjax._activations import KNOWN, known_name
from initjax.diagnosis._causes import explain, typical
from initjax.diagnosis._law import Drift
from initjax.diagnosis._observe import Observed
from initjax.graph import LinearOp
from initjax.meanfield import THEORY_FAILS, fluctuation
from initjax.measurement import Leaves
from initjax.reports import NOUNS
from initjax.typing import Activation, Direction, Verdict

_NOTABLE = 4.0  # log₂ of the second moment: a factor 4 in size
_GRAVE = 20.0  # a factor 1000 in size
_SIGMAS = 3.0  # of what chance does


class Growth(NamedTuple):
  """One direction of a model, in the order the signal takes it."""

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


def check_growth(observed: Observed) -> Iterator[Verdict]:
  """Verdicts on both directions."""
  found = observed.found
  ops = [row.op for row in found.rows]
  for direction in get_args(Direction):
    bits = found.log2_moments[direction]
    if direction == "backward":  # what strides and pooling share out is kept
      bits = bits + np.log2(np.maximum(found.backward.size, 1))
    growth = _growth_of(ops, bits, direction)
    drift = observed.drift(direction, None)
    if growth is not None:
      growth = growth if drift is None else _by_law(growth, drift)
      allowed = _SIGMAS * growth.spread + growth.unsure + _NOTABLE
      low, high = min(growth.drift, 0.0), max(growth.drift, 0.0)
      if not low - allowed <= growth.total <= high + allowed:
        yield _in_words(growth, ops, observed.leaves)


def _kappa(activation: Activation | None, direction: Direction) -> float:
  """κ at unit variance; that of ReLU for an activation without a name."""
  if activation is None:
    return 2.0
  return _kappa_of(known_name(activation) or "relu", direction)


@functools.cache
def _kappa_of(name: str, direction: Direction) -> float:
  try:
    return fluctuation(KNOWN[name], direction=direction)
  except THEORY_FAILS:
    return 5.0


def _growth_of(
  ops: Sequence[LinearOp], bits: np.ndarray, direction: Direction
) -> Growth | None:
  """The growth of one direction; None if too few rows are alive."""
  order = np.arange(len(ops))[:: 1 if direction == "forward" else -1]
  order = order[np.isfinite(bits[:, order]).all(axis=0)]
  if order.size < max(3, len(ops) / 2):
    return None
  rows = order.tolist()
  slopes = np.array([_median_slope(draw) for draw in bits[:, rows]])
  steps = len(rows) - 1
  added = sum(
    _kappa(op.usual_feed.activation, direction) / max(op.fan_in, 1)
    for op in (ops[row] for row in rows[1:])
  )
  spread = math.sqrt(added) / math.log(2)
  if len(slopes) >= 4:
    spread = steps * float(slopes.std(ddof=1))
  return Growth(
    direction,
    rows,
    bits[:, rows],
    float(slopes.mean()),
    float(slopes.mean()) * steps,
    spread / math.sqrt(len(slopes)),
    -added / (2 * math.log(2)),
    0.0,
    in_time=sum(op.is_shared for op in ops) > len(ops) / 2,
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


def _in_words(
  growth: Growth, ops: Sequence[LinearOp], leaves: Leaves
) -> Verdict:
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
    growth.direction, growth.per_row, typical(own, leaves), len(own)
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
