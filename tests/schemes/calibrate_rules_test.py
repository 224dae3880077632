"""Where the target cannot be met: the rule that is followed, and the list."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibrated import check, statistics_of, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st

from initjax.schemes import calibrate

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 12))
SEQUENCE = jax.random.normal(jax.random.key(2), (7, 16, 12))
W = 5 * jax.random.normal(jax.random.key(3), (12, 12))
V = 0.1 * jax.random.normal(jax.random.key(4), (12, 12))


def reasons(info):
  return [op.reason.split(":")[0] for op in info.operations]


def ratio(after, before):
  return np.asarray(after / before)


# Kernels that are used several times


def tied(params, x):
  return jnp.tanh(jnp.tanh(x @ params["w"]) @ params["v"]) @ params["w"].T


TIED = {"w": W, "v": V}


def test_the_first_use_of_a_tied_kernel_decides():
  """The operation between sees what the returned kernel gives."""
  after, _ = check(
    tied, TIED, X, rtol=tolerance(12, 3), skipped=[("['w']", ())]
  )
  _, alone = calibrate(lambda p, x: x @ p["w"], TIED, X)
  np.testing.assert_allclose(
    ratio(after["w"], W), alone.rows[0].factor, rtol=tolerance(12)
  )


def test_the_pass_goes_on_with_what_the_parameters_will_do():
  """What is reported of a later use is what measure finds, over factor²."""
  after, info = calibrate(tied, TIED, X)
  last = info.operations[-1]
  found = statistics_of(tied, after, X)[-1]
  np.testing.assert_allclose(
    last.before * last.factor**2, found, rtol=tolerance(12, 3)
  )


def test_pooled_uses_have_the_target_on_average():
  """Two linear uses of the same input size: their mean is exactly 1."""
  fn = lambda p, x, y: (x @ p["w"], y @ p["w"])
  many = (X, 3 * X[::-1])
  after, info = calibrate(fn, {"w": W}, *many, shared="pooled")
  found = statistics_of(fn, after, *many)
  np.testing.assert_allclose(found.mean(), 1, rtol=tolerance(12))
  np.testing.assert_allclose(found[1] / found[0], 9, rtol=tolerance(12))
  assert all("pooled over live uses" in reason for *_, reason in info.skipped)


def recurrent(params, xs):
  def cell(h, x):
    h = jnp.tanh(x @ params["w"] + h @ params["v"])
    return h, h

  return jax.lax.scan(cell, jnp.zeros_like(xs[0]), xs)[1]


def test_a_recurrent_kernel_waits_for_its_first_input():
  """At step 0 the state is zero: step 1 decides, and all later steps follow."""
  after, info = calibrate(recurrent, TIED, SEQUENCE)
  rows = {(op.path, op.repeat): op for op in info.operations}
  assert rows["['v']", (0,)].reason == "output is zero"
  assert (
    rows["['w']", (0,)].reason == rows["['v']", (1,)].reason == "calibrated"
  )
  assert sum(op.reason == "calibrated" for op in rows.values()) == 2
  np.testing.assert_allclose(
    ratio(after["v"], V), rows["['v']", (6,)].factor, rtol=1e-6
  )
  found = statistics_of(recurrent, after, SEQUENCE)
  said = [op.before * op.factor**2 for op in info.operations]
  np.testing.assert_allclose(found, said, rtol=tolerance(12, 7), atol=1e-9)
  np.testing.assert_allclose(found[[0, 3]], 1, rtol=tolerance(12, 3))


def test_pooling_a_recurrent_kernel():
  """Uses of "w" see inputs that do not change, so their mean is exact."""
  after, info = calibrate(recurrent, TIED, SEQUENCE, shared="pooled")
  found = statistics_of(recurrent, after, SEQUENCE)
  paths = np.array([op.path for op in info.operations])
  np.testing.assert_allclose(
    found[paths == "['w']"].mean(), 1, rtol=tolerance(12)
  )
  first, _ = calibrate(recurrent, TIED, SEQUENCE)
  started = statistics_of(recurrent, first, SEQUENCE)
  miss = lambda s: abs(np.log(s[paths == "['v']"][1:].mean()))
  assert miss(found) < miss(started)


def test_the_gates_of_a_linen_lstm_have_one_factor_for_each_product():
  model = nn.RNN(nn.OptimizedLSTMCell(8))
  x = jnp.swapaxes(SEQUENCE, 0, 1)
  variables = jax.jit(model.init)(KEY, x)
  after, info = calibrate(model.apply, variables, x)
  calibrated = [op for op in info.operations if op.reason == "calibrated"]
  assert len(calibrated) == 2
  cell, old = after["params"]["cell"], variables["params"]["cell"]
  for kind in "ih":
    factors = [
      ratio(cell[kind + gate]["kernel"], old[kind + gate]["kernel"])
      for gate in "ifgo"
    ]
    np.testing.assert_allclose(factors, factors[0].flat[0], rtol=1e-6)


def test_two_scans_over_one_stack_share_a_factor_for_each_repeat():
  def twice(params, x):
    layer = lambda h, w: (jnp.tanh(h @ w), None)
    once = jax.lax.scan(layer, x, params["kernel"])[0]
    return jax.lax.scan(layer, once, params["kernel"])[0]

  kernel = 3 * jax.random.normal(KEY, (4, 12, 12))
  later = [("['kernel']", (step,)) for step in range(4)]
  _, info = check(
    twice, {"kernel": kernel}, X, rtol=tolerance(12, 4), skipped=later
  )
  first, second = (np.asarray(row.factor) for row in info.rows)
  np.testing.assert_array_equal(first, second)
  assert len(set(first.tolist())) == 4


def test_a_stack_used_as_layers_and_as_a_whole_has_one_factor():
  def fn(params, x):
    layer = lambda h, w: (jnp.tanh(h @ w), None)
    h = jax.lax.scan(layer, x, params["kernel"])[0]
    return h @ params["kernel"].reshape(12, 36)

  kernel = 3 * jax.random.normal(KEY, (3, 12, 12))
  after, _ = calibrate(fn, {"kernel": kernel}, X)
  np.testing.assert_allclose(
    ratio(after["kernel"], kernel), ratio(after["kernel"], kernel)[0, 0, 0],
    rtol=1e-6,
  )  # fmt: skip


def test_overlapping_slices_are_one_kernel():
  fn = lambda p, x: (x @ p["w"][:, :8], x @ p["w"][:, 4:])
  after, info = check(
    fn, {"w": W}, X, rtol=tolerance(12), skipped=[("['w']", ())]
  )
  np.testing.assert_allclose(
    ratio(after["w"], W), info.rows[0].factor, rtol=1e-6
  )


# Nothing to divide by


def test_a_zero_initialised_branch_stays():
  fn = lambda p, x: x + jnp.tanh(x @ p["w"]) @ p["zero"]
  params = {"w": W, "zero": jnp.zeros((12, 12))}
  after, info = check(
    fn, params, X, rtol=tolerance(12), skipped=[("['zero']", ())]
  )
  assert reasons(info) == ["calibrated", "output is zero"]
  assert (after["zero"] == 0).all()


@pytest.mark.parametrize("value", [jnp.inf, jnp.nan])
@pytest.mark.parametrize("statistic", ["second_moment", "variance"])
def test_what_is_not_finite_stays(value, statistic):
  fn = lambda p, x: (x + value) @ p["w"]
  after, info = calibrate(fn, {"w": W}, X, statistic=statistic)
  assert reasons(info) == ["output or factor is not finite"]
  assert (after["w"] == W).all()


def test_a_constant_has_no_variance():
  """Ones through a kernel of equal columns: rounding is not signal."""
  params = {"w": jnp.full((12, 12), 0.1)}
  ones = jnp.ones((16, 12))
  fn = lambda p, x: x @ p["w"]
  after, info = calibrate(fn, params, ones, statistic="variance")
  assert reasons(info) == ["output is constant"]
  assert (after["w"] == params["w"]).all()
  check(fn, params, ones, rtol=tolerance(12))


def test_an_empty_batch():
  after, info = calibrate(lambda p, x: x @ p["w"], {"w": W}, X[:0])
  assert reasons(info) == ["output is zero"]
  assert (after["w"] == W).all()


@pytest.mark.parametrize("taken", [0, 1])
def test_a_branch_not_taken_stays(taken):
  def fn(params, x, index):
    branches = [lambda x, name=name: x @ params[name] for name in ("w", "v")]
    return jax.lax.switch(index, branches, x)

  other = "['v']" if taken == 0 else "['w']"
  after, info = check(
    fn, TIED, X, jnp.int32(taken), rtol=tolerance(12), skipped=[(other, ())]
  )
  assert sorted(reasons(info)) == ["calibrated", "not run"]
  name = other[2]
  assert (after[name] == TIED[name]).all()


# Kernels that are no views of parameters


def standardised(params, x):
  w = params["w"] - params["w"].mean(0)
  return jnp.tanh(x @ (w / jnp.sqrt((w**2).mean(0) + 1e-6))) @ params["v"]


def test_weight_standardisation_is_skipped():
  after, info = check(
    standardised, TIED, X, rtol=tolerance(12, 2), skipped=[("['w']", ())]
  )
  assert (after["w"] == W).all()
  assert info.skipped[0][2].startswith("kernel is computed")


def test_a_kernel_that_is_also_squared_is_skipped():
  """Rescaling it would change the second product behind its back."""
  fn = lambda p, x: jnp.tanh((x @ p["w"]) * (p["w"] ** 2).sum(0)) @ p["v"]
  after, info = check(
    fn, TIED, X, rtol=tolerance(12, 2), skipped=[("['w']", ())]
  )
  assert (after["w"] == W).all()
  assert info.skipped[0][2].startswith("parameter is also used")


def test_weight_decay_that_reaches_no_product_is_no_obstacle():
  fn = lambda p, x: ((x @ p["w"]) ** 2).mean() + (p["w"] ** 2).sum()
  check(fn, {"w": W}, X, rtol=tolerance(12))


def test_while_loops_are_run_as_they_are():
  def fn(params, x, steps):
    body = lambda state: (state[0] + 1, jnp.tanh(state[1] @ params["w"]))
    looped = jax.lax.while_loop(lambda s: s[0] < steps, body, (0, x))[1]
    return looped @ params["v"]

  after, info = calibrate(fn, TIED, X, jnp.int32(3))
  assert reasons(info) == ["inside a call that is run as a whole, such as a "
                           "while loop", "calibrated"]  # fmt: skip
  assert (after["w"] == W).all()
  looped = X
  for _ in range(3):
    looped = np.tanh(looped @ W)
  moment = ((looped @ after["v"]) ** 2).mean()
  np.testing.assert_allclose(moment, 1, rtol=1e-3)


def test_integer_kernels_keep_their_values():
  params = {"q": jnp.arange(-72, 72, dtype=jnp.int8).reshape(12, 12)}
  after, info = calibrate(
    lambda p, x: x @ (p["q"].astype(jnp.float32) * 0.1), params, X
  )
  assert (after["q"] == params["q"]).all()
  assert len(info.skipped) == 1


def test_a_kernel_closed_over_is_no_parameter():
  fn = lambda p, x: jnp.tanh(x @ W) @ p["v"]
  _, info = calibrate(fn, {"v": V}, X)
  assert reasons(info)[-1] == "calibrated"
  assert len(info.skipped) == 1


# Views, drawn at random

STEPS = {
  "transpose": lambda w: w.T,
  "half": lambda w: w[: max(w.shape[0] // 2, 1)],
  "stride": lambda w: w[:, ::2],
  "reverse": lambda w: w[::-1],
  "reshape": lambda w: w.reshape(w.shape[1], w.shape[0]),
  "scale": lambda w: -0.3 * w,
  "double": lambda w: jnp.concatenate([w, w]),
  "index": lambda w: jnp.stack([w[0], w[-1]]),
  "mask": lambda w: w * (jnp.arange(w.shape[0]) % 2)[:, None],
}


@settings(max_examples=10, deadline=None)
@given(
  shape=st.tuples(st.integers(2, 7), st.integers(2, 7)),
  steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=4),
  seed=st.integers(0, 99),
)
def test_any_view_of_a_parameter(shape, steps, seed):
  """The output is calibrated, and the entries it sees have one factor.

  A mask may leave nothing; then there is nothing to divide by.
  """
  keys = jax.random.split(jax.random.key(seed), 2)
  params = {"w": jax.random.normal(keys[0], shape)}
  view = lambda w: functools.reduce(lambda w, step: STEPS[step](w), steps, w)
  kernel = view(params["w"])
  x = jax.random.normal(keys[1], (5, kernel.shape[0]))
  after, info = calibrate(lambda p, x: x @ view(p["w"]), params, x)
  (op,) = info.operations
  if not kernel.any():
    assert op.reason == "output is zero"
    return
  moment = ((x @ view(after["w"])) ** 2).mean()
  np.testing.assert_allclose(moment, 1, rtol=tolerance(kernel.shape[0]))
  factors = ratio(after["w"], params["w"])
  changed = ~np.isclose(factors, op.factor, rtol=1e-5)
  np.testing.assert_array_equal(factors[changed], 1)
