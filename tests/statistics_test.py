"""Statistics against numpy in float64, and what `tap` tells of a cotangent."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax._statistics import Statistics, empty_slot, statistics, tap

EPSILON = float(np.finfo(np.float32).eps)


def in_numpy(x):
  x = np.asarray(x).astype(np.float64)
  with np.errstate(divide="ignore"):
    return Statistics(
      x.mean(),
      np.log2(np.mean((x / abs(x).max()) ** 2)) + 2 * np.log2(abs(x).max()),
      abs(x).max(),
      np.sum(x == 0),
      np.sum(~np.isfinite(x)),
      x.size,
    )


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


def random(shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


jitted = jax.jit(statistics)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("shape", [(1,), (1000,), (7, 11, 13), (300, 300)])
def test_statistics_equal_numpy(shape, scale):
  x = np.float32(scale) * (np.asarray(random(shape)) + np.float32(0.5))
  assert_statistics(jitted(x), x)


def test_no_underflow_before_the_signal_does():
  """The square of 1e-30 is 0 in float32; its logarithm is -199.3."""
  x = jnp.full(8, 1e-30)
  assert jnp.mean(x**2) == 0
  expected = 2 * np.log2(float(np.float32(1e-30)))
  np.testing.assert_allclose(
    statistics(x).log2_second_moment, expected, rtol=EPSILON
  )


def test_entries_far_apart_do_not_disturb_each_other():
  x = jnp.array([1e30, 1e-30, 0.0, 0.0])
  s = statistics(x)
  np.testing.assert_allclose(
    s.log2_second_moment, 2 * np.log2(1e30) - 2, rtol=2 * EPSILON
  )
  assert s.zeros == 2


def test_zeros():
  s = statistics(jnp.zeros((2, 3)))
  assert (s.mean, s.largest, s.zeros, s.nonfinite) == (0, 0, 6, 0)
  assert s.log2_second_moment == -jnp.inf


@pytest.mark.parametrize(
  ("bad", "count"), [([jnp.inf], 1), ([jnp.nan, -jnp.inf], 2)]
)
def test_infinite_and_nan_entries_are_counted(bad, count):
  s = statistics(jnp.array([1.0, 0.0, *bad]))
  assert (s.nonfinite, s.zeros) == (count, 1)
  assert not jnp.isfinite(s.log2_second_moment)
  assert not jnp.isfinite(s.largest)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_summed_in_float32(dtype):
  x = random((100, 100), dtype) + 1
  s = statistics(x)
  chex.assert_trees_all_close(
    s, statistics(x.astype(jnp.float32)), rtol=EPSILON
  )
  assert all(leaf.dtype == jnp.float32 for leaf in s)
  assert_statistics(s, x)


def test_float64_is_summed_wide_and_comes_out_as_float32():
  with jax.enable_x64(True):
    x = random((1000,), jnp.float64)
    s = statistics(x)
    assert all(leaf.dtype == jnp.float32 for leaf in s)
    want = in_numpy(x)
    np.testing.assert_allclose(s, want, rtol=EPSILON)


def loss_of(h):
  """Terms and slopes without cancellation: rounding stays relative."""
  return jnp.sum(jnp.exp(h) * jnp.arange(1, 1 + h.size).reshape(h.shape))


def function(x, slot):
  return loss_of(tap(x / 2, slot))


def true_cotangent(x):
  """The gradient at the tap: with respect to zeros that are added there."""
  return jax.grad(lambda zeros: loss_of(x / 2 + zeros))(jnp.zeros_like(x))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tap_is_the_identity_and_reports(wrap, dtype):
  x = random((5, 7), dtype)
  slot, same = empty_slot(), 4 * float(jnp.finfo(dtype).eps)  # fused or not
  chex.assert_trees_all_equal(tap(x, slot), x)
  with_tap = wrap(jax.value_and_grad(function, (0, 1)))
  loss, (gradient, report) = with_tap(x, slot)
  bare = jax.jit(jax.value_and_grad(lambda x: loss_of(x / 2)))(x)
  as_float = lambda tree: jax.tree.map(np.float32, tree)
  chex.assert_trees_all_close(
    as_float((loss, gradient)), as_float(bare), rtol=same
  )
  expected = jax.jit(lambda x: statistics(true_cotangent(x)))(x)
  chex.assert_trees_all_close(report.statistics(), expected, rtol=same)
  assert expected.mean != 0


def test_tap_under_vmap():
  x = random((3, 5))
  reports = jax.vmap(jax.grad(function, 1), (0, None))(x, empty_slot())
  expected = jax.vmap(lambda x: statistics(true_cotangent(x)))(x)
  chex.assert_trees_all_close(reports.statistics(), expected, rtol=8 * EPSILON)
  together = jax.vmap(jax.grad(function, 1))(x, empty_slot((3,)))
  chex.assert_trees_all_equal(together, reports)


@pytest.mark.parametrize("reverse", [False, True])
def test_tap_under_scan_reports_every_step(reverse):
  steps, x = 6, random((4,))

  def loss(slots, zeros):
    def step(h, inputs):
      slot, zero = inputs
      return tap(jnp.tanh(1.5 * h) + zero, slot), None

    h, _ = jax.lax.scan(step, x, (slots, zeros), reverse=reverse)
    return jnp.sum(h * jnp.arange(1.0, 5.0))

  slots, zeros = empty_slot((steps,)), jnp.zeros((steps, 4))
  reports, cotangents = jax.grad(loss, (0, 1))(slots, zeros)
  expected = jax.vmap(statistics)(cotangents)
  chex.assert_trees_all_close(reports.statistics(), expected, rtol=8 * EPSILON)
  assert len(set(reports.statistics().largest.tolist())) == steps


def test_tap_of_float32_where_x64_is_on():
  """Slots and what they measure are float32, whatever x64 says."""
  x = random((5,))
  with jax.enable_x64(True):
    report = jax.grad(function, 1)(x, empty_slot())
  expected = statistics(true_cotangent(x))
  np.testing.assert_allclose(report.statistics(), expected, rtol=8 * EPSILON)


def test_two_taps_on_one_slot_add_up():
  """A slot is read once; sharing one sums the reports, as gradients do."""
  x = random((5,))
  report = jax.grad(lambda s: tap(x, s).sum() + (3 * tap(x, s)).sum())(
    empty_slot()
  )
  assert report.numbers[0] == 1 + 3  # the largest


def test_a_complex_number_counts_as_two():
  z = random((5, 7)) + 1j * random((5, 7))[::-1]
  both = jnp.concatenate([z.real, z.imag])
  chex.assert_trees_all_close(statistics(z), statistics(both), rtol=8 * EPSILON)
  slot = empty_slot((), z.dtype)
  found = jax.grad(lambda s: jnp.sum(tap(z, s) * z).real)(slot)
  assert found.statistics().size == 70
