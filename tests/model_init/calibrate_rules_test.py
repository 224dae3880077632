"""Where the target cannot be met: the rule that is followed, and the list."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibrated import check, reasons, run, tolerance
from drawn_by_numpy import filled, normal
from hypothesis import example, given, settings
from hypothesis import strategies as st

from initjax.model_init import calibrate

X = normal(1, 16, 12)
SEQUENCE = normal(2, 7, 16, 12)
W, V = normal(3, 12, 12, scale=5), normal(4, 12, 12, scale=0.1)
BOTH = {"w": W, "v": V}
FIRST_W = [("w", ())]


def assert_scaled(after, before, factor):
  np.testing.assert_allclose(after / before, factor, rtol=1e-6)


def alone(params, x):
  return x @ params["w"]


def layers(kernel, x):
  return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, kernel)[0]


# Kernels that are used several times


def tied(params, x):
  return jnp.tanh(jnp.tanh(x @ params["w"]) @ params["v"]) @ params["w"].T


def test_the_first_use_of_a_tied_kernel_decides():
  """The operation between sees what the returned kernel gives, and what is
  reported of the later use is what measure finds, over factor²."""
  after, _ = check(tied, BOTH, X, rtol=tolerance(12, 3), skipped=FIRST_W)
  wanted = np.mean((X @ W) ** 2) ** -0.5
  np.testing.assert_allclose(after["w"] / W, wanted, rtol=tolerance(12))
  _, info, found = run(tied, BOTH, X)
  last = info.operations[-1]
  np.testing.assert_allclose(
    last.before * last.factor**2, found[-1], rtol=tolerance(12, 3)
  )


def test_pooled_uses_have_the_target_on_average():
  """Two linear uses of the same input size: their mean is exactly 1."""
  fn = lambda p, x, y: (x @ p["w"], y @ p["w"])
  _, info, found = run(fn, {"w": W}, X, 3 * X[::-1], tied="pooled")
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
  after, info, found = run(recurrent, BOTH, SEQUENCE, tied="first")
  rows = {(op.path, op.repeat): op for op in info.operations}
  assert rows["v", (0,)].reason == "output is zero"
  for first in (("w", (0,)), ("v", (1,))):
    assert rows[first].reason == "calibrated"
  assert sum(op.reason == "calibrated" for op in rows.values()) == 2
  assert_scaled(after["v"], V, rows["v", (6,)].factor)
  said = [op.before * op.factor**2 for op in info.operations]
  np.testing.assert_allclose(found, said, rtol=tolerance(12, 7), atol=1e-9)
  np.testing.assert_allclose(found[[0, 3]], 1, rtol=tolerance(12, 3))


def test_a_state_that_begins_with_zeros_pools_its_kernel():
  """What the input feeds is determined by its first use, as elsewhere."""
  _, info, found = run(recurrent, BOTH, SEQUENCE)
  reasons = {op.path: op.reason for op in info.operations[2:]}
  assert "from its first live use" in reasons["w"]
  assert "pooled over live uses" in reasons["v"]
  state = np.array([op.path == "v" for op in info.operations])
  assert abs(np.log(found[state][1:].mean())) < 0.1


def test_pooling_a_recurrent_kernel():
  """Uses of "w" see inputs that do not change, so their mean is exact."""
  _, info, found = run(recurrent, BOTH, SEQUENCE, tied="pooled")
  _, _, started = run(recurrent, BOTH, SEQUENCE, tied="first")
  is_w = np.array([op.path == "w" for op in info.operations])
  np.testing.assert_allclose(found[is_w].mean(), 1, rtol=tolerance(12))
  miss = lambda moments: abs(np.log(moments[~is_w][1:].mean()))
  assert miss(found) < miss(started)


def test_the_gates_of_a_linen_lstm_have_one_factor_for_each_product():
  model = nn.RNN(nn.OptimizedLSTMCell(8))
  x = SEQUENCE.swapaxes(0, 1)
  variables = filled(model.init, x)
  after, info, _ = run(model.apply, variables, x)
  assert reasons(info).count("calibrated") == 1  # the state's are pooled
  cells = after["params"]["cell"], variables["params"]["cell"]
  for kind in "ih":
    new, old = (
      np.stack([cell[kind + gate]["kernel"] for gate in "ifgo"])
      for cell in cells
    )
    assert_scaled(new, old, new.flat[0] / old.flat[0])


def test_two_scans_over_one_stack_share_a_factor_for_each_repeat():
  twice = lambda p, x: layers(p["w"], layers(p["w"], x))
  later = [("w", (step,)) for step in range(4)]
  params = {"w": normal(5, 4, 12, 12, scale=3)}
  _, info = check(twice, params, X, rtol=tolerance(12, 4), skipped=later)
  first, second = (row.factor for row in info.rows)
  np.testing.assert_array_equal(first, second)
  assert len(set(first.tolist())) == 4


def test_a_stack_used_as_layers_and_as_a_whole_has_one_factor():
  fn = lambda p, x: layers(p["w"], x) @ p["w"].reshape(12, 36)
  kernel = normal(6, 3, 12, 12, scale=3)
  after, *_ = run(fn, {"w": kernel}, X)
  assert_scaled(after["w"], kernel, after["w"].flat[0] / kernel.flat[0])


def test_overlapping_slices_are_one_kernel():
  fn = lambda p, x: (x @ p["w"][:, :8], x @ p["w"][:, 4:])
  after, info = check(fn, {"w": W}, X, rtol=tolerance(12), skipped=FIRST_W)
  assert_scaled(after["w"], W, info.rows[0].factor)


# Nothing to divide by


def test_a_zero_initialised_branch_stays():
  fn = lambda p, x: x + jnp.tanh(x @ p["w"]) @ p["zero"]
  params = {"w": W, "zero": np.zeros_like(W)}
  after, info = check(fn, params, X, rtol=tolerance(12), skipped=[("zero", ())])
  assert reasons(info) == ["calibrated", "output is zero"]
  assert not after["zero"].any()


@pytest.mark.parametrize("statistic", ["second_moment", "variance"])
def test_what_is_not_finite_stays(statistic):
  for value in (np.inf, np.nan):
    after, info, _ = run(alone, {"w": W}, X + value, statistic=statistic)
    assert reasons(info) == ["output or factor is not finite"]
    np.testing.assert_array_equal(after["w"], W)


def test_a_constant_has_no_variance():
  """Ones through a kernel of equal columns: rounding is not signal."""
  params, ones = {"w": np.full_like(W, 0.1)}, np.ones_like(X)
  after, info, _ = run(alone, params, ones, statistic="variance")
  assert reasons(info) == ["output is constant"]
  np.testing.assert_array_equal(after["w"], params["w"])
  check(alone, params, ones, rtol=tolerance(12))


def test_an_empty_batch():
  after, info = calibrate(alone, {"w": W}, X[:0])
  assert reasons(info) == ["output is empty"]
  assert np.isnan(info.operations[0].before)
  np.testing.assert_array_equal(after["w"], W)


def test_a_branch_not_taken_stays():
  def fn(params, x, index):
    branches = [lambda x, name=name: x @ params[name] for name in "wv"]
    return jax.lax.switch(index, branches, x)

  for taken, other in enumerate("vw"):
    after, info = check(
      fn, BOTH, X, np.int32(taken), rtol=tolerance(12),
      skipped=[(f"{other}", ())],
    )  # fmt: skip
    assert sorted(reasons(info)) == ["calibrated", "not run"]
    np.testing.assert_array_equal(after[other], BOTH[other])


# Kernels that are no views of parameters


def standardised(params, x):
  w = params["w"] - params["w"].mean(0)
  return jnp.tanh(x @ (w / jnp.sqrt((w**2).mean(0) + 1e-6))) @ params["v"]


def squared(params, x):
  """Rescaling w would change the second product behind its back."""
  return jnp.tanh((x @ params["w"]) * (params["w"] ** 2).sum(0)) @ params["v"]


@pytest.mark.parametrize(
  ("fn", "reason"),
  [(standardised, "kernel is computed"), (squared, "parameter is also used")],
)
def test_kernels_that_are_more_than_views_are_skipped(fn, reason):
  after, info = check(fn, BOTH, X, rtol=tolerance(12, 2), skipped=FIRST_W)
  np.testing.assert_array_equal(after["w"], W)
  assert info.skipped[0][2].startswith(reason)


def test_weight_decay_that_reaches_no_product_is_no_obstacle():
  fn = lambda p, x: ((x @ p["w"]) ** 2).mean() + (p["w"] ** 2).sum()
  check(fn, {"w": W}, X, rtol=tolerance(12))


def test_while_loops_are_run_as_they_are():
  def fn(params, x, steps):
    body = lambda state: (state[0] + 1, jnp.tanh(state[1] @ params["w"]))
    looped = jax.lax.while_loop(lambda s: s[0] < steps, body, (0, x))[1]
    return looped @ params["v"]

  after, info = jax.jit(functools.partial(calibrate, fn))(BOTH, X, np.int32(3))
  assert reasons(info) == ["inside a call that is run as a whole, such as a "
                           "while loop", "calibrated"]  # fmt: skip
  np.testing.assert_array_equal(after["w"], W)
  looped = X
  for _ in range(3):
    looped = np.tanh(looped @ W)
  moment = ((looped @ np.asarray(after["v"])) ** 2).mean()
  np.testing.assert_allclose(moment, 1, rtol=1e-3)


def test_only_parameters_of_floats_are_changed():
  """Neither integers nor a kernel closed over, which is no parameter."""
  small = np.arange(-72, 72, dtype=np.int8).reshape(12, 12)

  def fn(params, x):
    h = jnp.tanh(x @ (params["q"].astype(jnp.float32) * 0.1))
    return jnp.tanh(h @ W) @ params["v"]

  after, info, _ = run(fn, {"q": small, "v": V}, X)
  np.testing.assert_array_equal(after["q"], small)
  assert [op.reason == "calibrated" for op in info.operations] == [
    False, False, True
  ]  # fmt: skip


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


@example(shape=(3, 4), steps=["transpose", "reshape", "reverse"], seed=0)
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
  before = normal(seed, *shape)
  view = lambda w: functools.reduce(lambda w, step: STEPS[step](w), steps, w)
  x = normal(100, 5, *jax.eval_shape(view, before).shape[:1])
  fn = lambda p, x: x @ view(p["w"])

  @jax.jit
  def program(params, x):
    after, info = calibrate(fn, params, x)
    return after["w"], info, view(params["w"]).any(), fn(after, x)

  after, info, is_live, out = jax.device_get(program({"w": before}, x))
  (op,) = info.operations
  if not is_live:
    assert op.reason == "output is zero"
    return
  np.testing.assert_allclose((out**2).mean(), 1, rtol=tolerance(len(x.T)))
  factors = after / before
  changed = ~np.isclose(factors, op.factor, rtol=1e-5)
  np.testing.assert_array_equal(factors[changed], 1)


# Where the target makes gradients grow


def calibrated_tanh(depth, **options):
  stack = {"w": normal(9, depth, 12, 12)}
  return calibrate(lambda p, x: layers(p["w"], x), stack, X, **options)


def test_deep_tanh_with_unit_signals_is_warned_of():
  """χ₁ is 1.178 there: 1.178^28 = 99 is allowed, 1.178^34 = 263 is not."""
  message = r"changes 2\.6e\+02 times over 35 layers .* tanh .* auto_init"
  with pytest.warns(UserWarning, match=message):
    calibrated_tanh(35)


@pytest.mark.parametrize(
  ("depth", "options"), [(28, {}), (35, {"target": 0.1})]
)
def test_fewer_layers_and_smaller_signals_are_not(depth, options):
  calibrated_tanh(depth, **options)
