"""Finite width: gradients return through the weights that made the signal."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from initjax.meanfield._moment_tables import ORDERS
from initjax.meanfield._spread import Maps
from initjax.meanfield._steps import Layer, Steps

_WHOLE = int(np.argmax(ORDERS % 1 > 0)) - 1  # orders with a next one


class Return(NamedTuple):
  """What a gradient knows of the weights it comes back through, [depth] each.

  Wᵀg = W_⊥ᵀg + φ(h)·(z·g)/|φ(h)|² with z = W·φ(h): the first part has one
  direction less, the second is as large as n·cos²(z, g) tells.
  """

  excess: np.ndarray
  """E[n·cos²(z, g)] - 1: 0 if they know nothing of each other, -1 where the
  next layer normalizes z"""
  overlap: np.ndarray
  """of φ² and φ'²: what φ'·φ(h) has of the gradient"""
  crossed: np.ndarray
  """n times what the second part adds by what it shares with the skip"""
  kept: np.ndarray
  """of (h·g)² at a layer's output, what is in that at its input"""

  @property
  def growth(self) -> np.ndarray:
    """n times what the branch's part of the gradient gains."""
    return self.overlap * self.excess


def returned(layers: Sequence[Layer], steps: Steps, maps: Maps) -> Return:
  """Follows E[(f·g)(h·g)] down the stack, f = He_k(h) for every order k.

  For a linear v, E[(v·g)²] = |g|²·(|v|² + β·cos²(v, h)·|v|²)/n, with β of the
  order 1. A layer makes of v·g (skip·v + branch·c·z)·g with c = E[φφ'v]/E[φ²],
  and noise of the variance E[φ'²v²].
  """
  value, slope = _slopes(layers, steps)
  added = (1 - steps.skip_share) * steps.signal_share
  gain = np.exp2(steps.log2_out - steps.log2_in - steps.log2_gradient)
  excess, crossed = np.zeros((2, len(layers)))
  beta = np.zeros(len(ORDERS))
  for i in reversed(range(1, len(layers))):
    rho_k = maps.remembered[i]
    rho = rho_k[1]
    excess[i] = added[i] * beta[1]
    crossed[i] = 2 * rho * added[i] * gain[i] * (value[i] * rho_k) @ beta
    handed = rho * rho_k * beta + added[i] * value[i] * beta[1]
    beta = gain[i] * maps.kept[i] * handed + maps.share[i] * slope[i]
  spectrum = steps.spectrum
  overlap = (spectrum.square * spectrum.slope_square).sum(axis=-1)
  return Return(excess, overlap, crossed, maps.kept**2 * gain)


def _slopes(
  layers: Sequence[Layer], steps: Steps
) -> tuple[np.ndarray, np.ndarray]:
  """[depth, orders] each, of u = h/√q: E[φφ'·He_k]·√q/E[φ²], and of φ'²/E[φ'²].

  The latter is E[φ'²·v·He_k] for any v that has the cosine 1 with h, less what
  v has at φ' = 1. A normalization takes u itself, and perhaps (1, ..., 1), from
  the gradient.
  """
  spectrum = steps.spectrum
  roots = np.sqrt(np.arange(1, len(ORDERS)))
  value = np.zeros((len(layers), len(ORDERS)))
  slope = np.zeros_like(value)
  value[:, :-1] = roots * spectrum.square[:, 1:] / 2
  slope[:, :-1] = roots * spectrum.slope_square[:, 1:]
  for i, layer in enumerate(layers):
    if layer.normalization != "none":
      slope[i, 0] = value[i, 1] = 0
      slope[i, 1:] = -roots * spectrum.slope_square[i, :-1]
      value[i, 0] *= layer.normalization != "layer"
  value[:, _WHOLE:] = slope[:, _WHOLE:] = 0  # orders of a tail are no numbers
  return value, slope
