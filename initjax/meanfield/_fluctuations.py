"""Finite width: random fluctuations of second moments in a deep stack.

Given the layers before, the n units of a stream are independent Gaussians
of a common variance P. Averages over units of φ²/E[φ²], h²/P and φ'²/E[φ'²]
deviate from 1 by ε, η and ζ of order 1/√n, and layers pass the deviations on:

    log P_{l+1} ← λ·log P_l + (1 - λ)·w·(s·log P_l + ε_l)
    log g_l     ← log g_{l+1} + μ·(t·log P_l + ζ_l + fresh noise of Wᵀg)

with s and t the slopes of log E[φ²] and log E[φ'²] in log q (λ, w, μ: see
`Steps`). Averages of f and g over the same units covary by Σ_k ρ^k·f_k·g_k/n
in Hermite orders k, where ρ is the correlation of a unit's two values: kept by
the skips between two depths, and of two inputs as alike as they were at the
earlier one. Means follow to the same order, 1/n.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from initjax.meanfield._averages import log_average
from initjax.meanfield._mean_shift import (
  Deviations,
  backward_means,
  forward_means,
  mean_orders,
)
from initjax.meanfield._moment_tables import mehler, powers
from initjax.meanfield._return import Return, returned
from initjax.meanfield._spread import Maps, Spread, Sum, spread
from initjax.meanfield._steps import Layer, Steps
from initjax.meanfield._validity import holds, holds_for_batch


@dataclasses.dataclass(frozen=True, eq=False)
class Chance:
  """Logs of second moments over nets, each of an average over a batch.

  [2, depth]: forward and backward, in nats.
  """

  mean: np.ndarray
  """above that of infinite width"""
  variance: np.ndarray
  scale: np.ndarray
  """what averaging leaves of deviations that inputs do not share"""
  apart: np.ndarray
  """the mean, if inputs collapse no sooner than at infinite width"""
  own: Spread | None = None
  """of one input; None if all is 0, or not known"""
  shared: Spread | None = None
  """of two"""

  def forward_covariance(self) -> np.ndarray:
    """[depth, depth]."""
    return self._matrix(0, Spread.forward_matrix)

  def backward_covariance(self) -> np.ndarray:
    """[depth, depth]."""
    return self._matrix(1, Spread.backward_matrix)

  def _matrix(
    self, way: int, matrix_of: Callable[[Spread], np.ndarray]
  ) -> np.ndarray:
    scale = self.scale[way]
    if self.own is None or self.shared is None:
      return np.full((scale.size, scale.size), self.variance[way, 0])
    found = matrix_of(self.own)[1:, 1:]
    if not np.all(scale == 1):
      shared = matrix_of(self.shared)[1:, 1:]
      found = shared + (found - shared) * np.outer(scale, scale)
    unknown = np.isnan(self.variance[way])
    return np.where(unknown | unknown[:, None], np.nan, found)


def chance_of(
  layers: Sequence[Layer], steps: Steps, batch: int, cotangent: float
) -> Chance:
  """Mean and covariance of the log of an average over a batch of inputs."""
  inverse_widths = np.array([0.0, *(1 / (at.width or np.inf) for at in layers)])
  if any(map(_is_unknown, layers)) or not inverse_widths.any():
    known = np.nan if inverse_widths.any() else 0.0
    nothing = np.full((2, len(layers)), known)
    return Chance(nothing, nothing, nothing, nothing)
  spectra = _unit_spectra(layers, steps)
  units = spectra * np.sqrt(inverse_widths)[:, None]
  maps = _maps(layers, steps, units)
  persistence = _persistence(steps, maps.remembered)
  fresh = _fresh_noise(steps, inverse_widths, persistence, cotangent)
  alike = powers(np.append(steps.correlation_in, steps.correlation_out[-1]))
  own = spread(maps, np.ones_like(alike), fresh[0])
  shared = spread(maps, alike, fresh[1])
  back = returned(layers, steps, maps)
  means = _means(layers, steps, own, units, inverse_widths, persistence, back)
  variances = (own.forward, shared.forward), (own.backward, shared.backward)
  pairs = zip(means, variances, strict=True)
  averages = [_average(mean, *of_way, batch) for mean, of_way in pairs]
  mean, variance, scale = np.stack(averages, axis=1)
  valid = holds(layers, steps, own, back, inverse_widths)
  apart = np.where(valid, mean, np.nan)
  if batch > 1:
    valid &= holds_for_batch(steps, own, shared, inverse_widths, variance)
  mean, variance = (np.where(valid, x, np.nan) for x in (mean, variance))
  return Chance(mean, variance, scale, apart, own, shared)


def _is_unknown(layer: Layer) -> bool:
  batch = layer.normalization == "batch"
  return batch or layer.normalizes_x or layer.gated


def _average(
  mean: np.ndarray, own: np.ndarray, shared: np.ndarray, batch: int
) -> np.ndarray:
  """[3, depth]: mean and variance of the log of an average over B inputs.

  The log of one input has the variance `own`, of which the part `shared` is
  common to all. The rest would average to rest/B if it were small; in depth it
  is not, and the average follows the largest. Third, by what deviations shrink.
  """
  own, shared = own[1:], shared[1:]
  if batch == 1:
    return np.stack([mean, own, np.ones_like(own)])
  rest = np.maximum(own - shared, 0.0)
  shift, left = log_average(rest, batch)
  with np.errstate(divide="ignore", invalid="ignore"):
    scale = np.where(rest > 1e-9, np.sqrt(left / rest), batch**-0.5)
  return np.stack([mean + shift, shared + rest * scale**2, scale])


def _unit_spectra(layers: Sequence[Layer], steps: Steps) -> np.ndarray:
  """[3, streams, orders] of φ²/E[φ²], h²/P, φ'²/E[φ'²], less their means.

  What a normalization over units fixes, their mean and square, is no noise.
  """
  spectrum = steps.spectrum
  depth, orders = spectrum.square.shape
  spectra = np.zeros((3, depth + 1, orders))
  spectra[0, :-1], spectra[2, :-1] = spectrum.square, spectrum.slope_square
  for i, layer in enumerate(layers):
    fixed = {"layer": [1, 2], "rms": [2]}.get(layer.normalization, [])
    spectra[0, i, fixed] = spectra[2, i, fixed] = 0
  spectra[:, :, 0] = 0
  spectra[1, :, 2] = math.sqrt(2)
  return spectra


def _persistence(steps: Steps, remembered: np.ndarray) -> np.ndarray:
  """[depth]: E[g²φ'²]/(E[g²]·E[φ'²]) of a unit, for g that skips the layer.

  Along a residual stream units keep their state, so that g comes from later
  layers in which the same units were active.
  """
  slope_square = np.array(steps.spectrum.slope_square)
  slope_square[:, 0] = 0
  depth, orders = slope_square.shape
  found = np.ones(depth)
  later = np.zeros(orders)  # of g², by orders of this stream
  for i in reversed(range(1, depth)):
    found[i] += slope_square[i] @ later
    share = steps.gradient_share[i]
    later = (1 - share) * later + share * slope_square[i]
    later *= remembered[i - 1]
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


def _maps(layers: Sequence[Layer], steps: Steps, units: np.ndarray) -> Maps:
  """How deviations are handed on; `units` [3, streams, orders]: ε, η, ζ."""
  epsilon, eta, zeta = units
  free = np.array([layer.normalization == "none" for layer in layers])
  share, r = steps.skip_share, steps.response
  branch = (1 - share) * steps.signal_share
  inner = np.array(zeta)
  inner[:-1] -= ~free[:, None] * eta[:-1]
  slopes = np.append(np.where(free, r.derivative_slope, -1.0), 0.0)
  return Maps(
    share + branch * np.where(free, r.slope, 0.0),
    branch[:, None] * epsilon[:-1],
    powers(np.sqrt(share) * np.sign([layer.skip for layer in layers])),
    Sum(np.ones(len(eta)), eta),
    Sum(slopes, inner),
    np.concatenate([[0.0], steps.gradient_share[1:], [0.0]]),
  )


def _means(
  layers: Sequence[Layer],
  steps: Steps,
  own: Spread,
  units: np.ndarray,
  inverse_widths: np.ndarray,
  persistence: np.ndarray,
  back: Return,
) -> tuple[np.ndarray, np.ndarray]:
  """[depth] each, of one input: the means of log second moments, order 1/n."""
  off = Deviations(
    own.variance,
    own.of(own.maps.derivative),
    (units**2).sum(axis=-1),
    (units * own.orders).sum(axis=-1),
    (units * mean_orders(own)).sum(axis=-1),
    persistence,
    inverse_widths,
  )
  forward = forward_means(layers, steps, off)
  return forward[1][1:], backward_means(layers, steps, forward, off, back)[1:]
