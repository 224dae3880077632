"""A model split over eight devices is read as the model on one."""

import functools

import jax
import jax.numpy as jnp
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


def fans(fn, *arguments):
  ops = signal_graph(fn, *arguments).ops
  return [(op.fan_in, op.fan_out, op.kernel_shape) for op in ops]


def flat(name):
  return functools.partial(unrolled, total=same) if "rolled" in name else blocks


@pytest.mark.parametrize("name", MODELS)
def test_fans_and_plan_are_those_of_one_device(name):
  one, eight = flat(name), MODELS[name]()
  assert fans(eight, PARAMS, X) == fans(one, PARAMS, X)
  found, wanted = (plan_init(fn, PARAMS, X) for fn in (eight, one))
  assert found.rows == wanted.rows


@pytest.mark.slow  # each is compiled
@pytest.mark.parametrize("name", MODELS)
def test_draws_and_sizes_are_those_of_one_device(name):
  both = MODELS[name](), flat(name)
  draws = [auto_init(jax.random.key(1), fn, PARAMS, X) for fn in both]
  jax.tree.map(np.testing.assert_array_equal, *draws)
  run = lambda fn: jax.jit(functools.partial(measure, fn, cotangent=COTANGENT))
  found, wanted = (run(fn)(PARAMS, X) for fn in both)
  close = functools.partial(np.testing.assert_allclose, atol=1e-4)
  jax.tree.map(
    close,
    [row.log2_second_moment for row in (*found.forward, *found.backward)],
    [row.log2_second_moment for row in (*wanted.forward, *wanted.backward)],
  )


# What else devices do together


def on_eight(fn, specs, out):
  mesh = jax.make_mesh((8,), ("m",), axis_types=(AUTO,))
  return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out)


def test_two_products_in_one_sum():
  """Attention beside the perceptron, as in GPT-J."""

  def both(kernels, x):
    halves = x @ kernels[0] + (0.5 * jnp.tanh(x)) @ kernels[1]
    return jax.lax.psum(halves, "m")

  sharded = on_eight(both, (P("m"), P(None, "m")), P())
  kernels = list(PARAMS["in"][:2])
  assert fans(sharded, kernels, X) == [(16, 32, (16, 32))] * 2
  (first, second) = signal_graph(sharded, kernels, X).ops
  assert first.summed_over == second.summed_over == (("m", 8),)


def test_a_mean_over_samples_is_no_longer_sum():
  def model(kernel, x):
    return jax.lax.pmean(jnp.mean(jax.nn.relu(x @ kernel)), "m")

  def linear(kernel, x):
    return jax.lax.psum(x @ kernel, "m")

  kernel = PARAMS["in"][0]
  for fn in (model, linear):
    assert fans(on_eight(fn, (P(), P("m")), P()), kernel, X) == [
      (16, 32, (16, 32))
    ]


def test_experts_that_get_their_tokens_from_all_devices():
  def model(kernels, x):
    sent = jax.lax.all_to_all(x, "m", 0, 0, tiled=True)
    return jax.lax.all_to_all(sent @ kernels[0], "m", 0, 0, tiled=True)

  kernels, x = normal(0, 8, 16, 32), normal(1, 64, 16)
  sharded = on_eight(model, (P("m"), P("m")), P("m"))
  assert [f[:2] for f in fans(sharded, kernels, x)] == [(16, 32)]


def test_a_chain_over_devices_passes_signals_on():
  def model(kernels, x):
    h = jnp.tanh(x @ kernels[0])
    passed = jax.lax.ppermute(h, "m", [(i, (i + 1) % 8) for i in range(8)])
    return passed @ kernels[0].T

  kernels, x = normal(0, 8, 16, 32), normal(1, 64, 16)
  sharded = on_eight(model, (P("m"), P("m")), P("m"))
  _, second = signal_graph(sharded, kernels, x).ops
  assert (second.fan_in, second.fan_out, second.source) == (32, 16, ".")
  assert float(second.activation(jnp.float32(9.0))) == pytest.approx(1.0)


def test_pmap():
  def model(kernel, x):
    return jax.lax.psum(jax.nn.relu(x) @ kernel, "i")

  kernels, x = normal(0, 8, 16, 32) / 16, normal(1, 8, 4, 16)
  ((fan_in, fan_out, _),) = fans(jax.pmap(model, "i"), kernels, x)
  assert (fan_in, fan_out) == (8 * 16, 32)
  (row,) = plan_init(jax.pmap(model, "i"), kernels, x).rows
  (flat,) = plan_init(
    lambda w, x: jnp.einsum("mbi,mio->bo", jax.nn.relu(x), w), kernels, x
  ).rows
  assert (row.fan_in, row.std) == (flat.fan_in, flat.std)


def test_splits_that_a_reshape_hides_are_still_counted():
  """Heads are split, and merged with their features before use."""

  def model(kernel, x):
    return x @ kernel.reshape(16, -1)

  def flat(kernel, x):
    return x @ kernel.reshape(16, -1)

  kernel = normal(0, 16, 8, 4)
  sharded = on_eight(model, (P(None, "m"), P()), P(None, "m"))
  assert fans(sharded, kernel, X) == fans(flat, kernel, X)


VOCABULARY, IDS = 16, np.arange(0, 16, 2, dtype=np.int32)


def local_ids(table, ids):
  """Ids of the rows that a device has, and which of them it has at all."""
  mine = ids - jax.lax.axis_index("m") * len(table)
  here = (mine >= 0) & (mine < len(table))
  return jnp.where(here, mine, 0), here[:, None], mine


def selected(table, ids):
  mine, here, _ = local_ids(table, ids)
  return jnp.where(here, table[mine], 0)


def multiplied(table, ids):
  mine, here, _ = local_ids(table, ids)
  return table[mine] * here


def by_one_hot(table, ids):
  _, _, mine = local_ids(table, ids)
  return jax.nn.one_hot(mine, len(table)) @ table


@pytest.mark.parametrize("rows", [selected, multiplied, by_one_hot])
def test_a_table_whose_rows_are_split_is_looked_up_as_one(rows):
  mesh = jax.make_mesh((8,), ("m",), axis_types=(AUTO,))

  def parallel(params, ids):
    look_up = lambda table, ids: jax.lax.psum(rows(table, ids), "m")
    look_up = jax.shard_map(
      look_up, mesh=mesh, in_specs=(P("m"), P()), out_specs=P()
    )
    return jnp.tanh(look_up(params["table"], ids)) @ params["w"]

  flat = lambda params, ids: jnp.tanh(params["table"][ids]) @ params["w"]
  params = {"table": normal(0, VOCABULARY, 4), "w": normal(1, 4, 4)}
  np.testing.assert_allclose(
    jax.jit(parallel)(params, IDS), flat(params, IDS), rtol=1e-5, atol=1e-6
  )
  both = [plan_init(fn, params, IDS).rows for fn in (parallel, flat)]
  assert both[0] == both[1]


@pytest.mark.parametrize("by_data", [False, True])
def test_a_sum_of_which_devices_choose_their_terms_is_named(by_data):
  mesh = jax.make_mesh((8,), ("m",), axis_types=(AUTO,))

  def body(kernels, x):
    index = jax.lax.axis_index("m") % 2
    index = (x[0, 0] > 0).astype(int) if by_data else index
    branches = [lambda: x @ kernels[0], lambda: 2 * (x @ kernels[1])]
    return jax.lax.psum(jax.lax.switch(index, branches) / 2, "m")

  specs = {"in_specs": (P(None, "m"), P(None, "m")), "out_specs": P()}
  fn = jax.shard_map(body, mesh=mesh, **specs)
  graph = signal_graph(fn, normal(0, 2, WIDTH, WIDTH), X)
  assert [*graph.not_followed] == ["."]
