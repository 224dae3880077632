"""Length and correlation maps against closed forms and their laws."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.meanfield import correlation_map, fixed_point, length_map, response

# The documented accuracy of a map.
close = functools.partial(np.testing.assert_allclose, rtol=1e-12)

REFERENCE = json.loads(
  (pathlib.Path(__file__).parent / "reference_meanfield.json").read_text()
)


def relu_correlation(c):
  """Cho & Saul 2009, Eq. 6: [√(1-c²) + c(π - arccos c)]/π."""
  sine = np.sqrt((1 - c) * (1 + c))
  return (sine + c * (math.pi - np.arccos(c))) / math.pi


@pytest.mark.parametrize(
  ("activation", "second_moment"),
  [
    (lambda x: x, lambda q: q),
    (jax.nn.relu, lambda q: q / 2),
    (jax.nn.leaky_relu, lambda q: q * (1 + 1e-4) / 2),
    (jax.lax.erf, lambda q: 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q))),
    (jnp.sin, lambda q: -np.expm1(-2 * q) / 2),
    (jnp.sign, lambda q: np.ones_like(q)),
  ],
)
def test_length_map_closed_forms(activation, second_moment):
  q = np.array([1e-3, 0.5, 3.0, 100.0])
  close(length_map(activation, q, 1.7, 0.2), 1.7 * second_moment(q) + 0.2)
  assert type(length_map(activation, 2.0, 1.7, 0.2)) is float


def test_relu_correlation_map_reference():
  c = np.array([float(c) for c in REFERENCE["relu_cmap"]])
  want = [float(f) for f in REFERENCE["relu_cmap"].values()]
  close(correlation_map(jax.nn.relu, c, 2.0, 0.0), want, atol=1e-14)


def test_relu_correlations_layer_by_layer():
  """Iterated, errors do not grow: f' <= 1."""
  starts = list(REFERENCE["relu_iter"])
  c = np.array([float(start) for start in starts])
  for layer in range(1, 11):
    c = correlation_map(jax.nn.relu, c, 2.0, 0.0)
    if str(layer) in REFERENCE["relu_iter"]["0"]:
      close(c, [float(REFERENCE["relu_iter"][s][str(layer)]) for s in starts])


def test_relu_correlations_in_deep_layers():
  """1 - f = y - (2√2/3π)·y^(3/2) + O(y²) with y = 1 - c (Hayou et al. 2019).

  So 1/√y grows by √2/3π a layer, up to O(√y), and y -> 9π²/(2·layer²).
  """
  for layer in ("1000", "10000"):
    y = 1 - float(REFERENCE["relu_iter"]["0"][layer])
    next_y = 1 - correlation_map(jax.nn.relu, 1 - y, 2.0, 0.0)
    growth = 1 / math.sqrt(next_y) - 1 / math.sqrt(y)
    # c has 16 digits, so y^(-1/2) is off by ε/y^(3/2), 4e-7 at layer 10000.
    assert abs(growth - math.sqrt(2) / (3 * math.pi)) < math.sqrt(y)


def test_erf_correlation_map_away_from_the_fixed_point():
  """Williams 1997: E erf(u)erf(v) = (2/π) arcsin(2qc/(1 + 2q))."""
  q, c = 0.7, np.array([-1.0, -0.3, 0.0, 0.6, 0.999, 1.0])
  kernel = lambda c: 2 / math.pi * np.arcsin(2 * q * c / (1 + 2 * q))
  want = (1.3 * kernel(c) + 0.1) / (1.3 * kernel(1.0) + 0.1)
  # Rounding of (σ_w² E + σ_b²): an f(c) near 0 is a difference of two terms.
  close(correlation_map(jax.lax.erf, c, 1.3, 0.1, q=q), want, atol=1e-14)


def test_the_default_length_is_the_fixed_point():
  q = fixed_point(jnp.tanh, 1.5, 0.05).q
  got = correlation_map(jnp.tanh, 0.3, 1.5, 0.05)
  assert got == correlation_map(jnp.tanh, 0.3, 1.5, 0.05, q=q)


@pytest.mark.parametrize(
  ("activation", "q"),
  [(jnp.tanh, 0.3), (jnp.sin, 1.1), (jax.nn.gelu, 7.0), (jax.nn.selu, 0.3)],
)
def test_rounding_never_leads_out_of_the_domain(activation, q):
  """f(1) = 1 to the last bit, and no |f| is above 1: maps can be iterated."""
  c = np.array([-1.0, -1 + 1e-15, 1 - 1e-9, 1 - 1e-15, 1.0])
  f = correlation_map(activation, c, 1.3, 0.0, q=q)
  assert f[-1] == 1
  assert (abs(f) <= 1).all()


def test_where_all_signal_is_lost_the_limit_is_taken():
  """q -> 0 leaves the slopes at 0: tanh is linear there, relu is relu."""
  close(correlation_map(jnp.tanh, 0.5, 0.5, 0.0), 0.5)
  close(correlation_map(jax.nn.relu, 0.5, 1.5, 0.0), relu_correlation(0.5))


@pytest.mark.parametrize(
  ("activation", "sigma_b2", "q"),
  [
    (jnp.tanh, 0.3, 4.0),
    (jax.nn.relu, 0.0, 0.2),
    (jax.nn.gelu, 0.3, 1.0),
    (jnp.cos, 0.0, 1.0),
    (lambda x: jnp.where(x > 0.3, x - 0.3, 0.1 * x**2), 0.0, 4.0),
  ],
)
def test_the_map_is_absolutely_monotone(activation, sigma_b2, q):
  """Its power series has no negative coefficient (Daniely et al. 2016, §4):

  on [0, 1] all divided differences are >= 0, f(1) = 1, and |f(-c)| <= f(c).
  """
  c = np.linspace(-1, 1, 11)
  both = correlation_map(activation, c, 1.5, sigma_b2, q=q)
  f, mirrored = both[5:], both[5::-1]
  assert abs(f[-1] - 1) <= 1e-14
  for order in range(1, 4):
    # Rounding of a difference of order n: 2^n ulp of 1.
    assert (np.diff(f, order) >= -(2**order) * 1e-14).all()
  assert (abs(mirrored) <= f + 1e-14).all()


def test_errors():
  with pytest.raises(ValueError, match="sigma_w2 must be a finite number > 0"):
    length_map(jnp.tanh, 1.0, 0.0, 0.1)
  with pytest.raises(ValueError, match="sigma_b2 must be a finite number >= 0"):
    correlation_map(jnp.tanh, 0.5, 1.0, -0.1)
  with pytest.raises(ValueError, match="variance must be finite and >= 0"):
    length_map(jnp.tanh, -1.0, 1.0, 0.1)
  with pytest.raises(ValueError, match="q must be a finite number >= 0"):
    correlation_map(jnp.tanh, 0.5, 1.0, 0.1, q=-1.0)
  with pytest.raises(ValueError, match=r"correlation must be in \[-1, 1\]"):
    correlation_map(jnp.tanh, 2.0, 1.0, 0.1)


@pytest.mark.parametrize("log2_q", [0.0, 3.3])
def test_tables_of_what_overflows_in_their_window(log2_q):
  """exp: E[φ²] = E[φ'²] = exp(2q), which float64 does not hold at 2^10."""
  found, q = response(jnp.exp)(log2_q), 2**log2_q
  logs = (found.log2_second_moment, found.log2_derivative)
  np.testing.assert_allclose(logs, 2 * q / math.log(2), rtol=1e-9)
  slopes = (found.slope, found.derivative_slope)
  np.testing.assert_allclose(slopes, 2 * q, rtol=1e-8)
  np.testing.assert_allclose(found.curvature, 2 * q, rtol=1e-6)


def test_tables_close_to_where_a_moment_diverges():
  """exp(x²/5): E[φ²] = (1 - 4q/5)^(-½), a pole at q = 1.25."""
  respond = response(lambda x: jnp.exp(x**2 / 5))
  found = respond(0.0)
  assert found.log2_second_moment == pytest.approx(-math.log2(0.2) / 2)
  assert found.slope == pytest.approx(2, rel=1e-5)  # 2q/5/(1 - 4q/5)
  with pytest.raises(ValueError, match=r"E\[φ.?\] at variance 1\.4"):
    respond(0.5)
