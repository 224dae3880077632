"""Five kinds of networks, small: GPT, ViT, ResNet-18, U-Net, Llama."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

WIDTH, HEADS, TOKENS, BATCH, WORDS = 128, 4, 16, 8, 64


class Attention(nn.Module):
  """Of several heads, perhaps causal."""

  causal: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, tokens, WIDTH] -> the same."""
    mask = nn.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
    heads = nn.MultiHeadDotProductAttention(HEADS, name="attention")
    return heads(x, mask=mask)


class Block(nn.Module):
  """x + attention(LN(x)), then x + MLP(LN(x))."""

  causal: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, tokens, WIDTH] -> the same."""
    x = x + Attention(self.causal)(nn.LayerNorm()(x))
    h = nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm()(x))
    return x + nn.Dense(WIDTH, name="down")(nn.gelu(h))


class Gpt(nn.Module):
  """Causal, on tokens with positions."""

  depth: int

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """[batch, tokens] -> [batch, tokens, WORDS]."""
    x = nn.Embed(WORDS, WIDTH, name="words")(ids)
    places = jnp.arange(ids.shape[1])
    x = x + nn.Embed(TOKENS, WIDTH, name="places")(places)
    for _ in range(self.depth):
      x = Block(causal=True)(x)
    return nn.Dense(WORDS, name="head")(nn.LayerNorm()(x))


class Vit(nn.Module):
  """On patches of images, its readout the mean over them."""

  depth: int

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """[batch, height, width, 3] -> [batch, classes]."""
    x = nn.Conv(WIDTH, (4, 4), (4, 4), "VALID", name="patches")(images)
    x = x.reshape(len(x), -1, WIDTH)
    init = nn.initializers.normal(1.0)
    x = x + self.param("places", init, (1, *x.shape[1:]))
    for _ in range(self.depth):
      x = Block(causal=False)(x)
    return nn.Dense(10, name="head")(nn.LayerNorm()(x).mean(axis=1))


class ResidualBlock(nn.Module):
  """relu(x + F(x)), with BatchNorm behind each convolution."""

  channels: int
  stride: int
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] -> the same, or half as large."""
    norm = lambda h: nn.BatchNorm(use_running_average=not self.train)(h)
    size, strides = (3, 3), (self.stride, self.stride)
    h = nn.Conv(self.channels, size, strides, use_bias=False)(x)
    h = nn.Conv(self.channels, size, use_bias=False)(nn.relu(norm(h)))
    if x.shape != h.shape:
      x = nn.Conv(self.channels, (1, 1), strides, use_bias=False)(x)
      x = norm(x)
    return nn.relu(x + norm(h))


class ResNet18(nn.Module):
  """Four stages of two blocks, with the stem for small images."""

  train: bool
  channels: tuple[int, ...] = (16, 32, 64, 64)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, 3] -> [batch, classes]."""
    x = nn.Conv(self.channels[0], (3, 3), use_bias=False)(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(x))
    for stage, channels in enumerate(self.channels):
      for block in range(2):
        stride = 2 if stage and not block else 1
        x = ResidualBlock(channels, stride, self.train)(x)
    return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


class Twice(nn.Module):
  """Two convolutions, each normalized in groups of channels."""

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, any] -> [batch, height, width, channels]."""
    for _ in range(2):
      x = nn.Conv(self.channels, (3, 3))(x)
      x = nn.silu(nn.GroupNorm(num_groups=2)(x))
    return x


class UNet(nn.Module):
  """Down by pooling, up by transposed convolutions, and skips joined."""

  channels: tuple[int, ...] = (32, 64)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, 3] -> one value for each pixel."""
    skips = []
    for channels in self.channels:
      x = Twice(channels)(x)
      skips.append(x)
      x = nn.max_pool(x, (2, 2), (2, 2))
    x = Twice(2 * self.channels[-1])(x)
    for skip in reversed(skips):
      x = nn.ConvTranspose(skip.shape[-1], (2, 2), (2, 2))(x)
      x = Twice(skip.shape[-1])(jnp.concatenate([skip, x], axis=-1))
    return nn.Conv(3, (1, 1), name="head")(x)


def rotated(x: jax.Array) -> jax.Array:
  """Pairs of features turned by an angle that grows with the position."""
  half = x.shape[-1] // 2
  rates = 100.0 ** (-jnp.arange(half) / half)
  angles = jnp.arange(x.shape[1])[:, None] * rates  # [tokens, half]
  angles = jnp.concatenate([angles, angles], axis=-1)[:, None]
  other = jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
  return x * jnp.cos(angles) + other * jnp.sin(angles)


class LlamaBlock(nn.Module):
  """RMSNorm, grouped queries, rotated positions, SwiGLU."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, tokens, WIDTH] -> the same."""
    features = WIDTH // HEADS
    project = lambda heads, name: nn.DenseGeneral(
      (heads, features), use_bias=False, name=name
    )
    h = nn.RMSNorm()(x)
    q, k = rotated(project(HEADS, "query")(h)), project(HEADS // 2, "key")(h)
    k, v = rotated(k), project(HEADS // 2, "value")(h)
    h = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    h = nn.DenseGeneral(WIDTH, (-2, -1), use_bias=False, name="out")(h)
    x, dense = x + h, lambda n, name: nn.Dense(n, use_bias=False, name=name)
    h = nn.RMSNorm()(x)
    gated = nn.silu(dense(2 * WIDTH, "gate")(h)) * dense(2 * WIDTH, "up")(h)
    return x + dense(WIDTH, "down")(gated)


class Llama(nn.Module):
  """A stack of such blocks."""

  depth: int

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:
    """[batch, tokens] -> [batch, tokens, WORDS]."""
    x = nn.Embed(WORDS, WIDTH, name="words")(ids)
    for _ in range(self.depth):
      x = LlamaBlock()(x)
    return nn.Dense(WORDS, use_bias=False, name="head")(nn.RMSNorm()(x))


def networks(depth: int) -> dict[str, tuple[nn.Module, Any]]:
  """Each with the shape of its inputs."""
  shape = jax.ShapeDtypeStruct
  ids = shape((BATCH, TOKENS), jnp.int32)
  images = lambda size: shape((BATCH, size, size, 3), jnp.float32)
  return {
    "GPT, pre-LN": (Gpt(depth), ids),
    "ViT": (Vit(depth), images(16)),
    "ResNet-18, train": (ResNet18(train=True), images(32)),
    "ResNet-18, eval": (ResNet18(train=False), images(32)),
    "U-Net": (UNet(), images(16)),
    "Llama": (Llama(depth), ids),
  }
