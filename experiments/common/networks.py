"""What random networks of several experiments share."""

from typing import Any

import jax
import jax.numpy as jnp

from initjax import initializers
from initjax.typing import Initializer

UNIT = initializers.variance_scaling(1.0, "fan_in", "normal")
"""Gaussian kernels of variance 1/fan_in"""


def truncated(sigma_w2: Any) -> Initializer:
  """Truncated normal kernels of variance σ_w²/fan_in; σ_w² may be traced."""
  unit = initializers.lecun_normal()

  def init(
    key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None
  ) -> jax.Array:
    return jnp.sqrt(sigma_w2) * unit(key, shape, dtype, out_sharding)

  return init


def log2_second_moment(x: jax.Array, axis: int | None = None) -> jax.Array:
  """log₂ of the mean square over all axes but `axis`, without underflow."""
  axes = tuple(i for i in range(x.ndim) if i != axis)
  size = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
  scaled = x / jnp.where(size > 0, size, 1.0)
  return jnp.log2((scaled**2).mean(axes)) + 2 * jnp.log2(size).reshape(
    scaled.shape[axis] if axis is not None else ()
  )
