"""How likely it is that a layer is this far off, even beyond the draws.

The log of an average over few units is skewed: by chance, a layer loses far
more than it gains. Draws give its mean, variance and skewness, and the log of a
gamma variable with the same three gives what lies further out than any draw:

    x = a + b·log G,  G ~ Gamma(k),  skewness ψ''(k)/ψ'(k)^1.5

as of one ReLU layer, whose size is nearly a multiple of χ².
"""

import functools
import math

import numpy as np

from initjax._activations import compiled, in_float64, trace
from initjax.propagation import kept_response
from initjax.typing import Activation

_DRAWS = 10_000
_MOST = 1 << 22  # normal numbers of a kind that are held at a time


@functools.lru_cache(maxsize=64)
def drawn_layer(
  activation: Activation,
  log2_q: float,
  log2_sigma_w2: float,
  widths: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
  """What one layer adds by chance [draws] to log₂ sizes, forward and backward.

  Its input has the second moment 2^log2_q on average over draws. The law is
  that of `simulate`, of which one layer needs no program.
  """
  generator = np.random.Generator(np.random.SFC64(0))
  each = max(1, min(_DRAWS, _MOST // max(widths)))
  draw = functools.partial(
    _sizes, generator, activation, 2**log2_q, 2**log2_sigma_w2, widths
  )
  parts = in_float64(lambda: [draw(each) for _ in range(-(-_DRAWS // each))])
  with np.errstate(divide="ignore"):  # where all units are 0
    sizes = np.log2(np.concatenate(parts, axis=1)[:, :_DRAWS])
  before, after, returned = sizes
  here = kept_response(activation)(log2_q)
  off = before - log2_q
  kept = log2_sigma_w2 + here.log2_second_moment + here.slope * off
  passed = log2_sigma_w2 + here.log2_derivative + here.derivative_slope * off
  ratio = math.log2(widths[0] / widths[1])
  return after - kept, returned + ratio - passed


def _sizes(
  generator: np.random.Generator,
  activation: Activation,
  q: float,
  sigma_w2: float,
  widths: tuple[int, int],
  draws: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Mean squares [draws]: of h, of W·φ(h), of what a gradient δ becomes at h.

  Given y = W·x, the gradient Wᵀδ is known along x, and fresh beside it.
  """
  normal = lambda side: generator.standard_normal((draws, widths[side]))
  mean = lambda x: (x * x).mean(axis=1)
  h = math.sqrt(q) * normal(0)
  x, slope = compiled(trace(activation))(h)
  y = np.sqrt(sigma_w2 * mean(x))[:, None] * normal(1)
  delta = normal(1)
  fresh = np.sqrt(sigma_w2 * widths[1] / widths[0] * mean(delta))[:, None]
  fresh = fresh * normal(0)
  known = (delta * y).sum(axis=1) - (fresh * x).sum(axis=1)
  with np.errstate(divide="ignore", invalid="ignore"):
    along = known / (x * x).sum(axis=1)
    returned = (fresh + along[:, None] * x) * slope
    return mean(h), mean(y), mean(returned) / mean(delta)


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
