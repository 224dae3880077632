"""Residual networks: one chain to measure, one family to train.

All schemes are one program with numbers, so that a single `vmap` trains them
side by side.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.common.networks import UNIT
from initjax import initializers


class Chain(NamedTuple):
  """h_{l+1} = skip·h_l + branch·W·relu(norm(h_l)), W of variance σ_w²/n."""

  sigma_w2: Any = 2.0
  skip: Any = 1.0
  branch: Any = 1.0
  normalized: Any = False
  """over units, before relu"""


def layer_norm(h: jax.Array) -> jax.Array:
  """(h - mean)/standard deviation, over units."""
  h = h - h.mean(-1, keepdims=True)
  return h * jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-12)


def chain_layer(chain: Chain, key: jax.Array, h: jax.Array) -> jax.Array:
  """One layer, its kernel drawn on the spot; h is [batch, width]."""
  kernel = UNIT(key, (h.shape[1], h.shape[1]), jnp.float32)
  seen = jnp.where(chain.normalized, layer_norm(h), h)
  added = jnp.sqrt(chain.sigma_w2) * (jax.nn.relu(seen) @ kernel)
  return chain.skip * h + chain.branch * added


class Scheme(NamedTuple):
  """How blocks start: h + α·W₂·relu(W₁·relu(h) + b₁) + α·b₂, biases 0."""

  skip: float = 1.0
  alpha: float = 1.0
  """α at the start"""
  learn_alpha: bool = False
  first: float = 1.0
  """of W₁, over He's"""
  second: float = 1.0
  """of W₂, over He's"""
  readout: float = 1.0
  """of the last kernel, over LeCun's"""
  normalized: bool = False
  """LayerNorm before the first relu"""
  relu_last: bool = False
  """relu after W₁ and W₂, not before"""


def schemes(blocks: int) -> dict[str, Scheme]:
  """What people do, for a network of so many blocks of m = 2 layers.

  Fixup scales W₁ by blocks^(-1/(2m - 2)).
  """
  return {
    "plain": Scheme(skip=0.0),
    "residual, He": Scheme(),
    "pre-norm": Scheme(normalized=True),
    "zero branch": Scheme(second=0.0),
    "Fixup": Scheme(
      first=blocks**-0.5, second=0.0, readout=0.0, learn_alpha=True
    ),
    "SkipInit": Scheme(alpha=0.0, learn_alpha=True),
    "ReZero": Scheme(alpha=0.0, learn_alpha=True, relu_last=True),
  }


class Params(NamedTuple):
  """A network of blocks between a first kernel and a readout."""

  first: jax.Array
  """[features, width]"""
  kernels: jax.Array
  """[blocks, 2, width, width]"""
  biases: jax.Array
  """[blocks, 2, width]"""
  alpha: jax.Array
  """[blocks]"""
  readout: jax.Array
  """[width, classes]"""


def draw(
  key: jax.Array, scheme: Scheme, *, features: int, width: int, blocks: int
) -> Params:
  """He-normal kernels, scaled as the scheme says."""
  keys = jax.random.split(key, 3)
  he = initializers.variance_scaling(2.0, "fan_in", "normal", batch_axis=(0, 1))
  scale = jnp.stack([jnp.float32(scheme.first), jnp.float32(scheme.second)])
  kernels = he(keys[1], (blocks, 2, width, width), jnp.float32)
  return Params(
    UNIT(keys[0], (features, width), jnp.float32),
    scale[:, None, None] * kernels,
    jnp.zeros((blocks, 2, width)),
    jnp.full(blocks, scheme.alpha),
    scheme.readout * UNIT(keys[2], (width, 10), jnp.float32),
  )


def stream(scheme: Scheme, params: Params, h: jax.Array) -> jax.Array:
  """[batch, width] through all blocks."""

  def block(h: jax.Array, given: Any) -> tuple[jax.Array, None]:
    kernels, biases, alpha = given
    alpha = jnp.where(scheme.learn_alpha, alpha, scheme.alpha)
    seen = jnp.where(scheme.normalized, layer_norm(h), h)
    seen = jnp.where(scheme.relu_last, seen, jax.nn.relu(seen))
    middle = jax.nn.relu(seen @ kernels[0] + biases[0])
    added = middle @ kernels[1] + biases[1]
    added = jnp.where(scheme.relu_last, jax.nn.relu(added), added)
    return scheme.skip * h + alpha * added, None

  given = params.kernels, params.biases, params.alpha
  return jax.lax.scan(block, h, given)[0]


def logits(scheme: Scheme, params: Params, x: jax.Array) -> jax.Array:
  """[batch, classes]; a normalized stream is normalized once more."""
  h = stream(scheme, params, x @ params.first)
  h = jnp.where(scheme.normalized, layer_norm(h), h)
  return jax.nn.relu(h) @ params.readout
