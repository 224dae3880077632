"""Sizes, likeness and the sharpest direction, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from initjax.measurement import (
  correlation,
  largest_eigenvalue,
  log2_second_moment,
)


def test_second_moments_neither_underflow_nor_overflow():
  x = jnp.array([[2.0**-100, 0.0], [2.0**100, 2.0**100]])
  np.testing.assert_array_equal(log2_second_moment(x, 0), [-201.0, 200.0])
  np.testing.assert_array_equal(log2_second_moment(x), 199.0)


def test_correlation_is_the_mean_cosine_over_pairs():
  h = np.random.default_rng(0).standard_normal((7, 5)) + 0.5
  units = h / np.linalg.norm(h, axis=1, keepdims=True)
  expected = (units @ units.T)[~np.eye(7, dtype=bool)].mean()
  for size in (1.0, 1e-30):  # whose squares are 0 in float32
    found = correlation(jnp.asarray(size * h, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_samples_without_a_direction_are_orthogonal_to_all():
  h = jnp.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
  np.testing.assert_allclose(correlation(h), 1 / 3, rtol=1e-6)


def test_lanczos_finds_the_largest_eigenvalue_not_the_largest_in_size():
  """As many steps as dimensions: exact but for rounding, 40·2^-24·|λ|."""
  values = jnp.concatenate([jnp.linspace(-9.0, 3.0, 19), jnp.array([5.0])])
  rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (20, 20)))[0]
  matrix = rotation * values @ rotation.T
  params = {"a": jnp.ones(12), "b": jnp.ones((2, 4))}

  def loss(params):
    x = jnp.concatenate([params["a"], params["b"].ravel()])
    return x @ matrix @ x / 2

  found = largest_eigenvalue(loss, params, jax.random.key(1), steps=20)
  np.testing.assert_allclose(found, 5.0, rtol=40 * 2**-24 * 9)


def test_a_hessian_that_is_not_finite_has_no_eigenvalue():
  loss = lambda x: jnp.sqrt(x).sum()
  assert jnp.isnan(largest_eigenvalue(loss, jnp.zeros(2), jax.random.key(0)))
