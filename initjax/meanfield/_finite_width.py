"""Random fluctuations in one layer of finite width, and in a deep ReLU net.

Signals of width n fluctuate: the log of a second moment performs a random walk
over the layers, with a mean of -κ/(2n) and a variance of κ/n per step. For ReLU
the law is known exactly.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from initjax._activations import name_of
from initjax._checks import check_choice, check_integer, check_number
from initjax.gains import joint_moments
from initjax.typing import Activation, Direction

_EXACT_HEADS = 4096  # beyond this width, 40 standard deviations are summed


class LogNorm(NamedTuple):
  """The law of a deep ReLU network's log(|x_L|²/|x_0|²)."""

  mean: float
  """mean of the natural logarithm, given survival"""
  std: float
  """its standard deviation, likewise"""
  survival: float
  """the probability that no layer is dead (all of its units 0)"""


def relu_log_norm(
  depth: int,
  width: int | Sequence[int],
  weights: Literal["gaussian", "orthogonal"] = "gaussian",
) -> LogNorm:
  """Returns the exact law of log(|x_L|²/|x_0|²) in a He-initialized ReLU net.

  Each layer multiplies the second moment of its input, whatever it is, by an
  independent r. With K ~ Binomial(n, ½) active units,

      gaussian    r = (2/n)·χ²_K                  E r² = 1 + 5/n
      orthogonal  r = 2·Beta(K/2, (n - K)/2)      E r² = (n + 5)/(n + 2)

  with E r = 1, since the direction of W·x is uniform on the sphere and
  independent of its size. So log r has mean about -5/(2n) and variance 5/n
  (orthogonal: -3/(2n), 3/n), and without conditioning on survival
  E[(|x_L|²/|x_0|²)²] = (1 + 5/n)^L.

  The x_l are post-activations and |x|² their mean square. The same law holds
  between two pre-activations of equal width, L layers apart: the first and the
  last row of `measure` on a network of L + 1 layers. By symmetry it holds for
  |J·u|² and |Jᵀ·g|², the Jacobian times a fixed vector.

  Args:
    depth: L, number of layers, >= 0.
    width: n, outputs of each layer, or one number for each layer;
      orthogonal layers are square, so they all have one width.
    weights: "gaussian" of variance 2/fan_in, or √2 times "orthogonal".

  Raises:
    ValueError: for an invalid depth or width, widths that do not match the
      depth or (if orthogonal) each other, or unknown weights.

  >>> relu_log_norm(100, 128)
  LogNorm(mean=-1.97864..., std=2.00584..., survival=1.0)

  Reference: Hanin and Nica 2020, Theorem 1; orthogonal: derived here likewise.
  """
  check_integer("depth", depth, low=0)
  check_choice("weights", weights, ("gaussian", "orthogonal"))
  widths, counts = np.unique(_widths(depth, width), return_counts=True)
  if weights == "orthogonal" and widths.size > 1:
    raise ValueError(
      "orthogonal weights need one width for all layers (square matrices); "
      f"got widths {widths.tolist()}."
    )
  steps = [_relu_step(int(n), weights) for n in widths]
  mean = sum(k * step.mean for k, step in zip(counts, steps, strict=True))
  variance = sum(k * step.std**2 for k, step in zip(counts, steps, strict=True))
  dead = sum(
    k * math.log1p(-(2.0**-n)) for k, n in zip(counts, widths, strict=True)
  )
  return LogNorm(float(mean), math.sqrt(variance), math.exp(dead))


def _widths(depth: int, width: int | Sequence[int]) -> list[int]:
  if isinstance(width, Sequence | np.ndarray):
    for each in width:
      check_integer("every width", each, low=1)
    if len(width) != depth:
      raise ValueError(
        f"width must be one number or one for each of the {depth} layers; got "
        f"{len(width)} of them."
      )
    return [int(each) for each in width]
  check_integer("width", width, low=1)
  return [int(width)] * depth


@functools.lru_cache(maxsize=1024)
def _relu_step(n: int, weights: str) -> LogNorm:
  """One layer: mean and std of log r, summed over K = 1..n."""
  from scipy import special, stats

  low, high = 1, n
  if n > _EXACT_HEADS:
    reach = int(20 * math.sqrt(n))
    low, high = n // 2 - reach, n // 2 + reach
  heads = np.arange(low, high + 1)
  chance = stats.binom.pmf(heads, n, 0.5)
  chance /= chance.sum()
  means = np.log1p((2 * heads - n) / n) + _digamma_minus_log(heads / 2)
  variances = special.polygamma(1, heads / 2)
  if weights == "orthogonal":
    means -= _digamma_minus_log(np.array(n / 2))
    variances -= special.polygamma(1, n / 2)
  mean = chance @ means
  variance = chance @ (variances + (means - mean) ** 2)
  return LogNorm(float(mean), math.sqrt(max(variance, 0.0)), 1 - 2.0**-n)


def _digamma_minus_log(x: np.ndarray) -> np.ndarray:
  """ψ(x) - log(x), which cancels if x is large: then the series of Stirling."""
  from scipy import special

  inverse = 1 / (x * x)
  beyond = inverse * (1 / 12 - inverse * (1 / 120 - inverse / 252))
  return np.where(x > 64, -1 / (2 * x) - beyond, special.digamma(x) - np.log(x))


def fluctuation(
  activation: Activation,
  variance: float = 1.0,
  *,
  direction: Direction = "forward",
  correlation: float = 1.0,
  cotangent_correlation: float = 1.0,
) -> float:
  """Returns κ: how strongly one layer of n units perturbs second moments.

  To order 1/n, a layer adds a mean of -κ/(2n) and a variance of κ/n to the log
  of a second moment: forward (σ_w²/n)·Σ φ(z_i)² and backward, for JVPs and VJPs
  alike, (1/n)·Σ φ'(z_i)²·u_i² with Gaussian u = Wᵀg. For two samples a and b
  whose pre-activations have correlation c and gradients g correlation γ, the
  covariance of their logs is κ/n with

      forward   κ(c) = E[φ_a²φ_b²]/E[φ²]² - 1
      backward  κ(c, γ) = (1 + 2γ²)·E[φ'_a²φ'_b²]/E[φ'²]² - 1

  At c = γ = 1 both are 5 for ReLU and 2 for the identity. A deviation does not
  persist: the next layer multiplies that of the forward log by
  d log E[φ²]/d log q, and biases add none. `trajectory` sums all of these.

  Args:
    activation: φ, any elementwise JAX function.
    variance: the variance q > 0 of both pre-activations.
    direction: "forward" or "backward".
    correlation: c in [-1, 1].
    cotangent_correlation: γ in [-1, 1]; used only backward.

  Raises:
    ValueError: for numbers out of range, or if E[φ²] is 0, or E[φ'²] is 0 or
      infinite (φ jumps).

  >>> import jax
  >>> round(fluctuation(jax.nn.relu), 9)
  5.0

  Reference: Hanin 2018; Roberts, Yaida and Hanin 2022, §4.1 and §9.
  """
  check_choice("direction", direction, ("forward", "backward"))
  check_number("variance", variance, low=0, open_low=True)
  check_correlation("correlation", correlation)
  check_correlation("cotangent_correlation", cotangent_correlation)
  one = joint_moments(activation, 1.0, variance)
  two = joint_moments(activation, correlation, variance)
  gamma2 = cotangent_correlation**2
  if direction == "forward":
    size, square, factor = one.product, two.square_product, 1.0
  else:
    size, square = one.derivative_product, two.derivative_square_product
    factor = 1 + 2 * gamma2
  if not 0 < size < math.inf or not math.isfinite(square):
    raise ValueError(
      f"{name_of(activation)} has a {direction} second moment of {size}: "
      "fluctuations relative to it are undefined."
    )
  return float(factor * square / size**2 - 1)


def check_correlation(name: str, value: float) -> None:
  """Raises unless `value` is a number in [-1, 1]."""
  check_number(name, value, low=-1)
  if value > 1:
    raise ValueError(f"{name} must be in [-1, 1]; got {value!r}.")
