"""Parameters and inputs without JAX, which would compile each shape."""

import zlib

import jax
import numpy as np


def normal(seed, *shape, scale=1.0):
  draw = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return np.float32(scale) * draw


def filled(init, *inputs, scale=1.0):
  """What a linen `init` makes: kernels N(0, scale²), scales 1, biases 0."""

  def fill(path, leaf):
    kind = path[-1].key
    if kind in ("kernel", "embedding"):
      seed = zlib.crc32(jax.tree_util.keystr(path).encode())
      return normal(seed, *leaf.shape, scale=scale)
    return np.full(leaf.shape, kind in ("scale", "var"), leaf.dtype)

  shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
  return jax.tree_util.tree_map_with_path(fill, shapes)
