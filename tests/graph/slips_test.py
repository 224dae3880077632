"""Common slips of a call: the error stays, and a note says what to write."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.training.train_state import TrainState

import initjax
from initjax import testing


class Model(nn.Module):
  """Takes a keyword, draws random numbers, and has statistics."""

  @nn.compact
  def __call__(self, x, train=True):
    x = nn.Dense(4)(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dropout(0.5, deterministic=not train)(x)


class Flagged(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(4)(x)


X = jnp.ones((2, 3))
APPLY = Model().apply
KEY = jax.random.key(0)
PARAMS = Model().init(KEY, X, train=False)
STATE = TrainState.create(
  apply_fn=APPLY, params=PARAMS["params"], tx=optax.sgd(1.0)
)
STATISTICS = functools.partial(APPLY, mutable=["batch_stats"])
WITH_STRING = {"w": jnp.ones((3, 4)), "name": "mlp"}
matmul = lambda params, x: x @ params["w"]

SLIPS = [
  ((PARAMS, APPLY, X), {}, r"the function comes first: \w+\(fn, params, *"),
  ((APPLY, X, PARAMS), {}, r"the parameters come second: \w+\(fn, params"),
  ((APPLY, STATE, X), {}, r"\w+\(state.apply_fn, {\"params\": state.params}"),
  ((STATE, X), {}, r"\w+\(state.apply_fn, {\"params\": state.params}"),
  ((APPLY, PARAMS["params"], X), {}, r"wrap .*: \w+\(fn, {\"params\": params}"),
  ((APPLY, PARAMS, X), {}, r"mutable=\['batch_stats'\]\) and has_aux=True"),
  ((STATISTICS, PARAMS, X), {}, r"model.apply, rngs={\"dropout\": key}\)"),
  ((APPLY, PARAMS, X), {"train": False}, r"partial\(model.apply, train=False"),
  ((Flagged().apply, PARAMS, X), {}, r"partial\(model.apply, train=False"),
  ((matmul, WITH_STRING, X), {}, "params holds a string at 'name'"),
  ((matmul, WITH_STRING["w"], {"x": X, "y": "a"}), {}, "input 0 holds a str"),
]
VERBS = [
  initjax.signal_graph,
  initjax.measure,
  initjax.measure_and_grad,
  initjax.diagnose,
  initjax.predict,
  initjax.plan_init,
  initjax.calibrate,
  functools.partial(initjax.auto_init, KEY),
  testing.assert_healthy,
]


@pytest.mark.parametrize("number", range(len(SLIPS)))
def test_a_slip_is_answered_with_what_to_write(number):
  """One verb each; all share the wrapper."""
  args, options, advice = SLIPS[number]
  with pytest.raises(Exception, match=f"initjax: .*{advice}"):
    VERBS[number % len(VERBS)](*args, **options)


def test_other_errors_stay_as_they_are():
  with pytest.raises(TypeError) as error:
    initjax.diagnose(jnp.dot, X, X)
  notes = getattr(error.value, "__notes__", [])
  assert not any(note.startswith("initjax") for note in notes)
