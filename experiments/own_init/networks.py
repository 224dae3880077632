"""Convolutional, recurrent and deep plain networks, with their own inits."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""of torchvision's VGG and ResNet"""


class Mlp(nn.Module):
  """Dense layers of one width, and a readout."""

  activation: Callable[[jax.Array], jax.Array]
  layers: int = 40
  width: int = 32
  classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, ...] → [batch, classes]."""
    x = x.reshape(len(x), -1)
    for _ in range(self.layers - 1):
      x = self.activation(nn.Dense(self.width)(x))
    return nn.Dense(self.classes)(x)


class Vgg(nn.Module):
  """Stages of two 3 × 3 convolutions, halved in between, and two layers."""

  widths: tuple[int, ...] = (8, 16, 32)
  classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] → [batch, classes]."""
    for width in self.widths:
      for _ in range(2):
        x = nn.relu(nn.Conv(width, (3, 3), kernel_init=HE)(x))
      x = nn.max_pool(x, (2, 2), strides=(2, 2))
    small = nn.initializers.normal(0.01)  # torchvision's, of its last layers
    x = nn.relu(nn.Dense(32, kernel_init=small)(x.reshape(len(x), -1)))
    return nn.Dense(self.classes, kernel_init=small)(x)


class ResNet(nn.Module):
  """ResNet-18: relu(x + F(x)), two 3 × 3 convolutions a block."""

  normalized: bool
  widths: tuple[int, ...] = (8, 16, 32, 64)
  classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] → [batch, classes]."""
    x = nn.relu(self._convolution(self.widths[0], x))
    for stage, width in enumerate(self.widths):
      for block in range(2):
        stride = 2 if stage and not block else 1
        x = self._block(width, stride, x)
    return nn.Dense(self.classes)(x.mean((1, 2)))

  def _block(self, width: int, stride: int, x: jax.Array) -> jax.Array:
    branch = nn.relu(self._convolution(width, x, stride))
    branch = self._convolution(width, branch)
    if x.shape != branch.shape:
      x = self._convolution(width, x, stride, size=1)
    return nn.relu(x + branch)

  def _convolution(
    self, width: int, x: jax.Array, stride: int = 1, size: int = 3
  ) -> jax.Array:
    layer = nn.Conv(
      width,
      (size, size),
      (stride, stride),
      use_bias=not self.normalized,
      kernel_init=HE,
    )
    x = layer(x)
    return nn.BatchNorm(use_running_average=False)(x) if self.normalized else x


class UNet(nn.Module):
  """Down twice and up again, each level joined to its equal."""

  widths: tuple[int, ...] = (8, 16, 32)
  classes: int = 2

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, height, width, channels] → [batch, height, width, classes]."""
    levels: list[jax.Array] = []
    for width in self.widths:
      x = self._pair(width, nn.max_pool(x, (2, 2), (2, 2)) if levels else x)
      levels.append(x)
    for width, level in zip(self.widths[-2::-1], levels[-2::-1], strict=True):
      x = nn.ConvTranspose(width, (2, 2), (2, 2))(x)
      x = self._pair(width, jnp.concatenate([level, x], -1))
    return nn.Conv(self.classes, (1, 1))(x)

  def _pair(self, width: int, x: jax.Array) -> jax.Array:
    for _ in range(2):
      x = nn.relu(nn.Conv(width, (3, 3))(x))
    return x


class Lstm(nn.Module):
  """One LSTM over an image's pixels in order; its last state is read out."""

  width: int = 32
  pixels: int = 4
  """in a step"""
  classes: int = 10

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, ...] → [batch, classes]."""
    x = x.reshape(len(x), -1, self.pixels)
    states: Any = nn.RNN(nn.OptimizedLSTMCell(self.width))(x)
    return nn.Dense(self.classes)(states[:, -1])
