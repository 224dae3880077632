"""Kernels that data choose, look-ups by one-hot rows, tables of positions.

Fans are counted: the entries of a Jacobian that are not 0, at random weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import KEY, normal

from initjax.graph import signal_graph

B, IN, OUT, N = 6, 4, 5, 3
X = normal(B, IN)
IDS = np.array([0, 2, 1, 2, 0, 1], np.int32)
ONE = np.int32(1)
STACK = {"w": normal(N, IN, OUT)}
SEVERAL = {name: normal(IN, OUT, seed=i) for i, name in enumerate("abc")}


def each(choose):
  """A kernel for each sample."""
  return lambda p, x, i: jax.vmap(lambda x, i: x @ choose(p, i))(x, i)


def once(choose):
  """One kernel for all samples."""
  return lambda p, x, i: x @ choose(p, i)


def summed(choose):
  """The same, by hand."""
  return lambda p, x, i: jax.vmap(
    lambda x, i: (choose(p, i) * x[:, None]).sum(0)
  )(x, i)


def switched(p, i):
  return lax.switch(i, [lambda k=k: k for k in p.values()])


def by_one_hot(p, i):
  return jnp.tensordot(jax.nn.one_hot(i, N), p["w"], 1)


CHOICES = {
  "index": (lambda p, i: p["w"][i], STACK),
  "take": (lambda p, i: jnp.take(p["w"], i, axis=0), STACK),
  "at": (lambda p, i: p["w"].at[i].get(mode="fill"), STACK),
  "dynamic": (
    lambda p, i: lax.dynamic_index_in_dim(p["w"], i, keepdims=False),
    STACK,
  ),
  "moved and scaled": (
    lambda p, i: 2 * jnp.swapaxes(p["w"], 1, 2)[i].T,
    STACK,
  ),
  "one-hot": (by_one_hot, STACK),
  "switch": (switched, SEVERAL),
  "cond": (
    lambda p, i: lax.cond(i > 0, lambda: p["a"], lambda: p["b"]),
    SEVERAL,
  ),
  "where": (lambda p, i: jnp.where(i > 0, p["a"], p["c"]), SEVERAL),
  "select": (lambda p, i: lax.select_n(i % 3, *p.values()), SEVERAL),
}


def counted(fn, params, x, *others):
  """Non-zeros of dy/dx of one output and of one input, both the most."""
  params, *others = jax.tree.map(jnp.asarray, (params, *others))
  flat = lambda x: fn(params, x, *others).ravel()
  jacobian = jax.jit(jax.jacobian(flat))(x)
  found = np.asarray(jacobian).reshape(jacobian.shape[0], -1) != 0
  return found.sum(1).max(), found.sum(0).max()


@pytest.mark.parametrize("way", [each, once, summed])
@pytest.mark.parametrize("name", CHOICES)
def test_a_kernel_that_data_choose_has_the_fans_of_its_contraction(name, way):
  choose, params = CHOICES[name]
  fn, index = way(choose), ONE if way is once else IDS
  (op,) = signal_graph(fn, params, X, index).ops
  assert (op.fan_in, op.fan_out) == counted(fn, params, X, index)
  assert (op.kind, op.origin, op.feed.reason) == ("dot", "parameter", "input")
  leaf = next(iter(params.values())).ndim
  assert (op.in_axes, op.out_axes) == ((leaf - 2,), (leaf - 1,))
  assert op.view.choices == (2 if name in ("cond", "where") else N)
  assert op.axes.units == (1,)  # all else tells samples apart
  assert op.axes.samples == (0,)


def test_rows_that_are_weighed_and_added_by_hand_are_looked_up():
  def model(p, x, i):
    rows = p["table"][jnp.stack([i, i + 1], 1)]
    pooled = (rows * jax.nn.softmax(x[:, :2])[..., None]).sum(1)
    return (pooled.reshape(B, 1, IN) * jax.nn.softmax(x)[:, None]).sum(1)

  (op,) = signal_graph(model, {"table": normal(N + 1, IN)}, X, IDS).ops
  assert (op.kind, op.fan_in, op.fan_out) == ("embedding", 1, IN)


COMPUTED = {
  "delta": lambda p, i, key: p["v"] + p["w"][i],
  "low rank": lambda p, i, key: p["v"] + p["a"][i] @ p["b"][i],
  "gain": lambda p, i, key: p["w"][i] * p["gain"][i],
  "mask": lambda p, i, key: jnp.where(i > 0, p["w"][i], 0),
  "standardized": lambda p, i, key: (
    (p["w"][i] - p["w"][i].mean(0)) / p["w"][i].std(0)
  ),
  "noise": lambda p, i, key: (
    p["w"][i] * (jax.random.uniform(key, (IN, OUT)) + 0.5)
  ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_kernel_computed_from_what_data_choose_is_none_looked_up(name):
  gain = normal(N, 1, OUT)
  params = {**STACK, "v": normal(IN, OUT), "gain": gain}
  params |= {"a": normal(N, IN, 2), "b": normal(N, 2, OUT)}
  fn = lambda p, x, i, key: x @ COMPUTED[name](p, i, key)
  (op,) = signal_graph(fn, params, X, ONE, KEY).ops
  assert (op.fan_in, op.fan_out) == counted(fn, params, X, ONE, KEY)
  assert (op.kind, op.origin) == ("dot", "derived")


def top_k(p, x):
  gates, index = lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
  hidden = jnp.einsum("bi,bkio->bko", x, p["w"][index]) + p["bias"][index]
  return jnp.einsum("bko,bk->bo", hidden, gates)


def test_experts_gathered_for_each_token_feed_as_many_outputs_as_are_used():
  params = {"w": STACK["w"], "router": normal(IN, N), "bias": normal(N, OUT)}
  graph = signal_graph(top_k, params, X)
  router, experts = graph.ops
  assert (router.path, experts.path) == ("router", "w")
  assert (experts.fan_in, experts.fan_out) == (IN, 2 * OUT)
  assert graph.elementwise == ("bias",)  # chosen as its kernel is, and added
  assert len(graph.products) == 1


def test_a_kernel_that_is_penalized_or_returned_is_no_look_up():
  penalized = lambda p, x, i: (x @ p["w"][i], (p["w"][i] ** 2).sum())
  returned = lambda p, x, i: (x @ p["w"][i], p["w"][i])
  for fn in (penalized, returned):
    (op,) = signal_graph(fn, STACK, X, ONE).ops
    assert (op.kind, op.fan_in) == ("dot", IN)
  others = lambda p, x, i: (x @ p["w"][i], p["w"][i - i + x.argmax()])
  ops = signal_graph(others, {"w": STACK["w"]}, X, ONE).ops
  assert [op.kind for op in ops] == ["dot", "embedding"]


def test_a_loop_that_chooses_its_kernels_keeps_their_axes():
  square = {"w": normal(N, 4, 4)}
  inside = lambda p, x, i: lax.scan(
    lambda h, i: (jnp.tanh(h @ p["w"][i]), None), x, i
  )[0]
  before = lambda p, x, i: lax.scan(
    lambda h, k: (jnp.tanh(h @ k), None), x, p["w"][i]
  )[0]
  for fn in (inside, before):
    (op,) = signal_graph(fn, square, X, IDS).ops
    assert (op.fan_in, op.fan_out, op.repeats) == (4, 4, (6,))
    assert (op.in_axes, op.out_axes, op.view.choices) == ((1,), (2,), N)


TABLES = {"E": normal(9, IN), "F": normal(9, IN, seed=2)}
PAIRS = {
  "factorization": lambda p, i, j: jnp.einsum("bd,bd->b", p["E"][i], p["F"][j]),
  "negatives": lambda p, i, j: jnp.einsum(
    "bd,bkd->bk", p["E"][i], p["F"][j[:, None] + jnp.arange(3)]
  ),
  "attention": lambda p, i, j: jax.nn.softmax(p["E"][i] @ p["F"][j].T),
  "normalized": lambda p, i, j: jax.nn.softmax(
    jax.nn.standardize(p["E"][i]) @ jax.nn.standardize(p["F"][j]).T
  ),
  "sums": lambda p, i, j: jax.nn.softmax(
    (p["E"][i] + p["F"][jnp.arange(B)]) @ (p["E"][i] + p["F"][j]).T
  ),
  "pooled": lambda p, i, j: jax.nn.softmax(p["F"][j].sum(1)) @ p["E"][i],
}


@pytest.mark.parametrize("name", PAIRS)
def test_rows_that_are_looked_up_make_no_kernel_of_each_other(name):
  graph = signal_graph(PAIRS[name], TABLES, IDS, IDS)
  assert {op.path for op in graph.ops} == {"E", "F"}
  assert {(op.kind, op.fan_in, op.fan_out) for op in graph.ops} == {
    ("embedding", 1, IN)
  }
  assert len(graph.products) == 1


def test_of_a_row_and_a_chosen_kernel_the_one_with_features_is_the_kernel():
  params = {"E": TABLES["E"], **STACK}
  fn = lambda p, i, j: jax.vmap(lambda i, j: p["E"][i] @ p["w"][j])(i, j)
  embedding, kernel = signal_graph(fn, params, IDS, IDS).ops
  assert (embedding.path, embedding.kind) == ("E", "embedding")
  assert (kernel.path, kernel.kind, kernel.fan_in) == ("w", "dot", IN)
  assert kernel.source == "E"


def test_rows_looked_up_may_meet_a_kernel_of_a_sum_by_hand():
  fn = lambda p, i: (p["v"] * p["E"][i][:, None, :]).sum(-1)
  params = {"E": TABLES["E"], "v": normal(OUT, IN)}
  found = {op.path: op.fan_in for op in signal_graph(fn, params, IDS).ops}
  assert found == {"E": 1, "v": IN}


# One-hot rows

LOOK_UPS = {
  "one_hot": lambda p, i: jax.nn.one_hot(i, 9) @ p["E"],
  "scaled": lambda p, i: (2 * jax.nn.one_hot(i, 9)) @ p["E"] / 2,
  "iota": lambda p, i: (i[..., None] == jnp.arange(9)).astype("f") @ p["E"],
  "closed over": lambda p, i: (
    (np.arange(9) == i[..., None]).astype("f") @ p["E"]
  ),
  "where": lambda p, i: (
    jnp.where(i[..., None] == jnp.arange(9), 1.0, 0.0) @ p["E"]
  ),
  "vmap": lambda p, i: jax.vmap(lambda i: jax.nn.one_hot(i, 9) @ p["E"])(i),
  "transposed": lambda p, i: (p["E"].T @ jax.nn.one_hot(i, 9).T).T,
  "scan": lambda p, i: lax.scan(
    lambda h, row: (h, row @ p["E"]), 0.0, jax.nn.one_hot(i, 9)
  )[1],
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_a_product_with_one_hot_rows_is_a_look_up(name):
  fn, table = LOOK_UPS[name], {"E": TABLES["E"]}
  np.testing.assert_allclose(jax.jit(fn)(table, IDS), table["E"][IDS], 1e-6)
  (op,) = signal_graph(fn, table, IDS).ops
  assert (op.kind, op.fan_in, op.fan_out) == ("embedding", 1, IN)
  assert (op.in_axes, op.out_axes) == ((0,), (1,))
  assert op.multiplier == (2.0 if name == "scaled" else 1.0)


OTHERS = {
  "ordinal": lambda p, i: (i[:, None] >= jnp.arange(9)).astype("f") @ p["E"],
  "zeros": lambda p, i: (
    (jnp.zeros((9, 9), int) + i[0] == 0).astype("f") @ p["E"]
  ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_may_hold_several_ones_is_summed(name):
  (op,) = signal_graph(OTHERS[name], {"E": TABLES["E"]}, IDS).ops
  assert (op.kind, op.fan_in) == ("dot", 9)


# Tables of positions

POSITIONS = {
  "index": lambda p: p["F"][jnp.arange(B)],
  "vmap": lambda p: jax.vmap(lambda i: p["F"][i])(jnp.arange(B)),
  "closed over": lambda p: jnp.take(p["F"], np.arange(B)[::-1], axis=0),
  "scaled": lambda p: 0.5 * p["F"][jnp.arange(B)][:, :],
}


@pytest.mark.parametrize("name", POSITIONS)
def test_rows_at_fixed_indices_that_are_added_are_a_table(name):
  fn = lambda p, i: p["E"][i] + POSITIONS[name](p)
  graph = signal_graph(fn, TABLES, IDS)
  assert [(op.path, op.kind, op.fan_in, op.fan_out) for op in graph.ops] == [
    ("E", "embedding", 1, IN),
    ("F", "embedding", 1, IN),
  ]
  factors = [term.factor for term in graph.output]
  assert factors == [1.0, 0.5 if name == "scaled" else 1.0]
  assert graph.elementwise == ()


def test_types_and_positions_added_first_are_tables_as_well():
  params = {**TABLES, "types": normal(2, IN)}
  others = lambda p: p["F"][jnp.arange(B)] + p["types"][jnp.zeros(B, int)]
  fn = lambda p, i: p["E"][i] + others(p)
  kinds = {op.path: op.kind for op in signal_graph(fn, params, IDS).ops}
  assert kinds == dict.fromkeys(("E", "F", "types"), "embedding")


def test_a_fixed_permutation_leaves_a_kernel_a_kernel_and_a_bias_a_bias():
  order = np.array([2, 0, 1, 3])
  fn = lambda p, x: x @ p["w"][order] + p["bias"][order]
  params = {"w": normal(4, 4), "bias": normal(4)}
  graph = signal_graph(fn, params, X)
  (op,) = graph.ops
  assert (op.path, op.kind, op.fan_in, op.in_axes) == ("w", "dot", 4, (0,))
  assert graph.elementwise == ("bias",)


def test_what_shifts_the_scores_of_attention_is_a_bias():
  apart = np.abs(np.arange(B)[:, None] - np.arange(B))

  def fn(p, x):
    scores = jnp.einsum("tc,sc->ts", x @ p["q"], x @ p["k"]) / 2
    return jax.nn.softmax(scores + p["shift"][apart].transpose(2, 0, 1))

  params = {"q": normal(4, 4), "k": normal(4, 4), "shift": normal(B, 2)}
  graph = signal_graph(fn, params, X)
  assert [op.path for op in graph.ops] == ["q", "k"]
  assert graph.elementwise == ("shift",)
