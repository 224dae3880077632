"""Assertions on models of all kinds, and in absltest."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from flax import nnx
from small_models import (
  KEY,
  X,
  drawn,
  kernels,
  normal,
  two_layer_params,
  two_layers,
)

import initjax
from initjax import initializers as init
from initjax import testing


class Convolutional(nn.Module):
  @nn.compact
  def __call__(self, x):
    for features in (8, 8, 16, 16):
      x = nn.Conv(features, (3, 3))(nn.relu(x))
    return x


class PreNorm(nn.Module):
  """An embedding, residual branches behind norms, a readout."""

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(20, 32)(tokens)
    for _ in range(3):
      h = nn.Dense(64)(nn.LayerNorm()(x))
      x = x + nn.Dense(32)(nn.gelu(h))
    return nn.Dense(20)(nn.LayerNorm()(x))


class Half(nn.Module):
  """bfloat16, which holds 8 bits."""

  @nn.compact
  def __call__(self, x):
    for width in (64, 64, 64, 64, 64, 32):
      x = nn.relu(nn.Dense(width, dtype=jnp.bfloat16)(x))
    return x


class Perceptron(nnx.Module):
  def __init__(self, rngs):
    he = init.he_normal()
    self.layers = nnx.List(
      [nnx.Linear(64, 64, kernel_init=he, rngs=rngs) for _ in range(4)]
    )

  def __call__(self, x):
    for layer in self.layers:
      x = nnx.relu(layer(x))
    return x


LINEN = {
  "convolutional": (Convolutional(), normal(4, 8, 8, 3)),
  "pre-norm": (PreNorm(), np.arange(24).reshape(4, 6) % 20),
  "bfloat16": (Half(), normal(8, 64)),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen_models_are_healthy(name):
  model, x = LINEN[name]
  variables = drawn(jax.eval_shape(model.init, KEY, x), sigma_w2=2.0)
  testing.assert_healthy(model.apply, variables, x)
  large = jax.tree.map(lambda leaf: 4 * leaf, variables)
  if name != "pre-norm":  # norms take it back
    with pytest.raises(AssertionError, match="The signal is not stable"):
      testing.assert_variance_stable(model.apply, large, x)


def test_nnx_models():
  fn, params = initjax.functional(Perceptron(nnx.Rngs(0)))
  testing.assert_healthy(fn, params, X)
  with pytest.raises(AssertionError, match="kernel"):
    testing.assert_healthy(fn, jax.tree.map(lambda p: 3 * p, params), X)


@pytest.mark.slow  # a peer
def test_equinox_models():
  try:
    import equinox as eqx
  except Exception as error:  # not installed, or made for another jax
    pytest.skip(f"needs Equinox: {error!r}")
  model = eqx.nn.MLP(64, 64, 64, 4, key=KEY)
  fn, params = initjax.functional(model)
  fn = jax.vmap(fn, in_axes=(None, 0))
  testing.assert_finite_signal(fn, params, X)
  with pytest.raises(AssertionError, match="Non-finite input"):
    testing.assert_finite_signal(fn, params, jnp.inf * X)


def residual(params, x):
  for kernel in params:
    x = x + jax.nn.relu(x) @ kernel
  return x


def test_models_that_are_no_chain_fall_back_to_growth():
  """Plain residual blocks double: 2^12 is more than a factor 4 in size."""
  few, many = list(kernels(2.0, 2)), list(kernels(2.0, 12))
  testing.assert_variance_stable(residual, few, X)
  with pytest.raises(AssertionError, match="Exploding signal at "):
    testing.assert_variance_stable(residual, many, X)


def test_a_failure_of_absltest_shows_the_message():
  class Pair(absltest.TestCase):
    def test_healthy(self):
      testing.assert_no_dead_units(two_layers, two_layer_params(), X)

    def test_sick(self):
      testing.assert_no_dead_units(two_layers, two_layer_params(-9.0), X)

  result = absltest.unittest.TestResult()
  for name in ("test_healthy", "test_sick"):
    Pair(name).run(result)
  assert not result.errors
  ((test, text),) = result.failures
  assert "test_sick" in test.id()
  assert "AssertionError: Dead units at out" in text
