"""Whether chance explains what is measured: the algebra, and its calibration.

60 draws of 30-layer networks at width 32, each kind compiled once; what counts
is depth/width. A mean over 60 numbers of unit variance has the error 1/√60,
their standard deviation 1/√120; four of these are allowed, and of the standard
deviation what the law of first order leaves out: depth/(2n) = 0.47 of it at
most (see `trajectory`), of which ReLU networks show a tenth.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.diagnosis._law import _least_squares
from initjax.diagnosis._observe import observe


def _input(width):
  return np.random.default_rng(1).normal(size=(16, width)).astype(np.float32)


WIDTH, DEPTH, DRAWS = 32, 30, 60
X = _input(WIDTH)
LAW = 0.1


# The algebra


def fitted(measured, covariance, *, drift=0.0, averaged=False, kept=1.0):
  rows = np.arange(len(measured), dtype=float)
  return _least_squares(
    np.asarray(measured, float),
    np.zeros(len(rows)),
    (drift * rows, 0.0 * rows if averaged else drift * rows),
    covariance,
    start=kept**rows,
    growth=rows,
  )


def random_walk(depth, step):
  rows = np.arange(depth)
  return step**2 * (1 + np.minimum(*np.meshgrid(rows, rows)))


@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_a_slope_without_noise_is_found(kept):
  rows = np.arange(12.0)
  found = fitted(3 * kept**rows + 0.25 * rows, random_walk(12, 0.3), kept=kept)
  np.testing.assert_allclose(found.per_layer, 0.25, rtol=1e-6)


def test_a_random_walk_compares_the_ends():
  """Steps of 0.3, independent: slope = Σ steps/11, error 0.3/√11."""
  measured = np.random.default_rng(0).normal(size=12)
  found = fitted(measured, random_walk(12, 0.3))
  ends = (measured[-1] - measured[0]) / 11
  np.testing.assert_allclose(found.per_layer, ends, rtol=1e-6)
  np.testing.assert_allclose(found.error, 0.3 / math.sqrt(11), rtol=1e-6)
  np.testing.assert_allclose(found.std[1:], 0.3 * np.sqrt(np.arange(1, 12)))
  np.testing.assert_allclose(found.expected, measured[0])


def test_white_noise_is_ordinary_least_squares():
  measured = np.random.default_rng(0).normal(size=12)
  found = fitted(measured, 0.09 * np.eye(12))
  slope = np.polyfit(np.arange(12), measured, 1)[0]
  np.testing.assert_allclose(found.per_layer, slope, rtol=1e-6)
  np.testing.assert_allclose(found.error, 0.3 / math.sqrt(12 * 143 / 12))


def test_correlated_noise_is_weighted_by_its_inverse_covariance():
  """Aitken 1935: against a whitened fit by ordinary least squares."""
  rng = np.random.default_rng(0)
  root = np.tril(rng.normal(size=(8, 8))) + 3 * np.eye(8)
  measured = rng.normal(size=8)
  design = np.stack([np.ones(8), np.arange(8.0)], axis=1)
  white = np.linalg.solve(root, np.column_stack([design, measured]))
  expected = np.linalg.lstsq(white[:, :2], white[:, 2], rcond=None)[0]
  found = fitted(measured, root @ root.T)
  np.testing.assert_allclose(found.per_layer, expected[1], rtol=1e-5)


def test_what_the_mean_may_drift_is_no_finding():
  """An average drifts less than one sample: anything from 0 to -0.1."""
  walk = random_walk(12, 0.3)
  for slope, excess in ((-0.2, -0.1), (-0.1, 0), (-0.05, 0), (0.2, 0.2)):
    measured = slope * np.arange(12.0)
    found = fitted(measured, walk, drift=-0.1, averaged=True)
    np.testing.assert_allclose(found.per_layer, excess, atol=1e-6)
    exact = fitted(measured, walk, drift=-0.1)
    np.testing.assert_allclose(exact.per_layer, slope + 0.1, atol=1e-6)


# Calibration


def model(activation):
  def fn(kernels, x):
    layer = lambda h, kernel: (activation(h) @ kernel, None)
    return jax.lax.scan(layer, x @ kernels[0], kernels[1:])[0]

  return fn


def linear(x):
  return x


MODELS = {phi: model(phi) for phi in (jax.nn.relu, jnp.tanh, linear)}


def draw(key, sigma_w2, depth=DEPTH, width=WIDTH):
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  size = np.sqrt(sigma_w2 / width)
  return (size * rng.normal(size=(depth, width, width))).astype(np.float32)


def drift(observed, direction):
  """Of a model that is one chain."""
  (chain,) = observed.chains
  return observed.drift(chain, direction, None)


def sigmas(activation, sigma_w2, x, *, draws=DRAWS, depth=DEPTH):
  """[2, draws]: forward and backward."""
  found = []
  for key in jax.random.split(jax.random.key(7), draws):
    params = draw(key, sigma_w2, depth, x.shape[1])
    observed = observe(MODELS[activation], params, (x,), key=key)
    found.append([drift(observed, d).sigmas for d in ("forward", "backward")])
  return np.array(found).T


@pytest.mark.slow
def test_one_sample_follows_the_law():
  """Forward to the letter; back within what is unsure of its mean."""
  forward, backward = sigmas(jax.nn.relu, 2.0, X[:1])
  assert abs(forward.mean()) < 4 / math.sqrt(DRAWS)
  spread = 4 / math.sqrt(2 * DRAWS) + LAW
  assert abs(forward.std(ddof=1) - 1) < spread
  assert abs(backward.mean()) < 4 / math.sqrt(DRAWS)
  assert backward.std(ddof=1) < 1 + spread
  alarms = (abs(forward) > 2.97).sum() + (abs(backward) > 2.97).sum()
  assert alarms <= 3  # 0.36 are expected; 4 or more in one of 1800 runs


HARD = {
  "a batch": (jax.nn.relu, 2.0, X),
  "equal samples": (jax.nn.relu, 2.0, np.tile(X[:1], (16, 1))),
  "one large sample": (jax.nn.relu, 2.0, np.concatenate([100 * X[:1], X[1:]])),
  "tanh at its gain": (jnp.tanh, 2.536, X),
  "orthogonal samples": (
    linear,
    1.0,
    np.eye(16, WIDTH, dtype=np.float32) * WIDTH**0.5,
  ),
}


@pytest.mark.parametrize(
  "name",
  ["a batch", *(pytest.param(n, marks=pytest.mark.slow) for n in [*HARD][1:])],
)
def test_no_batch_scatters_more_than_the_law_allows(name):
  """20 draws of 10 layers; four standard errors are 0.63 of a deviation.

  Averages over samples that differ in size, or that become alike by chance,
  scatter by more than a batch of independent ones would.
  """
  activation, sigma_w2, x = HARD[name]
  draws = 20
  forward, _ = sigmas(activation, sigma_w2, x, draws=draws, depth=10)
  spread = 4 / math.sqrt(2 * draws) + LAW
  assert np.sqrt(np.mean(forward**2)) < 1 + spread
  assert abs(forward).max() < 4.5


def test_ten_percent_is_caught():
  """±10 % of std over 14 layers: 3.9 bits, of √(5·15/256)/log 2 = 0.8: 5 σ."""
  for sign in (-1, 1):
    sigma_w2 = 2.0 * (1 + 0.1 * sign) ** 2
    drifts = sigmas(jax.nn.relu, sigma_w2, _input(256), draws=4, depth=15)
    forward, backward = sign * drifts
    assert (forward > 2.97).all()
    assert (backward > 2.97).mean() >= 0.5


def test_a_signal_that_settles_slowly_is_healthy():
  """tanh at σ_w² = 1: q falls as 1/(2l), by 2^4 over 50 layers.

  That is what a contracting map does. Weights that would keep the median of
  its sizes are no null for it: 3.3 standard deviations away.
  """
  kernels = draw(jax.random.key(0), 1.0, 50, 256)
  observed = observe(MODELS[jnp.tanh], kernels, (_input(256),))
  assert abs(drift(observed, "forward").sigmas) < 2.97


def test_covariance_shrinks_with_draws():
  params = np.stack([draw(jax.random.key(i), 2.0, 8) for i in range(4)])
  one = drift(observe(MODELS[jax.nn.relu], params[0], (X,)), "forward")
  four = drift(observe(MODELS[jax.nn.relu], params, (X,), draws=4), "forward")
  np.testing.assert_allclose(one.error / four.error, 2.0, rtol=0.05)


# What is no chain of independent layers


def recurrent(kernel, x):
  step = lambda h, _: (jnp.tanh(h @ kernel), None)
  return jax.lax.scan(step, x, length=10)[0]


def tied(kernel, x):
  for _ in range(4):
    x = jnp.tanh(x @ kernel)
  return x


def unrolled(kernels, x):
  for kernel in kernels:
    x = jnp.tanh(x @ kernel)
  return x


def test_shared_kernels_have_no_law_but_parts_of_one_parameter_are_layers():
  """A recurrent network is no random walk."""
  kernels = draw(jax.random.key(0), 1.0, 4)
  assert not observe(recurrent, kernels[0], (X,)).chains
  assert not observe(tied, kernels[0], (X,)).chains
  assert observe(unrolled, kernels, (X,)).chains
