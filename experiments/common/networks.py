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
