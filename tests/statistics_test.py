"""Statistics against numpy in float64, and what `tap` tells of a cotangent."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax._statistics import (
  Statistics,
  _extremes,
  empty_slot,
  over_devices,
  statistics,
  tally,
  tap,
)

EPSILON = float(np.finfo(np.float32).eps)

jitted = jax.jit(statistics)


def in_numpy(x):
  x = np.asarray(x).astype(np.float64)
  largest = abs(x).max()
  log2 = np.log2(np.mean((x / largest) ** 2)) + 2 * np.log2(largest)
  counts = np.sum(x == 0), np.sum(~np.isfinite(x)), x.size
  return Statistics(x.mean(), log2, largest, *counts)


def assert_statistics(actual, x):
  """In float32: sums of x.size terms in pairwise order err by log2(size)·ε.

  That is at most 20·ε for every array here, relative to E|x| for the mean and
  to itself for E[x²]. log2 of 1e±30 is 100, and rounds to 100·ε.
  """
  x = np.asarray(x).astype(np.float64)
  want = in_numpy(x)
  assert abs(actual.mean - want.mean) <= 20 * EPSILON * abs(x).mean()
  np.testing.assert_allclose(
    actual[1], want[1], rtol=4 * EPSILON, atol=50 * EPSILON
  )
  np.testing.assert_array_equal(actual[2:], np.asarray(want[2:], np.float32))


def random(shape, dtype=np.float32):
  return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("shape", [(1,), (1000,), (7, 11, 13), (300, 300)])
def test_statistics_equal_numpy(shape):
  for scale in (1e-30, 1e-20, 1.0, 1e20, 1e30):
    x = np.float32(scale) * (random(shape) + np.float32(0.5))
    assert_statistics(jitted(x), x)


def test_no_underflow_before_the_signal_does():
  """The square of 1e-30 is 0 in float32; its logarithm is -199.3."""
  x = np.full(4, 1e-30, np.float32)
  assert np.mean(x**2) == 0
  expected = 2 * np.log2(float(x[0]))
  found = jitted(x).log2_second_moment
  np.testing.assert_allclose(found, expected, rtol=EPSILON)


def test_entries_far_apart_do_not_disturb_each_other():
  s = jitted(np.array([1e30, 1e-30, 0.0, 0.0], np.float32))
  expected = 2 * np.log2(1e30) - 2
  np.testing.assert_allclose(s.log2_second_moment, expected, rtol=2 * EPSILON)
  assert s.zeros == 2


def test_zeros():
  s = jitted(np.zeros(4, np.float32))
  assert (s.mean, s.largest, s.zeros, s.nonfinite) == (0, 0, 4, 0)
  assert s.log2_second_moment == -np.inf


def test_zeros_that_are_constants_of_a_program():
  """XLA turns (x / c)² into x²·(1/c)² if it knows x, here of two rows."""
  rows = jax.jit(lambda: jax.vmap(tally)(jnp.zeros((2, 1))))().numbers
  np.testing.assert_array_equal(rows[:, 2], 0)


@pytest.mark.parametrize("bad", [[1, np.inf], [np.nan, -np.inf]])
def test_infinite_and_nan_entries_are_counted(bad):
  s = jitted(np.array([1.0, 0.0, *bad], np.float32))
  assert (s.nonfinite, s.zeros) == (np.sum(~np.isfinite(bad)), 1)
  assert not np.isfinite([s.log2_second_moment, s.largest]).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_summed_in_float32(dtype):
  x = random((100, 100), dtype) + dtype(1)
  s = jitted(x)
  wide = jitted(x.astype(np.float32))
  chex.assert_trees_all_close(s, wide, rtol=EPSILON)
  assert all(leaf.dtype == np.float32 for leaf in s)
  assert_statistics(s, x)


def test_float64_is_summed_wide_and_comes_out_as_float32():
  x = random((1000,), np.float64)
  with jax.enable_x64(True):
    s = jitted(x)
  assert all(leaf.dtype == np.float32 for leaf in s)
  np.testing.assert_allclose(s, in_numpy(x), rtol=EPSILON)


def loss_of(h):
  """Terms and slopes without cancellation: rounding stays relative."""
  weights = np.arange(1, 1 + h.size, dtype=np.float32).reshape(h.shape)
  return jnp.sum(jnp.exp(h) * weights)


def function(x, slot):
  return loss_of(tap(x / 2, slot))


@jax.jit
def expected_of(x):
  """Of the gradient at the tap: with respect to zeros that are added there."""
  zeros = jnp.zeros_like(x)
  return statistics(jax.grad(lambda zeros: loss_of(x / 2 + zeros))(zeros))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_tap_is_the_identity_and_reports(wrap, dtype):
  x, slot = random((5, 7), dtype), empty_slot()
  same = 4 * float(jnp.finfo(dtype).eps)  # fused or not
  np.testing.assert_array_equal(jax.jit(tap)(x, slot), x)
  with_tap = jax.jit(wrap(jax.value_and_grad(function, (0, 1))))
  loss, (gradient, report) = with_tap(x, slot)
  bare = jax.jit(jax.value_and_grad(lambda x: loss_of(x / 2)))(x)
  chex.assert_trees_all_close(
    *jax.tree.map(np.float32, ((loss, gradient), bare)), rtol=same
  )
  expected = expected_of(x)
  chex.assert_trees_all_close(report.statistics(), expected, rtol=same)
  assert expected.mean != 0


def test_tap_under_vmap():
  x, report = random((3, 5)), jax.grad(function, 1)
  shared = jax.jit(jax.vmap(report, (0, None)))(x, empty_slot())
  chex.assert_trees_all_close(
    shared.statistics(), jax.vmap(expected_of)(x), rtol=8 * EPSILON
  )
  own = jax.jit(jax.vmap(report))(x, empty_slot((3,)))
  chex.assert_trees_all_equal(own, shared)


@pytest.mark.parametrize("reverse", [False, True])
def test_tap_under_scan_reports_every_step(reverse):
  steps, x = 6, random((4,))

  def loss(slots, zeros):
    def step(h, inputs):
      slot, zero = inputs
      return tap(jnp.tanh(1.5 * h) + zero, slot), None

    h, _ = jax.lax.scan(step, x, (slots, zeros), reverse=reverse)
    return jnp.sum(h * np.arange(1, 5, dtype=np.float32))

  zeros = np.zeros((steps, 4), np.float32)
  gradients = jax.jit(jax.grad(loss, (0, 1)))
  reports, cotangents = gradients(empty_slot((steps,)), zeros)
  found, expected = reports.statistics(), jax.vmap(jitted)(cotangents)
  chex.assert_trees_all_close(found, expected, rtol=8 * EPSILON)
  assert len(set(found.largest.tolist())) == steps


def test_tap_of_float32_where_x64_is_on():
  """Slots and what they measure are float32, whatever x64 says."""
  x = random((5, 7))
  with jax.enable_x64(True):
    report = jax.jit(jax.grad(function, 1))(x, empty_slot())
  found = report.statistics()
  np.testing.assert_allclose(found, expected_of(x), rtol=8 * EPSILON)


def test_two_taps_on_one_slot_add_up():
  """A slot is read once; sharing one sums the reports, as gradients do."""
  x = random((5,))
  loss = lambda s: tap(x, s).sum() + (3 * tap(x, s)).sum()
  report = jax.jit(jax.grad(loss))(empty_slot())
  assert report.numbers[0] == 1 + 3  # the largest


def test_a_complex_number_counts_by_its_modulus():
  z = random((5, 7)) + 1j * random((5, 7))[::-1]
  z[0, 0] = 0
  expected = jitted(abs(z))._replace(mean=z.real.mean())
  chex.assert_trees_all_close(jitted(z), expected, rtol=8 * EPSILON)
  loss = lambda s: jnp.sum(tap(z, s) * z).real
  found = jax.jit(jax.grad(loss))(empty_slot((), z.dtype))
  assert found.statistics().size == 35


def test_tallies_of_devices_are_that_of_all():
  """Though their largest entries differ by 2^-30 to 2^30."""
  x = random((5, 12)) * 2.0 ** np.array([[-30], [30], [0], [3], [-7]])
  x = x.astype(np.float32)
  found = jax.jit(lambda x: over_devices(jax.vmap(tally)(x)).statistics())(x)
  assert_statistics(found, x)


def test_counts_of_many_entries_do_not_overflow():
  """int32 ends at 2^31 - 1."""
  for size, dtype in ((2**31 - 1, jnp.int32), (2**31, jnp.float32)):
    x = jax.ShapeDtypeStruct((size,), jnp.float32)
    _, zeros, nonfinite = jax.eval_shape(_extremes, x)
    assert zeros.dtype == nonfinite.dtype == dtype
