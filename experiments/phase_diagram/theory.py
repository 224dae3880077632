"""The whole plane of (σ_w², σ_b²) at once, at infinite width.

`initjax.meanfield.fixed_point` solves for one point at a time, to nine digits;
a map of ten thousand needs four. Here the Gaussian moments are tabulated over
q, and over q and c, and the fixed points are found on splines, all together.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from initjax import gains
from initjax.typing import Activation

_LOG2_Q = np.arange(-40, 40.25, 0.25)
_START = int(np.flatnonzero(_LOG2_Q == 0)[0])  # q = 1, as for `fixed_point`
_THETA = np.linspace(0, 1, 17)  # c = 1 - θ²: smooth in θ, kinks or not
_OCTAVES = 0.5  # between two q of that table
_MARGIN = 1.5  # octaves of it beyond those that are needed
_ROUNDING = 1e-9


class Plane(NamedTuple):
  """Theory on a grid: σ_b² along the first axis, σ_w² along the second.

  NaN where the length map has no fixed point that is reached from q = 1.
  """

  sigma_w2: np.ndarray
  """[w]"""
  sigma_b2: np.ndarray
  """[b]"""
  q: np.ndarray
  """[b, w]: 0 where all signal is lost"""
  c: np.ndarray
  chi_1: np.ndarray
  """above 1: chaotic"""
  xi_c: np.ndarray


class CriticalLine(NamedTuple):
  """Where χ₁ = 1, as a curve over q [points]."""

  sigma_w2: np.ndarray
  sigma_b2: np.ndarray
  stable: np.ndarray
  """lengths return to q"""


class _Moments(NamedTuple):
  """log₂ E[φ²] and log₂ E[φ'²] over log₂ q, as splines."""

  second: Callable[..., np.ndarray]
  slopes: Callable[..., np.ndarray]


def plane(
  activation: Activation, sigma_w2: np.ndarray, sigma_b2: np.ndarray
) -> Plane:
  """What `fixed_point` says at each pair of both arrays, within 1e-4.

  With σ_w² known and q found, c* solves σ_w²·G = 1, where

      G(q, c) = E[(φ(u) - φ(v))²]/(2q(1 - c)),   f'(c) = σ_w² E[φ'(u)φ'(v)]

  for u, v ~ N(0, q) of correlation c: both depend on q and c alone.

  Reference: Poole et al. 2016, Eqs. 4-8; Schoenholz et al. 2017, Eqs. 7-9.
  """
  moments = _tabulated(activation)
  w, b = np.meshgrid(sigma_w2, sigma_b2)
  q = _lengths(moments, w, b)
  log2_q = np.log2(np.maximum(q, 2.0 ** _LOG2_Q[0]))
  chi = w * np.exp2(moments.slopes(np.nan_to_num(log2_q)))
  chi = np.where(np.isnan(q), np.nan, chi)
  c, slope = np.where(np.isnan(q), np.nan, 1.0), chi.copy()
  chaotic = (chi > 1 + _ROUNDING) & (q > 0)
  if chaotic.any():
    c[chaotic], slope[chaotic] = _correlations(
      activation, log2_q[chaotic], w[chaotic]
    )
  slope = np.where(abs(slope - 1) <= _ROUNDING, 1.0, slope)
  with np.errstate(divide="ignore"):
    xi_c = abs(-1 / np.log(slope))
  return Plane(sigma_w2, sigma_b2, q, c, chi, xi_c)


def critical_line(activation: Activation) -> CriticalLine:
  """All points with χ₁ = 1 at a fixed point: explicit in q.

  σ_w² = 1/E[φ'²],   σ_b² = q - σ_w² E[φ²],   x ~ N(0, q)
  """
  moments = _tabulated(activation)
  log2_q = np.linspace(_LOG2_Q[0], 10, 2001)
  second, slopes = moments.second(log2_q), moments.slopes(log2_q)
  q, sigma_w2 = np.exp2(log2_q), np.exp2(-slopes)
  kept = np.exp2(second - slopes)
  sigma_b2 = q - kept
  sigma_b2[abs(sigma_b2) <= _ROUNDING * q] = 0.0
  length_slope = moments.second(log2_q, 1) * kept / q
  inside = sigma_b2 >= 0
  return CriticalLine(
    sigma_w2[inside], sigma_b2[inside], length_slope[inside] < 1 + _ROUNDING
  )


def _tabulated(activation: Activation) -> _Moments:
  from scipy import interpolate

  m = gains.moments(activation, 2.0**_LOG2_Q)
  return _Moments(
    *(
      interpolate.make_interp_spline(_LOG2_Q, np.log2(values), k=7)
      for values in (m.second_moment, m.derivative_second_moment)
    )
  )


def _lengths(moments: _Moments, w: np.ndarray, b: np.ndarray) -> np.ndarray:
  """q of each point: the first root met on the way on which q = 1 is sent."""
  from scipy.optimize import elementwise

  def excess(log2_q: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return w * np.exp2(moments.second(log2_q)) + b - np.exp2(log2_q)

  f = excess(_LOG2_Q, w[..., None], b[..., None])
  start = f[..., _START]
  up, down = f[..., _START:] <= 0, f[..., _START::-1] >= 0
  low = np.where(
    start > 0, _START - 1 + up.argmax(axis=-1), _START - down.argmax(axis=-1)
  )
  q = np.where(start > 0, np.nan, 0.0)
  found = np.where(start > 0, up.any(axis=-1), down.any(axis=-1))
  kept = abs(start) <= _ROUNDING  # ReLU at (2, 0)
  found &= ~kept
  bracket = (_LOG2_Q[low[found]], _LOG2_Q[low[found] + 1])
  root = elementwise.find_root(excess, bracket, args=(w[found], b[found]))
  q[found], q[kept] = np.exp2(root.x), 1.0
  return q


def _correlations(
  activation: Activation, log2_q: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """c* and f'(c*) of chaotic points."""
  from scipy import interpolate
  from scipy.optimize import elementwise

  lowest, highest = np.floor(log2_q.min()), np.ceil(log2_q.max())
  points = np.arange(lowest - _MARGIN, highest + _MARGIN + 1e-9, _OCTAVES)
  rows = [_over_theta(activation, 2.0**point) for point in points]
  gap, slope = (
    interpolate.RectBivariateSpline(points, _THETA, table, kx=5, ky=5).ev
    for table in np.stack(rows, axis=1)
  )

  def excess(theta: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return 1 - w * gap(x, theta)

  theta = np.ones_like(w)  # c* = 0, unless f(0) > 0
  inner = excess(theta, log2_q, w) > _ROUNDING
  inner &= excess(np.zeros_like(w), log2_q, w) < 0
  args = (log2_q[inner], w[inner])
  theta[inner] = elementwise.find_root(excess, (0.0, 1.0), args=args).x
  return 1 - theta**2, w * slope(log2_q, theta)


def _over_theta(activation: Activation, q: float) -> np.ndarray:
  """G and E[φ'(u)φ'(v)] over θ: [2, θ]; both are E[φ'²] at θ = 0."""
  joint = gains.joint_moments(activation, 1 - _THETA[1:] ** 2, q)
  gap = joint.square_difference / (2 * q * _THETA[1:] ** 2)
  at_one = gains.moments(activation, q).derivative_second_moment
  return np.stack(
    [np.append(at_one, gap), np.append(at_one, joint.derivative_product)]
  )
