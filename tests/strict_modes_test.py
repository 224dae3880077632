"""Every verb in every strict mode of JAX: the answer of the plain mode.

Or, where the mode changes what is asked, what NumPy says of the model.
"""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small_models import normal

import initjax

KEY = jax.random.key(0)
N = 4
ROUNDING = 1e-5  # of a few sums of 4 or 12 terms, compiled or not
he, lecun = nn.initializers.he_normal(), nn.initializers.lecun_normal()


class Block(nn.Module):
  """Dense layers with a bias, layer norm and a residual branch."""

  @nn.compact
  def __call__(self, x):
    stem = self.param("stem", lecun, (N, N), jnp.float32)
    branch = self.param("branch", he, (N, N), jnp.float32)
    scale = self.param("scale", nn.initializers.ones, (1, N), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (1, N), jnp.float32)
    h = x @ stem + bias
    centred = h - h.mean(-1, keepdims=True)
    size = jnp.square(jnp.abs(centred)).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(size + 1e-6) * scale
    return h + jax.nn.relu(normed) @ branch


class Conv(nn.Module):
  """Two convolutions of sequences [batch, 6, features]."""

  @nn.compact
  def __call__(self, x):
    for name in ("stem", "branch"):
      kernel = self.param(name, he, (3, N, N), jnp.float32)
      x = conv(x, kernel.astype(x.dtype))
      x = jnp.tanh(x) if name == "stem" else x
    return x


def conv(x, kernel):
  numbers = ("NHC", "HIO", "NHC")
  return jax.lax.conv_general_dilated(
    x, kernel, (1,), "SAME", dimension_numbers=numbers
  )


class Scan(nn.Module):
  """Three layers, stacked."""

  @nn.compact
  def __call__(self, x):
    kernels = self.param("stem", lecun, (3, N, N), jnp.float32)
    layer = lambda h, kernel: (jnp.tanh(h @ kernel), None)
    return jax.lax.scan(layer, x, kernels)[0]


MODELS = {"block": Block(), "conv": Conv(), "scan": Scan()}


def verbs(model, key, params, x):
  """What is to be compared: trees of arrays and texts."""
  fn = model.apply

  def read():
    graph = initjax.signal_graph(fn, params, x)
    fans = [(op.fan_in, op.fan_out, op.repeats, op.path) for op in graph]
    return fans, list(map(str, (graph.elementwise, graph.unused)))

  @jax.jit  # one program; step by step where jit is disabled
  def measured(params, x):
    return initjax.measure(fn, params, x, key=key)

  def diagnosed():
    report = initjax.diagnose(fn, params, x)
    return report.judged, [v.kind for v in report.verdicts], sizes(report)

  return {
    "signal_graph": read,
    "measure": lambda: sizes(measured(params, x)),
    "diagnose": diagnosed,
    "auto_init": lambda: initjax.auto_init(key, fn, params, x),
    "calibrate": lambda: initjax.calibrate(fn, params, x)[0],
    "init_variables": lambda: initjax.init_variables(key, model, x),
  }


def sizes(report):
  return {
    name: [2**row.log2_second_moment for row in rows]
    for name, rows in (("up", report.forward), ("down", report.backward))
  }


def same(found, want):
  assert jax.tree.structure(found) == jax.tree.structure(want)
  for one, other in zip(*map(jax.tree.leaves, (found, want)), strict=True):
    if isinstance(other, str):
      assert one == other
    else:
      assert np.shape(one) == np.shape(other)
      assert np.asarray(one).dtype == np.asarray(other).dtype
      np.testing.assert_allclose(one, other, ROUNDING, ROUNDING)


@functools.cache
def given(name, batch=N):
  """Parameters and inputs, as NumPy's arrays."""
  shape = (6, N) if name == "conv" else (N,)
  x = normal(batch, *shape, seed=3)
  params = MODELS[name].init(KEY, np.ones((1, *shape), np.float32))
  return jax.tree.map(np.array, params), x


@functools.cache
def plain(name, verb):
  return verbs(MODELS[name], KEY, *given(name))[verb]()


# Modes that change nothing

MESH = functools.partial(jax.make_mesh, (2,), ("data",), (AxisType.Explicit,))
SILENT = {
  "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
  "ranks": lambda: jax.numpy_rank_promotion("raise"),
  "NaN": lambda: jax.debug_nans(True),
  "x64": lambda: jax.enable_x64(True),
  "leaks": lambda: jax.check_tracer_leaks(True),
  "no jit": lambda: jax.disable_jit(),
  "legacy key": contextlib.nullcontext,
  "explicit mesh": lambda: jax.set_mesh(MESH()),
}


def as_in(mode, params, x):
  """The key, the parameters and the inputs of a mode."""
  key = jax.random.PRNGKey(0) if mode == "legacy key" else KEY
  if mode == "explicit mesh":
    on = lambda *axes: NamedSharding(MESH(), PartitionSpec(*axes))
    params, x = jax.device_put(params, on()), jax.device_put(x, on("data"))
  return key, params, x


# Each mode meets each verb and each model: two verbs a case.


def cases(modes):
  names = list(verbs(Block(), None, None, None))
  found = []
  for number, mode in enumerate(modes):
    for place, model in enumerate(MODELS):
      first = (number + 2 * place) % len(names)
      chosen = names[first], names[(first + 1) % len(names)]
      found.append(pytest.param(mode, model, chosen, id=f"{mode}, {model}"))
  return found


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "name", "chosen"), cases(SILENT))
def test_the_answer_is_that_of_the_plain_mode(mode, name, chosen):
  for verb in chosen:
    want = plain(name, verb)
    with SILENT[mode]():
      key, params, x = as_in(mode, *given(name))
      found = verbs(MODELS[name], key, params, x)[verb]()
      same(found, want)


# Keys, numbers and batches of another kind


def first_output(name, params, x):
  """Of the stem, in the precision of NumPy."""
  kernel, x = np.asarray(params["params"]["stem"], np.complex128), x
  if name != "conv":
    return x @ (kernel[0] if name == "scan" else kernel)
  padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
  return sum(padded[:, i : i + x.shape[1]] @ kernel[i] for i in range(3))


def mean_square(x):
  return np.mean(np.abs(x) ** 2)


def check_drawn(verb, name, found, key, params, x):
  """Of other bits: forward all is as it was; Flax draws the same."""
  if verb == "measure":
    same(found["up"], plain(name, verb)["up"])
  elif verb == "init_variables":
    same(found, MODELS[name].init(key, x))
  elif verb == "auto_init":
    same(found, verbs(MODELS[name], key, params, x)[verb]())
    again = plain(name, verb)["params"]["stem"]
    assert not np.allclose(found["params"]["stem"], again)
  else:
    same(found, plain(name, verb))


def check_sized(verb, name, found, key, params, x):
  """Complex numbers, or one sample: second moments are those of NumPy."""
  del key
  if verb in ("signal_graph", "init_variables"):
    same(found, plain(name, verb))
  elif verb == "calibrate":
    report = initjax.measure(MODELS[name].apply, found, x)
    for size in jax.tree.leaves(sizes(report)["up"]):
      np.testing.assert_allclose(size, 1, rtol=ROUNDING)
  elif verb == "auto_init":
    same(found["params"]["stem"].shape, params["params"]["stem"].shape)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
  else:
    up = found["up"] if verb == "measure" else found[-1]["up"]
    want = mean_square(first_output(name, params, x))
    np.testing.assert_allclose(np.ravel(up[0])[0], want, rtol=ROUNDING)
    if verb == "diagnose":
      assert found[0]


def check_empty(verb, name, found, key, params, x):
  """Without samples there is nothing to measure, to rescale or to judge."""
  del key
  if verb == "measure":
    report = initjax.measure(MODELS[name].apply, params, x)
    for row in (*report.forward, *report.backward):
      assert np.all(row.size == 0)
  elif verb == "diagnose":
    assert found[:2] == (False, [])
  elif verb == "calibrate":
    same(found, params)
  else:
    same(found, plain(name, verb))


OTHER = {
  "rbg key": check_drawn,
  "complex": check_sized,
  "one sample": check_sized,
  "no sample": check_empty,
}


# Of four units, chance does anything, and that is said.
@pytest.mark.filterwarnings("ignore:(auto_init|calibrate). The:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize(("mode", "name", "chosen"), cases(OTHER))
def test_the_answer_is_that_of_numpy(mode, name, chosen):
  batch = {"one sample": 1, "no sample": 0}.get(mode, N)
  key = jax.random.key(0, impl="rbg") if mode == "rbg key" else KEY
  params, x = given(name, batch)
  if mode == "complex":
    x = np.complex64(x + 1j * normal(*x.shape, seed=4))
  for verb in chosen:
    found = verbs(MODELS[name], key, params, x)[verb]()
    OTHER[mode](verb, name, found, key, params, x)
