"""Correlations of pairs of inputs, layer by layer, in many finite networks.

The batch of networks is spread over the devices; each draws its own weights.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax.typing import Activation

GROUPS = ("unlike", "alike")


class Nets(NamedTuple):
  """A batch of networks: arrays [nets]."""

  key: jax.Array
  sigma_w2: jax.Array
  sigma_b2: jax.Array
  q: jax.Array
  """second moment of both inputs in the first layer"""


def pairs_of(inputs: np.ndarray, pairs: int) -> np.ndarray:
  """Pairs of different inputs: [2 groups, pairs, 2, features].

  The first group has the least correlated pairs, the second the most correlated
  ones; no input is used twice in a group.
  """
  correlation = inputs @ inputs.T / inputs.shape[1]
  first, second = np.triu_indices(len(inputs), 1)
  order = np.argsort(correlation[first, second], kind="stable")
  groups = []
  for ranked in (order, order[::-1]):
    chosen: list[tuple[int, int]] = []
    used: set[int] = set()
    for i, j in zip(first[ranked], second[ranked], strict=True):
      if len(chosen) < pairs and not {i, j} & used:
        chosen.append((i, j))
        used |= {i, j}
    groups.append(inputs[np.array(chosen)])
  return np.stack(groups)


@functools.partial(jax.jit, static_argnames=("activation", "depth", "width"))
def distances(
  activation: Activation, depth: int, width: int, nets: Nets, pairs: jax.Array
) -> jax.Array:
  """1 - c_l of pre-activations, averaged over pairs: [nets, depth, groups].

      h_1 = √q·W_1 x,   h_{l+1} = W φ(h_l) + b,   W_ij ~ N(0, σ_w²/n)

  1 - c is half the squared distance of both directions, so that it keeps its
  digits where c goes to 1. Weights are drawn where they are used; products are
  full float32 on every device. Pairs are as `pairs_of` gives them.
  """
  x = pairs.reshape(-1, pairs.shape[-1])

  def measured(h: jax.Array) -> jax.Array:
    direction = h / jnp.linalg.norm(h, axis=-1, keepdims=True)
    a, b = jnp.moveaxis(direction.reshape(*pairs.shape[:-1], width), 2, 0)
    return jnp.mean(jnp.sum((a - b) ** 2, axis=-1) / 2, axis=1)

  def linear(key: jax.Array, x: jax.Array, sigma_w2: jax.Array) -> jax.Array:
    kernel = jax.random.normal(key, (x.shape[-1], width))
    y = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
    return y * jnp.sqrt(sigma_w2 / x.shape[-1])

  def one_net(net: Nets) -> jax.Array:
    def layer(h: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
      kernel_key, bias_key = jax.random.split(key)
      bias = jnp.sqrt(net.sigma_b2) * jax.random.normal(bias_key, (1, width))
      h = linear(kernel_key, activation(h), net.sigma_w2) + bias
      return h, measured(h)

    keys = jax.random.split(net.key, depth)
    h = linear(keys[0], x, net.q)
    _, others = jax.lax.scan(layer, h, keys[1:])
    return jnp.concatenate([measured(h)[None], others])

  return jax.vmap(one_net)(nets)
