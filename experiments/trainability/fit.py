"""From accuracies over the grid to a frontier, and its depth scale."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HALF_WAY = 0.55
"""Accuracy half-way between chance, 0.1, and perfect"""


PUBLISHED = 6.0
"""Depth that trains over ξ_c, Schoenholz et al. 2017, §5"""


class Line(NamedTuple):
  """frontier = factor·ξ_c^exponent, in logarithms."""

  points: int
  """variances that were used"""
  factor: float
  """geometric mean of frontier/ξ_c: the law with exponent 1"""
  log_factor_error: float
  """standard error of its logarithm, from the scatter of points"""
  exponent: float
  """free: slope of log frontier over log ξ_c"""
  exponent_error: float
  """its standard error, from the scatter around the line"""
  correlation: float
  """of the two logarithms"""


def frontiers(accuracy: np.ndarray, depths: Sequence[int]) -> np.ndarray:
  """The depth at which accuracy first falls below half-way.

  Between two depths of the grid, log depth is interpolated.

  Args:
    accuracy: [depths, variances, seeds].
    depths: increasing.

  Returns:
    [variances, seeds]; NaN where accuracy stays above, or starts below.
  """
  above = accuracy >= HALF_WAY
  first = np.argmin(above, axis=0)  # 0 also where all are above
  last = np.maximum(first, 1)
  high = np.take_along_axis(accuracy, last[None] - 1, 0)[0]
  low = np.take_along_axis(accuracy, last[None], 0)[0]
  logs = np.log(np.asarray(depths, np.float64))
  with np.errstate(divide="ignore", invalid="ignore"):
    share = (high - HALF_WAY) / (high - low)
  depth = np.exp(logs[last - 1] + share * (logs[last] - logs[last - 1]))
  return np.where(first > 0, depth, np.nan)


def fit_line(xi_c: np.ndarray, frontier: np.ndarray, deepest: float) -> Line:
  """Fits logarithms by least squares; all points count alike.

  Args:
    xi_c: [variances].
    frontier: [variances, seeds]; variances with a NaN are left out.
    deepest: variances for which the law puts the frontier beyond this depth
      are left out too: there the budget ends first, not the signal.
  """
  mean = np.log(frontier).mean(-1)
  known = np.isfinite(mean) & (PUBLISHED * xi_c <= deepest)
  points = int(known.sum())
  if points < 3:
    return Line(0, *[float("nan")] * 5)
  x, y = np.log(xi_c[known]), mean[known]
  (exponent, _), covariance = np.polyfit(x, y, 1, cov="unscaled")
  rest = y - np.polyval(np.polyfit(x, y, 1), x)
  scatter = (rest**2).sum() / (points - 2)
  return Line(
    points,
    float(np.exp((y - x).mean())),
    float((y - x).std(ddof=1) / np.sqrt(points)),
    float(exponent),
    float(np.sqrt(scatter * covariance[0, 0])),
    float(np.corrcoef(x, y)[0, 1]),
  )
