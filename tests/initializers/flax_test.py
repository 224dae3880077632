"""Initializers as Flax calls them: linen, NNX, and their partitioning."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from initjax import initializers as init

DENSE = {
  "zeros": init.zeros,
  "normal": init.normal(),
  "he_normal": init.he_normal(),
  "xavier_uniform": init.xavier_uniform(gain=2.0),
  "orthogonal": init.orthogonal(),
  "eye": init.eye(),
  "zero_hadamard": init.zero_hadamard(),
  "sparse": init.sparse(0.5),
  "siren": init.siren(),
  "residual_normal": init.residual_normal(4),
}
CONV = {
  "he_normal": init.he_normal(),
  "delta_orthogonal": init.delta_orthogonal(),
  "dirac": init.dirac(),
  "zero_hadamard": init.zero_hadamard(),
  "torch_linear_kernel": init.torch_linear_kernel(),
}
KEY = jax.random.key(0, impl="rbg")  # compiles faster than threefry
X = np.ones((2, 4), np.float32)
IMAGE = np.random.default_rng(0).normal(size=(1, 5, 5, 4)).astype(np.float32)


def compiled(make, names):
  """`make(name)` of all names: one program, as users' own `jax.jit(init)`."""
  return jax.jit(lambda: {name: make(name) for name in names})().values()


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_linen_dense(param_dtype):
  def made(name):
    layer = nn.Dense(
      8,
      kernel_init=DENSE[name],
      bias_init=init.torch_linear_bias(4),
      param_dtype=param_dtype,
    )
    return layer.init_with_output(KEY, X)

  for y, variables in compiled(made, DENSE):
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    assert (kernel.shape, kernel.dtype) == ((4, 8), param_dtype)
    assert bias.dtype == param_dtype
    assert y.shape == (2, 8)


def test_linen_conv():
  def made(name):
    return nn.Conv(8, (3, 2), kernel_init=CONV[name]).init(KEY, IMAGE)

  for variables in compiled(made, CONV):
    assert variables["params"]["kernel"].shape == (3, 2, 4, 8)


def test_linen_dirac_convolution_is_the_identity():
  layer = nn.Conv(4, (2, 3), feature_group_count=2, kernel_init=init.dirac(2))
  y, _ = jax.jit(layer.init_with_output)(KEY, IMAGE)
  np.testing.assert_array_equal(y, IMAGE)


def test_linen_uses_the_key_of_the_parameter():
  # The kernel is the initializer's own draw, so replacing jax's changes no bit.
  ours, theirs = (
    jax.jit(nn.Dense(8, kernel_init=m.lecun_normal()).init)(KEY, X)
    for m in (init, jax.nn.initializers)
  )
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_linen_partitioning_boxes_the_value():
  axes = ("embed", "model")

  def made(name):
    boxed = nn.with_partitioning(DENSE[name], axes)
    return boxed(KEY, (4, 8), jnp.float32), DENSE[name](KEY, (4, 8))

  for boxed, plain in compiled(made, DENSE):
    assert isinstance(boxed, nn.Partitioned)
    assert boxed.names == axes
    np.testing.assert_array_equal(boxed.value, plain)
  for build in DENSE.values():
    layer = nn.Dense(8, kernel_init=nn.with_partitioning(build, axes))
    shapes = jax.eval_shape(layer.init, KEY, X)
    spec = nn.get_partition_spec(shapes)["params"]["kernel"]
    assert spec == PartitionSpec(*axes)


def test_nnx_linear():
  def made(name):
    layer = nnx.Linear(4, 8, kernel_init=DENSE[name], rngs=nnx.Rngs(KEY))
    return layer.kernel[...], layer(X)

  for kernel, y in compiled(made, DENSE):
    assert (kernel.shape, y.shape) == ((4, 8), (2, 8))


def test_nnx_conv():
  def made(name):
    rngs = nnx.Rngs(KEY)
    return nnx.Conv(4, 8, (3, 2), kernel_init=CONV[name], rngs=rngs).kernel[...]

  for kernel in compiled(made, CONV):
    assert kernel.shape == (3, 2, 4, 8)


def test_nnx_partitioning_shards_the_value():
  mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
  plain_init = init.he_normal()
  boxed_init = nnx.with_partitioning(plain_init, (None, "b"))
  with jax.set_mesh(mesh):
    kernel, plain = (
      nnx.Linear(4, 8, kernel_init=build, rngs=nnx.Rngs(KEY)).kernel[...]
      for build in (boxed_init, plain_init)
    )
  assert kernel.sharding.spec == PartitionSpec(None, "b")
  np.testing.assert_array_equal(kernel, plain)
