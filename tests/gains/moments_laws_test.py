"""Laws that moments obey for every variance, slope, kink and jump."""

import math

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.special import erf, ndtr

from initjax.gains import moments

# `moments` documents 1e-12 of the value, and 1e-14 of the integrand's size
# where it cancels. Two numbers that both carry it differ by twice that.
RELATIVE, ABSOLUTE = 1e-12, 1e-14

some = hypothesis.settings(
  max_examples=15, deadline=None, derandomize=True, database=None
)
more = hypothesis.settings(some, max_examples=20)  # that sample activations
variances = st.floats(-8, 8).map(lambda exponent: 10.0**exponent)
slopes = st.floats(-3, 3)
places = st.floats(-6, 6)  # of a kink, in standard deviations


def unit_step(x):
  return jnp.where(x > 0.4, 1.0, 0.0)


def assert_close(actual, desired, size=0.0, times=1):
  np.testing.assert_allclose(
    actual, desired, rtol=times * RELATIVE, atol=times * ABSOLUTE * size
  )


def normal_density(x, v):
  return math.exp(-(x**2) / (2 * v)) / math.sqrt(2 * math.pi * v)


@some
@hypothesis.given(slope=slopes, v=variances)
def test_leaky_relu_of_any_slope_and_variance(slope, v):
  m = moments(lambda x: jnp.where(x > 0, x, slope * x), v)
  size = math.sqrt(v)
  assert_close(m.mean, (1 - slope) * math.sqrt(v / (2 * math.pi)), size)
  assert_close(m.second_moment, (1 + slope**2) * v / 2)
  assert_close(m.derivative_mean, (1 + slope) / 2, 1)
  assert_close(m.derivative_second_moment, (1 + slope**2) / 2)


@some
@hypothesis.given(place=places, v=variances)
def test_a_kink_anywhere(place, v):
  std = math.sqrt(v)
  kink = place * std
  m = moments(lambda x: abs(x - kink), v)
  tilt = erf(place / math.sqrt(2))
  assert_close(m.mean, 2 * v * normal_density(kink, v) + kink * tilt)
  assert_close(m.second_moment, v + kink**2)
  assert_close(m.derivative_mean, -tilt, size=1)
  assert_close(m.derivative_second_moment, 1)


@some
@hypothesis.given(place=places, v=variances, height=st.floats(0.1, 10))
def test_a_jump_anywhere_has_the_density_as_its_slope(place, v, height):
  jump = place * math.sqrt(v)
  m = moments(lambda x: jnp.where(x > jump, height, 0.0), v)
  assert_close(m.mean, height * ndtr(-place))
  assert_close(m.second_moment, height**2 * ndtr(-place))
  # The density comes from Stein's lemma, and E|xφ|/v is at most height/std.
  size = height / math.sqrt(v)
  assert_close(m.derivative_mean, height * normal_density(jump, v), size)
  assert m.derivative_second_moment == math.inf


@pytest.mark.parametrize("offset", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
@pytest.mark.parametrize("edge", [1.0, -2.0, 0.5, 0.0])
def test_a_jump_close_to_the_edge_of_a_panel(edge, offset):
  """No rule may step over what lies between its last node and the edge."""
  place = edge + offset
  step = moments(lambda x: jnp.where(x > place, 1.0, 0.0))
  assert_close(step.mean, ndtr(-place))
  assert_close(step.derivative_mean, normal_density(place, 1), size=1)
  ramp = moments(lambda x: jax.nn.relu(x - place))
  assert_close(ramp.mean, normal_density(place, 1) - place * ndtr(-place))
  assert_close(ramp.derivative_mean, ndtr(-place))


@some
@hypothesis.given(place=st.floats(0.1, 4), v=variances, odd=st.booleans())
def test_jumps_that_cancel_are_jumps(place, v, odd):
  """Even: E[φ'] is 0 as autodiff says, and yet φ' holds two deltas."""
  jump = place * math.sqrt(v)

  def activation(x):
    inside = jnp.where(abs(x) < jump, 1.0, 0.0)
    return inside * jnp.sign(x) if odd else inside

  assert moments(activation, v).derivative_second_moment == math.inf


@pytest.mark.parametrize(
  "activation",
  [
    jnp.tanh,
    jax.nn.relu,
    jax.nn.softplus,
    lambda x: 1e6 + abs(x - 0.3),
    lambda x: jnp.sin(3 * x),
    lambda x: abs(x) ** 1.75,
  ],
)
def test_no_jump_is_seen_where_there_is_none(activation):
  v = np.array([1e-8, 1.0, 1e4])
  assert np.isfinite(moments(activation, v).derivative_second_moment).all()


@pytest.mark.parametrize("p", [1 / 3, 0.5, 0.6, 0.75])
def test_a_slope_with_a_pole_leaves_the_other_moments(p):
  """E|x|^p = (2v)^(p/2)·Γ((p + 1)/2)/√π, and φ'² = p²·|x|^(2p - 2)."""
  v = np.array([0.1, 1.0, 7.0])

  def absolute(p):
    return (2 * v) ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi)

  m = moments(lambda x: abs(x) ** p, v)
  np.testing.assert_allclose(m.mean, absolute(p), rtol=RELATIVE)
  np.testing.assert_allclose(m.second_moment, absolute(2 * p), rtol=RELATIVE)
  np.testing.assert_allclose(m.derivative_mean, 0, atol=ABSOLUTE)
  slope = p**2 * absolute(2 * p - 2) if p > 0.5 else np.full(3, np.inf)
  np.testing.assert_allclose(m[3], slope, rtol=RELATIVE)


@pytest.mark.parametrize("place", [1.0, math.pi])
def test_a_pole_of_the_slope_anywhere(place):
  """√|x - a|: E[φ²] = E|x - a| = 2·N(a) + a·(2Φ(a) - 1), E[φ] by scipy."""
  m = moments(lambda x: jnp.sqrt(abs(x - place)))
  density = math.exp(-(place**2) / 2) / math.sqrt(2 * math.pi)
  want = 2 * density + place * (2 * ndtr(place) - 1)
  np.testing.assert_allclose(m.second_moment, want, rtol=RELATIVE)
  assert m.derivative_second_moment == math.inf
  log = moments(lambda x: jnp.log(abs(x - place)))
  assert np.isfinite(log[:3]).all()


def test_log_has_all_moments_but_its_slopes():
  """log|x|: mean -(γ + log 2)/2, variance π²/8, an even function."""
  m = moments(lambda x: jnp.log(abs(x)))
  mean = -(np.euler_gamma + math.log(2)) / 2
  np.testing.assert_allclose(m.mean, mean, rtol=RELATIVE)
  want = mean**2 + math.pi**2 / 8
  np.testing.assert_allclose(m.second_moment, want, rtol=RELATIVE)
  assert (abs(m.derivative_mean) < 1e-14, m[3]) == (True, math.inf)


def test_a_steep_slope_is_finite():
  """From 1 to 1 + 1e-6, whose end float64 knows to 1e-10 of that length."""
  m = moments(lambda x: 1 + 1e3 * (jnp.clip(x, 1, 1 + 1e-6) - 1))
  middle = 1 + 5e-7
  mass = 1e-6 * math.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi)
  np.testing.assert_allclose(m[2:], [1e3 * mass, 1e6 * mass], rtol=3e-10)


@more
@hypothesis.given(
  activation=st.sampled_from(
    [jnp.tanh, jax.nn.silu, jax.nn.elu, lambda x: abs(x - 0.3)]
  ),
  scale=st.floats(-5, 5).filter(lambda a: abs(a) > 0.01),
)
def test_scale_law(activation, scale):
  """φ(a·x) at variance v is φ(x) at a²v, and the chain rule gives its slope."""
  v = 0.7
  scaled = moments(lambda x: activation(scale * x), v)
  plain = moments(activation, scale**2 * v)
  factors = (1, 1, scale, scale**2)
  sizes = np.sqrt([plain[1], plain[1] ** 2, plain[3], plain[3] ** 2])
  for got, want, factor, size in zip(
    scaled, plain, factors, sizes, strict=True
  ):
    assert_close(got, factor * want, abs(factor) * size, times=2)


@more
@hypothesis.given(
  activation=st.sampled_from([jnp.tanh, jax.nn.gelu, jax.nn.relu, unit_step]),
  v=st.floats(-2, 8).map(lambda exponent: 10.0**exponent),
)
def test_stein_identity(activation, v):
  """E[xφ(x)] = v·E[φ'(x)], jumps included (Stein 1981, Lemma 1)."""
  m = moments(activation, v)
  product = moments(lambda x: x * activation(x), v)
  assert_close(product.mean, v * m.derivative_mean, times=2)


@more
@hypothesis.given(
  activation=st.sampled_from(
    [jnp.tanh, jax.nn.gelu, jax.nn.relu, jnp.sin, jax.nn.selu]
  ),
  v=variances,
)
def test_hermite_and_poincare_bound_the_variance(activation, v):
  """v·E[φ']² <= Var φ <= v·E[φ'²]: the first Hermite term, and Poincaré."""
  if activation is jnp.sin:  # above, it swings faster than can be resolved
    v = min(v, 1e5)
  m = moments(activation, v)
  variance = m.second_moment - m.mean**2
  slack = 4 * RELATIVE * m.second_moment  # rounding of both sides
  assert v * m.derivative_mean**2 <= variance + slack
  assert variance <= v * m.derivative_second_moment + slack


@pytest.mark.parametrize("shape", [(), (1,), (25,), (5, 5), (5, 1, 5), (0, 3)])
def test_an_array_of_variances_keeps_its_shape(shape):
  v = np.geomspace(0.01, 100, math.prod(shape)).reshape(shape)
  m = moments(jnp.tanh, v)
  kind = np.ndarray if shape else float
  assert all(type(moment) is kind for moment in m)
  chex.assert_shape([np.asarray(moment) for moment in m], shape)
  assert all(np.asarray(moment).dtype == np.float64 for moment in m)


@pytest.mark.parametrize(
  "activation", [jax.nn.softplus, jax.nn.silu, lambda x: abs(x - 0.3)]
)
def test_huge_ranges_at_once_equal_one_by_one(activation):
  v = np.geomspace(1e-12, 1e12, 13)
  together = np.stack(moments(activation, v))
  alone = np.stack([moments(activation, each) for each in v], axis=1)
  sizes = np.sqrt(alone[[1, 1, 3, 3]])
  # E[φ'] of |x - 0.3| cancels at large v; all else has a size of its own.
  gap = abs(together - alone)
  assert (gap <= 2 * (RELATIVE * abs(alone) + ABSOLUTE * sizes)).all()


@pytest.mark.parametrize("middle", [1e-200, 1e-100, 1.0, 1e100, 1e200])
def test_huge_ranges_at_once_equal_the_closed_form(middle):
  v = middle * np.geomspace(1e-12, 1e12, 25)
  m = moments(jax.nn.relu, v)
  assert_close(m.mean, np.sqrt(v / (2 * math.pi)))
  assert_close(m.second_moment, v / 2)
  assert_close(m.derivative_mean, np.full(v.size, 0.5))
  assert_close(m.derivative_second_moment, np.full(v.size, 0.5))


@pytest.mark.parametrize(
  "activation", [jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.elu, jnp.cos]
)
def test_variance_zero_is_the_limit(activation):
  """All φ here have |φ'| <= 1.2 and |φ''| <= 1.2 beside 0.

  So a moment moves by at most 4·E|x| <= 4σ from its limit.
  """
  std = 1e-10
  for at_zero, near in moments(activation, [0.0, std**2]):
    assert abs(at_zero - near) <= 4 * std


def test_constants_and_linear_maps():
  for activation, expected in (
    (jnp.ones_like, (1, 1, 0, 0)),
    (jnp.zeros_like, (0, 0, 0, 0)),
    (lambda x: 1 - 2 * x, (1, 13, -2, 4)),
  ):
    assert_close(moments(activation, 3.0), expected, size=1)
