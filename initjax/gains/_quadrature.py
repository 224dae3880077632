"""Adaptive quadrature against many Gaussians at once.

The functions are expensive to call and cheap to call with many points, so each
round evaluates every unfinished interval together, and a few stubborn ones are
cut into many: an interval with a kink or a jump shrinks by a factor 48 a
round, not 2. (`scipy.integrate.cubature` halves one interval at a time and
evaluates it 31-fold: 0.3 to 0.5 s for |x - 0.3| where this takes 0.03 s.)
"""

import functools
import math
from collections.abc import Callable

import numpy as np

NODES = 21  # Gauss-Lobatto: exact up to degree 39
INTERVALS = 48  # evaluated together
CUTOFF = 38.0  # exp(-38²/2) = 1e-314: float64 ends here
TAIL = 30.0  # beyond this many σ a convergent moment has nothing left

_TOLERANCE = 1e-14  # per interval, relative to the whole
_HAIR = 1e-10  # how far inside an interval its end nodes are, of its half
_CENTRAL_PARTS = 8
_MAX_ROUNDS = 60
_MAX_INTERVALS = 5_000

Factors = Callable[[np.ndarray], np.ndarray]


class DivergenceError(ArithmeticError):
  """An integral is infinite, overflows, or could not be computed.

  `row` and `column` say which; `reason` is one of "grows" and "stalls".
  """

  def __init__(self, reason: str, row: int, column: int) -> None:
    super().__init__(reason)
    self.reason, self.row, self.column = reason, row, column


def gaussian_integrals(factors: Factors, v: np.ndarray) -> np.ndarray:
  """∫ f_c(x) N(x; 0, v) dx for functions f_c and variances v > 0: [c, v].

  Args:
    factors: maps points [m, n] to the values [c, m, n] of all f_c.
    v: variances.

  Raises:
    DivergenceError: where an integral has no finite value that can be reached.
  """
  return integrals_and_intervals(factors, v)[0]


def integrals_and_intervals(
  factors: Factors, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`gaussian_integrals`, and the intervals (left, right) that it needed."""
  left, right = _panels(v)
  total, finished, scale = 0.0, 0.0, 0.0  # signed, in absolute value, its size
  lefts, rights = [], []
  for round_number in range(_MAX_ROUNDS):
    fine, coarse, tail = _evaluate(factors, left, right, v)  # [c, v, m]
    if round_number == 0:
      _check_growth(fine, tail)
    scale = np.maximum(scale, finished + abs(fine).sum(axis=-1))
    gap = abs(fine - coarse) / np.where(scale > 0, scale, 1.0)[..., None]
    stubborn = ~(gap <= _TOLERANCE).all(axis=(0, 1))
    done = fine[..., ~stubborn]
    total = total + done.sum(axis=-1)
    finished = finished + abs(done).sum(axis=-1)
    lefts.append(left[~stubborn])
    rights.append(right[~stubborn])
    if not stubborn.any():
      return total, np.concatenate(lefts), np.concatenate(rights)
    if stubborn.sum() > _MAX_INTERVALS:
      break
    left, right = _split(left[stubborn], right[stubborn])
  row, column = np.argwhere(~(gap <= _TOLERANCE).all(axis=-1))[0]
  raise DivergenceError("stalls", int(row), int(column))


def _panels(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Dyadic intervals ±[2^j, 2^(j+1)] that cover |x| < 38·√v.

  They resolve the origin, where most activations have their kink, the scale 1
  of the activation, and the scale √v of the Gaussian; around the latter they
  are cut finer, so that no feature wider than about x/200 is overlooked.
  """
  top = math.ceil(math.log2(CUTOFF * math.sqrt(v.max())))
  bottom = math.floor(min(0.0, math.log2(math.sqrt(v.min())))) - 3
  count = max(top - bottom + 1, INTERVALS // 2)
  edges = np.ldexp(1.0, np.arange(top - count + 1, top + 1))
  near = np.concatenate([[0.0], edges[:-1]])
  std = np.sqrt(v)
  central = (edges > std.min() / 16) & (near < 8 * std.max())
  fine = _cut(near[central], edges[central], _CENTRAL_PARTS)
  near = np.concatenate([near[~central], fine[0]])
  edges = np.concatenate([edges[~central], fine[1]])
  return np.concatenate([near, -edges]), np.concatenate([edges, -near])


def _split(
  left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts every interval, into many parts if there are few intervals."""
  return _cut(left, right, max(2, INTERVALS // left.size))


def _cut(
  left: np.ndarray, right: np.ndarray, parts: int
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts every interval into equal parts."""
  ends = np.linspace(left, right, parts + 1)
  return ends[:-1].ravel(), ends[1:].ravel()


def _evaluate(
  factors: Factors, left: np.ndarray, right: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Per interval [c, v, m]: the integral, a coarse one, the tail's size."""
  parts = [
    _evaluate_block(
      factors, left[i : i + INTERVALS], right[i : i + INTERVALS], v
    )
    for i in range(0, left.size, INTERVALS)
  ]
  fine, coarse, tail = (
    np.concatenate([part[k] for part in parts], axis=-1) for k in range(3)
  )
  return fine, coarse, tail


def _evaluate_block(
  factors: Factors, left: np.ndarray, right: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  nodes, weights, coarse_weights = lobatto()
  width = right - left
  x = left[:, None] + width[:, None] * nodes  # [m, n]
  with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    values = factors(x)  # [c, m, n]
    z2 = x**2 / v[:, None, None]  # [v, m, n]
    density = np.exp(-z2 / 2) / np.sqrt(2 * math.pi * v)[:, None, None]
    density *= width[:, None]
    reached = z2 <= CUTOFF**2
    unseen = ~reached.any(axis=0)
    values = np.where(unseen, 0.0, values)  # it may overflow where none look
    density = np.where(reached, density, 0.0)
    tail = np.where(z2 >= TAIL**2, density, 0.0)
    return (
      np.einsum("cmn,vmn->cvm", values * weights, density),
      np.einsum("cmn,vmn->cvm", values * coarse_weights, density),
      np.einsum("cmn,vmn->cvm", abs(values) * weights, tail),
    )


@functools.cache
def lobatto() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Gauss-Lobatto on (0, 1), and the best rule on every other of its nodes.

  A node at either end, so that no jump hides between an end and the first node
  (Gauss-Legendre misses one in 160), but a hair inside: the ends are where
  kinks and jumps are likeliest, and there only one side counts. A jump is then
  integrated with an error below 3 times the gap between the two rules.
  """
  legendre = np.polynomial.legendre
  last = np.eye(NODES)[-1]  # P_(NODES - 1), whose extrema are the nodes
  extrema = np.sort(legendre.legroots(legendre.legder(last)).real)
  nodes = (1 - _HAIR) * np.concatenate([[-1.0], extrema, [1.0]])

  def weights(nodes: np.ndarray) -> np.ndarray:
    integrals = 2.0 * (np.arange(nodes.size) == 0)  # ∫P_0 = 2, ∫P_k = 0
    return np.linalg.solve(
      legendre.legvander(nodes, nodes.size - 1).T, integrals
    )

  coarse = np.zeros(NODES)
  coarse[1::2] = weights(nodes[1::2])
  return (nodes + 1) / 2, weights(nodes) / 2, coarse / 2


def _check_growth(fine: np.ndarray, tail: np.ndarray) -> None:
  """Raises if an integral is infinite or lives in the tail."""
  whole = abs(fine).sum(axis=-1)
  beyond = tail.sum(axis=-1)  # a bounded function has exp(-TAIL²/2) = 4e-196
  grows = ~np.isfinite(whole) | ~(beyond <= 1e-13 * whole + 1e-180)
  if grows.any():
    row, column = np.argwhere(grows)[0]
    raise DivergenceError("grows", int(row), int(column))
