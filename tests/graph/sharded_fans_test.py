"""A model split over eight devices is read as the model on one."""

import functools

import jax
import numpy as np
import pytest

from initjax.graph import signal_graph
from initjax.measurement import measure
from initjax.model_init import auto_init, plan_init

P = jax.sharding.PartitionSpec
AUTO = jax.sharding.AxisType.Auto
LAYERS, WIDTH, INNER, BATCH = 3, 16, 32, 8
SHAPES = {"in": (LAYERS, WIDTH, INNER), "out": (LAYERS, INNER, WIDTH)}


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {
  name: normal(seed, *shape) / shape[1] ** 0.5
  for seed, (name, shape) in enumerate(SHAPES.items())
}
X, COTANGENT = normal(8, BATCH, WIDTH), normal(9, BATCH, WIDTH)


def same(x, axis=None, dim=0):
  return x


gather = functools.partial(jax.lax.all_gather, tiled=True)


def scatter(x, axis, dim):
  return jax.lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True)


def blocks(params, x, *, total=same, whole=same, kernel_of=same):
  """Residual blocks; the functions are what devices do together."""

  def block(h, kernels):
    into, out = kernel_of(kernels[0], 0), kernel_of(kernels[1], 1)
    inner = jax.nn.relu(whole(h) @ into)
    return h + total(inner @ out), None

  return jax.lax.scan(block, x, (params["in"], params["out"]))[0]


def unrolled(params, x, *, total):
  for into, out in zip(params["in"], params["out"], strict=True):
    x = x + total(jax.nn.relu(x @ into) @ out)
  return x


def split(fn, mesh, params, x, out=None, check_vma=True):
  shape, names = zip(*mesh, strict=True)
  mesh = jax.make_mesh(shape, names, axis_types=(AUTO,) * len(shape))
  return jax.shard_map(
    fn,
    mesh=mesh,
    in_specs=({"in": params[0], "out": params[1]}, x),
    out_specs=x if out is None else out,
    check_vma=check_vma,
  )


def tensor_parallel(check_vma=True):
  """Megatron: columns, then rows with a sum over devices."""
  total = lambda y: jax.lax.psum(y, "m")
  specs = P(None, None, "m"), P(None, "m", None)
  fn = functools.partial(blocks, total=total)
  return split(fn, [(8, "m")], specs, P(), check_vma=check_vma)


def unrolled_tensor_parallel():
  fn = functools.partial(unrolled, total=lambda y: jax.lax.psum(y, "m"))
  specs = P(None, None, "m"), P(None, "m")
  return split(fn, [(8, "m")], specs, P())


def sequence_parallel():
  """Samples are split between products, features inside a block."""
  fn = functools.partial(
    blocks,
    whole=lambda h: gather(h, "m", axis=0),
    total=lambda y: scatter(y, "m", 0),
  )
  specs = P(None, None, "m"), P(None, "m", None)
  return split(fn, [(8, "m")], specs, P("m"))


def fully_sharded():
  """Each device holds a part of every kernel, and gathers it before use."""
  kernel_of = lambda kernel, dim: gather(kernel, "d", axis=dim)
  fn = functools.partial(blocks, kernel_of=kernel_of)
  specs = P(None, "d"), P(None, None, "d")
  return split(fn, [(8, "d")], specs, P("d"))


def fully_sharded_and_tensor_parallel():
  fn = functools.partial(
    blocks,
    kernel_of=lambda kernel, dim: gather(kernel, "d", axis=dim),
    total=lambda y: jax.lax.psum(y, "m"),
  )
  specs = P(None, "d", "m"), P(None, "m", "d")
  return split(fn, [(4, "d"), (2, "m")], specs, P("d"))


def two_axes():
  """Rows over one axis of the mesh and columns over the other."""

  def fn(params, x):
    def block(h, kernels):
      inner = jax.nn.relu(jax.lax.psum(h @ kernels[0], "r"))
      update = jax.lax.psum(inner @ kernels[1], "c")
      return h + update, None

    return jax.lax.scan(block, x, (params["in"], params["out"]))[0]

  specs = P(None, "r", "c"), P(None, "c", "r")
  return split(fn, [(4, "r"), (2, "c")], specs, P(None, "r"))


MODELS = {
  "tensor": tensor_parallel,
  "tensor, unchecked": lambda: tensor_parallel(check_vma=False),
  "tensor, unrolled": unrolled_tensor_parallel,
  "sequence": sequence_parallel,
  "fsdp": fully_sharded,
  "fsdp and tensor": fully_sharded_and_tensor_parallel,
  "two axes": two_axes,
}


@functools.cache
def flat(unroll=False):
  fn = functools.partial(unrolled, total=same) if unroll else blocks
  report = jax.jit(functools.partial(measure, fn, cotangent=COTANGENT))
  graph = signal_graph(fn, PARAMS, X)
  plan = plan_init(fn, PARAMS, X)
  return (
    graph,
    report(PARAMS, X),
    plan,
    auto_init(jax.random.key(1), fn, PARAMS, X),
  )


@pytest.mark.parametrize("name", MODELS)
def test_as_on_one_device(name):
  model = MODELS[name]()
  graph, report, plan, drawn = flat("unrolled" in name)
  found = signal_graph(model, PARAMS, X)
  seen = lambda op: (op.path, op.fan_in, op.fan_out, op.kernel_shape)
  assert list(map(seen, found)) == list(map(seen, graph))
  own = plan_init(model, PARAMS, X)
  assert own.rows == plan.rows
  jax.tree.map(
    np.testing.assert_array_equal,
    auto_init(jax.random.key(1), model, PARAMS, X),
    drawn,
  )
  run = jax.jit(functools.partial(measure, model, cotangent=COTANGENT))
  measured = run(PARAMS, X)
  for one, other in zip(
    (*measured.forward, *measured.backward),
    (*report.forward, *report.backward),
    strict=True,
  ):
    np.testing.assert_allclose(
      one.log2_second_moment, other.log2_second_moment, atol=1e-4
    )
