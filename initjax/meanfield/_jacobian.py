"""The Jacobian of a wide, deep network: how evenly it stretches space.

J = D_L·W_L ⋯ D_1·W_1 with D_l = diag(φ'(z_l)). At infinite width its factors
are free, so two numbers are easy to follow: the means of squared singular
values multiply, and their relative variances (variance/mean²) add. With
μ_k = E[φ'(z)^2k], z ~ N(0, q), a factor D has mean μ₁ and relative variance
μ₂/μ₁² - 1; a factor W has σ_w² and -s₁: 1 if Gaussian (Marchenko-Pastur), 0 if
orthogonal.
"""

import math
from typing import Literal, NamedTuple

from initjax._activations import name_of
from initjax._checks import check_choice, check_integer, check_number
from initjax.gains import joint_moments
from initjax.typing import Activation

_SPREAD = {"gaussian": 1.0, "orthogonal": 0.0}
"""-s₁: the relative variance of the squared singular values of a kernel"""

_LEAST_Q = 1e-30  # stands for q -> 0: φ' is that of 0, on either side of it


class JacobianMoments(NamedTuple):
  """Two moments of the squared singular values of a network's Jacobian."""

  mean: float
  """χ₁^L; inf or 0 beyond float64"""
  relative_variance: float
  """variance/mean²"""
  log2_mean: float
  """log₂ of the mean"""


def jacobian_moments(
  activation: Activation,
  depth: int,
  sigma_w2: float,
  q: float = 1.0,
  *,
  weights: Literal["gaussian", "orthogonal"] = "gaussian",
  linear_output: bool = False,
) -> JacobianMoments:
  """Returns mean and relative variance of squared singular values, width -> ∞.

      mean = χ₁^L,  variance/mean² = L·(μ₂/μ₁² - 1 - s₁)

  with χ₁ = σ_w²·μ₁, μ_k = E[φ'(z)^2k] for z ~ N(0, q), and s₁ = -1 for
  Gaussian weights, 0 for orthogonal ones. At χ₁ = 1 gradients neither explode
  nor vanish on average; the variance tells how much directions differ.
  For ReLU it grows with depth whatever the weights; it stays small only for
  orthogonal weights and φ' ≈ 1.

  At finite width n this holds up to terms of relative size L/n (for He-normal
  ReLU, 3/n a layer in the second moment). `initjax.jacobian_spectrum` measures
  the same two numbers.

  Args:
    activation: φ, any elementwise JAX function without jumps.
    depth: L, the number of layers z -> φ(W·z + b), all of the same width.
    sigma_w2: σ_w², where the entries of W have variance σ_w²/n.
    q: variance of the pre-activations, such as `fixed_point(...).q`.
    weights: "gaussian" (or any independent entries), or "orthogonal".
    linear_output: whether the last of the L layers has no activation.

  Raises:
    ValueError: if φ jumps or is constant, or an argument is out of range.

  >>> import jax
  >>> found = jacobian_moments(jax.nn.relu, depth=100, sigma_w2=2.0)
  >>> round(found.mean, 9), round(found.relative_variance, 9)
  (1.0, 200.0)

  Reference: Pennington, Schoenholz and Ganguli 2017; 2018, moments of J·Jᵀ.
  """
  check_integer("depth", depth, low=1)
  check_number("sigma_w2", sigma_w2, low=0, open_low=True)
  check_number("q", q, low=0)
  check_choice("weights", weights, tuple(_SPREAD))
  mu_1, mu_2 = _slope_moments(activation, max(float(q), _LEAST_Q))
  slopes = depth - 1 if linear_output else depth
  log2_mean = depth * math.log2(sigma_w2) + slopes * math.log2(mu_1)
  relative_variance = slopes * (mu_2 / mu_1**2 - 1) + depth * _SPREAD[weights]
  mean = math.inf if log2_mean >= 1024 else 2.0**log2_mean
  return JacobianMoments(mean, relative_variance, log2_mean)


def _slope_moments(activation: Activation, q: float) -> tuple[float, float]:
  """E[φ'²] and E[φ'⁴]."""
  same = joint_moments(activation, 1.0, q)
  mu_1 = float(same.derivative_product)
  if math.isinf(mu_1):
    raise ValueError(
      f"{name_of(activation)} jumps (or declares a derivative that is not its "
      "own): φ' holds a delta, and the Jacobian has no finite moments."
    )
  if mu_1 == 0:
    raise ValueError(
      f"{name_of(activation)} is constant at q = {q:g}: the Jacobian is 0, and "
      "has no relative variance."
    )
  return mu_1, float(same.derivative_square_product)
