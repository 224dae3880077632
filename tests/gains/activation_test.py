"""What counts as an activation: rules of its own, the cache, and errors."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.gains import gain, moments
from initjax.gains._moments import cached_moments


def custom_jvp(factor):
  @jax.custom_jvp
  def activation(x):
    return jnp.tanh(x)

  activation.defjvps(lambda t, y, x: factor * t * (1 - y**2))
  return activation


def custom_vjp(factor):
  @jax.custom_vjp
  def activation(x):
    return jnp.tanh(x)

  activation.defvjp(
    lambda x: (jnp.tanh(x), jnp.tanh(x)),
    lambda y, g: (factor * g * (1 - y**2),),
  )
  return activation


@jax.custom_vjp
def straight_through(x):
  return jnp.sign(x)


straight_through.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))


def interpolate(knots):
  return lambda x: jax.jit(lambda y: jnp.interp(y, knots, knots**2))(x)


def in_cond(knots):
  knots = jnp.asarray(knots)
  return lambda x: jax.lax.cond(
    True, lambda y: jnp.interp(y, knots, knots**2), lambda y: y, x
  )


def in_loop(knots):
  knots = jnp.asarray(knots)
  return lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * knots[i] + 1, x)


def with_noise(key):
  return lambda x: x * jax.random.uniform(key)


@pytest.mark.parametrize(
  "activation",
  [
    custom_jvp(1.0),
    custom_vjp(1.0),
    jax.jit(jnp.tanh),
    jax.tree_util.Partial(jnp.tanh),
    jax.checkpoint(jnp.tanh),
    functools.partial(lambda x, slope: jnp.tanh(slope * x), slope=1.0),
    lambda x: jnp.tanh(x * np.ones(())) + np.zeros(1),
    lambda x: jax.lax.while_loop(
      lambda c: c[0] < 1, lambda c: (c[0] + 1, jnp.tanh(c[1])), (0, x)
    )[1],
  ],
)
def test_every_way_to_write_tanh(activation):
  # Both carry the documented 1e-12; a mean of 0 carries 1e-14.
  np.testing.assert_allclose(
    moments(activation), moments(jnp.tanh), rtol=2e-12, atol=2e-14
  )


@pytest.mark.parametrize("rule", [custom_jvp, custom_vjp])
def test_a_declared_derivative_is_the_derivative(rule):
  """Twice the true slope: autodiff is believed on E[φ'²], Stein on E[φ']."""
  declared, true = moments(rule(2.0)), moments(jnp.tanh)
  assert declared.derivative_second_moment == math.inf
  np.testing.assert_allclose(
    declared.derivative_mean, true.derivative_mean, rtol=2e-12
  )


def test_a_straight_through_estimator_has_a_forward_gain_only():
  m = moments(straight_through)
  np.testing.assert_allclose(
    [m.second_moment, m.derivative_mean],
    [1, math.sqrt(2 / math.pi)],
    rtol=1e-12,
  )
  assert gain(straight_through) == pytest.approx(1, rel=1e-12)
  with pytest.raises(ValueError, match="declares a derivative that is not its"):
    gain(straight_through, "backward")


f32, bf16 = jnp.float32, jnp.bfloat16
steps = lambda x: jnp.round(4 * x).astype(jnp.int8)
LESS_THAN_FLOAT64 = [
  (lambda x: jax.nn.gelu(x.astype(bf16)), jax.nn.gelu),
  (lambda x: jax.nn.gelu(jnp.asarray(x, f32)).astype(x.dtype), jax.nn.gelu),
  (jax.jit(lambda x: jax.nn.silu(x.astype(f32))), jax.nn.silu),
  (jax.jit(lambda x: custom_jvp(2.0)(x.astype(bf16))), custom_jvp(2.0)),
  (jax.jit(lambda x: custom_vjp(2.0)(x.astype(bf16))), custom_vjp(2.0)),
  (lambda x: jax.lax.max(x.astype(bf16), bf16(0)), jax.nn.relu),
  (lambda x: jnp.where(x.astype(bf16) > 0.3, x, 0), lambda x: x * (x > 0.3)),
  (lambda x: (jnp.exp(1j * x.astype(f32)) * 2).real, lambda x: 2 * jnp.cos(x)),
  (lambda x: jax.lax.reduce_precision(x, 8, 7), lambda x: x),
  (
    jax.jit(
      lambda x: jax.lax.fori_loop(0, 2, lambda i, y: jnp.sin(y), x.astype(f32))
    ),
    lambda x: jnp.sin(jnp.sin(x)),
  ),
  (
    jax.jit(lambda x: jax.lax.cond(True, jnp.sin, jnp.cos, x.astype(f32))),
    jnp.sin,
  ),
  (
    lambda x: jax.lax.while_loop(
      lambda c: c[0] < 1, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, f32(x))
    )[1],
    jnp.sin,
  ),
  (jax.jit(lambda x: jax.nn.gelu(x.astype(bf16))), jax.nn.gelu),
  (
    lambda x: jnp.dot(x[:, None], np.ones(1), preferred_element_type=f32),
    lambda x: x,
  ),
  (lambda x: steps(x).astype(bf16) / 4, lambda x: steps(x) / 4),
]


@pytest.mark.parametrize(("activation", "exact"), LESS_THAN_FLOAT64)
def test_casts_are_looked_through_but_for_those_to_integers(activation, exact):
  """Also where Python, jit, a loop or a rule for the derivative casts."""
  np.testing.assert_allclose(
    moments(activation), moments(exact), rtol=2e-12, atol=2e-14
  )


def test_who_asks_for_his_own_precision_gets_it():
  def activation(x):
    y = x.astype(f32)
    assert y.dtype == f32
    return jnp.tanh(y)

  np.testing.assert_allclose(
    moments(activation), moments(jnp.tanh), rtol=2e-12, atol=2e-14
  )


@pytest.mark.parametrize(
  ("activation", "second_moment"),
  [
    (lambda x: x > 0, 0.5),
    (lambda x: jnp.sign(x).astype(jnp.int32), 1.0),
    (lambda x: (x > 0).astype(jnp.uint8) * 3, 4.5),
  ],
)
def test_booleans_and_integers_are_numbers(activation, second_moment):
  m = moments(activation)
  np.testing.assert_allclose(m.second_moment, second_moment, rtol=1e-12)
  assert m.derivative_second_moment == math.inf


@pytest.mark.parametrize(
  "make",
  [
    lambda: lambda x: 2 * jnp.tanh(x),
    lambda: functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    lambda: functools.partial(jax.nn.gelu, approximate=False),
    lambda: lambda x: x * np.float32(0.1),
    lambda: interpolate(np.arange(-3.0, 4.0)),
  ],
)
def test_the_same_function_written_twice_is_computed_once(make):
  moments(make())
  before = cached_moments.cache_info()
  moments(make())
  after = cached_moments.cache_info()
  assert (after.hits, after.misses) == (before.hits + 1, before.misses)


KNOTS, FACTORS = np.arange(-3.0, 4.0), np.arange(1.0, 4.0)
DIFFERENT = [
  (lambda c: lambda x: c[0] * jnp.tanh(x), np.ones(2), np.full(2, 2.0)),
  (lambda c: lambda x: c * jnp.tanh(x), 0.1, np.nextafter(0.1, 1)),
  (interpolate, KNOTS, KNOTS * 2),
  (in_cond, KNOTS, KNOTS * 2),
  (in_loop, FACTORS, FACTORS + 1),
  (custom_jvp, 1.0, 2.0),
  (custom_vjp, 1.0, 2.0),
  (with_noise, *jax.random.split(jax.random.key(0))),
]


@pytest.mark.parametrize(("make", "one", "other"), DIFFERENT)
def test_different_constants_are_different_functions(make, one, other):
  cached_moments.cache_clear()
  first = moments(make(one))
  assert moments(make(other)) != first
  assert cached_moments.cache_info().misses == 2


def test_a_returned_array_is_not_the_cache():
  first = moments(jnp.tanh, np.ones(3))
  kept = first.second_moment.copy()
  for moment in first:
    moment[:] = -1
  np.testing.assert_array_equal(moments(jnp.tanh, np.ones(3))[1], kept)


@pytest.mark.parametrize("activation", ["relu", None, 1.0])
def test_what_cannot_be_called(activation):
  message = r"must be a JAX function such as jax\.nn"
  with pytest.raises(TypeError, match=message):
    moments(activation)


NOT_ELEMENTWISE = [
  jax.nn.softmax, jax.nn.glu, jax.nn.standardize, jnp.cumsum, jnp.sort, jnp.sum,
  lambda x: x[::-1], lambda x: jnp.roll(x, 1), lambda x: (x, x), lambda x: (x,),
  lambda x: None, lambda x: 1.0, lambda x: x / jnp.sqrt(1e3 + jnp.mean(x**2)),
]  # fmt: skip


@pytest.mark.parametrize("activation", NOT_ELEMENTWISE)
def test_what_is_not_elementwise(activation):
  with pytest.raises(ValueError, match="is not elementwise"):
    moments(activation)


class Power(NamedTuple):
  """A module, with a parameter."""

  exponent: float

  def __call__(self, x):
    return abs(x) ** self.exponent


NO_MOMENTS = [
  (lambda x: x * 1j, "complex numbers"),
  (lambda x: jax.pure_callback(np.tanh, x, x), "<lambda> has no derivative in"),
  (jnp.log, r"activation log or its slope is NaN at x = -"),
  (jnp.sqrt, r"NaN at x = -"),
  (lambda x: jnp.exp(x**2), r"E\[φ\] at variance 1 diverges"),
  (lambda x: jnp.exp(x**2 / 4), r"E\[φ²\] at variance 1 diverges or overflows"),
  (lambda x: 1 / x, r"E\[φ\] .* diverges: .* has a pole near x = 0"),
  (jnp.tan, r"activation tan: E\[φ²\] .* has a pole near x = "),
  (lambda x: jnp.sin(1e7 * x), "cannot be resolved.* oscillates too fast"),
  (functools.partial(jnp.log1p), "activation log1p or its slope is NaN"),
  (Power(-0.5), r"activation Power: E\[φ²\]"),
]


@pytest.mark.parametrize(("activation", "message"), NO_MOMENTS)
def test_what_has_no_moments(activation, message):
  with pytest.raises(ValueError, match=message):
    moments(activation)


@pytest.mark.parametrize("activation", [jnp.log, lambda x: 1 / x])
def test_what_has_no_limit_at_variance_zero(activation):
  with pytest.raises(ValueError, match="not finite at x = 0"):
    moments(activation, 0.0)


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf, [1.0, -1e-9]])
def test_what_is_no_variance(variance):
  message = r"must be finite and >= 0; got .* is σ²"
  with pytest.raises(ValueError, match=message):
    moments(jnp.tanh, variance)
