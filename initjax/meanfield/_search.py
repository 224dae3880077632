"""Roots of a function of the second moment q > 0, over all magnitudes.

Gaussian averages over x ~ N(0, q) change with log q at the scale of an octave
or slower: a geometric grid of ratio 2 finds every root, and a finer one near a
root where F is flat separates roots that lie together.
"""

from collections.abc import Callable

import numpy as np

ROUNDING = 1e-12  # relative accuracy of the moments that make up F

Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""q [n] -> F(q), and dF/dq or NaN where it is not known"""

_FLAT = 1e-3  # |dF/dq| at a root that may have others beside it
_FINE = 66


def first_root(curve: Curve, start: float, end: float) -> float | None:
  """The first root met on the way from `start` to `end` > 0, if any."""
  octaves = 4 if end > start else -4
  while (end - start) * octaves > 0:
    found = roots(curve, start * np.exp2(np.linspace(0, octaves, 5)))
    if found:
      return found[0]
    start *= 2.0**octaves
  return None


def roots(curve: Curve, q: np.ndarray, *, again: bool = True) -> list[float]:
  """All roots between neighbours of a grid, in its order.

  A minimum of |F| within rounding of 0 is a root, too: a length map that
  touches the diagonal, as at a half-stable point.
  """
  f, slope = curve(q)
  found: list[float] = []
  for i, j in zip(range(q.size - 1), range(1, q.size), strict=True):
    if f[i] * f[j] <= 0:
      root = _between(curve, 0, q[i], q[j])
      flat = abs(curve(np.array([root]))[1][0]) < _FLAT
      fine = np.linspace(q[i], root, _FINE)[:-1]
      found += roots(curve, fine, again=False) if flat and again else []
      found.append(root)
    elif slope[i] * slope[j] < 0 and f[i] * slope[i] * (q[j] - q[i]) < 0:
      turn = _between(curve, 1, q[i], q[j])
      extremum = curve(np.array([turn]))[0][0]
      if abs(extremum) <= ROUNDING * turn:
        found.append(turn)
      elif extremum * f[i] < 0:
        found.append(_between(curve, 0, q[i], turn))
        found.append(_between(curve, 0, turn, q[j]))
  return found


def _between(curve: Curve, row: int, a: float, b: float) -> float:
  """The root of F (row 0) or dF/dq (row 1) between a and b, to rounding."""
  from scipy import optimize

  def value(log_q: float) -> float:
    return float(curve(np.exp([log_q]))[row][0])

  low, high = sorted(np.log([a, b]))
  if value(low) * value(high) > 0:  # a root at an end, lost to rounding
    return float(min(a, b, key=lambda q: abs(curve(np.array([q]))[row][0])))
  return float(np.exp(optimize.brentq(value, low, high, xtol=1e-15)))
