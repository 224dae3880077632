"""`auto_init` where shapes mislead: unit variance comes out of every layer.

Weights are drawn once. With N = 256 inputs of unit variance, a layer of
fan_in n and m = (entries of the kernel)/n independent output features has a
mean square of 1 with variance at most 2(1/n + 1/N)/m, over weights and inputs.
"""

import math

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initjax
from initjax.schemes import auto_init

N = 256
SIGMAS = 4.5  # 7e-6 by chance, in each of about 100 cases

LINEN = {  # layer, features that go in, fan_in by hand
  "batch_dims": (
    nn.DenseGeneral((24,), batch_dims=(0,)), (6, 16), 16
  ),
  "bd,dhk": (nn.Einsum((32, 4, 8), "bd,dhk->bhk", use_bias=False), (32,), 32),
  "bd,hdk": (nn.Einsum((4, 32, 8), "bd,hdk->bhk", use_bias=False), (32,), 32),
  "ebd,edf": (
    nn.Einsum((3, 16, 24), "bed,edf->bef", use_bias=False), (3, 16), 16
  ),
  "ConvLocal": (nn.ConvLocal(5, (3, 3), padding="VALID"), (6, 6, 4), 36),
  "ConvTranspose": (
    nn.ConvTranspose(24, (4, 4), strides=(2, 2), padding="CIRCULAR"),
    (4, 4, 6),
    24,
  ),
  "transpose_kernel": (
    nn.ConvTranspose(
      24, (4, 4), strides=(2, 2), padding="CIRCULAR", transpose_kernel=True
    ),
    (4, 4, 6),
    24,
  ),
  "grouped": (
    nn.Conv(32, (3,), padding="CIRCULAR", feature_group_count=4), (6, 16), 12
  ),
  "depthwise": (
    nn.Conv(48, (3, 3), padding="CIRCULAR", feature_group_count=16),
    (3, 3, 16),
    9,
  ),
  "dilated": (
    nn.Conv(32, (3,), padding="CIRCULAR", kernel_dilation=2), (8, 8), 24
  ),
  "strided": (nn.Conv(32, (4,), (2,), padding="CIRCULAR"), (8, 8), 32),
}  # fmt: skip
NNX = {
  "batch_dims": (
    lambda rngs: nnx.LinearGeneral(
      (16,), (24,), axis=(-1,), batch_axis={0: 6}, rngs=rngs
    ),
    (6, 16),
    16,
  ),
  "bd,hdk": (
    lambda rngs: nnx.Einsum("bd,hdk->bhk", (4, 32, 8), rngs=rngs), (32,), 32
  ),
  "ebd,edf": (
    lambda rngs: nnx.Einsum("bed,edf->bef", (3, 16, 24), rngs=rngs), (3, 16), 16
  ),
  "ConvTranspose": (
    lambda rngs: nnx.ConvTranspose(
      6, 24, (4, 4), (2, 2), padding="CIRCULAR", rngs=rngs
    ),
    (4, 4, 6),
    24,
  ),
  "transpose_kernel": (
    lambda rngs: nnx.ConvTranspose(
      24,
      24,
      (4, 4),
      (2, 2),
      padding="CIRCULAR",
      transpose_kernel=True,
      rngs=rngs,
    ),
    (4, 4, 24),
    96,
  ),
  "depthwise": (
    lambda rngs: nnx.Conv(
      16, 48, (3, 3), padding="CIRCULAR", feature_group_count=16, rngs=rngs
    ),
    (3, 3, 16),
    9,
  ),
}  # fmt: skip


def assert_unit(fn, params, x, fan_in, **options):
  """The output before biases has unit second moment, to sampling error."""
  drawn = auto_init(jax.random.key(2), fn, params, x, **options)
  sizes = [leaf.size for leaf in jax.tree.leaves(drawn) if leaf.ndim > 1]
  out = jax.jit(fn)(drawn, x)
  columns = max(sizes) / fan_in
  error = math.sqrt(2 * (1 / fan_in + 1 / N) / columns)
  assert abs(float(jnp.mean(out**2)) - 1) < SIGMAS * error
  return drawn


def inputs(shape):
  return jax.random.normal(jax.random.key(1), (N, *shape))


@pytest.mark.parametrize("name", LINEN)
@pytest.mark.parametrize("distribution", ["uniform", "orthogonal"])
def test_linen_layers_keep_the_second_moment(name, distribution):
  layer, shape, fan_in = LINEN[name]
  x = inputs(shape)
  if name == "batch_dims":
    x = jnp.swapaxes(x, 0, 1)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      jnp.zeros(leaf.shape) if path[-1].key == "bias" else leaf
    ),
    shapes,
  )
  assert_unit(layer.apply, params, x, fan_in, distribution=distribution)


@pytest.mark.parametrize("name", NNX)
def test_nnx_layers_keep_the_second_moment(name):
  build, shape, fan_in = NNX[name]
  fn, params = initjax.functional(build(nnx.Rngs(0)))
  x = inputs(shape)
  if name == "batch_dims":
    x = jnp.swapaxes(x, 0, 1)
  assert_unit(fn, params, x, fan_in)


# Sliced, stacked, concatenated


def fused(w, x):  # [in, 3, out], one product for each
  q, k, v = (x @ w[:, i] for i in range(3))
  return jnp.concatenate([q, k, v], axis=-1)


def sliced(w, x):  # [2·out, in], halves of another orientation
  first, second = jnp.split(w, 2)
  return jnp.concatenate([x @ first.T, x @ second.T], axis=-1)


def taken(w, x):  # overlapping parts: an entry is drawn once
  return jnp.concatenate([x @ w[:, :20], x @ w[:, 12:]], axis=-1)


def concatenated(w, x):
  return x @ jnp.concatenate([w["a"], w["b"].T], axis=1)


def stacked(w, x):
  return x @ jnp.concatenate([w["a"].reshape(32, 24), w["b"].T], axis=1)


@pytest.mark.parametrize(
  ("fn", "shapes"),
  [
    (fused, (32, 3, 16)),
    (sliced, (48, 32)),
    (taken, (32, 32)),
    (concatenated, {"a": (32, 24), "b": (24, 32)}),
    (stacked, {"a": (4, 8, 24), "b": (24, 32)}),
  ],
)
@pytest.mark.parametrize("distribution", ["uniform", "orthogonal"])
def test_kernels_made_of_parts_keep_the_second_moment(fn, shapes, distribution):
  is_shape = lambda node: isinstance(node, tuple)
  params = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=is_shape
  )
  assert_unit(fn, params, inputs((32,)), 32, distribution=distribution)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_hand_stacked_layers_on_any_axis(axis):
  """Each of ten layers; orthogonal, so that lengths are kept exactly."""
  shape = [32, 32]
  shape.insert(axis, 10)

  def fn(w, x):
    for layer in range(10):
      x = x @ jnp.take(w, layer, axis=axis) if axis else x @ w[layer]
    return x

  params = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
  x = inputs((32,))
  drawn = auto_init(jax.random.key(0), fn, params, x, distribution="orthogonal")
  np.testing.assert_allclose(
    jnp.sum(fn(drawn, x) ** 2, -1), jnp.sum(x**2, -1), rtol=1e-4
  )


def test_groups_are_orthogonal_one_by_one():
  layer = nn.Conv(32, (3,), padding="CIRCULAR", feature_group_count=4)
  x = inputs((6, 16))
  params = layer.init(jax.random.key(0), x[:1])
  drawn = auto_init(
    jax.random.key(0), layer.apply, params, x, distribution="orthogonal"
  )
  kernel = drawn["params"]["kernel"].reshape(12, 4, 8)
  gram = jnp.einsum("igo,igp->gop", kernel, kernel)
  np.testing.assert_allclose(gram, np.tile(np.eye(8), (4, 1, 1)), atol=1e-5)


# Any product of two arrays: the sums are counted by adding ones


@st.composite
def products(draw):
  """An einsum of a signal and a kernel, axes in any order."""
  summed, free, shared = (
    "".join(letters[: draw(st.integers(low, 2))])
    for letters, low in (("abc", 1), ("fgh", 0), ("st", 0))
  )
  mix = lambda letters: "".join(draw(st.permutations(letters)))
  signal, kernel = mix("n" + summed + shared), mix(summed + free + shared)
  spec = f"{signal},{kernel}->{mix('n' + free + shared)}"
  sizes = {letter: draw(st.integers(1, 6)) for letter in "abcfghstn"}
  return spec, sizes


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(products())
def test_any_product_is_counted_as_it_sums(product):
  spec, sizes = product
  signal, kernel = spec.split("->")[0].split(",")
  x, w = (np.ones([sizes[s] for s in each]) for each in (signal, kernel))
  fn = lambda w, x: jnp.einsum(spec, x, w)
  out = np.einsum(spec, x, w)
  output = spec.split("->")[1]
  fed = np.einsum(f"{output},{kernel}->{signal}", np.ones_like(out), w)
  key = jax.random.key(0)
  for direction, count in (("forward", out), ("backward", fed)):
    plan = auto_init(key, fn, w, x, direction=direction, plan=True)
    np.testing.assert_allclose(plan.rows[0].std ** 2 * count, 1, rtol=1e-6)
