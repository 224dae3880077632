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


@pytest.mark.parametrize("batch", [None, 9])
def test_it_does_not_depend_on_scale_or_offset(batch):
  expected = batch_norm_gradient_growth(jnp.tanh, batch)
  shifted = batch_norm_gradient_growth(lambda x: 7 + 1e-3 * jnp.tanh(x), batch)
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


# Sampling, in NumPy


IN_NUMPY = {  # φ, and φ' of z
  linear: (linear, np.ones_like),
  jax.nn.relu: (lambda z: np.maximum(z, 0), lambda z: z > 0),
  jnp.tanh: (np.tanh, lambda z: np.cosh(z) ** -2),
  jax.nn.elu: (
    lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    lambda z: np.exp(np.minimum(z, 0)),
  ),
}


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
  value, d = (f(math.sqrt(batch) * u) for f in IN_NUMPY[activation])
  kernel = value.var(axis=1) * batch / (batch - 1)  # E φ_1² - E φ_1·φ_2
  # tr(P·D·G·D·P) for P = I - 1·1ᵀ/B - u·uᵀ, G = I - 1·1ᵀ/B: as P² = P, it is
  # Σ P_jj·d_j² - dᵀ·P·d/B.
  form = (
    (d**2).sum(axis=1) - d.sum(axis=1) ** 2 / batch - (u * d).sum(axis=1) ** 2
  )
  traces = ((1 - 1 / batch - u**2) * d**2).sum(axis=1) - form / batch
  factor = batch / ((batch - 1) * (batch - 3))
  found = batch_norm_gradient_growth(activation, batch)
  sample = factor * traces - found * kernel
  error = sample.std() / math.sqrt(draws)
  assert abs(sample.mean()) < 5 * error
  assert error / kernel.mean() < 0.01 * found


DEPTH, WIDTH, DRAWS = 14, 256, 24


@functools.cache
def random_kernels():
  rng = np.random.default_rng(0)
  kernels = rng.standard_normal((DEPTH, DRAWS, WIDTH, WIDTH), np.float32)
  return kernels / np.float32(math.sqrt(WIDTH))


def growths(activation, batch, draws):
  """Factors of the squared gradient [draws] in plain BatchNorm nets.

  Of layers 3 to 11, away from the data and from the first gradient.
  """
  value, slope = IN_NUMPY[activation]
  rng, mean = (
    np.random.default_rng(batch),
    functools.partial(np.mean, axis=1, keepdims=True),
  )
  x, g = rng.standard_normal((2, draws, batch, WIDTH), np.float32)
  kernels, saved = random_kernels()[:, :draws], []
  for kernel in kernels:
    h = x @ kernel
    h = h - mean(h)
    std = np.sqrt(mean(h**2))
    saved.append((h / std, std))
    x = value(h / std)
  sizes = []
  for kernel, (z, std) in zip(kernels[::-1], saved[::-1], strict=True):
    g = slope(z) * g
    g = (g - mean(g) - z * mean(g * z)) / std @ kernel.swapaxes(1, 2)
    sizes.insert(0, np.mean(g**2, axis=(1, 2)))
  return np.mean(np.divide(sizes[2:11], sizes[3:12]), axis=0)


@pytest.mark.parametrize(
  ("activation", "batch"), [(linear, 6), (jax.nn.relu, 8), (jnp.tanh, 16)]
)
def test_random_networks_grow_by_it(activation, batch):
  """4 standard errors over nets and, for the finite width, 4/n."""
  found = growths(activation, batch, DRAWS)
  expected = batch_norm_gradient_growth(activation, batch)
  error = found.std(ddof=1) / math.sqrt(DRAWS)
  assert abs(found.mean() - expected) < 4 * error + 4 / WIDTH
  assert 4 * error + 4 / WIDTH < 0.05 * expected


def test_relu_at_a_large_batch_grows_by_pi_over_pi_minus_one():
  """Batch 128: at B = 128 the growth is 1.480, 0.9% above the limit."""
  found = growths(jax.nn.relu, 128, 8)
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
