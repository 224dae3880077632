"""The gradient's growth under BatchNorm: closed forms and random networks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.meanfield import batch_norm_gradient_growth


def linear(x):
  return x


def test_many_examples_in_closed_form():
  """ReLU: E[φ'²] = 1/2, Var φ = 1/2 - 1/2π; exp: e²/(e² - e)."""
  growth = batch_norm_gradient_growth
  np.testing.assert_allclose(
    growth(jax.nn.relu), math.pi / (math.pi - 1), rtol=1e-12
  )
  np.testing.assert_allclose(growth(jnp.exp), math.e / (math.e - 1), rtol=1e-12)
  np.testing.assert_allclose(growth(linear), 1, rtol=1e-12)


def test_it_does_not_depend_on_scale_or_offset():
  expected = batch_norm_gradient_growth(jnp.tanh)
  shifted = batch_norm_gradient_growth(lambda x: 7 + 1e-3 * jnp.tanh(x))
  np.testing.assert_allclose(shifted, expected, rtol=1e-9)
  expected = batch_norm_gradient_growth(jnp.tanh, 9)
  shifted = batch_norm_gradient_growth(lambda x: 7 + 1e-3 * jnp.tanh(x), 9)
  np.testing.assert_allclose(shifted, expected, rtol=1e-9)


@pytest.mark.parametrize("batch", [4, 5, 8, 33, 512, 10_000])
def test_linear_networks_in_closed_form(batch):
  """(B - 2)/(B - 3): Yang et al. 2019."""
  np.testing.assert_allclose(
    batch_norm_gradient_growth(linear, batch),
    (batch - 2) / (batch - 3),
    rtol=1e-12,
  )


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, jax.nn.gelu])
def test_large_batches_tend_to_many(activation):
  """By O(1/B): ten times the batch, a tenth of the difference."""
  limit = batch_norm_gradient_growth(activation)
  excess = [
    batch_norm_gradient_growth(activation, batch) - limit
    for batch in (1000, 10_000)
  ]
  np.testing.assert_allclose(excess[0] / excess[1], 10, rtol=0.02)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.elu])
def test_one_example_of_the_formula_by_sampling(activation):
  """E over u, drawn: the whole expression, to 5 standard errors.

  Each trace and each kernel is an average over 200000 draws; the error of the
  ratio is that of trace - ratio·kernel over the mean kernel.
  """
  batch, draws = 6, 200_000
  x = np.random.default_rng(0).standard_normal((draws, batch))
  x -= x.mean(axis=1, keepdims=True)
  u = x / np.linalg.norm(x, axis=1, keepdims=True)
  z = jnp.asarray(math.sqrt(batch) * u)
  value = np.asarray(activation(z), np.float64)
  slope = np.asarray(jax.vmap(jax.vmap(jax.grad(activation)))(z), np.float64)
  kernel = value.var(axis=1) * batch / (batch - 1)  # E φ_1² - E φ_1·φ_2

  def centred_outer(v):  # P·diag(v)
    p = np.eye(batch) - 1 / batch - u[:, :, None] * u[:, None, :]
    return p * v[:, None, :]

  product = centred_outer(slope)
  product = product - product.mean(axis=2, keepdims=True)  # · G
  traces = (product**2).sum(axis=(1, 2))  # tr(P·D·G·D·P)
  factor = batch / ((batch - 1) * (batch - 3))
  found = batch_norm_gradient_growth(activation, batch)
  sample = factor * traces - found * kernel
  error = sample.std() / math.sqrt(draws)
  assert abs(sample.mean()) < 5 * error
  assert error / kernel.mean() < 0.01 * found


DEPTH, WIDTH, DRAWS = 14, 256, 24


@functools.partial(jax.jit, static_argnums=(1, 2))
def growths(keys, activation, batch):
  """Factors of the squared gradient [draws, layers] in plain BatchNorm nets."""

  def layer(x, key):
    h = x @ jax.random.normal(key, (WIDTH, WIDTH)) / math.sqrt(WIDTH)
    h = h - h.mean(axis=0, keepdims=True)
    return activation(h / jnp.sqrt((h**2).mean(axis=0, keepdims=True)))

  def net(key):
    x_key, g_key, rest_key = jax.random.split(key, 3)
    keys = jax.random.split(rest_key, DEPTH)
    x = jax.random.normal(x_key, (batch, WIDTH))
    _, inputs = jax.lax.scan(lambda x, key: (layer(x, key), x), x, keys)

    def back(g, saved):
      x, key = saved
      (g,) = jax.vjp(lambda x: layer(x, key), x)[1](g)
      return g, jnp.mean(g**2)

    g = jax.random.normal(g_key, (batch, WIDTH))
    _, sizes = jax.lax.scan(back, g, (inputs, keys), reverse=True)
    return sizes[:-1] / sizes[1:]

  return jax.lax.map(net, keys)


@pytest.mark.parametrize(
  ("activation", "batch"),
  [(linear, 6), (linear, 12), (jax.nn.relu, 8), (jnp.tanh, 16)],
)
def test_random_networks_grow_by_it(activation, batch):
  """Layers 3 to 11, away from the data and from the first gradient.

  4 standard errors over nets and, for the finite width, 4/n.
  """
  keys = jax.random.split(jax.random.key(batch), DRAWS)
  found = np.asarray(growths(keys, activation, batch))[:, 2:11].mean(axis=1)
  expected = batch_norm_gradient_growth(activation, batch)
  error = found.std(ddof=1) / math.sqrt(DRAWS)
  assert abs(found.mean() - expected) < 4 * error + 4 / WIDTH
  assert 4 * error + 4 / WIDTH < 0.05 * expected


def test_relu_at_a_large_batch_grows_by_pi_over_pi_minus_one():
  """Batch 128: at B = 128 the growth is 1.480, 0.9% above the limit."""
  keys = jax.random.split(jax.random.key(0), 8)
  found = np.asarray(growths(keys, jax.nn.relu, 128))[:, 2:11].mean(axis=1)
  error = found.std(ddof=1) / math.sqrt(8)
  limit = math.pi / (math.pi - 1)
  assert abs(found.mean() - limit) < 5 * error + 4 / WIDTH + 0.009 * limit


def test_errors():
  with pytest.raises(ValueError, match="batch must be an integer >= 4"):
    batch_norm_gradient_growth(jax.nn.relu, 3)
  with pytest.raises(ValueError, match="jumps: its gradient"):
    batch_norm_gradient_growth(jnp.sign)
  with pytest.raises(ValueError, match="is constant where BatchNorm"):
    batch_norm_gradient_growth(lambda x: 0 * x + 3.0)
