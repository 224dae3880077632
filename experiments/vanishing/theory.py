"""Where a gradient underflows, and how slopes of a sigmoid are distributed."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.vanishing.networks import DTYPES, Kind
from initjax import meanfield


class Floor(NamedTuple):
  """What a device makes of small numbers of a dtype."""

  least: float
  """the smallest positive number that a product gave"""
  subnormals: bool
  """whether that is subnormal; otherwise they are flushed to 0"""

  @property
  def threshold(self) -> float:
    """What is smaller becomes 0: half of `least` if rounded to nearest."""
    return self.least / 2 if self.subnormals else self.least


def floor_of(alive: np.ndarray, dtype: str) -> Floor:
  """From `halvings`, which started at 1."""
  least = 2.0 ** -(int(alive.sum()) - 1)
  return Floor(least, least < float(jnp.finfo(DTYPES[dtype]).tiny))


def layers_of(kind: Kind, depth: int, width: int) -> list[meanfield.Layer]:
  """The network as theory sees it: the first layer is linear in the data."""
  first = meanfield.Layer(None, kind.sigma_w2, width=width)
  other = meanfield.Layer(kind.activation, kind.sigma_w2, width=width)
  return [first, *[other] * (depth - 1)]


class Underflow(NamedTuple):
  """How many layers below the output all of a gradient is 0; inf if none."""

  by_chi_1: float
  """one factor √χ₁ a layer: log(threshold/peak)/log √χ₁"""
  by_trajectory: float
  """each layer by its own variance"""
  std: float
  """of that over networks, in layers"""


def underflow(
  kind: Kind, depth: int, width: int, entries: int, threshold: float
) -> Underflow:
  """Predicts it for unit-normal cotangents.

  The largest of N normal numbers exceeds m standard deviations with even odds
  if (1 - 2·Q(m))^N = 1/2. All are 0 once m·√(χ₁^k) is below the threshold.
  """
  point = meanfield.fixed_point(kind.activation, kind.sigma_w2, 0.0)
  needed = math.log2(threshold / _largest_of(entries))
  slope = math.log2(point.chi_1) / 2 if point.chi_1 > 0 else -math.inf
  by_chi_1 = needed / slope if slope < -1e-6 else math.inf
  path = meanfield.trajectory(layers_of(kind, depth, width))
  sizes = path.backward[::-1] / 2
  below = np.flatnonzero(sizes < needed)
  if not below.size:
    return Underflow(by_chi_1, math.inf, math.nan)
  k = int(below[0])
  step = sizes[k - 1] - sizes[k]
  std = path.backward_std[::-1][k] / 2
  exact = k - (needed - sizes[k]) / step
  return Underflow(by_chi_1, exact, float(std / step))


def _largest_of(entries: int) -> float:
  from scipy import special

  return float(special.ndtri(0.5 * (1 + 0.5 ** (1 / entries))))


def slope_shares(name: str, q: float, bins: int) -> np.ndarray:
  """[bins]: how likely φ'(z)/φ'(0) is in each bin of [0, 1], for z ~ N(0, q).

  4·σ'(z) <= s holds for |z| >= log((1 + r)/(1 - r)) with r = √(1 - s); the
  slope of tanh at z is 4·σ'(2z).
  """
  from scipy import special

  edges = np.linspace(0, 1, bins + 1)
  root = np.sqrt(1 - edges)
  with np.errstate(divide="ignore"):
    z = np.log1p(root) - np.log1p(-root)
  scale = {"sigmoid": 1, "tanh": 2}[name] * max(math.sqrt(q), 1e-300)
  return np.diff(2 * special.ndtr(-z / scale))


def concentration(width: int, depth: int, kurtosis: float) -> np.ndarray:
  """E[tr Q²]/E[(tr Q)²] of Q = JᵀJ after 0 to `depth` layers; exact, any width.

  J is a product of Gaussian Jacobians diag(s)·W that keep its size, with
  κ = E[s⁴]/E[s²]²: 1 for linear layers, 2 for ReLU. With a = E[(tr Q)²] and
  b = E[tr Q²] one layer of width n makes of them

      a + (κ·(a + 2b) - a)/n,   b + (κ·(a + 2b) - b)/n

  It starts at 1/n; n times it, less 1, is the relative variance of squared
  singular values, κ·depth where the depth is small beside n; it ends at 1,
  where one singular value is left.
  """
  a, b = float(width**2), float(width)
  found = [b / a]
  for _ in range(depth):
    gain = kurtosis * (a + 2 * b)
    a, b = a + (gain - a) / width, b + (gain - b) / width
    found.append(b / a)
  return np.array(found)


def relative_variance(width: int, depth: int, kurtosis: float) -> np.ndarray:
  """Of squared singular values, after each layer; 0 for orthogonal ones."""
  if not kurtosis:
    return np.zeros(depth)
  return width * concentration(width, depth, kurtosis)[1:] - 1


def decay(kind: Kind, width: int, start: int, stop: int) -> float:
  """Mean of log₂ of the root mean square singular value of J, a layer.

  ½·log₂ χ₁, and the drift of a logarithm, half of its variance:
  -(κ·(1 + 2c) - 1)/(2n) nats of the mean square in a layer of width n, where c
  is the `concentration`: from the `start`-th layer multiplied to `stop`.
  """
  point = meanfield.fixed_point(kind.activation, kind.sigma_w2, 0.0)
  kurtosis = meanfield.jacobian_moments(
    kind.activation, 1, kind.sigma_w2, point.q
  ).relative_variance
  c = concentration(width, stop, kurtosis)[start:stop].mean()
  drift = -(kurtosis * (1 + 2 * c) - 1) / (2 * width)
  return (math.log2(point.chi_1) + drift / math.log(2)) / 2
