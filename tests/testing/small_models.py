"""Small models for the tests of the assertions, drawn by NumPy."""

import functools

import jax
import numpy as np

KEY = jax.random.key(0)


def normal(*shape, seed=0, scale=1.0):
  draw = np.random.default_rng(seed).normal(size=shape)
  return (scale * draw).astype(np.float32)


X = normal(16, 64, seed=1)


@functools.cache
def deep(activation):
  """One function for each activation: models are compiled once."""

  def model(kernels, x):
    layer = lambda h, kernel: (activation(h @ kernel), None)
    return jax.lax.scan(layer, x, kernels)[0]

  return model


def kernels(sigma_w2, depth, width=64):
  return normal(depth, width, width, scale=np.sqrt(sigma_w2 / width))


def he_variables(model, *inputs):
  """He kernels, and the rest as linen has it: scales of 1, biases of 0."""

  def draw(path, leaf):
    if len(leaf.shape) == 1:
      return np.full(leaf.shape, path[-1].key == "scale", leaf.dtype)
    seed = sum(map(ord, jax.tree_util.keystr(path)))
    scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return normal(*leaf.shape, seed=seed, scale=scale)

  shapes = jax.eval_shape(model.init, KEY, *inputs)
  return jax.tree_util.tree_map_with_path(draw, shapes)


def two_layers(params, x):
  return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


def two_layer_params(bias=0.0):
  first, last = kernels(2.0, 2)
  return {"in": first, "bias": np.full(64, bias, np.float32), "out": last}
