"""init_variables gives what the model's own init gives, in few compilations."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import compilations

from initjax.model_init import init_variables

X = np.ones((2, 8), np.float32)
KEY = jax.random.key(0)


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
  [KEY, jax.random.PRNGKey(0), {"params": KEY, "dropout": jax.random.key(2)}],
  ids=["typed", "raw", "dict"],
)
def test_linen_bit_for_bit(key):
  found = init_variables(key, Model(), X, kwargs={"train": False})
  init = functools.partial(Model().init, train=False)
  assert_same(found, init(key, X))
  assert_same(init_variables(key, init, X), found)


def test_other_random_bits():
  key, options = jax.random.key(0, impl="rbg"), {"train": False}
  found = init_variables(key, Model(), X, kwargs=options)
  assert_same(found, Model().init(key, X, **options))


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


@pytest.mark.slow
def test_equinox():
  eqx = pytest.importorskip("equinox", reason="an optional peer")
  make = lambda key: eqx.nn.MLP(3, 4, 8, 3, key=key)
  found, wanted = init_variables(KEY, make), make(KEY)
  assert found.activation is not None
  assert_same(*(eqx.filter(x, eqx.is_array) for x in (found, wanted)))


@pytest.mark.slow
def test_haiku():
  hk = pytest.importorskip("haiku", reason="an optional peer")
  init = hk.transform(lambda x: hk.nets.MLP([8, 8, 4])(x)).init
  assert_same(init_variables(KEY, init, X), init(KEY, X))


def test_odd_leaves():
  """One array twice, a literal, no elements, of an input, no array at all."""

  def init(key, x):
    w = jax.random.normal(key, (3, 4))
    empty = jax.random.normal(key, (0, 4))
    number = jnp.float32(2.0)
    return {"w": w, "tied": w, "e": empty, "n": number, "x": x + 1, "s": "a"}

  found, wanted = init_variables(KEY, init, X), init(KEY, X)
  assert found.pop("s") == "a"
  wanted.pop("s")
  assert_same(found, wanted)
  assert found["w"] is found["tied"]


def test_depth_costs_no_compilations():
  x = np.ones((2, 9))  # of a width that no other test has
  run = lambda depth: init_variables(KEY, Model(depth), x)
  assert compilations(lambda: run(2)) > 0
  assert compilations(lambda: run(8)) == 0


def test_under_jit_and_from_shapes():
  shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
  init = lambda key: init_variables(key, Model(), shape)
  found, shapes = init(KEY), jax.eval_shape(init, KEY)
  assert_same(found, Model().init(KEY, X))
  assert jax.tree.structure(shapes) == jax.tree.structure(found)


UNKNOWN = jax.ShapeDtypeStruct((2,), jnp.float32)
WRONG = [
  ((0, Model(), X), {}, TypeError, "expected one key"),
  ((KEY, 3), {}, TypeError, "must be a linen module"),
  ((KEY, Model(), X), {"keys": "x"}, ValueError, "keys"),
  ((KEY, Model().init, X), {"method": "short"}, ValueError, "linen modules on"),
  ((nnx.Rngs(0), lambda rngs: 3), {}, TypeError, "builds an NNX"),
  ((KEY, lambda k, x: x + 1, UNKNOWN), {}, ValueError, "pass an array"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG)
def test_errors_say_what_to_do(args, options, error, message):
  with pytest.raises(error, match=message):
    init_variables(*args, **options)


def test_a_module_is_no_model():
  module = nnx.eval_shape(lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
  with pytest.raises(TypeError, match="already has its parameters"):
    init_variables(KEY, module)


def test_a_bar_on_request(capsys):
  init_variables(KEY, nn.Dense(3), X, progress=True)
  assert "initializing" in capsys.readouterr().err
