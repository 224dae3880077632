"""init_variables gives what the model's own init gives, in few compilations."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from initjax.schemes import init_variables

X = jnp.ones((2, 8))


def assert_same(found, wanted, ulps=0):
  """Equal trees; leaves within some units in the last place of their size."""
  found, wanted = (
    jax.tree_util.tree_leaves_with_path(x) for x in (found, wanted)
  )
  assert [path for path, _ in found] == [path for path, _ in wanted]
  for (path, x), (_, y) in zip(found, wanted, strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype), path
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    if not ulps:
      np.testing.assert_array_equal(x, y, err_msg=str(path))
    else:
      np.testing.assert_array_max_ulp(np.asarray(x), np.asarray(y), ulps)


class Model(nn.Module):
  depth: int = 1

  @nn.compact
  def __call__(self, x, train=True):
    for _ in range(self.depth):
      x = nn.Dense(8)(x)
      x = nn.BatchNorm(use_running_average=not train)(x)
      x = nn.Dropout(0.1, deterministic=not train)(x)
    x = nn.Dense(4, kernel_init=nn.initializers.orthogonal())(x)
    x = nn.Dense(4, param_dtype=jnp.bfloat16)(x)
    init = nn.with_partitioning(nn.initializers.normal(0.1), (None, "model"))
    return nn.Dense(4, kernel_init=init)(x)

  def short(self, x):
    return x


@pytest.mark.parametrize(
  "key",
  [
    jax.random.key(0),
    jax.random.PRNGKey(0),
    jax.random.key(0, impl="rbg"),
    {"params": jax.random.key(1), "dropout": jax.random.key(2)},
  ],
  ids=["typed", "raw", "rbg", "dict"],
)
def test_linen_bit_for_bit(key):
  found = init_variables(key, Model(), X, kwargs={"train": False})
  assert_same(found, Model().init(key, X, train=False))


def test_partial_of_init():
  key = jax.random.key(0)
  init = functools.partial(Model().init, train=False)
  assert_same(init_variables(key, init, X), init(key, X))


class Layer(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.Dense(8)(nn.relu(nn.Dense(8)(x))), None


class Stack(nn.Module):
  @nn.compact
  def __call__(self, x):
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    x, _ = nn.scan(Layer, length=5, **axes)()(x, None)
    return nn.vmap(nn.Dense, in_axes=None, axis_size=3, **axes)(8)(x)


def test_scan_and_vmap():
  """In a loop XLA may multiply two constants first: two roundings, 2 ulps."""
  key = jax.random.key(3)
  assert_same(init_variables(key, Stack(), X), Stack().init(key, X), ulps=2)


class Module(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(3, 4, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)
    self.last = nnx.Linear(4, 4, rngs=rngs)


def test_nnx_and_its_counters():
  ours, eager = nnx.Rngs(0, dropout=1), nnx.Rngs(0, dropout=1)
  found = init_variables(ours, lambda rngs: Module(rngs=rngs))
  assert_same(nnx.state(found), nnx.state(Module(rngs=eager)))
  assert_same(nnx.state(ours), nnx.state(eager))
  assert found.last(jnp.ones((2, 4))).shape == (2, 4)


def test_equinox():
  eqx = pytest.importorskip("equinox", reason="an optional peer")
  make = lambda key: eqx.nn.MLP(3, 4, 8, 3, key=key)
  found = init_variables(jax.random.key(0), make)
  wanted = make(jax.random.key(0))
  assert found.activation is not None
  assert_same(*(eqx.filter(x, eqx.is_array) for x in (found, wanted)))


def test_haiku():
  hk = pytest.importorskip("haiku", reason="an optional peer")
  init = hk.transform(lambda x: hk.nets.MLP([8, 8, 4])(x)).init
  key = jax.random.key(0)
  assert_same(init_variables(key, init, X), init(key, X))


def test_odd_leaves():
  """One array twice, a literal, no elements, of an input, no array at all."""

  def init(key, x):
    w = jax.random.normal(key, (3, 4))
    empty = jax.random.normal(key, (0, 4))
    number = jnp.float32(2.0)
    return {"w": w, "tied": w, "e": empty, "n": number, "x": x + 1, "s": "a"}

  key = jax.random.key(0)
  found = init_variables(key, init, X)
  assert found.pop("s") == "a"
  wanted = init(key, X)
  wanted.pop("s")
  assert_same(found, wanted)
  assert found["w"] is found["tied"]


def compilations(run):
  """How many programs XLA compiles."""
  events = []
  listen = lambda event, _, **kwargs: events.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    run()
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return events.count("/jax/core/compile/backend_compile_duration")


def test_depth_costs_no_compilations():
  counts = []
  for depth in (2, 8):
    jax.clear_caches()
    run = lambda depth=depth: init_variables(jax.random.key(0), Model(depth), X)
    counts.append(compilations(run))
  assert counts[0] == counts[1]
  assert compilations(run) == 0


def test_under_jit_and_from_shapes():
  key = jax.random.key(0)
  shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
  init = lambda key: init_variables(key, Model(), shape)
  assert_same(init(key), Model().init(key, X))
  shapes = jax.eval_shape(init, key)
  assert jax.tree.structure(shapes) == jax.tree.structure(init(key))


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda k: init_variables(0, Model(), X), TypeError, "needs a key"),
    (lambda k: init_variables(k, 3), TypeError, "must be a linen module"),
    (lambda k: init_variables(k, Model(), X, keys="x"), ValueError, "keys"),
    (
      lambda k: init_variables(k, Model().init, X, method="short"),
      ValueError,
      "linen modules only",
    ),
    (
      lambda k: init_variables(nnx.Rngs(0), lambda rngs: 3),
      TypeError,
      "builds an NNX",
    ),
    (
      lambda k: init_variables(k, Module(rngs=nnx.Rngs(0))),
      TypeError,
      "a function|has its parameters already",
    ),
    (
      lambda k: init_variables(
        k, lambda k, x: x + 1, jax.ShapeDtypeStruct((2,), jnp.float32)
      ),
      ValueError,
      "pass an array",
    ),
  ],
)
def test_errors_say_what_to_do(call, error, message):
  with pytest.raises(error, match=message):
    call(jax.random.key(0))


def test_a_bar_on_request(capsys):
  init_variables(jax.random.key(0), nn.Dense(3), X, progress=True)
  assert "initializing" in capsys.readouterr().err
