"""Where an infinitely deep and wide network settles, and how fast."""

import math
from typing import Literal, NamedTuple

import numpy as np

from initjax._activations import in_float64, name_of
from initjax._checks import check_number
from initjax.gains import joint_moments, length, moments
from initjax.meanfield._search import ROUNDING, Curve, first_root
from initjax.typing import Activation

Phase = Literal["ordered", "critical", "chaotic"]

_NEAR_ZERO = 1e-30  # a second moment in place of the limit 0
_LARGEST = 1e12  # beyond this second moment, relative to the start: no root


class FixedPoint(NamedTuple):
  """A fixed point of the length map, and what follows from it."""

  sigma_w2: float
  """σ_w² = fan_in · variance of the weights"""
  sigma_b2: float
  """σ_b², variance of the biases"""
  q: float
  """second moment of pre-activations: q = σ_w² E[φ(x)²] + σ_b², x ~ N(0, q)"""
  c: float
  """stable correlation of two inputs, f(c) = c: 1 unless chaotic"""
  chi_1: float
  """χ₁ = σ_w² E[φ'(x)²] = f'(1): growth of squared gradients per layer"""
  length_slope: float
  """Q' = dV/dq at q: growth per layer of a small deviation from q"""
  xi_q: float
  """-1/log|Q'|: layers in which that falls e-fold; negative where it grows"""
  xi_c: float
  """-1/log f'(c): the same for a deviation from c; inf where critical"""
  xi_grad: float
  """-1/log χ₁: the same for squared gradients; negative where they explode"""
  phase: Phase
  """χ₁ below 1, 1 within rounding, above 1"""
  stable: bool
  """a deviation from q does not grow: |Q'| < 1 (or every q is fixed)"""
  degenerate: bool
  """every q is a fixed point, as for ReLU at σ_w² = 2, σ_b² = 0"""


def fixed_point(
  activation: Activation,
  sigma_w2: float,
  sigma_b2: float,
  *,
  start: float = 1.0,
) -> FixedPoint:
  """Returns the fixed point of the length map reached from q = `start`.

      q = V(q) = σ_w² E[φ(x)²] + σ_b²,   x ~ N(0, q)

  It is the first one in the direction in which V moves `start`: the iteration
  ends there if V is increasing, as it is for most activations. At q = 0 all
  signal is lost; there c is 1 by convention and ξ_c follows from χ₁.

  The correlation c* is 1 if χ₁ <= 1. Otherwise f(c) = c has one solution in
  [0, 1): f is a power series with no negative coefficients, so
  (1 - f(c))/(1 - c) is increasing. Both are solved for, not iterated, since
  convergence is algebraic near criticality. The relative error of q, χ₁ and Q'
  is at most 1e-9, and so is the absolute error of c*.

  Args:
    activation: any elementwise JAX function, kinks and jumps included.
    sigma_w2: σ_w² = fan_in · variance of the weights, > 0.
    sigma_b2: σ_b², variance of the biases, >= 0.
    start: second moment in the first layer; selects one of several fixed
      points, and is the result where every q is one (`degenerate`).

  Raises:
    ValueError: if q grows without bound (V(q) > q up to 1e12·start), for
      arguments out of range, and as for `initjax.gains.moments`.

  >>> import jax
  >>> point = fixed_point(jax.numpy.tanh, 2.5, 0.05)
  >>> point.phase, round(point.q, 6), round(point.c, 6)
  ('chaotic', 1.063958, 0.446804)

  Reference: Poole et al. 2016, Eqs. 4-8; Schoenholz et al. 2017, Eqs. 7-9;
  Daniely et al. 2016, §4 (f is absolutely monotone).
  """
  check_variances(sigma_w2, sigma_b2)
  check_number("start", start, low=0, open_low=True)

  def curve(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    second, slope = map(np.asarray, length(activation, q))
    return sigma_w2 * second + sigma_b2 - q, sigma_w2 * slope - 1

  def solved() -> FixedPoint:
    q, degenerate = _reached(activation, curve, float(start))
    return describe(activation, sigma_w2, sigma_b2, q, degenerate=degenerate)

  return in_float64(solved)


def _reached(
  activation: Activation, curve: Curve, start: float
) -> tuple[float, bool]:
  """The fixed point reached from `start`, and whether all of them are."""
  around = start * np.exp2(np.arange(-2.0, 3.0))
  f, _ = curve(around)
  if abs(f[2]) <= ROUNDING * start:
    return start, bool((abs(f) <= ROUNDING * around).all())
  if f[2] > 0:
    root = first_root(curve, start, _LARGEST * start)
    if root is None:
      raise ValueError(
        f"{name_of(activation)} has no fixed point at these variances: the "
        f"length map V(q) exceeds q for every q from {start:g} to "
        f"{_LARGEST * start:g}, so the signal grows without bound or beyond "
        "that range. Lower sigma_w2 or sigma_b2, or pass a smaller `start`, "
        "below an unstable fixed point."
      )
    return root, False
  value, slope = curve(np.array([_NEAR_ZERO]))
  at_zero = float(value[0]) + _NEAR_ZERO  # V(0)
  if at_zero > 1e-20:
    end = 1e-6 * at_zero  # V > q below V(0), unless V falls from there
  else:  # V(0) = 0, of slope χ₁ there
    end = 1e-8 if slope[0] <= ROUNDING else 1e-16
  root = first_root(curve, start, end)
  return root or 0.0, False


def describe(
  activation: Activation,
  sigma_w2: float,
  sigma_b2: float,
  q: float,
  *,
  degenerate: bool = False,
) -> FixedPoint:
  """All that follows from a fixed point q of the length map."""
  chi = sigma_w2 * float(moments(activation, q).derivative_second_moment)
  slope = sigma_w2 * float(length(activation, q).slope) if q else chi
  # Moments are good to 1e-12, q to that over |1 - Q'|, and q·dχ₁/dq <= χ₁.
  tolerance = ROUNDING * (2 + 1 / max(abs(1 - slope), 1e-6))
  phase = _phase(chi, tolerance)
  c, c_slope = 1.0, chi
  if phase == "chaotic" and q > 0:
    c, c_slope = _stable_correlation(activation, sigma_w2, q, chi)
  marginal = degenerate or (q == 0 and not _grows(activation, sigma_w2))
  return FixedPoint(
    *(float(sigma_w2), float(sigma_b2), q, c, chi, slope),
    xi_q=_depth_scale(abs(slope), 10 * ROUNDING),
    xi_c=_depth_scale(c_slope, tolerance),
    xi_grad=_depth_scale(chi, tolerance),
    phase=phase,
    stable=marginal or abs(slope) < 1 - 10 * ROUNDING,
    degenerate=degenerate,
  )


def _phase(chi: float, tolerance: float) -> Phase:
  if abs(chi - 1) <= tolerance:
    return "critical"
  return "ordered" if chi < 1 else "chaotic"


def _depth_scale(rate: float, tolerance: float) -> float:
  """-1/log(rate): inf where the rate is 1."""
  if abs(rate - 1) <= tolerance:
    return math.inf
  if rate == 0 or math.isinf(rate):
    return 0.0
  return -1 / math.log(rate)


def _grows(activation: Activation, sigma_w2: float) -> bool:
  """Whether a small q grows, which Q' = 1 at q = 0 leaves open."""
  q = 1e-3
  second = float(moments(activation, q).second_moment)
  return sigma_w2 * second > q * (1 + ROUNDING)


def _stable_correlation(
  activation: Activation, sigma_w2: float, q: float, chi: float
) -> tuple[float, float]:
  """c* < 1 with f(c*) = c*, and f'(c*); for χ₁ > 1.

  With c = 1 - θ², (f(c) - c)/(1 - c) = 1 - σ_w² E[(φ(u) - φ(v))²]/(2qθ²) has
  one root and does not cancel; a kink of φ makes it smooth in θ, not in c.
  """
  from scipy import optimize

  def excess(theta: float) -> float:
    c = 1 - theta**2
    joint = joint_moments(activation, c, q)
    gap = sigma_w2 * float(joint.square_difference) / (2 * q)
    return 1 - gap / (1 - c)

  theta = 1.0
  if excess(1.0) > ROUNDING:  # f(0) > 0
    low = max(1e-7, 4e-15 / (chi - 1))  # rounding, ε/θ, does not hide χ₁ - 1
    if excess(low) >= 0:
      return 1.0, 2 - chi  # of f(c) = 1 - χ₁(1-c) + f''(1-c)²/2
    theta = optimize.brentq(excess, low, 1.0, xtol=1e-13, rtol=1e-13)
  c = 1 - theta**2
  slope = joint_moments(activation, c, q).derivative_product
  return c, sigma_w2 * float(slope)


def check_variances(sigma_w2: float, sigma_b2: float) -> None:
  """Raises unless σ_w² > 0 and σ_b² >= 0."""
  check_number("sigma_w2", sigma_w2, low=0, open_low=True)
  check_number("sigma_b2", sigma_b2, low=0)
