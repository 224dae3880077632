"""From accuracies over the grid to a frontier, and its depth scale."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

HALF_WAY = 0.55
"""Accuracy half-way between chance, 0.1, and perfect"""


PUBLISHED = 6.0
"""Depth that trains over ξ_c, as drawn in Schoenholz et al. 2017, Fig. 5"""


THRESHOLDS = (0.25, HALF_WAY, 0.85)
"""Accuracies that may count as training"""


class Line(NamedTuple):
  """log frontier = log prefactor + exponent·log ξ_c, a prefactor a phase."""

  used: np.ndarray
  """[variances]: which the fit rests on"""
  factor: float
  """geometric mean of frontier/ξ_c: the law with exponent 1"""
  log_factor_error: float
  """standard error of its logarithm, from the scatter of points"""
  prefactors: tuple[float, float]
  """of the ordered and of the chaotic phase"""
  exponent: float
  """of both"""
  exponent_error: float
  """its standard error, from the scatter around the lines"""

  @property
  def found(self) -> bool:
    """Whether there were points enough for a line."""
    return bool(np.isfinite(self.exponent))


def frontiers(
  accuracy: np.ndarray, depths: Sequence[int], threshold: float = HALF_WAY
) -> np.ndarray:
  """The depth at which accuracy first falls below a threshold.

  Between two depths of the grid, log depth is interpolated. Accuracies are
  [depths, variances, seeds], NaN where none was trained. The depths [variances,
  seeds] are NaN where accuracy stays above, or starts below.
  """
  above = ~(accuracy < threshold)  # untrained: nothing fell below
  first = np.argmin(above, axis=0)  # 0 also where all are above
  last = np.maximum(first, 1)
  high = np.take_along_axis(accuracy, last[None] - 1, 0)[0]
  low = np.take_along_axis(accuracy, last[None], 0)[0]
  logs = np.log(np.asarray(depths, np.float64))
  with np.errstate(divide="ignore", invalid="ignore"):
    share = (high - threshold) / (high - low)
  depth = np.exp(logs[last - 1] + share * (logs[last] - logs[last - 1]))
  return np.where(first > 0, depth, np.nan)


def fit_line(xi_c: np.ndarray, frontier: np.ndarray, ordered: Any) -> Line:
  """Fits logarithms by least squares; all variances count alike.

  Near criticality the budget ends before the signal does. So the line rests on
  frontiers [variances, seeds] up to half of that of the greatest ξ_c, which is
  the budget's own; variances with a NaN are left out.
  """
  mean = np.log(frontier).mean(-1)
  budget = mean[np.argmax(xi_c)]
  used = mean <= budget - np.log(2)
  x, y, ordered = np.log(xi_c[used]), mean[used], np.asarray(ordered)[used]
  matrix = np.stack([x, ordered, ~ordered], axis=1).astype(float)
  matrix = matrix[:, matrix.any(axis=0)]
  free = len(x) - matrix.shape[1]
  if free < 1:
    return Line(used, np.nan, np.nan, (np.nan, np.nan), np.nan, np.nan)
  found = np.linalg.lstsq(matrix, y, rcond=None)[0]
  scatter = ((y - matrix @ found) ** 2).sum() / free
  covariance = scatter * np.linalg.inv(matrix.T @ matrix)
  levels = [
    (y - found[0] * x)[phase].mean() if phase.any() else np.nan
    for phase in (ordered, ~ordered)
  ]
  return Line(
    used,
    float(np.exp((y - x).mean())),
    float((y - x).std(ddof=1) / np.sqrt(len(x))),
    (float(np.exp(levels[0])), float(np.exp(levels[1]))),
    float(found[0]),
    float(np.sqrt(covariance[0, 0])),
  )
