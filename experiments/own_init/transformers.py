"""Small transformers, with the initializations of GPT-2 and of ViT."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from initjax.typing import Initializer

SMALL = nn.initializers.normal(0.02)
"""of GPT-2's kernels and tables, and of ViT's positions"""


class Block(nn.Module):
  """Attention and a gated-free MLP, each behind a LayerNorm."""

  heads: int
  causal: bool
  inner: Initializer
  outer: Initializer
  """of the kernels that end in the stream"""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, tokens, width] → the same."""
    width = x.shape[-1]
    x = x + self._attention(nn.LayerNorm()(x))
    hidden = nn.Dense(4 * width, kernel_init=self.inner, name="up")
    down = nn.Dense(width, kernel_init=self.outer, name="down")
    return x + down(nn.gelu(hidden(nn.LayerNorm()(x))))

  def _attention(self, x: jax.Array) -> jax.Array:
    width, tokens = x.shape[-1], x.shape[-2]
    size = width // self.heads

    def project(name: str) -> jax.Array:
      h = nn.Dense(width, kernel_init=self.inner, name=name)(x)
      return h.reshape(*x.shape[:-1], self.heads, size)

    query, key, value = map(project, ("query", "key", "value"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(size)
    if self.causal:
      seen = np.tril(np.ones((tokens, tokens), bool))
      scores = jnp.where(seen, scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value)
    out = nn.Dense(width, kernel_init=self.outer, name="out")
    return out(mixed.reshape(x.shape))


class Gpt(nn.Module):
  """GPT-2: tokens and positions, blocks, and logits; tied or not."""

  words: int
  tied: bool
  layers: int = 4
  width: int = 64
  heads: int = 4

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """[batch, tokens] → [batch, tokens, words]."""
    tokens = nn.Embed(self.words, self.width, embedding_init=SMALL)
    positions = nn.Embed(ids.shape[1], self.width, embedding_init=SMALL)
    x = tokens(ids) + positions(jnp.arange(ids.shape[1]))
    outer = nn.initializers.normal(0.02 / math.sqrt(2 * self.layers))
    for _ in range(self.layers):
      x = Block(self.heads, True, SMALL, outer)(x)
    x = nn.LayerNorm()(x)
    if self.tied:
      return tokens.attend(x)
    return nn.Dense(self.words, use_bias=False, kernel_init=SMALL)(x)


class Vit(nn.Module):
  """A vision transformer on patches of 2 × 2 pixels, averaged at the end."""

  layers: int = 4
  width: int = 32
  heads: int = 4
  classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] → [batch, classes]."""
    x = nn.Conv(self.width, (2, 2), (2, 2))(x)
    x = x.reshape(len(x), -1, self.width)
    shape = (1, *x.shape[1:])
    x = x + self.param("positions", SMALL, shape, jnp.float32)
    xavier: Any = nn.initializers.xavier_uniform()
    for _ in range(self.layers):
      x = Block(self.heads, False, xavier, xavier)(x)
    x = nn.LayerNorm()(x).mean(1)
    return nn.Dense(self.classes, kernel_init=nn.initializers.zeros)(x)
