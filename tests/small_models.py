"""Small models drawn by NumPy, so that nothing is compiled for them."""

import functools
import zlib

import jax
import jax.monitoring
import numpy as np

KEY = jax.random.key(0)


def normal(*shape, variance=1.0, seed=1):
  """N(0, variance) numbers."""
  numbers = np.random.default_rng(seed).normal(size=shape)
  return np.float32(numbers * np.sqrt(variance))


X = normal(32, 64)


@functools.cache  # one function, and so one program, for each activation
def stack(activation):
  def model(kernels, x):
    layer = lambda h, kernel: (activation(h @ kernel), None)
    return jax.lax.scan(layer, x, kernels)[0]

  return model


def kernels(sigma_w2, depth, width=64, seed=0):
  """[depth, width, width]; Xavier is σ_w² = 1, He is 2."""
  return normal(depth, width, width, variance=sigma_w2 / width, seed=seed)


def drawn(shapes, sigma_w2=1.0):
  """Kernels of variance σ_w² over all axes but the last; biases 0, scales 1."""

  def draw(path, leaf):
    if len(leaf.shape) < 2:
      return np.full(leaf.shape, path[-1].key == "scale", leaf.dtype)
    variance = sigma_w2 / np.prod(leaf.shape[:-1])
    seed = zlib.crc32(jax.tree_util.keystr(path).encode())
    return normal(*leaf.shape, variance=variance, seed=seed)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def two_layers(params, x):
  return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


def two_layer_params(bias=0.0, **others):
  """At the He gain, but for what is given."""
  given = {
    "in": normal(64, 64, variance=2 / 64, seed=2),
    "bias": np.full(64, bias, np.float32),
    "out": normal(64, 64, variance=2 / 64, seed=3),
  }
  return given | others


def compilations(run):
  """How many programs XLA compiles while `run()` runs."""
  seen = []
  listen = lambda event, duration, **_: seen.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    run()
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return seen.count("/jax/core/compile/backend_compile_duration")
