"""Parameters without a gradient are found, unless others only hide it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import kinds
from small_models import KEY, X, drawn, normal, two_layer_params, two_layers

from initjax.diagnosis import diagnose
from initjax.diagnosis._no_gradient import _moved
from initjax.diagnosis._observe import Call

ZERO = np.zeros((64, 4), np.float32)
HEAD = normal(64, 4, variance=1 / 64, seed=7)


def moved(model, params):
  options = {"key": KEY, "cotangent": None, "has_aux": False}
  return _moved(Call(model, params, (X,), options))


@pytest.mark.parametrize("zeros", [1, 2])
def test_of_two_zeros_each_hides_the_other(zeros):
  """In a residual branch b·tanh(a·x): B = 0 of LoRA, and A = B = 0."""
  params = {"b": np.zeros(64, np.float32), "a": np.ones(64, np.float32)}
  params["a"] *= zeros < 2
  model = lambda p, x: x + p["b"] * jnp.tanh(p["a"] * x)
  assert moved(model, params) == ({"a", "b"} if zeros == 1 else set())


def test_three_rounds_are_enough_for_zeros_behind_zeros():
  """d is seen at once, then c, then b, then a."""

  def model(p, x):
    first = p["a"] * x
    second = p["b"] * (1 + first)
    third = p["c"] * (1 + second)
    return p["d"] * (1 + third)

  params = dict.fromkeys("abcd", np.float32(0))
  assert moved(model, params) == set("abcd")


def every_kind(params, x):
  """LoRA twice, a dead unit, a teacher, experts, a branch not run, a trunk."""
  h = two_layers(params, x)
  for lora in (params["lora"], params["lost"]):
    h = h + x @ lora["a"] @ lora["b"].T
  h = h + jax.nn.relu(x @ params["u"] - 50)[:, None]
  h = h - x @ jax.lax.stop_gradient(params["teacher"])
  for i in range(3):
    chosen = (x[:, :1] > 0) == (i == 1)
    h = h + jnp.where(chosen & (i < 2), x @ params[f"expert_{i}"], 0.0)
  _ = jnp.tanh(x @ params["aside"])
  other = lambda x: x @ params["other"]
  return jax.lax.cond(x[0, 0] > 100, other, lambda x: x, h)


@pytest.mark.slow  # compiles the model three times
def test_every_kind_is_said_by_its_cause():
  square = lambda seed: normal(64, 64, variance=1 / 64, seed=seed)
  params = two_layer_params(
    lora={"a": HEAD, "b": ZERO},
    lost={"a": ZERO, "b": ZERO},
    u=normal(64, variance=1 / 64, seed=8),
    teacher=square(9),
    other=square(10),
    aside=square(15),
    **{f"expert_{i}": square(11 + i) for i in range(3)},
  )
  report = diagnose(every_kind, params, X)
  dead, *others = (v for v in report.verdicts if v.kind == "no gradient")
  assert dead.severity == "error"
  assert {other.severity for other in others} == {"warning"}
  stopped, aside, unreached = others
  assert "even after the others have moved: lost/a, lost/b, u." in dead.message
  assert "each hides the other's gradient" in dead.message
  assert "stop_gradient blocks it: teacher." in stopped.message
  assert aside.message.endswith("comparison or argmax: aside.")
  assert unreached.message.endswith("these experts: expert_2.")


class Normalized(nn.Module):
  """Batch statistics, and a residual branch that starts at zero."""

  @nn.compact
  def __call__(self, x):
    h = jax.nn.relu(nn.BatchNorm(use_running_average=False)(nn.Dense(64)(x)))
    h = nn.Dense(64, kernel_init=nn.initializers.zeros)(h)
    return x + h


def test_batch_statistics_and_branches_of_zeros_are_healthy():
  shapes = jax.eval_shape(Normalized().init, KEY, X)
  variables = drawn(shapes)
  variables["params"]["Dense_1"]["kernel"] *= 0

  def model(variables, x):
    return Normalized().apply(variables, x, mutable=["batch_stats"])[0]

  report = diagnose(model, variables, X)
  assert "no gradient" not in kinds(report)
  assert set(kinds(report).values()) <= {"note", "warning"}
