"""How one layer of an infinitely wide network changes lengths and angles.

A layer x -> W φ(x) + b with Var W = σ_w²/fan_in and Var b = σ_b² maps the
second moment q of pre-activations and the correlation c between those of two
inputs.
"""

import numpy as np

from initjax._checks import check_number
from initjax.gains import joint_moments, moments
from initjax.meanfield._fixed_points import check_variances, fixed_point
from initjax.typing import Activation, Numbers

_AT_ZERO = 1e-24  # stands for the limit q -> 0 of a correlation


def length_map(
  activation: Activation, q: Numbers, sigma_w2: float, sigma_b2: float
) -> Numbers:
  """Returns the second moment of the next layer's pre-activations.

      V(q) = σ_w² E[φ(x)²] + σ_b²,   x ~ N(0, q)

  Args:
    activation: any elementwise JAX function, kinks and jumps included.
    q: second moment of the pre-activations, >= 0; a number or an array.
    sigma_w2: σ_w² = fan_in · variance of the weights, > 0.
    sigma_b2: σ_b², variance of the biases, >= 0.

  Raises:
    ValueError: for a variance out of range, or as for `initjax.gains.moments`.

  >>> import jax
  >>> round(length_map(jax.nn.relu, 3.0, 2.0, 0.1), 12)
  3.1

  Reference: Poole et al. 2016, Eq. 3.
  """
  check_variances(sigma_w2, sigma_b2)
  return sigma_w2 * moments(activation, q).second_moment + sigma_b2


def correlation_map(
  activation: Activation,
  c: Numbers,
  sigma_w2: float,
  sigma_b2: float,
  q: float | None = None,
) -> Numbers:
  """Returns the correlation of two inputs' pre-activations in the next layer.

      f(c) = (σ_w² E[φ(u)φ(v)] + σ_b²)/V(q),   u, v ~ N(0, q), correlation c

  Args:
    activation: any elementwise JAX function, kinks and jumps included.
    c: correlation in this layer, in [-1, 1]; a number or an array.
    sigma_w2: σ_w² = fan_in · variance of the weights, > 0.
    sigma_b2: σ_b², variance of the biases, >= 0.
    q: second moment of both inputs' pre-activations; if None, the fixed point
      of the length map (1 where every q is one, as for ReLU at σ_w² = 2).

  Raises:
    ValueError: for arguments out of range; as for
      `initjax.gains.joint_moments`; or if q is None and `fixed_point` fails.

  >>> import jax
  >>> round(correlation_map(jax.nn.relu, 0.0, 2.0, 0.0), 12)  # 1/π
  0.318309886184

  Reference: Poole et al. 2016, Eq. 5; Cho & Saul 2009, Eq. 6 for ReLU.
  """
  check_variances(sigma_w2, sigma_b2)
  if q is None:
    q = fixed_point(activation, sigma_w2, sigma_b2).q
  check_number("q", q, low=0)
  q = float(q) or _AT_ZERO
  joint = joint_moments(activation, c, q)
  next_q = sigma_w2 * moments(activation, q).second_moment + sigma_b2
  # The first form keeps f(1) = 1, the second f(c) where it is small.
  near = 1 - sigma_w2 * joint.square_difference / (2 * next_q)
  far = (sigma_w2 * joint.product + sigma_b2) / next_q
  f = np.where(np.asarray(c) > 0.5, near, far).clip(-1, 1)
  return float(f) if f.ndim == 0 else f
