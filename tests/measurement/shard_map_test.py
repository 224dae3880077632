"""Inside `jax.shard_map` the numbers are those of the whole model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captures import assert_report, captures, filled, quick_jit, stacked
from small_models import normal

from initjax.measurement import measure

P = jax.sharding.PartitionSpec
DATA = P("data")
DEVICES = 8
X = normal(16, 5)
SHAPES = {"first": (5, 8), "bias": (8,), "hidden": (3, 8, 8), "last": (8, 2)}
PARAMS = filled(
  {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in SHAPES.items()}
)


def mlp(params, x):
  """A scan between two layers."""

  def layer(h, kernel):
    return jax.nn.relu(h @ kernel + params["bias"]), None

  h = jax.nn.relu(x @ params["first"] - params["bias"])
  return jax.lax.scan(layer, h, params["hidden"])[0] @ params["last"]


@jax.jit
def by_hand(cotangent):
  """The same, unrolled."""

  def run(see):
    z = see("first", X @ PARAMS["first"])
    h = jax.nn.relu(z - PARAMS["bias"])
    for index, kernel in enumerate(PARAMS["hidden"]):
      z = see(f"hidden/{index}", h @ kernel)
      h = jax.nn.relu(z + PARAMS["bias"])
    return see("last", h @ PARAMS["last"])

  return stacked(captures(run, cotangent))


def sharded(fn, *, axis_type, x=DATA, out=DATA, check_vma=True):
  """`fn` on every device, parameters replicated; and its arguments, placed."""
  mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(axis_type,))
  place = functools.partial(jax.sharding.NamedSharding, mesh)
  run = jax.shard_map(
    fn, mesh=mesh, in_specs=(P(), x), out_specs=out, check_vma=check_vma
  )
  arguments = jax.device_put(PARAMS, place(P())), jax.device_put(X, place(x))
  return functools.partial(measure, run), arguments


COTANGENT = normal(16, 2)
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit


@pytest.mark.parametrize(
  ("axis_type", "check_vma"), [(AUTO, True), (AUTO, False), (EXPLICIT, True)]
)
def test_data_parallel(axis_type, check_vma):
  run, arguments = sharded(mlp, axis_type=axis_type, check_vma=check_vma)
  report = quick_jit(functools.partial(run, cotangent=COTANGENT))(*arguments)
  assert_report(report, by_hand(COTANGENT))
  assert report.forward[1].size.tolist() == [16 * 8] * 3
  assert report.backward[0].zeros > 0


@pytest.mark.parametrize("check_vma", [True, False])
def test_data_parallel_loss(check_vma):
  """Each device has a part of the mean, and all of them the loss."""

  def loss(params, x):
    return jax.lax.pmean(jnp.mean(mlp(params, x) ** 2), "data")

  run, arguments = sharded(loss, axis_type=AUTO, out=P(), check_vma=check_vma)
  report = quick_jit(run)(*arguments)
  outputs = np.asarray(jax.jit(mlp)(PARAMS, X))
  assert_report(report, by_hand(2 * outputs / outputs.size))


def test_what_every_device_computes_is_counted_once():
  run, arguments = sharded(mlp, axis_type=AUTO, x=P(), out=P())
  report = quick_jit(functools.partial(run, cotangent=COTANGENT))(*arguments)
  assert_report(report, by_hand(COTANGENT))


@pytest.mark.parametrize("detail", [False, True])
def test_each_device_measures_its_own(detail):
  """Inside of a shard_map, the model is that of one device."""

  def model(params, x):
    h = jax.nn.relu(x @ params["first"])
    halved = lambda: 0.5 * h
    return jax.lax.cond(h[0, 0] < 0, halved, lambda: h @ params["hidden"][0])

  def on_device(params, x):
    report = measure(model, params, x, detail=detail)
    return jax.tree.map(lambda leaf: leaf[None], report)

  mesh = jax.make_mesh((2,), ("data",), axis_types=(AUTO,))
  specs = {"in_specs": (P(), DATA), "out_specs": DATA}
  found = quick_jit(jax.shard_map(on_device, mesh=mesh, **specs))(PARAMS, X)
  own = functools.partial(measure, model, PARAMS, detail=detail)
  wanted = quick_jit(jax.vmap(own))(X.reshape(2, 8, -1))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5),
    [row.log2_second_moment for row in (*found.forward, *found.backward)],
    [row.log2_second_moment for row in (*wanted.forward, *wanted.backward)],
  )
