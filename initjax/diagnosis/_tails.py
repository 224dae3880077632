"""How likely a layer is as far off as it is, by draws and beyond them.

The log of an average over few units is skewed: a layer loses far more by chance
than it wins. Draws tell its mean, variance and skewness, and the log of a gamma
variable of the same three what lies further out than any draw:

    x = a + b·log G,  G ~ Gamma(k),  skewness ψ''(k)/ψ'(k)^1.5

as of one ReLU layer, whose size is nearly a multiple of χ².
"""

import functools
import math

import jax
import numpy as np

from initjax.meanfield import Layer, simulate
from initjax.propagation import kept_response
from initjax.typing import Activation

_DRAWS = 10_000


@functools.lru_cache(maxsize=64)
def drawn_layer(
  activation: Activation,
  log2_q: float,
  log2_sigma_w2: float,
  widths: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
  """What one layer adds by chance [draws] to log₂ sizes, forward and backward.

  Its input has the second moment 2^log2_q on average over draws.
  """
  layers = [Layer(width=widths[0])]
  layers += [Layer(activation, 2**log2_sigma_w2, width=widths[1])]
  drawn = simulate(jax.random.key(0), layers, _DRAWS, second_moment=2**log2_q)
  here = kept_response(activation)(log2_q)
  off = drawn.forward[:, 0] - log2_q
  kept = log2_sigma_w2 + here.log2_second_moment + here.slope * off
  passed = log2_sigma_w2 + here.log2_derivative + here.derivative_slope * off
  ratio = math.log2(widths[0] / widths[1])
  return drawn.forward[:, 1] - kept, drawn.backward[:, 0] + ratio - passed


def tail(draws: np.ndarray, x: float) -> float:
  """P(a draw lies as far from the mean as x, on its side).

  >>> import numpy as np
  >>> chi2 = np.random.default_rng(0).chisquare(4, 10_000)
  >>> found = tail(np.log(chi2), np.log(0.05))  # 3.0e-4 to be found
  >>> bool(2e-4 < found < 5e-4)
  True
  """
  from scipy import special

  draws = draws[np.isfinite(draws)]
  mean, std = float(draws.mean()), float(draws.std())
  skewness = float(((draws - mean) ** 3).mean()) / std**3
  side = 1.0 if skewness < 0 else -1.0  # the log of a gamma leans to the left
  k = _shape_of(min(abs(skewness), 1.9))
  far = special.polygamma(1, k) ** 0.5 * side * (x - mean) / std
  at = math.exp(min(special.digamma(k) + far, 700.0))
  left = special.gammainc(k, at) if far < 0 else special.gammaincc(k, at)
  beyond = draws <= x if x < mean else draws >= x
  return max(float(left), float(beyond.mean()))


@functools.cache
def _shape_of(skewness: float) -> float:
  """The k whose log G has this skewness, in absolute value."""
  from scipy import special

  low, high = -2.0, 14.0  # of log k
  for _ in range(60):
    middle = (low + high) / 2
    k = math.exp(middle)
    found = -special.polygamma(2, k) / special.polygamma(1, k) ** 1.5
    low, high = (middle, high) if found > skewness else (low, middle)
  return math.exp(low)
