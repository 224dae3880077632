"""Sick models, and what is asked of their reports."""

import jax
import jax.numpy as jnp

from initjax import initializers
from initjax.probes import diagnose

KEY = jax.random.key(0)


X = jax.random.normal(jax.random.key(1), (32, 64))


def stack(activation):
  def model(kernels, x):
    layer = lambda h, kernel: (activation(h @ kernel), None)
    return jax.lax.scan(layer, x, kernels)[0]

  return model


def kernels(initializer, depth, width=64, key=KEY):
  one = lambda key: initializer(key, (width, width), jnp.float32)
  return jax.lax.map(one, jax.random.split(key, depth))


def diagnosed(activation, initializer, depth, width=64, x=X):
  return diagnose(stack(activation), kernels(initializer, depth, width), x)


def kinds(report):
  return {verdict.kind: verdict.severity for verdict in report.verdicts}


def verdict(report, kind):
  (found,) = (v for v in report.verdicts if v.kind == kind)
  return found


def pasted(cure):
  """The initializer of a cure, by running its line."""
  line = cure.split("\n")[0].removeprefix("kernel_init=initjax.")
  return eval(line)


def two_layers(params, x):
  hidden = jax.nn.relu(x @ params["in"] + params["bias"])
  return hidden @ params["out"]


def two_layer_params(bias=0.0, init=None):
  init = init or initializers.he_normal()
  return {
    "in": init(KEY, (64, 64)),
    "bias": jnp.full(64, bias),
    "out": init(jax.random.key(1), (64, 64)),
  }
