"""Verdicts on single operations: what is broken, and where it starts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import kinds, verdict
from small_models import (
  KEY,
  X,
  drawn,
  kernels,
  normal,
  stack,
  two_layer_params,
  two_layers,
)

from initjax.diagnosis import diagnose


def test_dead_units_are_more_than_chance_explains():
  report = diagnose(two_layers, two_layer_params(-6.0), X)
  found = verdict(report, "dead units")
  assert found.severity == "error"
  assert found.path == "out"
  assert not diagnose(two_layers, two_layer_params(), X).verdicts


def test_half_of_the_units_are_off_where_samples_are_alike():
  """One sample, or many that are alike: no verdict on the model."""
  for x in (X[:1], X[:1] + np.float32(1e-4) * X):
    report = diagnose(two_layers, two_layer_params(), x)
    assert set(kinds(report)) <= {"one sample", "input of rank one"}


def test_a_rectified_recurrence_has_no_dead_units_at_the_start():
  params = two_layer_params(out=np.eye(64, dtype=np.float32))

  def model(params, xs):
    def step(h, x):
      h = jax.nn.relu(x @ params["in"] + h @ params["out"])
      return h, h

    return jax.lax.scan(step, jnp.zeros((8, 64)), xs)[1]

  report = diagnose(model, params, normal(12, 8, 64))
  assert "dead units" not in kinds(report)


def test_samples_that_become_one_are_reported():
  """A note where float32 tells them apart still."""
  model = stack(lambda z: jnp.tanh(z + 1.0))
  for params, severity in ((kernels(0.16, 20), "warning"),
                           (kernels(0.12, 4), "note")):  # fmt: skip
    verdicts = diagnose(model, params, X).verdicts
    found = {verdict.kind: verdict.severity for verdict in verdicts}
    assert found["rank collapse"] == severity


def test_sentences_that_end_alike_are_no_collapse():
  def model(params, xs):
    def step(h, x):
      h = x @ params["in"] + h @ params["out"] + params["bias"]
      return jnp.tanh(h), h

    return jax.lax.scan(step, X, xs)[1]

  sentences = normal(5, *X.shape, seed=4)
  sentences[-1] = 1
  assert not diagnose(model, two_layer_params(), sentences).verdicts


def test_a_learned_query_is_no_collapse():
  """One is the same for all samples; what it attends to is not."""

  def model(params, x):
    probe = jnp.stack([params["probe"]] * len(x))
    keys = x[:, None] * np.float32([[1], [2]]) @ params["in"]
    scores = jnp.einsum("bqc,btc->bqt", probe @ params["out"], keys)
    return jax.nn.softmax(scores / 8) @ keys

  params = two_layer_params()
  width = params["in"].shape[0]
  params = {**params, "probe": normal(1, params["out"].shape[0])}
  report = diagnose(model, params, X[:, :width])
  assert "rank collapse" not in kinds(report)
  assert report.to_records()[0]["path"] == "probe"


def test_single_numbers_have_no_direction():
  """A value head of one unit: the same sign on all samples is no collapse."""
  params = two_layer_params(out=np.full((64, 1), 1 / 64, np.float32))
  report = diagnose(two_layers, params, X)
  assert np.isnan(report.to_records()[-1]["correlation"])
  assert "rank collapse" not in kinds(report)


def test_a_branch_that_starts_at_zero_is_no_error():
  params = two_layer_params(out=np.zeros((64, 64), np.float32))
  report = diagnose(lambda p, x: x + two_layers(p, x), params, X)
  assert set(kinds(report).values()) <= {"note"}


def test_a_zero_kernel_excuses_its_own_path_alone():
  """Nor do zero biases excuse a layer, nor a layer the others of its stack."""
  dead = {"k": kernels(1.0, 8), "b": np.zeros((8, 64), np.float32)}
  dead["k"][4] = 0

  def chain(params, x):
    layer = lambda h, p: (jnp.tanh(h @ p["k"] + p["b"]), None)
    return jax.lax.scan(layer, x, params)[0]

  cut = {"signal is cut off": "warning", "gradient is cut off": "warning"}
  assert kinds(diagnose(chain, dead, X)) == cut
  whole = {**dead, "k": 0 * dead["k"]}  # zero throughout: none would learn
  assert cut.items() <= kinds(diagnose(chain, whole, X)).items()

  def branches(params, x):
    dead = {**params, "bias": params["off"]}
    return two_layers(dead, x), jax.nn.relu(x @ params["c"]) @ params["d"]

  params = two_layer_params(off=np.float32(-100), c=kernels(2.0, 1)[0])
  params["d"] = 0 * params["c"]
  found = kinds(diagnose(branches, params, X))
  assert found["gradient is cut off"] == "warning"
  assert found["signal is cut off"] == "note"


def test_residual_branches_of_a_stack_may_start_at_zero():
  def model(params, x):
    block = lambda h, p: (h + jnp.tanh(h @ p["in"]) @ p["out"], None)
    return jax.lax.scan(block, x, params)[0]

  params = {"in": kernels(1.0, 8), "out": 0 * kernels(1.0, 8)}
  assert set(kinds(diagnose(model, params, X)).values()) <= {"note"}


@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell, nn.GRUCell])
def test_a_state_that_starts_at_zero_is_no_error(cell):
  model, x = nn.RNN(cell(32)), normal(4, 12, 16)
  variables = drawn(jax.eval_shape(model.init, KEY, x))
  assert "error" not in kinds(diagnose(model.apply, variables, x)).values()


SMALL = np.full(X.shape, 2.0**-14, np.float32)  # of normal numbers of float16


def in_half(params, x):
  params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), (params, x))
  return stack(jax.nn.relu)(params, x)


def test_overflow_names_the_operation_and_the_dtype():
  report = diagnose(in_half, kernels(576.0, 40), X, cotangent=SMALL)
  found = verdict(report, "non-finite signal")
  assert "repeat 3" in found.message
  assert "float16 holds up to 6.55e+04" in found.message
  assert "bfloat16" in found.fix


def test_overflow_in_the_first_operation_is_found():
  """Inputs and parameters are finite, and nothing else is."""
  params = kernels(2.0, 40)
  params[0] *= 1e4
  report = diagnose(in_half, params, 100 * X, cotangent=SMALL)
  assert "repeat 0" in verdict(report, "non-finite signal").message


def test_underflow_names_the_operation_and_the_dtype():
  report = diagnose(in_half, kernels(1.0, 40), X, cotangent=SMALL)
  found = verdict(report, "gradient underflows to zero")
  assert "float16 holds nothing below 2^-24" in found.message
  assert "bfloat16" in found.fix


def test_a_model_without_gradient_is_found():
  model = lambda p, x: jax.lax.stop_gradient(stack(jax.nn.relu)(p, x))
  report = diagnose(model, kernels(2.0, 4), X)
  assert len(verdict(report, "gradient is cut off").rows) == 4
