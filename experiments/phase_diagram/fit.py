"""The measured depth scale: how fast correlations approach c*, with its error.

With Δ_l = c_l - c*, averaged over networks and pairs, one layer does

    Δ_{l+1} = e + s·Δ_l + k·Δ_l² + m·Δ_l³        for c* < 1
    Δ_{l+1} =     s·Δ_l + k·|Δ_l|^{3/2} + m·Δ_l²  for c* = 1

and ξ_c = -1/log s. The higher terms account for early layers, whose decay is
not yet exponential: without them ξ_c comes out too small by a third where it is
10. They are half powers at c* = 1, where kinks of φ make them so. e, of order
1/n, is there because finite width moves the fixed point itself, except c* = 1.
"""

import math
from typing import NamedTuple

import numpy as np

_FAR = 0.5  # farther from c* the series is not trusted
_ROUNDING = 1e-9  # of 1 - c, in float32
_E_FOLDS = 3.0  # that the depth must hold
_PER_TERM = 3  # layers wanted for each coefficient
_LARGEST_ERROR = 0.25  # of ξ_c


class Fit(NamedTuple):
  """ξ_c of a set of networks; NaN where it cannot be told, and why."""

  xi_c: float
  error: float
  """standard error, from leaving out each network in turn"""
  note: str
  """"" or why there is no number"""


def fit(distances: np.ndarray, c: float, width: int) -> Fit:
  """Fits 1 - c_l [networks, layers, groups] of networks of that c* and width n.

  By least squares, each layer weighted by 1/(1 - c_l²)². So weighted, the noise
  of all layers is alike: width n adds (1 - c²)/√n to a correlation. Layers are
  used from |Δ| < 0.5 on, until it first falls below what that noise leaves of a
  mean over networks, (1 - c*²)/√(n·networks), or below float32's rounding.
  """
  if not np.isfinite(distances).all():
    return Fit(math.nan, math.nan, "overflow")
  deviation = (1 - c) - distances.astype(np.float64)
  mean = deviation.mean(axis=0)
  floor = (1 - c**2) / math.sqrt(width * len(deviation)) + _ROUNDING
  above = np.cumsum(abs(mean) < floor, axis=0) == 0
  use = (above & (abs(mean) < _FAR))[:-1]
  terms = 3 if c == 1 else 4
  if use.sum() < _PER_TERM * terms:
    return Fit(math.nan, math.nan, "too fast")
  slope = _slope(mean, c, use)
  total = mean * len(deviation)
  others = [
    _slope((total - one) / (len(deviation) - 1), c, use) for one in deviation
  ]
  error = math.sqrt((len(deviation) - 1) * np.var(others))
  if not 0 < slope < math.exp(-_E_FOLDS / len(mean)):
    return Fit(math.nan, math.nan, "too slow")
  xi_c = -1 / math.log(slope)
  xi_error = xi_c**2 * error / slope
  if xi_error > _LARGEST_ERROR * xi_c:
    return Fit(math.nan, math.nan, "too noisy")
  return Fit(xi_c, xi_error, "")


def _slope(mean: np.ndarray, c: float, use: np.ndarray) -> float:
  """s: [layers, groups] of Δ to the coefficient of its first power."""
  before, after = mean[:-1][use], mean[1:][use]
  higher = (
    [abs(before) ** 1.5, before**2]
    if c == 1
    else [before**2, before**3, np.ones_like(before)]
  )
  weight = 1 / (1 - (c + before) ** 2)
  matrix = np.stack([before, *higher], axis=1) * weight[:, None]
  return float(np.linalg.lstsq(matrix, after * weight, rcond=None)[0][0])
