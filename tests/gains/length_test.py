"""The length map's slope against closed forms; `length` documents no error of
its own: that of `moments`, 1e-12, and of a difference where φ² jumps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from initjax.gains import length, moments

V = np.exp2(np.arange(-6.0, 7.0))
AT = 0.4


def jump(x):
  return jnp.where(x > AT, 1.0, 0.0)


def density(z):
  return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


CLOSED = {
  "relu": (jax.nn.relu, V / 2, 1 / 2 + 0 * V),
  "cube": (lambda x: x**3, 15 * V**3, 45 * V**2),
  "sin": (jnp.sin, -np.expm1(-2 * V) / 2, np.exp(-2 * V)),
  "jump": (
    jump,
    ndtr(-AT / np.sqrt(V)),
    density(AT / np.sqrt(V)) * AT / (2 * V**1.5),
  ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_length_closed_forms(name):
  activation, second, slope = CLOSED[name]
  found = length(activation, V)
  np.testing.assert_allclose(found.second_moment, second, rtol=2e-12)
  np.testing.assert_allclose(found.slope, slope, rtol=1e-10, atol=1e-12)


def test_a_number_gives_numbers_and_keeps_its_shape():
  found = length(jnp.tanh)
  assert type(found.slope) is float
  assert found.second_moment == pytest.approx(
    moments(jnp.tanh).second_moment, rel=2e-12
  )
  assert length(jnp.tanh, V[:6].reshape(2, 3)).slope.shape == (2, 3)


def test_homogeneous_functions_are_marginal_to_the_last_digit():
  """d log E[φ²]/d log v = 1: none of them is called unstable."""
  for slope in (0.0, 0.01, 1.0):
    leaky = lambda x, a=slope: jnp.where(x > 0, x, a * x)
    found = length(leaky)
    assert abs(found.slope / found.second_moment - 1) <= 4e-16


def test_where_the_second_moment_diverges_both_are_infinite():
  """E[exp(x²/5)²] = (1 - 4v/5)^(-½), beside a variance where it is finite."""
  found = length(lambda x: jnp.exp(x**2 / 5), np.array([1.0, 2.0]))
  np.testing.assert_allclose(found.second_moment, [math.sqrt(5), np.inf])
  np.testing.assert_allclose(found.slope, [2 * math.sqrt(5), np.inf])


def test_errors():
  with pytest.raises(ValueError, match="variance must be a finite number > 0"):
    length(jnp.tanh, 0.0)
  with pytest.raises(ValueError, match=r"each entry of variance must be a"):
    length(jnp.tanh, [1.0, -1.0])
  with pytest.raises(ValueError, match="has a pole"):
    length(lambda x: 1 / x)
