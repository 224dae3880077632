"""Verdicts on single operations: what is broken, and where it starts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from sick import (
  KEY,
  X,
  kernels,
  kinds,
  stack,
  two_layer_params,
  two_layers,
  verdict,
)

from initjax import initializers
from initjax.probes import diagnose


def test_dead_units_are_more_than_chance_explains():
  report = diagnose(two_layers, two_layer_params(-6.0), X)
  found = verdict(report, "dead units")
  assert found.severity == "error"
  assert found.path == "['out']"
  assert not diagnose(two_layers, two_layer_params(), X).verdicts


def test_half_of_the_units_are_off_where_samples_are_alike():
  """One sample, or many that are alike: no verdict."""
  for x in (X[:1], X[:1] + 1e-4 * X):
    assert not diagnose(two_layers, two_layer_params(), x).verdicts


def test_a_rectified_recurrence_has_no_dead_units_at_the_start():
  params = two_layer_params() | {"out": jnp.eye(64)}

  def model(params, xs):
    def step(h, x):
      h = jax.nn.relu(x @ params["in"] + h @ params["out"])
      return h, h

    return jax.lax.scan(step, jnp.zeros((8, 64)), xs)[1]

  report = diagnose(model, params, jax.random.normal(KEY, (12, 8, 64)))
  assert "dead units" not in kinds(report)


def test_samples_that_become_one_are_reported():
  params = kernels(initializers.normal(0.05), 20)
  model = lambda p, x: jax.lax.scan(
    lambda h, w: (jnp.tanh(h @ w + 1.0), None), x, p
  )[0]
  assert "rank collapse" in kinds(diagnose(model, params, X))


def test_sentences_that_end_alike_are_no_collapse():
  def model(params, xs):
    def step(h, x):
      h = x @ params["in"] + h @ params["out"] + params["bias"]
      return jnp.tanh(h), h

    return jax.lax.scan(step, X, xs)[1]

  sentences = jax.random.normal(KEY, (5, *X.shape)).at[-1].set(1.0)
  assert not diagnose(model, two_layer_params(), sentences).verdicts


def test_single_numbers_have_no_direction():
  """A value head of one unit: the same sign on all samples is no collapse."""
  params = two_layer_params() | {"out": jnp.ones((64, 1)) / 64}
  report = diagnose(two_layers, params, X)
  assert jnp.isnan(report.to_records()[-1]["correlation"])
  assert "rank collapse" not in kinds(report)


def test_a_branch_that_starts_at_zero_is_no_error():
  def residual(params, x):
    hidden = jax.nn.relu(x @ params["in"] + params["bias"])
    return x + hidden @ params["out"]

  params = two_layer_params() | {"out": jnp.zeros((64, 64))}
  report = diagnose(residual, params, X)
  assert set(kinds(report).values()) <= {"note"}


class Recurrent(nn.Module):
  """A network over time: its state starts at zero."""

  cell: str

  @nn.compact
  def __call__(self, x):
    return nn.RNN(getattr(nn, self.cell)(32))(x)


@pytest.mark.parametrize("cell", ["OptimizedLSTMCell", "GRUCell"])
def test_a_state_that_starts_at_zero_is_no_error(cell):
  x = jax.random.normal(KEY, (4, 12, 16))
  model = Recurrent(cell)
  assert (
    "error" not in kinds(diagnose(model.apply, model.init(KEY, x), x)).values()
  )


def in_half(params, x):
  params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), (params, x))
  return stack(jax.nn.relu)(params, x)


def test_overflow_names_the_operation_and_the_dtype():
  report = diagnose(in_half, kernels(initializers.normal(3.0), 8), X)
  found = verdict(report, "non-finite signal")
  assert "repeat 3" in found.message
  assert "float16 holds up to 6.55e+04" in found.message
  assert "bfloat16" in found.cure


def test_underflow_names_the_operation_and_the_dtype():
  params = kernels(initializers.xavier_normal(), 40)
  report = diagnose(in_half, params, X, cotangent=jnp.full((32, 64), 2.0**-14))
  found = verdict(report, "gradient underflows to zero")
  assert "float16 holds nothing below 2^-24" in found.message
  assert "bfloat16" in found.cure


def test_overflow_in_the_first_operation_is_found():
  """Inputs and parameters are finite, and nothing else is."""
  params = kernels(initializers.he_normal(), 4).at[0].multiply(1e4)
  report = diagnose(in_half, params, 100 * X)
  found = verdict(report, "non-finite signal")
  assert "repeat 0" in found.message


def test_a_model_without_gradient_is_found():
  params = kernels(initializers.he_normal(), 4)
  model = lambda p, x: jax.lax.stop_gradient(stack(jax.nn.relu)(p, x))
  report = diagnose(model, params, X)
  assert len(verdict(report, "gradient is cut off").rows) == 4
