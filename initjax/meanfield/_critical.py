"""Points of the (σ_w², σ_b²) plane where signals travel far."""

import math

import numpy as np

from initjax._activations import name_of
from initjax._checks import check_number
from initjax.gains import length, moments
from initjax.meanfield._fixed_points import FixedPoint, describe
from initjax.meanfield._search import ROUNDING, roots
from initjax.typing import Activation

_OCTAVES = 5  # searched at a time, from q = 1 outwards
_ROUNDS = 5


def critical_point(activation: Activation, sigma_b2: float) -> FixedPoint:
  """Returns the edge of chaos at a given σ_b²: χ₁ = 1 at the fixed point.

      σ_w² = 1/E[φ'(x)²],   q - σ_w² E[φ(x)²] = σ_b²,   x ~ N(0, q)

  Gradients neither vanish nor explode there, and ξ_c is infinite. The length
  map may be unstable (`stable` is False: SiLU, GELU); then a deviation from q
  grows, and `half_stable_point` is the better choice. If there are several
  points, stable ones are preferred, and among those the one whose q is nearest
  to 1. With σ_b² = 0 and φ(0) = 0, the point is q = 0, σ_w² = 1/φ'(0)².

  Args:
    activation: any elementwise JAX function without jumps.
    sigma_b2: σ_b², variance of the biases, >= 0.

  Raises:
    ValueError: if there is none: φ jumps, so χ₁ is infinite, or φ is positively
      homogeneous (ReLU, leaky ReLU, linear) and σ_b² > 0, so q grows forever.

  >>> import jax
  >>> point = critical_point(jax.numpy.tanh, 0.05)
  >>> round(point.sigma_w2, 6), point.stable
  (1.760955, True)

  Reference: Schoenholz et al. 2017, §3; Hayou et al. 2019, §3.
  """
  check_number("sigma_b2", sigma_b2, low=0)

  def gap(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    second, slopes, _ = _sizes_and_slopes(activation, q)
    return q - second / slopes - sigma_b2, np.full(q.shape, np.nan)

  if _is_homogeneous(activation):
    if sigma_b2 > 0:
      raise ValueError(
        f"{name_of(activation)} is positively homogeneous: at χ₁ = 1 every "
        "layer adds sigma_b2 to q, and no fixed point exists; use sigma_b2=0."
      )
    return _point(activation, 1.0, sigma_b2=0.0, degenerate=True)
  if sigma_b2 == 0 and _vanishes_at_zero(activation):
    return _point(activation, 0.0, sigma_b2=0.0)
  for grid in _grids():
    points = [
      _point(activation, q, sigma_b2=sigma_b2) for q in roots(gap, grid)
    ]
    if points:
      points.sort(key=lambda p: (not p.stable, abs(math.log(p.q))))
      return points[0]
  raise ValueError(
    f"{name_of(activation)} has no critical point at sigma_b2={sigma_b2:g}: no "
    f"q between 2^-{_OCTAVES * _ROUNDS} and 2^{_OCTAVES * _ROUNDS} is a fixed "
    "point with χ₁ = 1; try another sigma_b2."
  )


def half_stable_point(activation: Activation) -> FixedPoint:
  """Returns the point where gradients and lengths are marginal: χ₁ = Q' = 1.

      σ_w² = 1/E[φ'²],   E[φφ''] = 0,   σ_b² = q - σ_w² E[φ²],   x ~ N(0, q)

  Use it for SiLU and GELU, whose critical points at smaller q are unstable:
  lengths below q approach it as 1/depth, and those above drift away as slowly.
  If no q > 0 qualifies (tanh), the point is q = 0, approached from above as
  1/depth; for ReLU and similar functions every q qualifies.

  Args:
    activation: any elementwise JAX function without jumps.

  Raises:
    ValueError: if there is none (sigmoid, softplus), or φ jumps.

  >>> import jax
  >>> point = half_stable_point(jax.nn.silu)
  >>> round(point.sigma_w2, 6), round(point.sigma_b2, 6), round(point.q, 4)
  (1.988005, 0.555143, 14.3202)

  Reference: Roberts, Yaida & Hanin 2022, §5.3.4.
  """

  def curvature(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, slopes, length_slope = _sizes_and_slopes(activation, q)
    return length_slope / slopes - 1, np.full(q.shape, np.nan)

  if _is_homogeneous(activation):
    return _point(activation, 1.0, sigma_b2=0.0, degenerate=True)
  for grid in _grids():
    for q in roots(curvature, grid):
      second, slopes, _ = _sizes_and_slopes(activation, np.array([q]))
      sigma_b2 = q - float(second[0] / slopes[0])
      if sigma_b2 >= 0:
        return _point(activation, q, sigma_b2=sigma_b2)
  if _vanishes_at_zero(activation):
    return _point(activation, 0.0, sigma_b2=0.0)
  raise ValueError(
    f"{name_of(activation)} has no half-stable point: χ₁ = Q' = 1 at no fixed "
    "point with sigma_b2 >= 0; use critical_point(activation, sigma_b2)."
  )


def _point(
  activation: Activation, q: float, *, sigma_b2: float, degenerate: bool = False
) -> FixedPoint:
  chi = float(moments(activation, q).derivative_second_moment)
  point = describe(activation, 1 / chi, sigma_b2, q, degenerate=degenerate)
  return point._replace(chi_1=1.0)


def _grids() -> list[np.ndarray]:
  """Octaves of q around 1, then outwards on either side."""
  inner = np.arange(-_OCTAVES, _OCTAVES + 1.0)
  starts = range(_OCTAVES, _OCTAVES * _ROUNDS, _OCTAVES)
  steps = [start + np.arange(_OCTAVES + 1.0) for start in starts]
  grids = [inner, *(sign * step for step in steps for sign in (1, -1))]
  return [np.exp2(grid) for grid in grids]


def _sizes_and_slopes(
  activation: Activation, q: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """E[φ²], E[φ'²] and dE[φ²]/dq; NaN where they diverge.

  Raises:
    ValueError: if φ jumps.
  """
  second, slope = map(np.asarray, length(activation, q))
  slopes = np.full(q.shape, np.nan)
  finite = np.isfinite(second)
  for i in np.flatnonzero(finite) if not finite.all() else [finite]:
    slopes[i] = moments(activation, q[i]).derivative_second_moment
  if np.isinf(slopes).any():
    raise ValueError(
      f"{name_of(activation)} jumps, so χ₁ = σ_w² E[φ'²] is infinite: the "
      "network is chaotic at every sigma_w2 and has no critical point."
    )
  return second, slopes, slope


def _is_homogeneous(activation: Activation) -> bool:
  """E[φ²] = q·E[φ'²] at several q: every q is fixed at σ_w² = 1/E[φ'²]."""
  q = np.exp2(np.arange(-2.0, 3.0))
  second, slopes, _ = _sizes_and_slopes(activation, q)
  kept = second / slopes
  return bool(np.all(abs(kept - q) <= ROUNDING * q))


def _vanishes_at_zero(activation: Activation) -> bool:
  """φ(0) = 0 and φ'(0) is neither 0 nor infinite."""
  try:
    at_zero = moments(activation, 0.0)
  except ValueError:
    return False
  return bool(at_zero.second_moment == 0 < at_zero.derivative_second_moment)
