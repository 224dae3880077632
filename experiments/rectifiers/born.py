"""Thin deep ReLU networks, many of which are dead before they learn."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

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


@functools.partial(jax.jit, static_argnames=("width", "depth", "steps"))
def trained(
  keys: jax.Array, *, width: int, depth: int, steps: int
) -> jax.Array:
  """What ReLU networks leave of y = x on (0, 1], by Adam: [runs].

  The squared error over the variance of y, after training: 1 is the mean of y,
  all that a network born dead can learn, by its last bias. With x > 0 and first
  biases 0 a network is dead for all inputs or for none.
  """
  optimizer = optax.adam(0.01)

  def update(carry: Any, _: None) -> tuple[Any, None]:
    params, state = carry
    changes, state = optimizer.update(jax.grad(_left)(params), state)
    return (optax.apply_updates(params, changes), state), None

  def one(key: jax.Array) -> jax.Array:
    params = _thin(key, width, depth)
    start = params, optimizer.init(params)
    return _left(jax.lax.scan(update, start, length=steps)[0][0])

  return jax.vmap(one)(keys)


def _thin(key: jax.Array, width: int, depth: int) -> Any:
  """Kernels by He, and biases of 0."""
  he, sizes = initializers.he_normal(), (1, *[width] * depth, 1)
  keys = jax.random.split(key, depth + 1)
  return [
    (he(key, pair, jnp.float32), jnp.zeros(pair[1]))
    for key, pair in zip(keys, itertools.pairwise(sizes), strict=True)
  ]


def _left(params: Any) -> jax.Array:
  """The squared error of y = x, over the variance of y."""
  x = jnp.linspace(1 / 16, 1, 16)[:, None]
  h = x
  for kernel, bias in params[:-1]:
    h = jax.nn.relu(h @ kernel + bias)
  kernel, bias = params[-1]
  return ((h @ kernel + bias - x) ** 2).mean() / x.var()
