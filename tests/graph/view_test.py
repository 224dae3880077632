"""How a kernel is made of leaves: the record says what the function does."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from initjax.graph import signal_graph
from initjax.graph._signal_graph import trace
from initjax.graph._view import overlap

X = jax.ShapeDtypeStruct((3, 8), jnp.float32)
W = jax.ShapeDtypeStruct((8, 8), jnp.float32)
STACK = jax.ShapeDtypeStruct((4, 8, 8), jnp.float32)
BOTH = {"w": W, "v": W}


def view_of(use, leaf):
  """Of the kernel use(leaf), whose rows are summed."""
  rows = jax.eval_shape(use, leaf).shape[0]
  x = jax.ShapeDtypeStruct((2, rows), jnp.float32)
  (op,) = signal_graph(lambda w, x: x @ use(w), leaf, x).ops
  return op.view


# What it does to leaves

STEPS = {
  "transpose": lambda w: w.T,
  "half": lambda w: w[: max(w.shape[0] // 2, 1)],
  "stride": lambda w: w[:, ::2],
  "reverse": lambda w: w[::-1],
  "reshape": lambda w: w.reshape(w.shape[1], w.shape[0]),
  "split": lambda w: jnp.split(w, [1], axis=1)[0],
  "row": lambda w: jnp.broadcast_to(w[-1], w.shape),
  "take": lambda w: jnp.take(w, 0, axis=1)[:, None],
  "dynamic": lambda w: jax.lax.dynamic_slice(w, (5, 0), (1, w.shape[1])),
  "unstack": lambda w: jnp.stack(list(w)[::-1]),
  "roll": lambda w: jnp.roll(w, 1, axis=0),  # along an axis of NumPy's kind
  "double": lambda w: jnp.concatenate([w, w]),
  "zeros": lambda w: jnp.concatenate([w, jnp.zeros_like(w)], axis=1),
  "cast": lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
}


@example(shape=(3, 4), steps=["transpose", "reshape", "reverse"])
@example(shape=(3, 4), steps=["roll", "transpose"])
@settings(max_examples=25, deadline=None)
@given(
  shape=st.tuples(st.integers(2, 6), st.integers(2, 6)),
  steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=4),
)
def test_applied_to_a_leaf_it_gives_the_kernel(shape, steps):
  """Entries are small integers, which bfloat16 holds."""
  use = lambda w: functools.reduce(lambda w, step: STEPS[step](w), steps, w)
  w = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
  view, wanted = view_of(use, w), np.asarray(use(w))
  assert view.exact
  assert view.covering is view
  assert (view.shape, view.size) == (wanted.shape, wanted.size)
  np.testing.assert_array_equal(view.apply({".": jnp.asarray(w)}), wanted)
  held = wanted[wanted != 0]
  assert not view.distinct or len(set(held.tolist())) == held.size


def test_a_number_multiplies_and_an_array_takes_the_number_away():
  halved = view_of(lambda w: -w.T / 2, W)
  assert (halved.multiplier, halved.steps) == (-0.5, ("transpose",))
  masked = view_of(lambda w: w * jnp.arange(8.0), W)
  assert (masked.multiplier, masked.exact) == (None, True)
  sides = lambda p, q: lambda w: jnp.concatenate([p * w, q * w])
  assert view_of(sides(2, 2), W).multiplier == 2
  assert view_of(sides(2, 3), W).multiplier is None


@pytest.mark.parametrize(
  "use",
  [
    lambda w: w.astype(jnp.int8).astype(jnp.float32),  # rounded
    lambda w: w + 1,
    lambda w: 1 / w,
    lambda w: jnp.concatenate([w, jnp.ones_like(w)]),
    lambda w: jax.lax.fori_loop(0, 3, lambda _, w: 2 * w, w),
  ],
)
def test_more_than_moves_and_factors_is_computed(use):
  view = view_of(use, W)
  assert (view.computed, view.exact, view.paths) == (True, False, (".",))


def test_scans_slice_it_and_parts_may_be_unknown():
  def model(kernels, x):
    scanned = jax.lax.scan(lambda h, w: (h @ w.T, None), x, kernels)[0]
    step = lambda i, h: h @ kernels[i]
    return jax.lax.fori_loop(0, 4, step, scanned)

  scanned, indexed = signal_graph(model, STACK, X).ops
  assert scanned.view.steps == ("scan[4]", "transpose")
  assert [scan.length for scan in scanned.view.scans] == [4]
  assert (scanned.is_shared, indexed.is_shared) == (False, True)
  assert (scanned.view.exact, indexed.view.exact) == (True, False)
  with pytest.raises(ValueError, match="cannot be told"):
    indexed.view.apply({".": np.zeros(STACK.shape)})
  assert indexed.view.covering.shape == STACK.shape


def test_shards_of_all_devices_are_the_whole():
  mesh = jax.make_mesh((2,), ("m",), (jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec
  columns, whole = spec(None, "m"), spec()
  use = lambda w, x: x @ w
  sharded = jax.shard_map(
    use, mesh=mesh, in_specs=(columns, whole), out_specs=columns
  )
  (op,) = signal_graph(sharded, W, X).ops
  assert (op.view.shape, op.view.exact, op.in_axes) == ((8, 8), True, (0,))
  assert op.fan_out == 8


# As data


def test_views_of_two_traces_are_equal_and_survive_pickling():
  def model(p, x):
    wide = jnp.concatenate([p["w"], p["v"]], axis=1)
    return jnp.tanh(x @ wide)[:, :8] @ p["w"].reshape(8, 8).T

  first, second = (signal_graph(model, BOTH, X) for _ in range(2))
  for one, other in zip(first, second, strict=True):
    assert one.view == other.view
    assert hash(one.view) == hash(other.view)
    assert pickle.loads(pickle.dumps(one.view)) == one.view
  assert first.ops[0].view != first.ops[1].view


def test_overlap_is_of_entries():
  upper, lower, all_ = (
    view_of(use, W) for use in (lambda w: w[:3], lambda w: w[3:].T, lambda w: w)
  )
  assert not overlap(upper, lower)
  assert overlap(upper, all_)
  assert overlap(lower, view_of(lambda w: jnp.concatenate([w, w]), W))


# Parameters that are more than kernels


def decayed(p, x):
  return jnp.tanh(x @ p["w"]) @ p["v"], (p["w"] ** 2).sum()


def squared(p, x):
  return (x @ p["w"] * (p["w"] ** 2).sum()) @ p["v"]


def delayed(p, x):
  """w² needs four repeats to reach the product with v."""

  def body(carry, _):
    a, b, c, d, h = carry
    h = jnp.tanh((h + d) @ p["v"])
    return ((p["w"] ** 2).sum() + 0 * h.sum(), a, b, c, h), None

  zeros = (0.0,) * 4
  return jax.lax.scan(body, (*zeros, x @ p["w"]), None, 6)[0][-1]


def recurrent(p, x):
  """The state begins with a constant: at first that is no operation."""
  body = lambda h, x: (jnp.tanh(x @ p["v"] + h @ p["w"]), None)
  return jax.lax.scan(body, jnp.zeros((8,)), x)[0]


def in_a_while(p, x):
  """A kernel inside of what is run as a whole, before another operation."""
  body = lambda h: jnp.tanh(h @ p["w"])
  return jax.lax.while_loop(lambda h: h.sum() > 0, body, x) @ p["v"]


def chosen(p, x):
  """A parameter chooses the kernel."""
  pick = lambda: jax.lax.cond(p["w"].sum() > 0, lambda: 1.0, lambda: 2.0)
  return (x * pick()) @ p["v"]


@pytest.mark.parametrize(
  ("fn", "entangled"),
  [
    (decayed, set()),
    (squared, {"w"}),
    (delayed, {"w"}),
    (recurrent, set()),
    (in_a_while, {"w"}),
    (chosen, {"w"}),
  ],
)
def test_what_reaches_an_operation_otherwise_is_entangled(fn, entangled):
  assert trace(fn, BOTH, X).entangled == entangled
