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
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
  for part in ("drift", "covariance"):
    for way in ("forward", "backward"):
      close(getattr(one, f"{way}_{part}"), getattr(same, f"{way}_{part}"))
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


def test_the_average_of_wildly_different_numbers_is_the_largest():
  """E max of 4 normals is 1.0294 of their std; the log of 4 goes."""
  found = log_average(np.array([1e4]), 4)[:, 0]
  np.testing.assert_allclose(found, [102.94 - math.log(4), 4917], rtol=1e-2)


def test_fluctuations_of_batch_norm_are_not_known():
  found = trajectory(stack(3, 64, Layer(jax.nn.relu, normalization="batch")))
  assert np.isfinite(found.forward).all()
  assert np.isnan(found.forward_std).all()
  assert np.isnan(found.backward_drift).all()


# Monte Carlo, in NumPy

DEPTH, WIDTH, BATCH, DRAWS = 12, 48, 8, 600
IN_NUMPY = {  # φ, and φ' of z
  jax.nn.relu: (lambda z: np.maximum(z, 0), lambda z: z > 0),
  LEAKY: (lambda z: np.maximum(z, z / 5), lambda z: np.where(z > 0, 1, 0.2)),
  jnp.tanh: (np.tanh, lambda z: np.cosh(z) ** -2.0),
  jax.nn.elu: (
    lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    lambda z: np.exp(np.minimum(z, 0)),
  ),
}


def size(x):
  return np.sqrt((x**2).mean(axis=-1, keepdims=True))


def centred(x):
  return x - x.mean(axis=-1, keepdims=True)


@functools.cache
def random_numbers():
  """Inputs, cotangents, kernels and biases; the same for all nets."""
  rng = np.random.default_rng(1)
  x, g = rng.standard_normal((2, DRAWS, BATCH, WIDTH))
  kernels = rng.standard_normal((DEPTH, DRAWS, WIDTH, WIDTH)) / math.sqrt(WIDTH)
  biases = rng.standard_normal((DEPTH, DRAWS, 1, WIDTH))
  return x / size(x), g / size(g), kernels, biases


@functools.cache
def second_moments(layer):
  """[draws, depth, batch] of signals and of gradients (all but the last)."""
  x, g, kernels, biases = random_numbers()
  value, slope = IN_NUMPY[layer.activation]
  normalized = layer.normalization == "layer"
  sigma_w, sigma_b = math.sqrt(layer.sigma_w2), math.sqrt(layer.sigma_b2)
  streams, seen = [x @ kernels[0]], []
  for kernel, bias in zip(kernels[1:], biases[1:], strict=True):
    h = streams[-1]
    seen.append(centred(h) / size(centred(h)) if normalized else h)
    z = sigma_w * value(seen[-1]) @ kernel + sigma_b * bias
    streams.append(layer.skip * h + layer.branch * z)
  gradients = [g]
  for h, z, kernel in zip(
    streams[-2::-1], seen[::-1], kernels[:0:-1], strict=True
  ):
    g = gradients[0]
    back = layer.branch * sigma_w * slope(z) * (g @ kernel.swapaxes(1, 2))
    if normalized:
      along = z * (back * z).mean(axis=-1, keepdims=True)
      back = (centred(back) - along) / size(centred(h))
    gradients.insert(0, layer.skip * g + back)
  return [
    np.mean(np.square(signals), axis=-1).swapaxes(0, 1)
    for signals in (streams, gradients)
  ]


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


def logs_of(layer, batch):
  """ln of second moments [draws, depth], forward and backward, batch means."""
  # [draws, depth, batch] -> [draws, depth]
  return [np.log(x[..., :batch].mean(axis=-1)) for x in second_moments(layer)]


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
