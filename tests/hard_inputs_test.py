"""Inputs that are easy to get wrong: each of these once was."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from initjax import gains, initializers, stacks
from initjax._statistics import statistics

KEY = jax.random.key(0)


def test_a_callable_that_changed_gets_its_new_gain():
  class Leaky:
    slope = 0.1

    def __call__(self, x):
      return jax.nn.leaky_relu(x, self.slope)

  leaky = Leaky()
  for slope in (0.1, 0.9):
    leaky.slope = slope
    np.testing.assert_allclose(
      gains.gain(leaky), math.sqrt(2 / (1 + slope**2)), rtol=1e-12
    )


@pytest.mark.parametrize("width", [0.1, 0.03, 0.02])
@pytest.mark.parametrize("centre", [0.0, 0.31, 1.77, 2.6104, -3.9])
def test_a_narrow_bump_is_found(centre, width):
  """E of a Gaussian bump of width w at c is w·N(c; 0, 1 + w²)·√(2π)."""

  def bump(x):
    return jnp.exp(-(((x - centre) / width) ** 2) / 2)

  def expected(w):
    density = stats.norm.pdf(centre, scale=math.sqrt(1 + w**2))
    return w * density * math.sqrt(2 * math.pi)

  m = gains.moments(bump)
  np.testing.assert_allclose(m.mean, expected(width), rtol=1e-11)
  np.testing.assert_allclose(
    m.second_moment, expected(width / math.sqrt(2)), rtol=1e-11
  )


@pytest.mark.parametrize("variance", [1e-12, 1e-8, 1e-4])
def test_centered_gains_do_not_cancel(variance):
  """Sigmoid near 0 is 1/2 + x/4 - x³/48: Var = v/16·(1 - v/2 + O(v²))."""
  expected = 4 / math.sqrt(1 - variance / 2)
  found = gains.gain(jax.nn.sigmoid, "centered", variance)
  rounding = 1e-16 / math.sqrt(variance)  # of φ - E[φ], against x/4
  np.testing.assert_allclose(found, expected, rtol=variance**2 + 8 * rounding)


def test_a_large_constant_does_not_hide_a_signal():
  found = gains.gain(lambda x: 1e7 + x, "centered")
  np.testing.assert_allclose(found, 1, rtol=1e-8)  # 1e7 has steps of 2e-9


@pytest.mark.parametrize("size", [3e38, 2.0**127, 1e38, 1.2e-38])
def test_the_largest_and_smallest_signals_have_a_logarithm(size):
  x = jnp.array([size, -size], jnp.float32)
  for found in (statistics(x), jax.jit(statistics)(x)):
    np.testing.assert_allclose(
      found.log2_second_moment, 2 * math.log2(size), rtol=1e-6
    )


def test_an_empty_signal_has_statistics():
  assert statistics(jnp.zeros((0, 3))).size == 0


@pytest.mark.parametrize("network", [stacks.mlp, stacks.conv, stacks.residual])
def test_stacks_obey_strict_promotion(network):
  init = initializers.he_normal()
  stack = network(depth=3, width=4, activation=jnp.tanh, kernel_init=init)
  shape = (2, 4, 4, 3) if network is stacks.conv else (2, 3)
  ones = [np.ones((*shape[:-1], n), np.float32) for n in (3, 4)]
  run = lambda key: stacks.propagate(stack, stack.init(key, shape), *ones)
  with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
    jax.eval_shape(run, KEY)


def test_numpy_integers_are_integers():
  axes = {"in_axis": np.int64(0), "out_axis": (np.int64(1),)}
  for init, shape in (
    (initializers.torch_linear_bias(np.prod((2, 2))), (3,)),
    (initializers.lecun_normal(**axes), (np.int64(2), 3)),
    (initializers.zeros, [np.int32(2)]),
  ):
    found = jax.eval_shape(lambda i=init, s=shape: i(KEY, s))
    assert found.shape == tuple(shape)


kaiming = initializers.kaiming_normal
scaling = functools.partial(
  initializers.variance_scaling, mode="fan_in", distribution="normal"
)
REFUSED = [
  (initializers.orthogonal, {"batch_axis": -1}, "overlap"),
  (initializers.delta_orthogonal, {"batch_axis": -1}, "overlap"),
  (initializers.orthogonal, {"column_axis": "a"}, "column_axis must be"),
  (scaling, {"scale": "2"}, "scale must be a number"),
  (kaiming, {"negative_slope": "0.1"}, "negative_slope must be a number"),
  (initializers.lecun_normal, {"in_axis": None}, "in_axis must be"),
  (initializers.lecun_normal, {"in_axis": 0.5}, "in_axis must be"),
  (initializers.lecun_normal, {"in_axis": True}, "in_axis must be"),
]


@pytest.mark.parametrize(("build", "arguments", "message"), REFUSED)
def test_wrong_arguments_are_refused_when_built(build, arguments, message):
  with pytest.raises(ValueError, match=message):
    build(**arguments)


def test_negative_sizes_are_refused():
  for init in (initializers.zero_hadamard(), initializers.he_normal()):
    with pytest.raises(ValueError, match="must be >= 0"):
      init(KEY, (-1, 3))


def test_an_infinite_constant_stays_infinite():
  assert initializers.constant(-jnp.inf)(KEY, (1,), jnp.bfloat16)[0] == -jnp.inf


def test_a_dtype_without_sign_is_refused():
  with pytest.raises(ValueError, match="cannot hold neg"):
    initializers.normal()(KEY, (2,), jnp.float8_e8m0fnu)


@pytest.mark.parametrize(
  "function", [np.tanh, math.tanh, lambda x: x if x > 0 else 0.0]
)
def test_what_is_not_jax_is_called_so(function):
  with pytest.raises(ValueError, match="is not a JAX function of one array"):
    gains.gain(function)
