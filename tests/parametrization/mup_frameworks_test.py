"""Plans for models of Flax, Equinox and Haiku, as they are, to a first step."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import initjax

X = jnp.ones((4, 6, 5))
KEY = jax.random.key(0)


def roles(plan):
  return {
    row.path: row.role
    for row in plan.rows
    if row.role not in ("vector", "fixed")
  }


class Attending(nnx.Module):
  def __init__(self, n, rngs):
    self.first = nnx.Linear(5, n, rngs=rngs)
    self.attend = nnx.MultiHeadAttention(2, n, decode=False, rngs=rngs)
    self.drop = nnx.Dropout(0.1, rngs=rngs)
    self.last = nnx.Linear(n, 3, rngs=rngs)

  def __call__(self, x):
    h = self.first(x)
    return self.last(h + self.drop(self.attend(h)))


def test_nnx():
  wide, base = (
    nnx.eval_shape(functools.partial(lambda n: Attending(n, nnx.Rngs(0)), n))
    for n in (32, 8)
  )
  plan = initjax.mup(wide, X, base=(base, X))
  assert roles(plan)["first/kernel"] == "input"
  assert roles(plan)["attend/value/kernel"] == "hidden"
  assert roles(plan)["last/kernel"] == "output"
  assert plan["attend/query/bias"].absorbed == pytest.approx(0.5)
  state = jax.tree.map(
    lambda leaf: jnp.ones(leaf.shape), nnx.state(wide, nnx.Param)
  )
  tx = plan.optimizer(optax.sgd(1.0), kind="sgd")
  updates, _ = tx.update(state, tx.init(state), state)
  assert updates["last"]["kernel"][...][0, 0] == -0.25


def test_equinox():
  eqx = pytest.importorskip("equinox")
  make = lambda n: eqx.nn.MLP(5, 3, n, 2, key=KEY)
  wide, base = (eqx.filter_eval_shape(make, n) for n in (32, 8))
  plan = initjax.mup(wide, X[0, 0], base=(base, X[0, 0]))
  assert [*roles(plan).values()] == ["input", "hidden", "output"]


def test_haiku():
  hk = pytest.importorskip("haiku")

  def of(n):
    made = hk.without_apply_rng(
      hk.transform(lambda x: hk.nets.MLP([n, n, 3])(x))
    )
    return made.apply, jax.eval_shape(made.init, KEY, X), X

  plan = initjax.mup(*of(32), base=of(8))
  assert [*roles(plan).values()] == ["input", "hidden", "output"]


class UNet(nn.Module):
  n: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(
      nn.BatchNorm(use_running_average=True)(nn.Conv(self.n, (3, 3))(x))
    )
    down = nn.relu(nn.Conv(2 * self.n, (3, 3), strides=(2, 2))(x))
    up = nn.ConvTranspose(self.n, (2, 2), strides=(2, 2))(down)
    x = nn.relu(nn.Conv(self.n, (3, 3))(jnp.concatenate([up, x], -1)))
    return nn.Conv(2, (1, 1))(x)


class Recurrent(nn.Module):
  n: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(nn.RNN(nn.OptimizedLSTMCell(self.n))(x))


def linen_plan(model, x):
  def of(n):
    return model(n), jax.eval_shape(model(n).init, KEY, x), x

  return initjax.mup(*of(32), base=of(8))


def test_a_unet():
  plan = linen_plan(UNet, jnp.ones((2, 8, 8, 3)))
  expected = ["hidden", "input", "hidden", "hidden", "output"]
  assert [*roles(plan).values()] == expected
  params = jax.eval_shape(UNet(32).init, KEY, jnp.ones((2, 8, 8, 3)))["params"]
  tx = plan.optimizer(optax.adam(1.0), kind="adam")
  jax.eval_shape(tx.init, params)  # the collection may be left out


def test_an_lstm():
  found = roles(linen_plan(Recurrent, X))
  inside = "params/OptimizedLSTMCell_0/"
  assert found[f"{inside}hf/kernel"] == "hidden"
  assert found[f"{inside}if/kernel"] == "input"
  assert found["params/Dense_0/kernel"] == "output"


@pytest.mark.slow
def test_llama_is_planned_in_seconds():
  import large_models as large

  size = large.SIZES["Llama-7B"]
  small = size._replace(width=256, features=8, hidden=688)
  of = lambda size: (
    large.model_of(size), large.params_of(size), large.inputs_of(size)
  )  # fmt: skip
  plan = initjax.mup(*of(size), base=of(small))
  assert plan["layers/31/q"].absorbed == pytest.approx(0.25)
  assert plan["layers/31/down"].init == 0.25
  assert plan["out"].init == 1 / 16
  assert "more blocks of 9" in str(plan)
