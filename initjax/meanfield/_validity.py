"""Where the law of first order in depth/width holds.

It takes the slopes of the length map, d log E[φ²]/d log q, as they are at
infinite width. Chance moves log q by its own deviation; where slopes differ by
much over that range, or a gradient knows its weights too well, the law is off.
"""

import math
from collections.abc import Sequence

import numpy as np

from initjax.meanfield._moment_tables import THEORY_FAILS
from initjax.meanfield._return import Return
from initjax.meanfield._spread import Spread
from initjax.meanfield._steps import Layer, Steps

_ALLOWED = 0.2  # of a standard deviation: what may be left out of a logarithm


def holds(
  layers: Sequence[Layer],
  steps: Steps,
  own: Spread,
  back: Return,
  inverse_widths: np.ndarray,
) -> np.ndarray:
  """[2, depth]: whether what is left out is small, forward and backward."""
  deviation = np.sqrt(np.maximum(own.variance[:-1], 0.0))
  bend, derivative_bend = _bends(layers, steps, deviation)
  branch = (1 - steps.skip_share) * steps.signal_share
  forward, backward = np.zeros(len(layers) + 1), np.zeros(len(layers) + 1)
  for i in range(len(layers)):
    forward[i + 1] = abs(own.maps.kept[i]) * forward[i] + branch[i] * bend[i]
  added = derivative_bend
  added += abs(own.maps.derivative.variance[:-1]) * forward[:-1]
  added *= own.maps.share[:-1]
  backward[:-1] = np.cumsum(added[::-1])[::-1]
  backward[:-1] += _of_return(back, own.maps.share[:-1] * inverse_widths[:-1])
  spreads = np.sqrt(np.maximum([own.forward, own.backward], 0.0))
  return (np.stack([forward, backward]) <= _ALLOWED * spreads + 1e-9)[:, 1:]


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
  layers: Sequence[Layer], steps: Steps, deviation: np.ndarray
) -> np.ndarray:
  """[2, depth]: what a line leaves out of log E[φ²] and log E[φ'²]."""
  r = steps.response
  bends = np.zeros((2, len(layers)))
  for i, layer in enumerate(layers):
    if deviation[i] == 0 or layer.normalization != "none":
      continue
    for sign in (-1, 1):
      log2_q = steps.log2_in[i] + sign * deviation[i] / math.log(2)
      try:
        there = steps.respond[i](log2_q)
      except THEORY_FAILS:
        bends[:, i] = math.inf
        break
      off = (
        there.slope - r.slope[i],
        there.derivative_slope - r.derivative_slope[i],
      )
      bends[:, i] = np.fmax(bends[:, i], np.abs(off) * deviation[i] / 2)
  return bends
