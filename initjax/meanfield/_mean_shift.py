"""Finite width: by how much the mean of a log lies off infinite width.

To order 1/n, from log(1 + x) ≈ x - x²/2, from the curvature of the length map,
and because the gradient returns through the very weights that made the signal.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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
    signal = -off.units[0, i] / 2
    if layer.normalization == "none":
      signal += s * (means[i] - shared) + r.curvature[i] * off.variance[i] / 2
    else:
      signal += _KURTOSIS * steps.spectrum.square[i, 4] * off.inverse_widths[i]
      s = 0.0
    spread = s**2 * off.variance[i] + off.units[0, i] + 2 * s * shared
    branch = w[i] * signal + w[i] * (1 - w[i]) * spread / 2
    together = s * off.variance[i] + shared
    apart = off.variance[i] - 2 * w[i] * together + w[i] ** 2 * spread
    means[i + 1] = kept[i] * means[i] + (1 - kept[i]) * branch
    means[i + 1] += kept[i] * (1 - kept[i]) * apart / 2
  return means, means - off.units[1] / 2 - off.with_units[1]


def backward_means(
  layers: Sequence[Layer],
  steps: Steps,
  forward: tuple[np.ndarray, np.ndarray],
  off: Deviations,
) -> np.ndarray:
  """[streams]: the mean of the log of the gradient's second moment."""
  r, mu = steps.response, steps.gradient_share
  own = (steps.spectrum.slope_square**2).sum(axis=-1)
  back, removed = returned(layers, steps), _removed(layers, steps)
  means = np.zeros(len(layers) + 1)
  for i in reversed(range(1, len(layers))):
    v, t = off.inverse_widths[i], r.derivative_slope[i]
    fresh = 2 * own[i] * v
    slope = -(off.units[2, i] + fresh) / 2 + back[i] * v
    if layers[i].normalization == "none":
      slope += t * (forward[0][i] - off.with_units[2, i])
      slope += r.derivative_curvature[i] * off.variance[i] / 2
    else:
      slope += _KURTOSIS * steps.spectrum.slope_square[i, 4] * v
      slope -= forward[1][i] + removed[i] * v
    skip_noise = 4 * mu[i] * (1 - mu[i]) * v
    means[i] = means[i + 1] + mu[i] * slope - skip_noise / 2
    means[i] += mu[i] * (1 - mu[i]) * (off.slope_variance[i] + fresh) / 2
  return means


def returned(layers: Sequence[Layer], steps: Steps) -> np.ndarray:
  """n times the log growth of the gradient by the part of W along φ(h).

  Wᵀg = W_⊥ᵀg + φ(h)·(z·g)/|φ(h)|² with z = W·φ(h): the first part has one
  direction less, the second is as large as n·cos²(z, g) = T tells: 1 if they
  know nothing of each other, 0 where the next layer normalizes z.
  """
  r, w = steps.response, steps.signal_share
  overlap = (steps.spectrum.square * steps.spectrum.slope_square).sum(axis=-1)
  ratio = np.exp2(r.log2_second_moment - r.log2_derivative - steps.log2_in)
  found = np.zeros(len(layers))
  alignment = 1.0
  for i in reversed(range(1, len(layers))):
    plain = layers[i].skip == 0
    excess = w[i] * (alignment - 1) if plain else 0.0
    found[i] = overlap[i] * excess
    alignment = 1.0
    if plain and layers[i].normalization == "none":
      alignment += (
        2 * r.derivative_slope[i] + r.slope[i] ** 2 * ratio[i] * excess
      )
    elif plain:
      alignment = 0.0
  return found


def _removed(layers: Sequence[Layer], steps: Steps) -> np.ndarray:
  """n times what a normalization over units takes from the gradient's log.

  The parts of φ'·Wᵀg along h and along (1, ..., 1), less what a plain stack
  lost along φ(h) already; and back what it divides by, a variance with n - 1
  degrees.
  """
  r, spectrum = steps.response, steps.spectrum
  plain = np.array(
    [layer.skip == 0 and layer.normalization != "none" for layer in layers]
  )
  ratio = np.exp2(np.where(plain, r.log2_second_moment - r.log2_derivative, 0))
  lost = r.slope**2 * ratio
  centred = np.array([layer.normalization == "layer" for layer in layers])
  lost += centred * (spectrum.value * spectrum.slope).sum(axis=-1) ** 2
  return 1 + 2 * r.derivative_slope - np.where(plain, lost, 0.0)
