"""Thin deep ReLU networks, many of which are dead before they learn."""

import functools
import math

import jax
import jax.numpy as jnp

from initjax import initializers

INITS = ("symmetric", "asymmetric")
SIGMA = math.sqrt(1 + 8 / (9 * math.pi)) - math.sqrt(8 / math.pi) / 3
"""0.6007: with it, asymmetric layers keep the length of signals"""


@functools.partial(jax.jit, static_argnames=("width", "depth"))
def born_alive(
  keys: jax.Array, *, width: int, depth: int
) -> dict[str, jax.Array]:
  """Whether one white input gets through to each layer: [runs, depth] by init.

  "symmetric" are He-normal kernels and biases 0; "asymmetric" those of Lu et
  al. 2020, §4.2: normal weights and biases of variance σ²/n, of which one in
  each unit, chosen at random, is replaced by a number from Beta(2, 1), > 0.
  """
  he = initializers.he_normal()

  def asymmetric(key: jax.Array) -> jax.Array:
    normal_key, place_key, beta_key = jax.random.split(key, 3)
    shape = (width + 1, width)
    rows = jax.random.normal(normal_key, shape) * (SIGMA / math.sqrt(width))
    place = jax.random.randint(place_key, (1, width), 0, width + 1)
    beta = jnp.sqrt(jax.random.uniform(beta_key, (1, width)))  # Beta(2, 1)
    return jnp.where(jnp.arange(width + 1)[:, None] == place, beta, rows)

  def symmetric(key: jax.Array) -> jax.Array:
    kernel = he(key, (width, width), jnp.float32)
    return jnp.concatenate([kernel, jnp.zeros((1, width))])

  def one(key: jax.Array, draw: str) -> jax.Array:
    def layer(h: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
      weights = symmetric(key) if draw == "symmetric" else asymmetric(key)
      h = jax.nn.relu(h @ weights[:-1] + weights[-1])
      return h, (h > 0).any()

    input_key, key = jax.random.split(key)
    x = jax.random.normal(input_key, (width,))
    alive = jax.lax.scan(layer, x, jax.random.split(key, depth))[1]
    return jnp.cumprod(alive)  # beyond a dead layer biases alone go on

  return {
    init: jax.vmap(functools.partial(one, draw=init))(keys) for init in INITS
  }
