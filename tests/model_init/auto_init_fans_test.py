"""`auto_init` where shapes mislead: unit variance comes out of every layer.

Weights are drawn once. With N = 256 inputs of unit variance, a layer of
fan_in n and m = (entries of the kernel)/n independent output features has a
mean square of 1 with variance at most 2(1/n + 1/N)/m, over weights and inputs.
"""

import functools
import math

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibrated import tolerance
from drawn_by_numpy import filled, normal
from flax import nnx

import initjax
from initjax.model_init import auto_init, plan_init

N = 256
SIGMAS = 4.5  # 7e-6 by chance, in each of about 50 cases
KEY = jax.random.key(0)
RNGS = nnx.Rngs(0)
AROUND = {"padding": "CIRCULAR"}
UP = {"kernel_size": (4, 4), "strides": (2, 2), **AROUND}
TURNED = {**UP, "transpose_kernel": True}
GROUPED = {"feature_group_count": 16, **AROUND}
einsum = functools.partial(nn.Einsum, use_bias=False)
nnx_einsum = functools.partial(nnx.Einsum, rngs=RNGS)

LINEN = {  # layer, features that go in, fan_in by hand
  "batch_dims": (nn.DenseGeneral((24,), batch_dims=(0,)), (6, 16), 16),
  "bd,dhk": (einsum((32, 4, 8), "bd,dhk->bhk"), (32,), 32),
  "bd,hdk": (einsum((4, 32, 8), "bd,hdk->bhk"), (32,), 32),
  "ebd,edf": (einsum((3, 16, 24), "bed,edf->bef"), (3, 16), 16),
  "ConvLocal": (nn.ConvLocal(5, (3, 3), padding="VALID"), (6, 6, 4), 36),
  "ConvTranspose": (nn.ConvTranspose(24, **UP), (4, 4, 6), 24),
  "transpose_kernel": (nn.ConvTranspose(24, **TURNED), (4, 4, 6), 24),
  "grouped": (nn.Conv(32, 3, feature_group_count=4, **AROUND), (6, 16), 12),
  "depthwise": (nn.Conv(48, (3, 3), **GROUPED), (3, 3, 16), 9),
  "dilated": (nn.Conv(32, 3, kernel_dilation=2, **AROUND), (8, 8), 24),
  "strided": (nn.Conv(32, 4, 2, **AROUND), (8, 8), 32),
}
NNX = {
  "batch_dims": (
    nnx.LinearGeneral((16,), (24,), axis=(-1,), batch_axis={0: 6}, rngs=RNGS),
    (6, 16), 16,
  ),
  "bd,hdk": (nnx_einsum("bd,hdk->bhk", (4, 32, 8)), (32,), 32),
  "ebd,edf": (nnx_einsum("bed,edf->bef", (3, 16, 24)), (3, 16), 16),
  "ConvTranspose": (nnx.ConvTranspose(6, 24, **UP, rngs=RNGS), (4, 4, 6), 24),
  "transpose_kernel": (
    nnx.ConvTranspose(24, 24, **TURNED, rngs=RNGS), (4, 4, 24), 96
  ),
  "depthwise": (nnx.Conv(16, 48, (3, 3), **GROUPED, rngs=RNGS), (3, 3, 16), 9),
}  # fmt: skip


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


PARTS = [
  (fused, (32, 3, 16)),
  (sliced, (48, 32)),
  (taken, (32, 32)),
  (concatenated, {"a": (32, 24), "b": (24, 32)}),
  (stacked, {"a": (4, 8, 24), "b": (24, 32)}),
]


def struct(shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


@functools.cache
def cases(distribution):
  """(function, parameters, input, fan_in) by name."""
  found = {}
  libraries = {"linen": LINEN, "nnx": NNX}
  if distribution == "orthogonal":  # to it the libraries are one
    del libraries["nnx"]
  for library, layers in libraries.items():
    for name, (layer, shape, fan_in) in layers.items():
      x = normal(1, N, *shape)
      x = x.swapaxes(0, 1) if name == "batch_dims" else x
      if library == "linen":
        fn, params = layer.apply, filled(layer.init, x)
      else:
        fn, params = initjax.functional(layer)
      found[f"{library} {name}"] = fn, params, x, fan_in
  for fn, shapes in PARTS:
    is_shape = lambda node: isinstance(node, tuple)
    params = jax.tree.map(struct, shapes, is_leaf=is_shape)
    found[fn.__name__] = fn, params, normal(1, N, 32), 32
  return found


@functools.cache
def drawn(distribution):
  """All cases as one model, in one program: for each kernels, and E[out²]."""
  found = cases(distribution)
  functions, params, inputs, _ = (
    dict(zip(found, column, strict=True))
    for column in zip(*found.values(), strict=True)
  )
  both = lambda params, x: {
    name: fn(params[name], x[name]) for name, fn in functions.items()
  }

  @jax.jit
  def program(key, inputs):
    kernels = auto_init(key, both, params, inputs, distribution=distribution)
    sizes = jax.tree.map(lambda x: jnp.mean(x**2), both(kernels, inputs))
    return kernels, sizes

  return jax.device_get(program(jax.random.key(2), inputs))


@pytest.mark.parametrize("distribution", ["uniform", "orthogonal"])
def test_layers_keep_the_second_moment(distribution):
  kernels, moments = drawn(distribution)
  for name, (*_, fan_in) in cases(distribution).items():
    leaves = jax.tree.leaves(kernels[name])
    columns = max(leaf.size for leaf in leaves if leaf.ndim > 1) / fan_in
    error = math.sqrt(2 * (1 / fan_in + 1 / N) / columns)
    assert abs(moments[name] - 1) < SIGMAS * error, name


def test_groups_are_orthogonal_one_by_one():
  kernels, _ = drawn("orthogonal")
  kernel = kernels["linen grouped"]["params"]["kernel"].reshape(12, 4, 8)
  gram = np.einsum("igo,igp->gop", kernel, kernel)
  np.testing.assert_allclose(gram, np.tile(np.eye(8), (4, 1, 1)), atol=1e-5)


def test_hand_stacked_layers_on_any_axis():
  """Each of three layers; orthogonal, so that lengths are kept exactly."""

  def fn(kernels, x):
    found = []
    for axis, kernel in enumerate(kernels):
      take = functools.partial(jnp.take, kernel, axis=axis)
      layers = [take(i) if axis else kernel[i] for i in range(3)]
      found.append(functools.reduce(jnp.matmul, layers, x))
    return found

  shapes = [struct(s) for s in ((3, 32, 32), (32, 3, 32), (32, 32, 3))]
  draw = functools.partial(auto_init, distribution="orthogonal")
  x = normal(1, N, 32)
  outs = jax.jit(lambda key, x: fn(draw(key, fn, shapes, x), x))(KEY, x)
  for out in map(np.asarray, outs):
    lengths = np.sum(out**2, -1) / np.sum(x**2, -1)
    # QR in 32 steps leaves Q orthogonal to 32·u or so, as does a product
    np.testing.assert_allclose(lengths, 1, rtol=2 * tolerance(32, 3))


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
  for direction, count in (("forward", out), ("backward", fed)):
    plan = plan_init(fn, w, x, direction=direction)
    np.testing.assert_allclose(plan.rows[0].std ** 2 * count, 1, rtol=1e-6)
