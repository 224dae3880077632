"""Laws and errors of the plain distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from initjax import initializers as init
from initjax.initializers import _truncated

SHAPE = (100, 500)
KEY = jax.random.key(11, impl="rbg")  # compiles faster than threefry


@pytest.mark.parametrize("scale", [1e-2, 2.0])
def test_uniform(scale, assert_law):
  sample = init.uniform(scale)(KEY, SHAPE)
  assert sample.min() >= 0
  assert sample.max() < scale
  assert_law(sample, stats.uniform(0, scale))


@pytest.mark.parametrize("stddev", [1e-2, 2.0])
def test_normal(stddev, assert_law):
  assert_law(init.normal(stddev)(KEY, SHAPE), stats.norm(0, stddev))


# Intervals that JAX draws right, and those that it does not.
INTERVALS = [
  (-2.0, 2.0), (-1.0, 0.5),
  (-100.0, 100.0), (-math.inf, math.inf), (-4.0, 0.5), (-0.01, 4.0),  # wide
  (1.0, 4.0), (-8.0, -3.0), (3.0, math.inf), (4.0, 1e6),  # one side
  (4.9, 5.1), (-5.1, -4.9), (9.9, math.inf), (-math.inf, -30.0),  # far tails
  (0.1, 0.101), (3.0, 3.001), (11.0, 11.01),  # narrow
]  # fmt: skip


def within(low, high, size=SHAPE[0] * SHAPE[1]):
  return init.truncated_normal(1.0, lower=low, upper=high)(KEY, (size,))


def test_truncated_normal_in_standard_deviations():
  """The threshold 1e-4 was met once and for all: the key is fixed."""
  lows, highs = np.array(INTERVALS, np.float32).T
  draws = jax.jit(jax.vmap(within))(lows, highs)
  for low, high, sample in zip(lows, highs, np.asarray(draws), strict=True):
    assert low <= sample.min() <= sample.max() <= high
    law = stats.truncnorm(float(low), float(high))
    found = stats.kstest(sample.astype(np.float64), law.cdf)
    assert found.pvalue > 1e-4, (low, high)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_last_draw_of_a_tail_is_where_the_law_puts_it(dtype):
  """All quantiles, the extreme ones too, that only 1e8 draws would show.

  u has a step of ε/2 or ε; the probability beyond a draw is that of u but for
  the roundings of the survival function, about z² ε each, and for 1e-4 where
  Q(z) = φ(z)/z is used: a thousandth is allowed.
  """
  eps = float(jnp.finfo(dtype).eps)
  u = np.array([0, eps, 0.1, 0.5, 0.9, 1 - 256 * eps, 1 - eps / 2], dtype)
  quantile = jax.jit(_truncated._distance)
  with jax.enable_x64(dtype == "float64"):
    for near, far in (
      (0, math.inf),
      (0, 100),
      (4, 1e6),
      (9, 50),
      (20, math.inf),
    ):
      z = quantile(u, *np.array([near, far], dtype))
      z = np.asarray(z, np.float64)
      assert np.isfinite(z).all()
      beyond = stats.norm.sf(z) / stats.norm.sf(near)
      np.testing.assert_allclose(
        beyond, 1 - u.astype(np.float64), rtol=1e-3, err_msg=f"{near} {far}"
      )


def test_traced_bounds_draw_the_same():
  known = [(-2.0, 1.0), (-4.0, math.inf), (7.0, 9.0)]
  draws = jax.jit(lambda: [within(*ends, 50) for ends in known])()
  traced = jax.jit(within, static_argnums=2)
  for ends, desired in zip(known, draws, strict=True):
    # fused otherwise, a distance of order 10 is rounded a few times
    np.testing.assert_allclose(traced(*ends, 50), desired, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_truncated_normal_with_absolute_bounds(mean, assert_law):
  low, high, stddev = -0.5, 0.8, 0.6
  sample = init.truncated_normal(
    stddev, lower=low, upper=high, mean=mean, absolute=True
  )(KEY, SHAPE)
  assert np.float32(low) <= sample.min() <= sample.max() <= np.float32(high)
  bounds = ((low - mean) / stddev, (high - mean) / stddev)
  assert_law(sample, stats.truncnorm(*bounds, mean, stddev))


def test_bounds_as_pytorch_sets_them_are_far_away(assert_law):
  build = init.truncated_normal(0.02, lower=-2, upper=2, absolute=True)
  assert_law(build(KEY, SHAPE), stats.norm(0, 0.02))


def test_means_and_arrays_of_scales(assert_law):
  sample = init.truncated_normal(0.3, mean=-1.0)(KEY, SHAPE)
  assert_law(sample, stats.truncnorm(-2, 2, -1.0, 0.3))
  assert_law(init.normal(0.3, mean=2.0)(KEY, SHAPE), stats.norm(2.0, 0.3))
  both = init.normal(jnp.array([[0.1], [2.0]]), mean=np.array([[5.0], [-1.0]]))
  rows = both(KEY, (2, 50_000))
  assert_law(rows[0], stats.norm(5.0, 0.1))
  assert_law(rows[1], stats.norm(-1.0, 2.0))


def test_uniform_between(assert_law):
  sample = init.uniform_between(-0.5, 2.0)(KEY, SHAPE)
  assert -0.5 <= sample.min() <= sample.max() < 2
  assert_law(sample, stats.uniform(-0.5, 2.5))


def test_complex_draws_fill_a_disk(drawn):
  """|W|² and the angle are independent; Kolmogorov-Smirnov as above."""
  radius, stddev = 1.5, 0.5
  builds = [
    init.uniform(radius, jnp.complex64),
    init.truncated_normal(stddev, jnp.complex64, -2.0, 2.0),
    init.truncated_normal(stddev, jnp.complex64, -9, 9, absolute=True),
  ]
  exponential = lambda end: stats.truncexpon(end**2, scale=stddev**2)
  laws = [stats.uniform(0, radius**2), exponential(2.0), exponential(18.0)]
  draws = drawn(KEY, *((build, SHAPE) for build in builds))
  for sample, law in zip(draws, laws, strict=True):
    assert sample.dtype == np.complex64
    squares = abs(sample.ravel()).astype(np.float64) ** 2
    assert stats.kstest(squares, law.cdf).pvalue > 1e-4
    angles = stats.uniform(-np.pi, 2 * np.pi)
    assert stats.kstest(np.angle(sample.ravel()), angles.cdf).pvalue > 1e-4
  documented = stddev**2 * (1 - 4 / math.expm1(4))
  assert math.isclose(laws[1].mean(), documented, rel_tol=1e-12)
  assert math.isclose(documented, 0.9254 * stddev**2, rel_tol=1e-4)


def test_complex_bounds_that_are_no_disk_are_refused():
  with pytest.raises(ValueError, match=r"must be -upper; got -2\.0 and 1"):
    init.truncated_normal(1.0, jnp.complex64, upper=1.0)(KEY, (3,))
  with pytest.raises(ValueError, match=r"disk \|W\| < scale"):
    init.uniform_between(0, 1, jnp.complex64)(KEY, (3,))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
def test_bounds_hold_after_rounding(dtype, drawn):
  """And the last number of the format before the upper one is drawn."""
  half_open = {
    (0.0, 0.3): init.uniform(0.3), (0.0, 0.5): init.uniform(0.5),
    (-0.3, 0.7): init.uniform_between(-0.3, 0.7),
  }  # fmt: skip
  closed = {
    (-0.3, 0.3): init.truncated_normal(5.0, None, -0.3, 0.3, absolute=True),
    (-0.6, 0.6): init.truncated_normal(0.3),
    (0.2, 0.8): init.truncated_normal(0.3, None, -1, 1, mean=0.5),
  }
  cast = lambda build: lambda key, shape: build(key, shape, jnp.dtype(dtype))
  builds = [*half_open.values(), *closed.values()]
  draws = drawn(KEY, *((cast(build), SHAPE) for build in builds))
  bits = np.arange(2 ** jnp.finfo(dtype).bits)
  values = bits.astype(f"u{jnp.dtype(dtype).itemsize}").view(jnp.dtype(dtype))
  values = values.astype(np.float32)
  values = np.unique(values[np.isfinite(values)])
  for i, (low, high) in enumerate([*half_open, *closed]):
    ends = np.float32([low, high])
    above = values < ends[1] if i < len(half_open) else values <= ends[1]
    inside = values[(values >= ends[0]) & above]
    found = draws[i].astype(np.float32)
    assert inside[0] <= found.min()
    assert found.max() == inside[-1]


def test_documented_standard_deviation_at_two_sigma():
  assert math.isclose(stats.truncnorm(-2, 2).std(), 0.8796, abs_tol=5e-5)


@pytest.mark.parametrize(
  ("name", "argument"),
  [("uniform", "scale"), ("normal", "stddev"), ("truncated_normal", "stddev")],
)
def test_bad_scales_raise_when_built(name, argument):
  for bad in (-1.0, math.nan, math.inf, "one", None):
    with pytest.raises(ValueError, match=f"{argument} must be a"):
      getattr(init, name)(bad)


def test_negative_scale_says_the_bound_and_the_value():
  with pytest.raises(ValueError, match=r"stddev must .* >= 0; got -1\.0"):
    init.normal(-1.0)


def test_truncated_normal_checks_its_bounds_when_built():
  with pytest.raises(ValueError, match="lower must be below upper; got 1"):
    init.truncated_normal(lower=1.0, upper=1.0)
  with pytest.raises(ValueError, match="lower must be below upper"):
    init.truncated_normal(upper=math.nan)
  for bad in ("one", None, [-1.0, -2.0]):
    with pytest.raises(ValueError, match=r"lower must be a .*number.*; got"):
      init.truncated_normal(lower=bad)
  with pytest.raises(ValueError, match="cannot draw integers; got int32"):
    init.truncated_normal(lower=-5.0)(KEY, (3,), jnp.int32)
  with pytest.raises(ValueError, match=r"stddev must be .* > 0; got 0"):
    init.truncated_normal(0.0, absolute=True)
  with pytest.raises(ValueError, match="mean must be a finite number"):
    init.truncated_normal(mean=math.nan)
  with pytest.raises(ValueError, match=r"each entry of stddev .* got .*-1"):
    init.normal(jnp.array([1.0, -1.0]))
  with pytest.raises(ValueError, match="low must not be above high; got 2 and"):
    init.uniform_between(2, 1)


def test_constants_hold_their_value():
  found = np.asarray(init.constant(-2.5)(KEY, (3,)))
  np.testing.assert_array_equal(found, [-2.5] * 3)
