"""True fans against counting: a kernel of ones fed with ones.

Each output is then the number of terms summed into it, and the gradient of the
sum of the outputs with respect to an input is the number of outputs it feeds.
With circular padding every position is an interior one; elsewhere the largest
count is that of the interior.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from initjax.graph import functional, signal_graph

IMAGE = (2, 8, 8, 6)


def linen(module):
  def build(x):
    return module.apply, jax.eval_shape(module.init, jax.random.key(0), x)

  return build


def of_nnx(layer, *sizes, **options):
  make = lambda: layer(*sizes, rngs=nnx.Rngs(0), **options)
  return lambda x: functional(nnx.eval_shape(make))


def conv(features, window=(3, 3), layer=nn.Conv, **options):
  return linen(layer(features, window, padding="CIRCULAR", **options)), IMAGE


def nnx_conv(features, window=(3, 3), layer=nnx.Conv, **options):
  options |= {"padding": "CIRCULAR"}
  return of_nnx(layer, 6, features, window, **options), IMAGE


TWO = {"strides": (2, 2)}
LAYERS = {
  "dense": (linen(nn.Dense(5)), (3, 7)),
  "dense nnx": (of_nnx(nnx.Linear, 7, 5), (3, 7)),
  "general, two axes": (linen(nn.DenseGeneral(5, axis=(-2, -1))), (3, 4, 7)),
  "general, batch": (linen(nn.DenseGeneral(5, batch_dims=(0,))), (3, 4, 7)),
  "general nnx":
    (of_nnx(nnx.LinearGeneral, (4, 7), 5, axis=(-2, -1)), (3, 4, 7)),
  "einsum bd,dhk": (linen(nn.Einsum((7, 2, 3), "bd,dhk->bhk")), (4, 7)),
  "einsum bd,hdk": (linen(nn.Einsum((2, 7, 3), "bd,hdk->bhk")), (4, 7)),
  "experts ebd,edf": (linen(nn.Einsum((2, 7, 3), "ebd,edf->ebf")), (2, 4, 7)),
  "einsum nnx": (of_nnx(nnx.Einsum, "bd,hdk->bhk", (2, 7, 3)), (4, 7)),
  "conv": conv(4),
  "conv nnx": nnx_conv(4),
  "conv strided": conv(4, strides=2),
  "conv grouped": conv(4, feature_group_count=2),
  "conv depthwise": conv(12, feature_group_count=6),
  "conv depthwise nnx": nnx_conv(12, feature_group_count=6),
  "conv dilated": conv(4, kernel_dilation=2),
  "conv transpose": conv(4, (4, 4), nn.ConvTranspose, **TWO),
  "conv transpose, odd window": conv(4, (3, 3), nn.ConvTranspose, **TWO),
  "conv transpose, transposed kernel":
    conv(4, (4, 4), nn.ConvTranspose, transpose_kernel=True, **TWO),
  "conv transpose nnx": nnx_conv(4, (4, 4), nnx.ConvTranspose, **TWO),
}  # fmt: skip


def counted(fn, params, x, statistic):
  """fan_in and fan_out of a layer by the count of the module docstring."""

  def fill(path, leaf):
    is_kernel = "kernel" in jax.tree_util.keystr(path)
    return np.full(leaf.shape, is_kernel, np.float32)

  kernels = jax.tree_util.tree_map_with_path(fill, params)
  terms, feeds = jax.jit(
    lambda p, x: (fn(p, x), jax.grad(lambda x: fn(p, x).sum())(x))
  )(kernels, np.ones(x, np.float32))
  return float(statistic(np.asarray(terms))), float(
    statistic(np.asarray(feeds))
  )


@pytest.mark.parametrize("name", LAYERS)
def test_fans_equal_the_count(name):
  build, shape = LAYERS[name]
  fn, params = build(jax.ShapeDtypeStruct(shape, jnp.float32))
  graph = signal_graph(fn, params, jax.ShapeDtypeStruct(shape, jnp.float32))
  (op,) = graph.ops
  fan_in, fan_out = counted(fn, params, shape, np.mean)
  np.testing.assert_allclose((op.fan_in, op.fan_out), (fan_in, fan_out))
  assert "kernel" in op.path
  assert len(graph.elementwise) == len(jax.tree.leaves(params)) - 1
  assert graph.unused == graph.opaque == ()


def test_unshared_convolution_counts_as_a_convolution():
  layer = nn.ConvLocal(5, (3, 3), padding="VALID")
  shape = (2, 8, 8, 6)
  fn, params = linen(layer)(np.ones(shape))
  (op,) = signal_graph(fn, params, np.ones(shape)).ops
  assert (op.fan_in, op.fan_out) == counted(fn, params, shape, np.max)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_attention_kernels_have_the_fans_of_their_matrices(framework):
  x = jax.ShapeDtypeStruct((2, 7, 12), jnp.float32)
  if framework == "linen":
    build = linen(nn.MultiHeadDotProductAttention(3, qkv_features=6))
  else:
    build = of_nnx(nnx.MultiHeadAttention, 3, 12, 6, decode=False)
  graph = signal_graph(*build(x), x)
  assert len(graph.products) == 2  # scores, and scores times values
  ops = {op.path.split("/")[-2]: op for op in graph.ops}
  for name in ("query", "key", "value"):
    assert (ops[name].fan_in, ops[name].fan_out) == (12, 6)
    assert ops[name].reason == "input"
  assert (ops["out"].fan_in, ops["out"].fan_out) == (6, 12)
  assert ops["out"].reason == "data product"


def test_embedding_and_tied_readout_are_two_uses_of_one_path():
  class Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
      embed = nn.Embed(50, 16)
      return embed.attend(nn.tanh(embed(tokens)))

  tokens = np.zeros((2, 7), np.int32)
  fn, params = linen(Tied())(tokens)
  look_up, readout = signal_graph(fn, params, tokens).ops
  assert look_up.path == readout.path
  assert (look_up.kind, look_up.fan_in, look_up.fan_out) == ("embedding", 1, 16)
  assert (readout.kind, readout.fan_in, readout.fan_out) == ("dot", 16, 50)
  assert readout.view.steps == ("transpose",)


def test_ragged_dot_counts_one_expert():
  def experts(kernels, x):
    return jax.lax.ragged_dot(x, kernels, jnp.array([4, 6], jnp.int32))

  graph = signal_graph(experts, np.ones((2, 7, 3)), np.ones((10, 7)))
  (op,) = graph.ops
  assert (op.kind, op.fan_in, op.fan_out) == ("ragged_dot", 7, 3)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_recurrent_kernels_repeat_over_time(cell):
  x = np.ones((2, 5, 4))
  fn, params = linen(nn.RNN(cell(6)))(x)
  graph = signal_graph(fn, params, x)
  assert all(op.repeats == (5,) for op in graph.ops)
  fans = {op.path.split("/")[-2]: op.fan_in for op in graph.ops}
  for name, fan_in in fans.items():
    assert fan_in == (6 if name.startswith("h") else 4)
  state = [op for op in graph.ops if op.fan_in == 6]
  assert {op.reason for op in state} == {"constant"}  # h_0 = 0
  assert "constant" not in {op.later_feed.reason for op in state}


def test_hand_stacked_kernels_leave_their_layer_axis_out():
  def stack(kernels, x):
    def layer(h, kernel):
      return jnp.tanh(h) @ kernel, None

    return jax.lax.scan(layer, x, kernels)[0]

  (op,) = signal_graph(stack, np.ones((9, 8, 8)), np.ones((2, 8))).ops
  assert (op.fan_in, op.fan_out, op.repeats) == (8, 8, (9,))
  assert op.shape == (2, 8)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_mapped_layers_leave_their_map_axis_out(framework):
  x = np.ones((4, 2, 7))
  if framework == "linen":
    mapped = nn.vmap(
      nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}
    )
    fn, params = linen(mapped(5))(x)
  else:
    keys = jax.random.split(jax.random.key(0), 4)
    make = nnx.vmap(lambda key: nnx.Linear(7, 5, rngs=nnx.Rngs(params=key)))
    structure, params = nnx.split(make(keys))

    def fn(params, x):
      layers = nnx.merge(structure, params)
      return nnx.vmap(lambda layer, x: layer(x))(layers, x)

  (op,) = signal_graph(fn, params, x).ops
  assert (op.fan_in, op.fan_out) == (7, 5)
