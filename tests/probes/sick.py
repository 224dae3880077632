"""Sick models, and what is asked of their reports; drawn by NumPy."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from captures import normal

from initjax import initializers
from initjax.probes import diagnose

KEY = jax.random.key(0)


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


def diagnosed(activation, sigma_w2, depth, x=X):
  return diagnose(stack(activation), kernels(sigma_w2, depth), x)


def kinds(report):
  return {verdict.kind: verdict.severity for verdict in report.verdicts}


def verdict(report, kind):
  (found,) = (v for v in report.verdicts if v.kind == kind)
  return found


def pasted(cure):
  """The initializer of a cure, by running its line."""
  line = cure.split("\n")[0].removeprefix("kernel_init=initjax.")
  return eval(line, {"initializers": initializers, "jax": jax, "jnp": jnp})


def two_layers(params, x):
  hidden = jax.nn.relu(x @ params["in"] + params["bias"])
  return hidden @ params["out"]


def two_layer_params(bias=0.0, **others):
  """At the He gain, but for what is given."""
  given = {
    "in": normal(64, 64, variance=2 / 64, seed=2),
    "bias": np.full(64, bias, np.float32),
    "out": normal(64, 64, variance=2 / 64, seed=3),
  }
  return given | others
