"""Where the law of first order in depth/width holds.

It takes the slopes of the length map, d log E[φ²]/d log q, as they are at
infinite width. log q fluctuates by its standard deviation; where slopes vary
much over that range, the law is off. So it is where a gradient depends too much
on its weights, and where layers are too narrow for log(1 + x) ≈ x - x²/2.
"""

import math
from collections.abc import Sequence

import numpy as np

from initjax.meanfield._moment_tables import THEORY_FAILS
from initjax.meanfield._return import Return
from initjax.meanfield._spread import Spread
from initjax.meanfield._steps import Layer, Steps

_ALLOWED = 0.2  # of a standard deviation: what may be left out of a logarithm
# The same where only a bound is known. Draws of ReLU are off by 0.16 deviations
# where the bound is 0.53 (100 layers of 64), by 0.39 where it is 0.72 (300 of
# 32), those of tanh by 0.00 at 0.35. Near the limit they are off backward by
# 0.22 ± 0.02 (ReLU, 30 layers of 16, batch 2: 0.52), 0.21 ± 0.04 (100 of 64,
# batch 8: 0.54), 0.03 ± 0.07 (leaky ReLU, 300 of 128, batch 2: 0.54).
_OF_BOUND = 0.55


def holds(
  layers: Sequence[Layer],
  steps: Steps,
  own: Spread,
  back: Return,
  inverse_widths: np.ndarray,
) -> np.ndarray:
  """[2, depth]: whether what is left out is small, forward and backward."""
  deviation = np.sqrt(np.maximum(own.variance[:-1], 0.0))
  narrow = _narrow(steps) * inverse_widths[:-1] ** 2
  branch = (1 - steps.skip_share) * steps.signal_share
  derivative_bend = np.zeros(len(layers))
  forward, backward = np.zeros((2, len(layers) + 1))
  for i, layer in enumerate(layers):
    bend = 0.0
    if deviation[i] > 0 and layer.normalization == "none":
      bend, derivative_bend[i] = _bends(steps, i, deviation[i], forward[i])
    forward[i + 1] = abs(own.maps.kept[i]) * forward[i]
    forward[i + 1] += branch[i] * (bend + narrow[0, i])
  added = derivative_bend + narrow[1]
  added += abs(own.maps.derivative.variance[:-1]) * forward[:-1]
  added *= own.maps.share[:-1]
  backward[:-1] = np.cumsum(added[::-1])[::-1]
  backward[:-1] += _of_return(back, own.maps.share[:-1] * inverse_widths[:-1])
  spreads = np.sqrt(np.maximum([own.forward, own.backward], 0.0))
  return (np.stack([forward, backward]) <= _ALLOWED * spreads + 1e-9)[:, 1:]


def holds_for_batch(
  steps: Steps,
  own: Spread,
  shared: Spread,
  inverse_widths: np.ndarray,
  variance: np.ndarray,
) -> np.ndarray:
  """[2, depth]: whether what inputs do not share is as at infinite width.

  Of averages over a batch, of this `variance` [2, depth] by that law.
  There 1 - c of two inputs decays as a mean; of most nets it is e^(-V/2) of
  that, where the log of their distance wanders by V. What they do not share
  goes as its root, if φ' jumps, which has then lost e^(-V/8).
  """
  spectrum = steps.spectrum
  squares = spectrum.square, spectrum.slope_square
  forth, back = ((f**2).sum(axis=-1) for f in squares)
  noise = (forth - 1) + (3 * back - 1)
  noise -= 2 * ((squares[0] * squares[1]).sum(axis=-1) - 1)
  wander = np.cumsum((1 - steps.skip_share) * noise * inverse_widths[:-1])
  lost = -np.expm1(-np.append(0.0, wander) / 8)
  apart = np.maximum(
    [own.forward - shared.forward, own.backward - shared.backward], 0.0
  )
  gained = np.maximum(np.diff(apart[0], prepend=0.0), 0.0)
  returned = np.maximum(-np.diff(apart[1], append=0.0), 0.0)
  off = np.stack(
    [np.cumsum(gained * lost), np.cumsum((returned * lost)[::-1])[::-1]]
  )
  return off[:, 1:] / 2 <= _OF_BOUND * np.sqrt(variance) + 1e-9


def _narrow(steps: Steps) -> np.ndarray:
  """[2, depth]: n²·|E[x³]/3 - E[x⁴]/4| of each layer's own noise x.

  An average over n units has E[x³] = κ₃/n² and E[x⁴] = 3κ₂²/n²; backward it is
  of φ'²·u² with a normal u.
  """
  spectrum = steps.spectrum
  fourth = np.stack(
    [(f**2).sum(axis=-1) for f in (spectrum.square, spectrum.slope_square)]
  )
  fourth[1] *= 3
  sixth = spectrum.thirds.T * np.array([[1.0], [15.0]])
  return abs((sixth - 3 * fourth + 2) / 3 - 3 * (fourth - 1) ** 2 / 4)


def _of_return(back: Return, scale: np.ndarray) -> np.ndarray:
  """[depth]: half the variance of what returns by the part of W that is known.

  It is a sum of squares of normal numbers, n·cos²(z, g), which remember each
  other from layer to layer; a mean of squares is all that the first order
  takes. Half their variance is what the log of the gradient has less.
  """
  variance = 2 * abs((1 + back.excess) ** 2 - 1)
  weight = scale * back.overlap
  found, total, later = np.zeros(scale.size), 0.0, 0.0
  for i in reversed(range(scale.size)):
    total += weight[i] * (weight[i] * variance[i] + 2 * later)
    later = back.kept[i] * (weight[i] * variance[i] + later)
    found[i] = total / 2
  return found


def _bends(
  steps: Steps, i: int, deviation: float, unsure: float
) -> tuple[float, float]:
  """What a line leaves out of the means of log E[φ²] and log E[φ'²].

  By Gauss-Hermite quadrature on three points, at 0 and ±√3 deviations of log P,
  and beyond by what is left out of that.
  """
  here = steps.response
  bends = [0.0, 0.0]
  for sign in (-1, 1):
    reach = sign * (math.sqrt(3) * deviation + unsure)
    try:
      there = steps.respond[i](steps.log2_in[i] + reach / math.log(2))
    except THEORY_FAILS:
      return math.inf, math.inf
    off = (
      there.slope - here.slope[i],
      there.derivative_slope - here.derivative_slope[i],
    )
    each = [abs(slope) * deviation / math.sqrt(12) for slope in off]
    bends = [max(pair) for pair in zip(bends, each, strict=True)]
  return bends[0], bends[1]
