"""The best rate at each size, and how it moves with size."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_DRAWS = 1000
"""of the bootstrap"""


class Slope(NamedTuple):
  """log₂ of the best rate over log₂ of the size."""

  slope: float
  low: float
  """of the interval that holds 95 % of slopes of redrawn seeds"""
  high: float


def optimum(rates: Sequence[float], loss: np.ndarray) -> float:
  """log₂ of the best rate: the vertex of a parabola, by least squares.

  Through the rates within a factor 2 of the best one on the grid.

  Args:
    rates: increasing.
    loss: [rates], a mean over seeds.

  Returns:
    NaN where the best of the grid is at its edge, or nothing is finite.

  >>> rates = 2.0 ** np.arange(-6, -1)
  >>> optimum(rates, (np.log2(rates) + 4.25) ** 2)
  -4.25
  """
  known = np.where(np.isfinite(loss), loss, np.inf)
  best, x = int(np.argmin(known)), np.log2(rates)
  near = (abs(x - x[best]) <= 1 + 1e-6) & np.isfinite(known)
  is_inside = near[:best].any() and near[best + 1 :].any()
  if not is_inside:
    return float("nan")
  second, first, _ = np.polyfit(x[near] - x[best], known[near], 2)
  shift = -first / (2 * second) if second > 0 else 0.0
  return round(float(x[best] + np.clip(shift, -1, 1)), 12)


def optima(rates: Sequence[float], loss: np.ndarray) -> np.ndarray:
  """Of losses [sizes, rates, seeds]: [sizes]."""
  return np.array([optimum(rates, each) for each in loss.mean(-1)])


def slope(sizes: Sequence[int], best: np.ndarray) -> float:
  """By least squares; NaN if a best rate is not known."""
  if not np.isfinite(best).all() or len(sizes) < 2:
    return float("nan")
  return float(np.polyfit(np.log2(sizes), best, 1)[0])


def slope_and_interval(
  sizes: Sequence[int], rates: Sequence[float], loss: np.ndarray, seed: int
) -> Slope:
  """The slope, and the bootstrap's interval over seeds.

  Args:
    sizes: widths or depths.
    rates: increasing.
    loss: [sizes, rates, seeds].
    seed: of the bootstrap, which draws seeds of each size with replacement.
  """
  random, seeds = np.random.default_rng(seed), loss.shape[-1]
  found = []
  for _ in range(_DRAWS):
    rows = random.integers(0, seeds, (len(sizes), seeds))
    redrawn = np.take_along_axis(loss, rows[:, None], -1)
    found.append(slope(sizes, optima(rates, redrawn)))
  known = np.array(found)[np.isfinite(found)]
  edges = [float("nan")] * 2
  if len(known) > _DRAWS / 2:
    edges = np.quantile(known, (0.025, 0.975)).tolist()
  return Slope(slope(sizes, optima(rates, loss)), *edges)
