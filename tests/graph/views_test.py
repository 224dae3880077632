"""From the leaf to the operand: views, mixtures, constants, leftovers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.graph import signal_graph

X = np.ones((3, 8), np.float32)
W = np.ones((8, 8), np.float32)


def only(fn, params, *inputs):
  (op,) = signal_graph(fn, params, *inputs).ops
  return op


@pytest.mark.parametrize(
  ("use", "leaf", "step"),
  [
    (lambda w: w.T, W, "transpose"),
    (lambda w: w.reshape(8, 8), jnp.ones((4, 2, 8)), "reshape"),
    (lambda w: w.astype(jnp.float32), W.astype(jnp.bfloat16), "convert"),
    (lambda w: jax.lax.slice(w, (0, 8), (8, 16)), jnp.ones((8, 24)), "slice"),
    (lambda w: w[2], jnp.ones((5, 8, 8)), "squeeze"),
  ],
)
def test_a_linear_view_keeps_the_leaf(use, leaf, step):
  op = only(lambda w, x: x @ use(w), leaf, X)
  assert (op.path, op.origin, op.fan_in, op.fan_out) == (".", "parameter", 8, 8)
  assert any(step in name for name in op.view.steps), op.view


def test_fused_projections_are_rows_of_one_leaf():
  def fused(params, x):
    q, k, v = jnp.split(params["qkv"], 3, axis=1)
    return (x @ q) * (x @ k) + x @ v

  graph = signal_graph(fused, {"qkv": jnp.ones((8, 24))}, X)
  assert [(op.path, op.fan_out) for op in graph.ops] == [("qkv", 8)] * 3


def test_constant_multipliers_are_multiplied_up():
  op = only(lambda w, x: x @ (-(w * 0.5) / 4.0), W, X)
  assert op.origin == "parameter"
  assert op.multiplier == -0.125


@pytest.mark.parametrize(
  "use",
  [
    lambda p: p["a"] @ p["b"],  # low rank
    lambda p: jnp.concatenate([p["a"], p["b"]], axis=1)[:, :8],
    lambda p: jnp.stack([p["a"], p["b"]])[0],
    lambda p: p["a"] * jax.nn.sigmoid(p["b"]),  # dequantised, masked
    lambda p: (p["a"] - p["a"].mean()) / p["b"].std(),  # standardised
  ],
)
def test_mixtures_of_leaves_are_derived(use):
  op = only(lambda p, x: x @ use(p), {"a": W, "b": W}, X)
  assert op.origin == "derived"
  assert op.path == "a, b"


def test_a_kernel_closed_over_is_called_a_constant():
  op = only(lambda p, x: x @ W + p, jnp.ones(8), X)
  assert (op.origin, op.path) == ("constant", "")


def test_tied_unused_and_elementwise_parameters_are_told_apart():
  def tied(p, x):
    return jnp.tanh(x @ p["w"] * p["scale"] + p["bias"]) @ p["w"].T

  params = {"w": W, "scale": 1.0, "bias": jnp.ones(8), "lost": W}
  graph = signal_graph(tied, params, X)
  assert [op.path for op in graph.ops] == ["w", "w"]
  assert graph.elementwise == ("bias", "scale")
  assert graph.unused == ("lost",)
  with pytest.raises(KeyError, match="has 2 uses"):
    graph["w"]


def test_products_of_data_are_kept_apart():
  graph = signal_graph(lambda w, x: (x @ w) @ (x @ w).T, W, X)
  assert [op.kind for op in graph.products] == ["data"]
  assert len(graph) == 2


def test_nothing_is_allocated_and_abstract_parameters_will_do():
  huge = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)  # 4 TiB
  x = jax.ShapeDtypeStruct((1, 2**20), jnp.float32)
  op = only(lambda w, x: x @ w, huge, x)
  assert op.fan_in == 2**20


def test_calls_are_entered_and_kept_in_order():
  @jax.jit
  def layer(w, x):
    return jnp.tanh(x) @ w

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def block(p, x):
    return layer(p[1], layer(p[0], x))

  def model(p, x):
    return jax.lax.cond(x.sum() > 0, lambda: block(p[:2], x), lambda: x @ p[2])

  graph = signal_graph(model, [W, W, W], X)
  assert sorted(op.path for op in graph.ops) == ["0", "1", "2"]
  paths = [op.path for op in graph.ops]
  assert paths.index("0") < paths.index("1")


def test_while_loops_and_reversed_nested_scans():
  def model(p, x):
    def inner(h, w):
      return jnp.tanh(h @ w), None

    def outer(h, ws):
      return jax.lax.scan(inner, h, ws, reverse=True)[0], None

    h = jax.lax.scan(outer, x, p["stack"])[0]
    return jax.lax.while_loop(lambda h: h.sum() > 0, lambda h: h @ p["w"], h)

  params = {"stack": jnp.ones((2, 3, 8, 8)), "w": W}
  scanned, looped = signal_graph(model, params, X).ops
  assert scanned.repeats == (2, 3)
  assert looped.repeats == ()
  assert looped.reason != ""


def test_straight_through_rules_are_read_inside():
  @jax.custom_vjp
  def quantised(w, x):
    return x @ jnp.round(w)

  quantised.defvjp(
    lambda w, x: (quantised(w, x), (w, x)),
    lambda saved, g: (saved[1].T @ g, g @ saved[0].T),
  )
  op = only(quantised, W, X)
  assert (op.path, op.fan_in) == (".", 8)


def test_what_cannot_be_entered_is_named():
  from jax.experimental import pallas as pl

  def kernel(w_ref, x_ref, out_ref):
    out_ref[...] = x_ref[...] @ w_ref[...]

  def model(w, x):
    out = jax.ShapeDtypeStruct((3, 8), jnp.float32)
    return pl.pallas_call(kernel, out_shape=out, interpret=True)(w, x)

  graph = signal_graph(model, W, X)
  assert len(graph) == 0
  assert graph.opaque == ("pallas_call",)


def test_kernels_of_a_stack_that_is_iterated():
  """jax 0.12 has an equation of its own for that."""

  def fn(kernels, x):
    for kernel in kernels:
      x = jax.numpy.tanh(x @ kernel)
    return x

  kernels = jax.ShapeDtypeStruct((3, 4, 4), jax.numpy.float32)
  x = jax.ShapeDtypeStruct((2, 4), jax.numpy.float32)
  for op in signal_graph(fn, kernels, x).ops:
    assert (op.origin, op.in_axes, op.out_axes) == ("parameter", (1,), (2,))


def test_a_whole_path_comes_before_a_short_one():
  params = {"kernel": W, "params": {"kernel": W}}
  model = lambda p, x: x @ p["kernel"] @ p["params"]["kernel"]
  graph = signal_graph(model, params, X)
  assert graph["kernel"].path == "kernel"
  assert graph["params/kernel"].path == "params/kernel"
