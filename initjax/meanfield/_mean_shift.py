"""Finite width: how far the mean of a log lies from infinite width.

To order 1/n, the shift comes from log(1 + x) ≈ x - x²/2, from the curvature of
the length map, and from the gradient returning through the signal's weights.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from initjax.meanfield._moment_tables import ORDERS
from initjax.meanfield._return import Return
from initjax.meanfield._spread import Spread
from initjax.meanfield._steps import Layer, Steps

_KURTOSIS = -math.sqrt(1.5)  # E[He_4(u)]/√4! on a sphere of n dimensions, ·n


class Deviations(NamedTuple):
  """How the logs of one input deviate from infinite width, [streams] each."""

  variance: np.ndarray
  """of log P"""
  slope_variance: np.ndarray
  """of the log of φ'² averaged over units"""
  units: np.ndarray
  """[3, streams]: variances of ε, η, ζ"""
  with_units: np.ndarray
  """[3, streams]: the covariance of log P with them"""
  unit_means: np.ndarray
  """[3, streams]: their means, of order 1/n"""
  persistence: np.ndarray
  """[depth]: of units along a residual stream"""
  inverse_widths: np.ndarray
  """1/n"""


def forward_means(
  layers: Sequence[Layer], steps: Steps, off: Deviations
) -> tuple[np.ndarray, np.ndarray]:
  """[streams] each: the means of log P and of the log that is measured."""
  r, w, kept = steps.response, steps.signal_share, steps.skip_share
  means = np.zeros(len(layers) + 1)
  for i, layer in enumerate(layers):
    s, shared = r.slope[i], off.with_units[0, i]
    signal = off.unit_means[0, i] - off.units[0, i] / 2
    if layer.normalization == "none":
      signal += s * means[i] + r.curvature[i] * off.variance[i] / 2
    else:
      signal += _KURTOSIS * steps.spectrum.square[i, 4] * off.inverse_widths[i]
      s = 0.0
    spread = s**2 * off.variance[i] + off.units[0, i] + 2 * s * shared
    branch = w[i] * signal + w[i] * (1 - w[i]) * spread / 2
    together = s * off.variance[i] + shared
    apart = off.variance[i] - 2 * w[i] * together + w[i] ** 2 * spread
    means[i + 1] = kept[i] * means[i] + (1 - kept[i]) * branch
    means[i + 1] += kept[i] * (1 - kept[i]) * apart / 2
  return means, means - off.units[1] / 2 + off.unit_means[1]


def mean_orders(own: Spread) -> np.ndarray:
  """[streams, orders]: the mean of each order of units, in its deviations.

  A stream keeps ρ^k of an order, less where the branch is large by chance; and
  that is known to the order, which made it so.
  """
  means, maps = np.zeros_like(own.orders), own.maps
  for i, (kept, added) in enumerate(zip(maps.kept, maps.added, strict=True)):
    less = added - (1 - kept) * own.orders[i]  # its covariance with log(1/ρ²)
    means[i + 1] = maps.remembered[i] * (means[i] - ORDERS / 2 * less)
  return means


def backward_means(
  layers: Sequence[Layer],
  steps: Steps,
  forward: tuple[np.ndarray, np.ndarray],
  off: Deviations,
  back: Return,
) -> np.ndarray:
  """[streams]: the mean of the log of the gradient's second moment."""
  r, mu = steps.response, steps.gradient_share
  own = (steps.spectrum.slope_square**2).sum(axis=-1)
  known, removed = back.growth, _removed(layers, steps, back)
  means = np.zeros(len(layers) + 1)
  for i in reversed(range(1, len(layers))):
    v, t = off.inverse_widths[i], r.derivative_slope[i]
    fresh = 2 * own[i] * v
    slope = off.unit_means[2, i] - (off.units[2, i] + fresh) / 2 + known[i] * v
    if layers[i].normalization == "none":
      slope += t * forward[0][i]
      slope += r.derivative_curvature[i] * off.variance[i] / 2
    else:
      slope += _KURTOSIS * steps.spectrum.slope_square[i, 4] * v
      slope -= forward[1][i] + removed[i] * v
    skip_noise = 4 * mu[i] * (1 - mu[i]) * v * off.persistence[i]
    means[i] = means[i + 1] + mu[i] * slope - skip_noise / 2
    means[i] += back.crossed[i] * v
    means[i] += mu[i] * (1 - mu[i]) * (off.slope_variance[i] + fresh) / 2
  return means


def _removed(layers: Sequence[Layer], steps: Steps, back: Return) -> np.ndarray:
  """n times what a normalization over units takes from the gradient's log.

  The parts of φ'·Wᵀg along h and along (1, ..., 1), of which φ'·φ(h) has more
  than others as far as the gradient knows z; and back what it divides by, a
  variance with n - 1 degrees.
  """
  r, spectrum = steps.response, steps.spectrum
  normalized = np.array([layer.normalizes_stream for layer in layers])
  centred = np.array([layer.normalization == "layer" for layer in layers])
  log2_ratio = r.log2_second_moment - r.log2_derivative
  along = r.slope**2 * np.exp2(np.where(normalized, log2_ratio, 0))
  along += centred * (spectrum.value * spectrum.slope).sum(axis=-1) ** 2
  return 1 + 2 * r.derivative_slope + along * back.excess
