"""Adaptive quadrature against many Gaussians at once.

The functions are expensive to call and cheap to call with many points, so each
round evaluates all unfinished intervals together and cuts the few stubborn ones
into many: an interval with a kink or a jump shrinks by a factor of 48 a round,
not 2. (`scipy.integrate.cubature` halves one interval at a time and
evaluates it 31-fold: 0.3 to 0.5 s for |x - 0.3| where this takes 0.03 s.)
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from initjax._activations import BLOCK

NODES = 21  # Gauss-Lobatto: exact up to degree 39
INTERVALS = BLOCK // NODES  # evaluated together
CUTOFF = 38.0  # exp(-38²/2) = 1e-314: float64 ends here
TAIL = 30.0  # beyond this many σ a convergent moment has nothing left

_TOLERANCE = 1e-14  # per interval, relative to the whole
_BLUR = 1e-8  # the same, where x itself is too coarse to do better
_POLE = 0.3  # of its mass is left near a pole after half of the rounds
_POINT = 1e-4  # width against |x|: an infinite node there is a point, no mass
_HAIR = 1e-10  # how far inside an interval its end nodes are, of its half
_CENTRAL_PARTS = 8
_MAX_ROUNDS = 100
_MAX_INTERVALS = 5_000

Factors = Callable[[np.ndarray], np.ndarray]


class DivergenceError(ArithmeticError):
  """An integral is infinite, overflows, or could not be computed.

  `row` and `column` say which; `reason` is one of "grows", "pole" and "stalls";
  `place` is an x near which it happens, if one is known.
  """

  def __init__(
    self, reason: str, row: int, column: int, place: float | None = None
  ) -> None:
    super().__init__(reason)
    self.reason, self.row, self.column = reason, row, column
    self.place = place


def gaussian_integrals(
  factors: Factors, v: np.ndarray, may_have_poles: Sequence[int] = ()
) -> np.ndarray:
  """∫ f_c(x) N(x; 0, v) dx for functions f_c and variances v > 0: [c, v].

  Args:
    factors: maps points [m, n] to the values [c, m, n] of all f_c.
    v: variances.
    may_have_poles: those c for which inf is returned where one of them has a
      pole that makes its integral infinite, and they come to no end.

  Raises:
    DivergenceError: where an integral has no finite value that can be reached.
  """
  return integrals_and_intervals(factors, v, may_have_poles)[0]


def integrals_and_intervals(
  factors: Factors, v: np.ndarray, may_have_poles: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`gaussian_integrals`, and the intervals (left, right) that it needed."""
  left, right = _panels(v)
  # signed; in absolute value; and the largest that this was seen to be
  total, finished, scale = np.zeros((3, 1, 1))
  failed, place = np.array(False), np.array(0.0)
  lefts, rights, masses = [], [], []
  for round_number in range(_MAX_ROUNDS):
    fine, coarse, tail = _evaluate(factors, left, right, v)  # [c, v, m]
    if round_number == 0:
      _check_growth(fine, tail)
    sizes = np.minimum(abs(fine), abs(coarse))  # a pole at an end inflates one
    scale = np.maximum(scale, finished + sizes.sum(axis=-1))
    rough, blurred = _unknown(fine, coarse, scale, left, right)
    failed = failed | blurred.any(axis=-1)
    stubborn, unknown = rough.any(axis=(0, 1)), rough | blurred
    place = np.where(unknown.any(-1), left[unknown.argmax(-1)], place)
    done = fine[..., ~stubborn]
    total = total + done.sum(axis=-1)
    finished = finished + abs(done).sum(axis=-1)
    lefts.append(left[~stubborn])
    rights.append(right[~stubborn])
    masses.append(abs(fine[..., stubborn]).sum(axis=-1))
    if stubborn.sum() > _MAX_INTERVALS:
      masses = []
    if not stubborn.any() or not masses or not np.isfinite(scale).all():
      break
    left, right = _cut_all(left[stubborn], right[stubborn])
  failed = failed | rough.any(axis=-1)
  if failed.any():
    _check_poles(failed, masses, may_have_poles, place)
  total = np.where(failed, np.inf, total)
  return total, np.concatenate(lefts), np.concatenate(rights)


def _unknown(
  fine: np.ndarray,
  coarse: np.ndarray,
  scale: np.ndarray,
  left: np.ndarray,
  right: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """[c, v, m]: which integrals to better by a cut, and which none betters.

  x is rounded to ε·|x|, so f is known to ε·|x|/width of itself where it changes
  within the interval.
  """
  whole = np.where(scale > 0, scale, 1.0)[..., None]
  spacing = np.spacing(np.maximum(abs(left), abs(right)))
  with np.errstate(divide="ignore", invalid="ignore"):
    blur = 8 * spacing / (right - left) * abs(fine)
    gap = abs(fine - coarse)
    known = gap <= _TOLERANCE * whole
    fair = gap <= blur
    return ~(known | fair), ~known & fair & ~(blur <= _BLUR * whole)


def _check_poles(
  failed: np.ndarray,
  masses: Sequence[np.ndarray],
  may_have_poles: Sequence[int],
  place: np.ndarray,
) -> None:
  """Raises unless the integrals [c, v] that failed did for an allowed pole.

  Around one that can be integrated, what is left shrinks with the intervals.
  """
  poles = np.zeros_like(failed)
  if len(masses) > 3:  # the last may be of nothing
    with np.errstate(invalid="ignore"):
      poles = failed & (masses[-2] >= _POLE * masses[len(masses) // 2])
  allowed = np.isin(np.arange(len(failed)), may_have_poles)[:, None]
  wrong = failed & ~(allowed & (poles & allowed).any(axis=0))
  if wrong.any():
    known = (wrong & poles).any()
    row, column = np.argwhere(wrong & poles if known else wrong)[0]
    reason = "pole" if known else "stalls"
    raise DivergenceError(
      reason, int(row), int(column), float(place[row, column])
    )


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


def _cut_all(
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
    point = np.isinf(values) & (width <= _POINT * abs(left))[:, None]
    values = np.where(unseen | point, 0.0, values)  # where none look, or one
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
