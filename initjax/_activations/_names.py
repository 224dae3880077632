"""The field's names of activations, told by their values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from initjax._statistics import nan_is_unknown
from initjax.typing import Activation


def identity(x: jax.Array) -> jax.Array:
  """What lies between two linear maps that follow each other."""
  return x


KNOWN: dict[str, Activation] = {
  "identity": identity,
  "relu": jax.nn.relu,
  "tanh": jnp.tanh,
  "sigmoid": jax.nn.sigmoid,
  "gelu": jax.nn.gelu,
  "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
  "silu": jax.nn.silu,
  "elu": jax.nn.elu,
  "selu": jax.nn.selu,
  "celu": jax.nn.celu,
  "leaky_relu": jax.nn.leaky_relu,
  "softplus": jax.nn.softplus,
  "soft_sign": jax.nn.soft_sign,
  "mish": jax.nn.mish,
  "relu6": jax.nn.relu6,
  "squareplus": jax.nn.squareplus,
  "hard_tanh": jax.nn.hard_tanh,
  "hard_sigmoid": jax.nn.hard_sigmoid,
  "hard_silu": jax.nn.hard_silu,
  "log_sigmoid": jax.nn.log_sigmoid,
  "erf": jax.lax.erf,
  "sin": jnp.sin,
  "square": jnp.square,
}
_POINTS = np.linspace(-7, 7, 57, dtype=np.float32)


def is_of_library(activation: Activation) -> bool:
  """Whether nobody edits it: JAX's own, or one that was read off a graph."""
  fixed = getattr(activation, "never_changes", False)
  return fixed or any(activation is known for known in KNOWN.values())


@functools.cache
def _known() -> dict[str, np.ndarray]:
  everyone = jax.jit(lambda x: {name: phi(x) for name, phi in KNOWN.items()})
  return jax.device_get(everyone(_POINTS))


@functools.lru_cache(maxsize=1024)
def known_name(activation: Activation) -> str | None:
  """The field's name for a function, if it is a known one times a constant.

  >>> known_name(lambda x: jnp.maximum(x, 0))
  'relu'
  """
  values = _values(activation)
  if not np.isfinite(values).all():  # no known one has poles
    return None
  with jax.ensure_compile_time_eval():
    for name, known in _known().items():
      scale = float(values @ known) / float(known @ known)
      if scale > 0 and np.allclose(values, scale * known, 1e-5, scale * 1e-6):
        return name
  return None


def _values(activation: Activation) -> np.ndarray:
  with nan_is_unknown(), jax.ensure_compile_time_eval():
    return np.asarray(activation(jnp.asarray(_POINTS)))


@functools.lru_cache(maxsize=1024)
def is_flat(activation: Activation | None) -> bool:
  """Whether a function is 0 on an interval, as rectifiers are."""
  if activation is None:
    return False
  return bool((_values(activation) == 0).sum() > 2)
