"""Small models for the tests of the assertions."""

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 64))


def deep(activation):
  """One function for each activation: models are compiled once."""
  return _DEEP.setdefault(activation, _deep(activation))


_DEEP = {}


def _deep(activation):
  def model(kernels, x):
    layer = lambda h, kernel: (activation(h @ kernel), None)
    return jax.lax.scan(layer, x, kernels)[0]

  return model


def kernels(sigma_w2, depth, width=64, key=KEY):
  size = np.sqrt(sigma_w2 / width).astype(np.float32)
  return size * _NORMAL(key, (depth, width, width))


_NORMAL = jax.jit(jax.random.normal, static_argnums=1)


def he_by_numpy(key, shape, dtype):
  """Compiles nothing; apply asks for its shape alone."""
  if isinstance(key, jax.core.Tracer):
    return jnp.zeros(shape, dtype)
  seed = np.asarray(jax.random.key_data(key))
  draw = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(draw * np.sqrt(2 / np.prod(shape[:-1])), dtype)


def two_layers(params, x):
  return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


def two_layer_params(bias=0.0):
  first, last = kernels(2.0, 2)
  return {"in": first, "bias": jnp.full(64, bias), "out": last}
