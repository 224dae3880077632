"""Laws and errors of the plain distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from initjax import initializers as init

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


@pytest.mark.parametrize(("lower", "upper"), [(-2.0, 2.0), (-1.0, 0.5)])
def test_truncated_normal_in_standard_deviations(lower, upper, assert_law):
  sample = init.truncated_normal(0.3, lower=lower, upper=upper)(KEY, SHAPE)
  assert_law(sample, stats.truncnorm(lower, upper, 0, 0.3))


@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_truncated_normal_with_absolute_bounds(mean, assert_law):
  low, high, stddev = -0.5, 0.8, 0.6
  sample = init.truncated_normal(
    stddev, lower=low, upper=high, mean=mean, absolute=True
  )(KEY, SHAPE)
  # mean + stddev·z rounds twice: a bound is passed by at most two ulps.
  slack = 2 * float(jnp.finfo(jnp.float32).eps)
  assert low - slack <= sample.min() <= sample.max() <= high + slack
  bounds = ((low - mean) / stddev, (high - mean) / stddev)
  assert_law(sample, stats.truncnorm(*bounds, mean, stddev))


def test_mean_shifts_the_relative_law(assert_law):
  sample = init.truncated_normal(0.3, mean=-1.0)(KEY, SHAPE)
  assert_law(sample, stats.truncnorm(-2, 2, -1.0, 0.3))


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
  with pytest.raises(ValueError, match=r"stddev must be .* > 0; got 0"):
    init.truncated_normal(0.0, absolute=True)
  with pytest.raises(ValueError, match="mean must be a finite number"):
    init.truncated_normal(mean=math.nan)


def test_constants_hold_their_value():
  found = np.asarray(init.constant(-2.5)(KEY, (3,)))
  np.testing.assert_array_equal(found, [-2.5] * 3)
