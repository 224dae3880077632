"""What a source is a sum of: its terms, by the equations that the model has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from initjax.graph import signal_graph
from initjax.graph._graph import Term

X = np.ones((4, 8), np.float32)
W = np.ones((8, 8), np.float32)


def last_stream(fn, params):
  graph = signal_graph(fn, params, X)
  return graph.ops[-1].feed.stream, [op.place.site for op in graph.ops]


def test_output_plus_bias():
  fn = lambda p, x: jnp.tanh(x @ p["a"] + p["bias"]) @ p["b"]
  stream, sites = last_stream(fn, {"a": W, "b": W, "bias": X[0]})
  assert stream == (Term("output", sites[0]), Term("bias", path="bias"))


def test_an_input_keeps_its_name_however_often_it_is_used():
  stream, _ = last_stream(lambda p, x: (x @ p[0], x @ p[1]), [W, W])
  assert stream == (Term("input", (0,)),)


FACTORS = {
  "number": (lambda z, p: 0.5 * z, 0.5, ()),
  "quotient": (lambda z, p: z / 4, 0.25, ()),
  "negated": (lambda z, p: -z, -1.0, ()),
  "parameter": (lambda z, p: z * p["scale"], 1.0, ("scale",)),
  "both": (lambda z, p: (2 * p["scale"]) * z, 2.0, ("scale",)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_a_branch_has_its_factor(name):
  scaled, factor, scales = FACTORS[name]

  def fn(p, x):
    h = x @ p["a"]
    return jnp.tanh(h + scaled(jnp.tanh(h) @ p["b"], p)) @ p["c"]

  params = {"a": W, "b": W, "c": W, "scale": X[0]}
  stream, sites = last_stream(fn, params)
  first = Term("output", sites[0])
  branch = Term("output", sites[1], factor=factor, scales=scales)
  assert stream == (first, branch)


def test_an_earlier_stream_is_one_term():
  def fn(p, x):
    h = x @ p[0]
    for kernel in p[1:]:
      h = h - jnp.tanh(h) @ kernel
    return h

  graph = signal_graph(fn, [W] * 4, X)
  sites = [op.place.site for op in graph.ops]
  streams = [op.feed.stream for op in graph.ops]
  assert streams[1] == (Term("output", sites[0]),)
  assert streams[2] == (
    Term("output", sites[0]),
    Term("output", sites[1], factor=-1.0),
  )
  assert streams[3] == (
    Term("stream", sites[2]),
    Term("output", sites[2], factor=-1.0),
  )


def test_a_residual_scan_names_its_own_stream():
  def fn(p, x):
    block = lambda h, kernel: (h + jnp.tanh(h) @ kernel, None)
    return jnp.tanh(jax.lax.scan(block, x @ p[0], p[1])[0]) @ p[2]

  first, block, readout = signal_graph(fn, [W, np.stack([W] * 3), W], X).ops
  assert block.feed.stream == (Term("output", first.place.site),)
  carried = (
    Term("output", first.place.site),
    Term("output", block.place.site),
  )
  assert block.later_feed.stream[-1] == carried[-1]
  assert block.later_feed.stream[0].kind in ("stream", "output")
  assert readout.feed.stream == (
    Term("stream", block.place.site),
    Term("output", block.place.site),
  )


NORMS = {
  "linen LayerNorm": (nn.LayerNorm(), "units"),
  "linen RMSNorm": (nn.RMSNorm(), "units"),
  "linen GroupNorm": (nn.GroupNorm(num_groups=2), "units"),
  "linen BatchNorm": (nn.BatchNorm(use_running_average=False), "samples"),
  "nnx LayerNorm": (lambda z: nnx.LayerNorm(8, rngs=nnx.Rngs(0))(z), "units"),
  "nnx RMSNorm": (lambda z: nnx.RMSNorm(8, rngs=nnx.Rngs(0))(z), "units"),
  "nnx BatchNorm": (lambda z: nnx.BatchNorm(8, rngs=nnx.Rngs(0))(z), "samples"),
  "standardize": (jax.nn.standardize, "units"),
  "by hand": (lambda z: (z - z.mean(0)) / (z.std(0) + 1e-5), "samples"),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalizations_are_terms(name):
  norm, over = NORMS[name]

  def normalize(p, z):
    if isinstance(norm, nn.Module):
      return norm.apply(p["norm"], z, mutable=["batch_stats"])[0]
    return norm(z)

  def fn(p, x):
    return jnp.tanh(normalize(p, x @ p["a"])) @ p["b"]

  linen = isinstance(norm, nn.Module)
  init = lambda: norm.init(jax.random.key(0), X)
  variables = jax.eval_shape(init) if linen else {}
  stream, sites = last_stream(fn, {"a": W, "b": W, "norm": variables})
  term = stream[0]
  assert (term.kind, term.over) == ("normalized", over)
  assert term.inner == (Term("output", sites[0]),)
  assert [scale.split("/")[-1] for scale in term.scales] == ["scale"] * linen
  if linen and len(stream) > 1:
    assert stream[1] == Term("bias", path=stream[1].path)


def test_what_a_normalization_shares_with_the_stream_is_named_inner():
  def fn(p, x):
    h = x @ p[0]
    for kernel in p[1:]:
      h = h + jnp.tanh(jax.nn.standardize(h)) @ kernel
    return h

  graph = signal_graph(fn, [W] * 4, X)
  sites = [op.place.site for op in graph.ops]
  (last,) = graph.ops[3].feed.stream
  assert last.inner == (Term("inner", sites[2]), Term("output", sites[2]))


def test_a_root_of_an_operation_on_a_sum_is_no_norm():
  """Its scale is learnt: how large it is, nobody knows beforehand."""

  def fn(p, x):
    h = x @ p["a"]
    square = jnp.sum(h**2, axis=-1, keepdims=True)
    return (h * jax.lax.rsqrt(square @ p["scale"] + 1)) @ p["b"]

  (term,), _ = last_stream(fn, {"a": W, "b": W, "scale": W[:1, :1]})
  assert term.kind == "product"


def test_divided_by_the_size_of_another_branch_is_no_norm():
  def fn(p, x):
    signal, other = x @ p["a"], x @ p["c"]
    size = jnp.mean(other**2, axis=-1, keepdims=True)
    return (signal * jax.lax.rsqrt(size + 1e-6)) @ p["b"]

  graph = signal_graph(fn, {"a": W, "b": W, "c": W}, X)
  assert graph.ops[-1].feed.stream is None


def test_a_number_times_a_sum_that_holds_a_norm_is_no_norm():
  def fn(p, x):
    summed = x @ p[0] + jax.nn.standardize(x @ p[1])
    return jnp.tanh(p[2] * summed) @ p[3]

  stream, _ = last_stream(fn, [W, W, X[0], W])
  assert [term.kind for term in stream] == ["output", "normalized"]
  assert [term.scales for term in stream] == [("2",), ("2",)]


UNKNOWN = {
  "gate by itself": lambda z: z * jax.nn.sigmoid(jnp.sort(z)),
  "signal and its norm": lambda z: z + jax.nn.standardize(z),
  "softmax": jax.nn.softmax,
  "pooling": lambda z: z.reshape(4, 8, 1).max(axis=2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_no_sum_is_unknown(name):
  fn = lambda p, x: UNKNOWN[name](x @ p[0]) @ p[1]
  assert last_stream(fn, [W, W])[0] is None


def test_a_norm_of_the_unknown_is_still_a_norm():
  fn = lambda p, x: jax.nn.standardize(jax.nn.softmax(x @ p[0])) @ p[1]
  (term,) = last_stream(fn, [W, W])[0]
  assert term.kind == "normalized"
  assert [each.kind for each in term.inner] == ["unknown"]


def test_dropout_on_a_branch_counts_with_its_mean_square():
  layer = nn.Dropout(0.75, deterministic=False)

  def fn(p, x):
    z = x @ p[0]
    branch = jnp.tanh(z) @ p[1]
    dropped = layer.apply({}, branch, rngs={"dropout": jax.random.key(0)})
    return jnp.tanh(z + dropped) @ p[2]

  stream, sites = last_stream(fn, [W, W, W])
  assert stream[0] == Term("output", sites[0])
  assert stream[1].factor == pytest.approx(2.0)  # √(0.25)/0.25


@pytest.mark.parametrize("first", [True, False])
def test_a_residual_loop_is_the_stream_of_its_repeat_before(first):
  """Whether an operation or an input comes before it."""

  def fn(p, x):
    block = lambda h, kernel: (h + jnp.tanh(h) @ kernel, None)
    return jax.lax.scan(block, x @ p[0] if first else x, p[1])[0]

  op = signal_graph(fn, [W, np.stack([W] * 5)], X).ops[-1]
  kinds = [(term.kind, term.site) for term in op.later_feed.stream]
  assert kinds == [("stream", op.place.site), ("output", op.place.site)]


def test_one_signal_twice_is_no_sum_of_independent_terms():
  def twice(p, x):
    z = x @ p[0]
    return jax.nn.standardize(z + z[:, ::1] * p[2]) @ p[1]

  stream, _ = last_stream(twice, [W, W, X[0]])
  assert [each.kind for each in stream[0].inner] == ["unknown"]


def test_the_output_is_a_sum_that_holds_the_last_operation():
  def fn(p, x):
    h = x @ p[0]
    h = h + jnp.tanh(h) @ p[1]
    return {"aux": h.mean(), "main": jax.nn.relu(2 * h)}

  graph = signal_graph(fn, [W, W], X)
  sites = [op.place.site for op in graph.ops]
  assert graph.output == (Term("output", sites[0]), Term("output", sites[1]))
  graph = signal_graph(lambda p, x: jax.nn.softmax(fn(p, x)["main"]), [W, W], X)
  assert graph.output is None
