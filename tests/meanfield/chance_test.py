"""Deep stacks of finite width: `trajectory` against exact laws and draws.

The law is of first order in depth/n. What it leaves out is, for ReLU, 3.7/n of
a layer's variance (1 + 3.7/n = 1.8% of a std at n = 128) and (depth/n)² of
the whole; the tests allow depth/(2n) of a std beside 4 standard errors.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.meanfield import Layer, fluctuation, relu_log_norm, trajectory
from initjax.meanfield._averages import log_average

BIT = math.log(2)
LEAKY = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


def stack(depth, width, layer):
  return [Layer(width=width)] + (depth - 1) * [layer._replace(width=width)]


@pytest.mark.parametrize(
  ("layer", "kappa"), [(Layer(), 2), (Layer(jax.nn.relu, 2.0), 5)]
)
def test_homogeneous_chains_in_closed_form(layer, kappa):
  """Row l ≤ m: cov = (κ(l - 1) + 2)/n, and means keep E q = 1; backward too."""
  depth, n = 50, 64
  found = trajectory(stack(depth, n, layer))
  row = np.arange(depth)
  cov = (kappa * np.minimum(row, row[:, None]) + 2) / n
  np.testing.assert_allclose(found.forward_covariance * BIT**2, cov, rtol=1e-9)
  drift = -np.diag(cov) / 2
  np.testing.assert_allclose(found.forward_drift * BIT, drift, rtol=1e-9)
  left = kappa * (depth - 1 - row) / n
  np.testing.assert_allclose(
    np.diag(found.backward_covariance) * BIT**2, left, rtol=1e-9, atol=1e-12
  )
  np.testing.assert_allclose(
    found.backward_drift * BIT, -left / 2, rtol=1e-8, atol=1e-9
  )


def test_it_is_the_exact_law_of_relu_but_for_higher_orders():
  """One layer's variance is 5/n + 18.5/n² (third cumulant of φ²) + ...."""
  depth, n = 101, 128
  found = trajectory(stack(depth, n, Layer(jax.nn.relu, 2.0)))
  law = relu_log_norm(depth - 1, n)
  np.testing.assert_allclose(
    found.backward_std[0] * BIT, law.std, rtol=1.1 * 18.5 / (2 * 5 * n)
  )
  np.testing.assert_allclose(
    found.backward_drift[0] * BIT, law.mean, rtol=2 / n
  )


def test_contracting_maps_forget_chance():
  """Tanh at its fixed point: an AR(1) process of coefficient s, noise w²κ/n.

  Row to row, the units that make noise are the ones measured: hence the 2s/n.
  """
  q, sigma_w2, sigma_b2, n = 0.5700478816407635, 1.760954639606738, 0.05, 1000
  slope = 0.5181864840680501  # Q', of the fixed point, by mpmath
  layer = Layer(jnp.tanh, sigma_w2, sigma_b2)
  found = trajectory(stack(60, n, layer), second_moment=q)
  w = 1 - sigma_b2 / q
  steady = w**2 * fluctuation(jnp.tanh, q) / n / (1 - slope**2)
  variance = steady + 2 / n
  got = found.forward_covariance[40:, 40:] * BIT**2
  np.testing.assert_allclose(np.diag(got), variance, rtol=1e-6)
  lagged = slope * steady + 2 * slope / n
  np.testing.assert_allclose(np.diag(got, 1), lagged, rtol=1e-6)
  np.testing.assert_allclose(np.diag(got, 2), slope * lagged, rtol=1e-6)


def test_a_batch_averages_what_its_inputs_do_not_share():
  """B equal inputs with equal gradients are one; B different ones are B nets.

  Linear, c = γ = 0: layers share no noise but that of order 1/n², forward.
  """
  layers = stack(20, 1000, Layer(jax.nn.relu, 2.0))
  one = trajectory(layers)
  same = trajectory(layers, batch=8, correlation=1.0, cotangent_correlation=1.0)
  for part in (
    "forward_drift",
    "backward_drift",
    "forward_covariance",
    "backward_covariance",
  ):
    np.testing.assert_allclose(
      getattr(one, part), getattr(same, part), rtol=1e-6, atol=1e-9
    )
  linear = stack(20, 1000, Layer())
  one, many = trajectory(linear), trajectory(linear, batch=8)
  own = one.forward_covariance * BIT**2
  scale = log_average(np.diag(own), 8)[1] / np.diag(own)
  expected = own * np.sqrt(np.outer(scale, scale))
  np.testing.assert_allclose(
    many.forward_covariance * BIT**2, expected, rtol=1e-9
  )


def test_the_average_of_log_normals():
  """B = 1: 0 and v. Small v: v(1 - 1/B)/2 and v/B. B = 2: Gauss-Hermite."""
  np.testing.assert_allclose(
    log_average(np.array([0.5, 9.0]), 1), [[0, 0], [0.5, 9.0]], atol=1e-9
  )
  mean, variance = log_average(np.array([1e-3]), 5)[:, 0]
  np.testing.assert_allclose(mean, 1e-3 * (1 - 1 / 5) / 2, rtol=1e-3)
  np.testing.assert_allclose(variance, 1e-3 / 5, rtol=2e-3)
  x, weights = np.polynomial.hermite_e.hermegauss(120)
  weights = np.outer(weights, weights) / (2 * math.pi)
  logs = np.logaddexp(1.5 * x, 1.5 * x[:, None]) - math.log(2)
  expected = np.sum(weights * logs)
  found = log_average(np.array([2.25]), 2)[:, 0]
  np.testing.assert_allclose(found[0], expected, rtol=1e-6)
  spread = np.sum(weights * (logs - expected) ** 2)
  np.testing.assert_allclose(found[1], spread, rtol=1e-6)


def test_fluctuations_of_batch_norm_are_not_known():
  found = trajectory(stack(3, 64, Layer(jax.nn.relu, normalization="batch")))
  assert np.isfinite(found.forward).all()
  assert np.isnan(found.forward_std).all()
  assert np.isnan(found.backward_drift).all()


# Monte Carlo

DEPTH, WIDTH, BATCH, DRAWS = 12, 48, 8, 600
ACTIVATIONS = (jax.nn.relu, LEAKY, jnp.tanh, jax.nn.elu)


@jax.jit
def draw(key, activation, normalized, sigma_w2, sigma_b2, skip, branch):
  """Second moments [draws, depth, batch], forward and backward.

  One function for all stacks, so that it is compiled once.
  """

  def unit(x):
    return x / jnp.sqrt((x**2).mean(axis=-1, keepdims=True))

  def apply(h, key):
    kernel_key, bias_key = jax.random.split(key)
    kernel = jax.random.normal(kernel_key, (WIDTH, WIDTH))
    bias = jax.random.normal(bias_key, (WIDTH,))
    seen = jnp.where(normalized, unit(h - h.mean(axis=-1, keepdims=True)), h)
    z = jax.lax.switch(activation, ACTIVATIONS, seen)
    z = (
      z @ kernel * jnp.sqrt(sigma_w2 / WIDTH) + jnp.sqrt(sigma_b2) * bias[None]
    )
    return skip * h + branch * z

  def net(key):
    x_key, g_key, first_key, rest_key = jax.random.split(key, 4)
    x = unit(jax.random.normal(x_key, (BATCH, WIDTH)))
    h = x @ jax.random.normal(first_key, (WIDTH, WIDTH)) / math.sqrt(WIDTH)
    layer_keys = jax.random.split(rest_key, DEPTH - 1)
    last, streams = jax.lax.scan(
      lambda h, key: (apply(h, key), h), h, layer_keys
    )

    def back(g, stream):
      h, key = stream
      (g,) = jax.vjp(lambda h: apply(h, key), h)[1](g)
      return g, jnp.mean(g**2, axis=1)

    g = unit(jax.random.normal(g_key, (BATCH, WIDTH)))
    _, gradients = jax.lax.scan(back, g, (streams, layer_keys), reverse=True)
    streams = jnp.concatenate([streams, last[None]])
    return jnp.mean(streams**2, axis=2), gradients

  return jax.lax.map(net, jax.random.split(key, DRAWS))


NETS = {
  "relu": (Layer(jax.nn.relu, 2.0), 1),
  "relu, batch": (Layer(jax.nn.relu, 2.0), 8),
  "leaky, batch": (Layer(LEAKY, 2 / 1.04), 3),
  "tanh": (Layer(jnp.tanh, 1.760954639606738, 0.05), 1),
  "tanh, batch": (Layer(jnp.tanh, 1.760954639606738, 0.05), 8),
  "elu": (Layer(jax.nn.elu, 1.55), 1),
  "residual": (Layer(jax.nn.relu, 2.0, skip=1.0, branch=0.3), 1),
  "pre-norm": (Layer(jax.nn.relu, 2.0, skip=1.0, normalization="layer"), 1),
  "layer norm": (Layer(jnp.tanh, 2.0, normalization="layer"), 1),
}


@functools.cache
def logs_of(layer, batch):
  """ln of second moments [draws, depth], forward and backward, batch means."""
  signals = draw(
    jax.random.key(1),
    ACTIVATIONS.index(layer.activation),
    layer.normalization == "layer",
    layer.sigma_w2,
    layer.sigma_b2,
    layer.skip,
    layer.branch,
  )
  return [np.log(np.asarray(x)[..., :batch].mean(axis=-1)) for x in signals]


@pytest.mark.parametrize("name", NETS)
def test_random_networks_obey_the_law(name):
  layer, batch = NETS[name]
  forward, backward = logs_of(layer, batch)
  law = trajectory(stack(DEPTH, WIDTH, layer), batch=batch)
  beyond = DEPTH / (2 * WIDTH)  # relative, of a std
  for found, row, mean, std in (
    (forward, -1, law.forward + law.forward_drift, law.forward_std),
    (forward, 6, law.forward + law.forward_drift, law.forward_std),
    (backward, 0, law.backward + law.backward_drift, law.backward_std),
    (backward, 6, law.backward + law.backward_drift, law.backward_std),
  ):
    logs, std = found[:, row], std[row] * BIT
    error = std / math.sqrt(DRAWS)
    assert abs(logs.mean() - mean[row] * BIT) < 4 * error + beyond * std**2
    fourth = ((logs - logs.mean()) ** 4).mean() / logs.std() ** 4
    std_error = error * math.sqrt((fourth - 1) / 4)
    assert abs(logs.std() - std) < 4 * std_error + beyond * std


def test_lags_of_random_tanh_nets_obey_the_law():
  """The whole covariance, by the variance of differences of neighbours."""
  layer, batch = NETS["tanh"]
  forward, _ = logs_of(layer, batch)
  law = trajectory(stack(DEPTH, WIDTH, layer)).forward_covariance * BIT**2
  for lag in (1, 2):
    i, j = 8, 8 + lag
    expected = law[i, i] + law[j, j] - 2 * law[i, j]
    ratio = (forward[:, j] - forward[:, i]).var() / expected
    assert abs(ratio - 1) < 4 * math.sqrt(2.5 / DRAWS) + DEPTH / (2 * WIDTH)


def test_the_average_of_wildly_different_numbers_is_the_largest():
  """E max of 4 normals is 1.0294 of their std; the log of 4 goes."""
  mean, variance = log_average(np.array([1e4]), 4)
  np.testing.assert_allclose(mean, 102.94 - np.log(4), rtol=1e-2)
  np.testing.assert_allclose(variance, 0.4917e4, rtol=1e-2)
