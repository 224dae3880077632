"""What theory says of squashing networks, layer by layer."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from initjax import gains, initializers
from initjax.meanfield import Layer, trajectory
from initjax.typing import Activation, Initializer


def centred(z: jax.Array) -> jax.Array:
  """The sigmoid without its mean; its slope at 0 is ¼."""
  return jax.nn.sigmoid(z) - 0.5


def centred_steep(z: jax.Array) -> jax.Array:
  """The sigmoid without its mean and with slope 1: 2·tanh(z/2)."""
  return 4 * centred(z)


ACTIVATIONS: dict[str, Activation] = {
  "sigmoid": jax.nn.sigmoid,
  "tanh": jnp.tanh,
  "softsign": jax.nn.soft_sign,
  "sigmoid - ½": centred,
  "4·(sigmoid - ½)": centred_steep,
}

INITS: dict[str, Initializer] = {
  "standard": initializers.torch_linear_kernel(),
  "normalized": initializers.xavier_uniform(),
}


def sigma_w2(init: str, n_in: int, n_out: int) -> float:
  """n_in·Var W."""
  return 1 / 3 if init == "standard" else 2 * n_in / (n_in + n_out)


def squashed(
  activation: str, init: str, widths: Sequence[int], correlation: float
) -> dict[str, np.ndarray]:
  """Width → ∞, data of q = 1: [layers] each, as `xavier.squash` measures.

  Of one input in networks of these widths, "_std" and "_drift" say by how much
  log₂ q and log₂ gradients scatter, and their means are off; a batch has less.
  """
  phi = ACTIVATIONS[activation]
  layers = [
    Layer(phi if i else None, sigma_w2(init, *pair), width=pair[1])
    for i, pair in enumerate(itertools.pairwise(widths))
  ]
  t = trajectory(layers, correlation=correlation)
  q = np.exp2(t.forward)
  m = gains.moments(phi, q)
  second = np.asarray(m.second_moment)
  product = [
    gains.joint_moments(phi, c, v).product
    for c, v in zip(t.correlation, q, strict=True)
  ]
  kernel = t.backward + np.log2([1.0, *second[:-1]])
  return {
    "q": q,
    "mean": np.asarray(m.mean),
    "second_moment": second,
    "correlation": np.array(product, np.float64) / second,
    "log2_gradient": t.backward,
    "log2_kernel_gradient": kernel - kernel[-1],
    "log2_q_std": t.forward_std,
    "log2_q_drift": t.forward_drift,
    "log2_gradient_std": t.backward_std,
    "log2_gradient_drift": t.backward_drift,
  }
