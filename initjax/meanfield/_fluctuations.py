"""Finite width: what chance does to the second moments of a deep stack.

Given the layers before it, the n units of a stream are independent Gaussians
of one variance P. Averages over units of φ²/E[φ²], h²/P and φ'²/E[φ'²] then
deviate from 1 by ε, η and ζ of order 1/√n, and the layers pass deviations on:

    log P_{l+1} ← λ·log P_l + (1 - λ)·w·(s·log P_l + ε_l)
    log g_l     ← log g_{l+1} + μ·(t·log P_l + ζ_l + fresh noise of Wᵀg)

with s and t the slopes of log E[φ²] and log E[φ'²] by log q (λ, w, μ: see
`Steps`). All of it is one linear map of Gaussian noise, whose covariance
between units' functions, layers and inputs is Mehler's sum over Hermite
orders. Means follow to the same order, 1/n.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from initjax.meanfield._averages import log_average
from initjax.meanfield._mean_shift import (
  Deviations,
  backward_means,
  forward_means,
)
from initjax.meanfield._moment_tables import mehler
from initjax.meanfield._steps import Layer, Steps


class Chance(NamedTuple):
  """Natural logarithms of second moments, over nets."""

  forward_mean: np.ndarray
  """[depth]: above that of infinite width"""
  forward: np.ndarray
  """[depth, depth]: covariance"""
  backward_mean: np.ndarray
  """[depth]: likewise"""
  backward: np.ndarray
  """[depth, depth]: likewise"""


class _Noise(NamedTuple):
  """Covariances, of one input or between two; streams are 0 (data) to depth."""

  units: np.ndarray
  """[3, streams, 3, streams]: of ε, η, ζ"""
  weights: np.ndarray
  """[streams]: what Wᵀg adds to the log of the gradient, each independently"""


class _Maps(NamedTuple):
  """What becomes of all noise (ε, η, ζ): [streams, 3, streams] each."""

  variance: np.ndarray
  """log P"""
  size: np.ndarray
  """log of the second moment that is measured: log P + η"""
  derivative: np.ndarray
  """log of the mean φ'² of units, over what a normalization divides by"""
  gradient: np.ndarray
  """log of the gradient's second moment, but for fresh noise"""


def chance_of(
  layers: Sequence[Layer], steps: Steps, batch: int, cotangent: float
) -> Chance:
  """Mean and covariance of the log of an average over a batch of inputs."""
  inverse_widths = np.array([0.0, *(1 / (at.width or np.inf) for at in layers)])
  normalized = any(layer.normalization == "batch" for layer in layers)
  if normalized or not inverse_widths.any():
    known = np.nan if inverse_widths.any() else 0.0
    square = np.full((len(layers), len(layers)), known)
    return Chance(square[0], square, square[0], square)
  one, two = _noises(layers, steps, inverse_widths, cotangent)
  maps = _maps(layers, steps)
  means = _means(layers, steps, maps, one, inverse_widths)
  forward, backward = (
    _average(mean, own, shared, batch)
    for mean, own, shared in zip(
      means, _covariances(maps, one), _covariances(maps, two), strict=True
    )
  )
  return Chance(*forward, *backward)


def _average(
  mean: np.ndarray, own: np.ndarray, shared: np.ndarray, batch: int
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and covariance of the log of an average over B inputs.

  The log of one input has the covariance `own`, of which the part `shared` is
  common to all. The rest would average to rest/B if it were small; in depth it
  is not, and the average follows the largest.
  """
  if batch == 1:
    return mean, own
  rest = own - shared
  variance = np.maximum(np.diag(rest), 0.0)
  shift, left = log_average(variance, batch)
  with np.errstate(divide="ignore", invalid="ignore"):
    scale = np.where(variance > 1e-9, np.sqrt(left / variance), batch**-0.5)
  return mean + shift, shared + rest * np.outer(scale, scale)


def _noises(
  layers: Sequence[Layer],
  steps: Steps,
  inverse_widths: np.ndarray,
  cotangent: float,
) -> tuple[_Noise, _Noise]:
  """Noise of one input, and between two inputs."""
  spectra = _unit_spectra(layers, steps)
  streams = _stream_correlations(layers, steps)
  c = np.append(steps.correlation_in, steps.correlation_out[-1])
  earlier = np.minimum(*np.indices(streams.shape))
  both = [streams, streams * c[earlier]]
  # Averages of f and g over the same n units covary by Σ_k ρ^k·f_k·g_k/n, where
  # ρ is the correlation of a unit's two values: kept by the skips between two
  # depths, and of two inputs as alike as they were at the earlier depth.
  scale = np.sqrt(np.outer(inverse_widths, inverse_widths))
  plain = all(layer.skip == 0 for layer in layers)
  units = []
  for rho in both:
    block = np.zeros((3, c.size, 3, c.size))
    for i in range(3):
      for j in range(i, 3):
        a, b = spectra[i], spectra[j]
        if plain:
          found = np.diag(mehler(a, b, np.diag(rho)))
        else:
          found = mehler(a[:, None], b[None], rho)
        block[i, :, j], block[j, :, i] = found * scale, found.T * scale
    units.append(block)
  persistence = _persistence(steps, spectra[2], streams)
  weights = _fresh_noise(steps, inverse_widths, persistence, cotangent)
  return _Noise(units[0], weights[0]), _Noise(units[1], weights[1])


def _unit_spectra(layers: Sequence[Layer], steps: Steps) -> np.ndarray:
  """[3, streams, orders] of φ²/E[φ²], h²/P, φ'²/E[φ'²], less their means.

  What a normalization over units fixes, their mean and square, is no noise.
  """
  spectrum = steps.spectrum
  depth, orders = spectrum.square.shape
  spectra = np.zeros((3, depth + 1, orders))
  spectra[0, :-1], spectra[2, :-1] = spectrum.square, spectrum.slope_square
  normalized = [layer.normalization == "layer" for layer in layers]
  for i in (0, 2):
    spectra[i, :-1, :3] *= ~np.array(normalized)[:, None]
  spectra[:, :, 0] = 0
  spectra[1, :, 2] = math.sqrt(2)
  return spectra


def _stream_correlations(layers: Sequence[Layer], steps: Steps) -> np.ndarray:
  """[streams, streams]: of one unit, between two depths of the stream."""
  kept = np.sqrt(steps.skip_share) * np.sign([at.skip for at in layers])
  found = np.eye(kept.size + 1)
  for i, factor in enumerate(kept):
    found[: i + 1, i + 1] = found[i + 1, : i + 1] = found[: i + 1, i] * factor
  return found


def _persistence(
  steps: Steps, slope_square: np.ndarray, streams: np.ndarray
) -> np.ndarray:
  """[depth]: E[g²φ'²]/(E[g²]·E[φ'²]) of a unit, for g that skips the layer.

  Along a residual stream units keep their state, so that g comes from later
  layers in which the same units were active.
  """
  depth = steps.skip_share.size
  found = np.ones(depth)
  origin = np.zeros(depth + 1)  # of g²: which layer's branch it came through
  for i in reversed(range(1, depth)):
    if steps.gradient_share[i] < 1 and origin.any():
      common = mehler(slope_square[i], slope_square, streams[i])
      found[i] += origin @ common
    origin *= 1 - steps.gradient_share[i]
    origin[i] = steps.gradient_share[i]
  return found


def _fresh_noise(
  steps: Steps,
  inverse_widths: np.ndarray,
  persistence: np.ndarray,
  cotangent: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Per stream, the variance and the covariance of what Wᵀg adds.

  Between two inputs it depends on γ², the squared cosine of their gradients,
  which itself drifts away from 0 by chance: hence the terms in 1/n.
  """
  value, slope = steps.spectrum.slope_square, steps.spectrum.slope
  c, mu = steps.correlation_in, steps.gradient_share
  own = mehler(value, value, np.ones_like(c))
  shared = mehler(value, value, c)
  cosine = mehler(slope, slope, c)
  alone = np.zeros(c.size + 1)
  paired = np.zeros(c.size + 1)
  gamma2 = cotangent**2
  for i in reversed(range(1, c.size)):
    v = inverse_widths[i]
    m, k, f = mu[i], cosine[i], shared[i]
    mixed = m * (1 - m) * persistence[i]
    alone[i] = v * (2 * m**2 * own[i] + 4 * mixed)
    paired[i] = v * gamma2 * (2 * m**2 * f + 4 * mixed * k)
    chance = m**2 * ((1 + 2 * gamma2) * f - gamma2 * k**2)
    chance += 2 * mixed * (1 + gamma2 * k)
    sizes = m**2 * ((1 + 2 * gamma2) * f - 1) + 4 * mixed * gamma2 * k
    aligned = gamma2 * (1 - m + m * k) ** 2
    gamma2 = (aligned + v * chance) / (1 + v * sizes)
  return alone, paired


def _maps(layers: Sequence[Layer], steps: Steps) -> _Maps:
  """Follows every piece of noise through the stack."""
  streams = len(layers) + 1
  epsilon, eta, zeta = np.eye(3)[:, None, :, None] * np.eye(streams)[:, None]
  variance = np.zeros((streams, 3, streams))
  size = np.array(eta)
  derivative = np.array(zeta)
  r = steps.response
  for i, layer in enumerate(layers):
    free = layer.normalization == "none"
    size[i] += variance[i]
    derivative[i] += r.derivative_slope[i] * variance[i] if free else -size[i]
    share, w = steps.skip_share[i], steps.signal_share[i]
    branch = w * (epsilon[i] + (r.slope[i] * variance[i] if free else 0))
    variance[i + 1] = share * variance[i] + (1 - share) * branch
  size[-1] += variance[-1]
  derivative[-1] = derivative[0] = 0
  gained = derivative * np.append(steps.gradient_share, 0)[:, None, None]
  gradient = np.cumsum(gained[::-1], axis=0)[::-1]
  return _Maps(variance, size, derivative, gradient)


def _covariances(maps: _Maps, noise: _Noise) -> tuple[np.ndarray, np.ndarray]:
  """[depth, depth] each: of measured second moments, and of the gradient's."""
  fresh = np.cumsum(noise.weights[::-1])[::-1]
  later = np.maximum(*np.indices(2 * (fresh.size,)))
  forward = _covary(maps.size, noise, maps.size)
  backward = _covary(maps.gradient, noise, maps.gradient) + fresh[later]
  return forward[1:, 1:], backward[1:, 1:]


def _covary(left: np.ndarray, noise: _Noise, right: np.ndarray) -> np.ndarray:
  size = left[0].size
  units = noise.units.reshape(size, size)
  return left.reshape(-1, size) @ units @ right.reshape(-1, size).T


def _means(
  layers: Sequence[Layer],
  steps: Steps,
  maps: _Maps,
  noise: _Noise,
  inverse_widths: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """[depth] each, of one input: the means of log second moments, order 1/n."""
  off = Deviations(
    np.diag(_covary(maps.variance, noise, maps.variance)),
    np.diag(_covary(maps.derivative, noise, maps.derivative)),
    np.einsum("isis->is", noise.units),
    np.einsum("skt,ktis->is", maps.variance, noise.units),
    inverse_widths,
  )
  forward = forward_means(layers, steps, off)
  return forward[1][1:], backward_means(layers, steps, forward, off)[1:]
