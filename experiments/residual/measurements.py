"""Signals and gradients of random residual chains, jitted."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.common.networks import UNIT
from experiments.common.training import Labelled, cross_entropy
from experiments.residual.networks import (
  Chain,
  Scheme,
  chain_layer,
  draw,
  logits,
)
from initjax.measurement import log2_second_moment

Runs = dict[str, Any]
"""{"key": [runs], "chain": a Chain of [runs]}"""


@functools.partial(jax.jit, static_argnames=("blocks", "width"))
def signals(runs: Runs, x: jax.Array, *, blocks: int, width: int) -> jax.Array:
  """log₂ second moment of the stream: [runs, 1 + blocks]."""

  def one(key: jax.Array, chain: Chain) -> jax.Array:
    def layer(h: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
      h = chain_layer(chain, key, h)
      return h, log2_second_moment(h)

    keys = jax.random.split(key, blocks + 1)
    shape = (x.shape[1], width)
    h = x @ UNIT(keys[0], shape, jnp.float32)
    moments = jax.lax.scan(layer, h, keys[1:])[1]
    return jnp.concatenate([log2_second_moment(h)[None], moments])

  return jax.vmap(one)(runs["key"], runs["chain"])


@functools.partial(jax.jit, static_argnames=("depth", "width"))
def gradients(runs: Runs, *, depth: int, width: int) -> jax.Array:
  """log₂ of |gradient|² of the first stream over that of the last: [runs].

  Of `depth` layers the first, which makes the stream, is left out: h is drawn
  at random instead. Kernels are drawn anew for the way back.
  """

  def one(key: jax.Array, chain: Chain) -> jax.Array:
    @jax.checkpoint
    def layer(h: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
      return chain_layer(chain, key, h), None

    keys = jax.random.split(key, depth + 1)
    shape = (1, width)
    h, cotangent = (jax.random.normal(k, shape) for k in keys[:2])
    pull_back = jax.vjp(lambda h: jax.lax.scan(layer, h, keys[2:])[0], h)[1]
    gradient = log2_second_moment(pull_back(cotangent)[0])
    return gradient - log2_second_moment(cotangent)

  return jax.vmap(one)(runs["key"], runs["chain"])


@functools.partial(jax.jit, static_argnames=("blocks", "width"))
def first_updates(
  keys: jax.Array, data: Labelled, *, blocks: int, width: int
) -> jax.Array:
  """log₂ of the mean square by which the first update changes logits: [runs].

  Of the blocks' kernels alone, in branches that begin with He's W₁ and end with
  W₂ = 0; per learning rate, as that goes to 0.
  """
  scheme, features = Scheme(second=0.0), data.inputs.shape[1]
  apply = functools.partial(logits, scheme)

  def one(key: jax.Array) -> jax.Array:
    params = draw(key, scheme, features=features, width=width, blocks=blocks)

    def of_kernels(kernels: jax.Array) -> jax.Array:
      return apply(params._replace(kernels=kernels), data.inputs)

    def loss(kernels: jax.Array) -> jax.Array:
      changed = params._replace(kernels=kernels)
      return cross_entropy(apply, changed, data.inputs, data.labels)

    kernels = params.kernels
    gradient = jax.grad(loss)(kernels)
    return log2_second_moment(jax.jvp(of_kernels, (kernels,), (gradient,))[1])

  return jax.vmap(one)(keys)
