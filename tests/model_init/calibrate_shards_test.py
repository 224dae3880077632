"""Inside a shard_map, kernels get the factors of the model on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.model_init import calibrate

P = jax.sharding.PartitionSpec
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
LAYERS, WIDTH, INNER, BATCH = 3, 8, 16, 16
RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


PARAMS = {
  "in": normal(LAYERS, WIDTH, INNER),
  "out": normal(LAYERS, INNER, WIDTH),
  "bias": normal(LAYERS, WIDTH),
}
X = 1 + normal(BATCH, WIDTH)
same = lambda x, *_: x


def blocks(params, x, total=same, kernel_of=same):
  """Residual blocks; the functions are what devices do together."""

  def block(h, given):
    into, out, bias = given
    inner = jax.nn.relu(h @ kernel_of(into, 0))
    return h + total(inner @ kernel_of(out, 1)) + bias, None

  stack = params["in"], params["out"], params["bias"]
  return jax.lax.scan(block, x, stack)[0]


def gather(kernel, dim):
  return jax.lax.all_gather(kernel, "d", axis=dim, tiled=True)


WHOLE = dict.fromkeys(PARAMS, P())
TENSOR = {**WHOLE, "in": P(None, None, "d"), "out": P(None, "d")}
SHARDED = {**WHOLE, "in": P(None, "d"), "out": P(None, None, "d")}
SPLITS = {
  "data": (blocks, WHOLE, P("d")),
  "tensor": (
    functools.partial(blocks, total=lambda y: jax.lax.psum(y, "d")),
    TENSOR,
    P(),
  ),
  "fully sharded": (
    functools.partial(blocks, kernel_of=gather),
    SHARDED,
    P("d"),
  ),
}


def on_eight(fn, specs, x, kind=AUTO, **options):
  mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
  options = {"in_specs": (specs, x), "out_specs": x} | options
  return jax.shard_map(fn, mesh=mesh, **options)


def placed(arguments, specs):
  """On a mesh where shardings are types."""
  mesh = jax.make_mesh((8,), ("d",), axis_types=(EXPLICIT,))
  put = lambda x, spec: jax.device_put(x, jax.NamedSharding(mesh, spec))
  return jax.tree.map(put, arguments, specs)


def check(fn, flat, params=PARAMS, x=X, specs=None, **options):
  given = (params, x) if specs is None else placed((params, x), specs)
  found, info = calibrate(fn, *given, **options)
  wanted, flat_info = calibrate(flat, params, x, **options)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
  jax.tree.map(close, found, wanted)
  for one, other in zip(info.operations, flat_info.operations, strict=True):
    assert (one.path, one.repeat) == (other.path, other.repeat)
    assert one.reason == other.reason
    close((one.factor, one.before), (other.factor, other.before))
  return found, info


@pytest.mark.parametrize("name", SPLITS)
def test_factors_are_those_of_one_device(name):
  check(on_eight(*SPLITS[name]), blocks)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
def test_where_shardings_are_types(name):
  fn, *specs = SPLITS[name]
  check(on_eight(fn, *specs, kind=EXPLICIT), blocks, specs=tuple(specs))


@pytest.mark.slow
def test_variances_where_jax_does_not_know_what_is_equal():
  fn = on_eight(*SPLITS["tensor"], check_vma=False)
  check(fn, blocks, statistic="variance", target=2.0)


def test_every_output_has_the_target():
  """By NumPy, of the whole model."""
  params, _ = calibrate(on_eight(*SPLITS["tensor"]), PARAMS, X)
  h = X
  params = jax.device_get(params)
  for layer in range(LAYERS):
    z = h @ params["in"][layer]
    y = np.maximum(z, 0) @ params["out"][layer]
    np.testing.assert_allclose([(z**2).mean(), (y**2).mean()], 1, rtol=1e-5)
    h = h + y + params["bias"][layer]


@pytest.mark.slow
def test_a_kernel_used_twice_has_one_factor():
  def tied(params, x):
    return jnp.tanh(x @ params["in"][0]) @ params["in"][0].T

  def loss(params, x):
    return jax.lax.pmean(jnp.mean(tied(params, x)), "d")

  fn = on_eight(loss, WHOLE, P("d"), out_specs=P())
  check(fn, tied, tied="pooled")


def test_pmap():
  def model(kernel, x):
    return jax.lax.psum(jax.nn.relu(x) @ kernel, "i")

  def flat(kernels, x):
    return jnp.einsum("mbi,mio->bo", jax.nn.relu(x), kernels)

  kernels, x = normal(8, 4, 6), normal(8, 2, 4)
  check(jax.pmap(model, "i"), flat, kernels, x)


def test_branches():
  """What all devices take is calibrated; what each chooses is said not to be.

  A sum over devices of which some take another branch would never end.
  """

  def model(params, x, alike):
    mean = jnp.mean(x)
    mean = jax.lax.pmean(mean, "d") if alike else mean
    one, other = params["in"][0], params["in"][1]
    return jax.lax.cond(mean > 1e9, lambda: x @ one, lambda: x @ other)

  fn = functools.partial(model, alike=True)
  _, info = calibrate(on_eight(fn, WHOLE, P("d")), PARAMS, X)
  by_reason = {op.reason.partition(":")[0]: op for op in info.operations}
  assert set(by_reason) == {"calibrated", "not run"}
  moment = ((X @ PARAMS["in"][1]) ** 2).mean()
  np.testing.assert_allclose(by_reason["calibrated"].before, moment, rtol=1e-5)
  fn = functools.partial(model, alike=False)
  found, info = calibrate(on_eight(fn, WHOLE, P("d")), PARAMS, X)
  np.testing.assert_array_equal(found["in"], PARAMS["in"])
  assert all(
    "each device of a shard_map" in op.reason for op in info.operations
  )


def test_within_a_shard_map_each_device_calibrates_its_own():
  def own(params, x):
    return calibrate(lambda w, x: x @ w, params, x)[0][None]

  kernel = PARAMS["in"][0]
  found = on_eight(own, P(), P("d"))(kernel, X)
  for device, rows in enumerate(X.reshape(8, 2, WIDTH)):
    moment = ((rows @ kernel) ** 2).mean()
    wanted = kernel * moment**-0.5
    np.testing.assert_allclose(found[device], wanted, rtol=1e-4)
