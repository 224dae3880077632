"""What chance adds per operation, where no law for the whole is known.

Each layer of fan n adds, at order 1/n,

    mean -κ/(2n), variance κ/n,  κ = E[φ⁴]/E[φ²]² - 1 forward,
                                 κ = 3E[φ'⁴]/E[φ'²]² - 1 backward

(`fluctuation`: 2 for a linear layer, 5 both ways for ReLU): an upper bound.

Reference: Hanin and Nica 2020; Roberts, Yaida and Hanin 2022, §5.
"""

import functools
from collections.abc import Iterable

from initjax._activations import KNOWN, known_name
from initjax.graph import LinearOp
from initjax.meanfield import THEORY_FAILS, fluctuation
from initjax.typing import Direction


def kappa(op: LinearOp, direction: Direction) -> float:
  """κ at unit variance; that of ReLU for an activation without a name."""
  activation = op.usual_feed.activation
  if activation is None:
    return 2.0
  return _kappa_of(known_name(activation) or "relu", direction)


def added(ops: Iterable[LinearOp], direction: Direction) -> float:
  """The variance that these operations add to a log."""
  return sum(kappa(op, direction) / max(op.fan_in, 1) for op in ops)


@functools.cache
def _kappa_of(name: str, direction: Direction) -> float:
  try:
    return fluctuation(KNOWN[name], direction=direction)
  except THEORY_FAILS:
    return 5.0
