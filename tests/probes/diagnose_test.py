"""What `diagnose` takes, and what its report can do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import (
  KEY,
  X,
  diagnosed,
  two_layer_params,
  two_layers,
)

from initjax import initializers
from initjax.probes import diagnose, measure


@pytest.mark.parametrize("scale", [2, 2.0, np.float32(2)])
def test_numbers_among_the_parameters(scale):
  params = {"w": initializers.he_normal()(KEY, (64, 8)), "s": scale}
  model = lambda p, x: x @ p["w"] * p["s"]
  assert len(diagnose(model, params, X).to_records()) == 1


def test_a_model_without_operations():
  report = diagnose(lambda p, x: x * 2, {}, X)
  assert report.to_records() == []
  assert "no linear operation" in str(report)


def test_a_kernel_under_noise_is_still_a_kernel():
  """DropConnect: the key is an input."""

  def model(params, x, key):
    mask = jax.random.bernoulli(key, 0.5, (64, 64))
    return jax.nn.relu(x @ (params["in"] * mask)) @ params["out"]

  report = diagnose(model, two_layer_params(), X, jax.random.key(5))
  origins = [(op.path, op.origin) for op in report.graph.ops]
  assert origins == [("['in']", "derived"), ("['out']", "parameter")]


def test_reports_of_two_traces_are_one_kind_of_pytree():
  one, two = (measure(two_layers, two_layer_params(), x) for x in (X, 2 * X))
  mean = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
  assert mean.forward[0].size == one.forward[0].size
  run = lambda x: measure(two_layers, two_layer_params(), x)
  jax.lax.cond(True, lambda: run(X), lambda: run(2 * X))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"draws": 3}, r"a leading axis of that length .*\['bias'\] has shape"),
    ({"draws": 0}, "draws must be an integer >= 1"),
  ],
)
def test_errors_say_what_is_wanted(options, message):
  with pytest.raises(ValueError, match=message):
    diagnose(two_layers, two_layer_params(), X, **options)


def test_no_function_is_a_type_error():
  with pytest.raises(TypeError, match=r"pass module\.apply"):
    diagnose(nn.Dense(3), {}, X)


def test_a_report_prints_and_writes_itself(tmp_path):
  report = diagnosed(jax.nn.relu, initializers.xavier_normal(), 20)
  assert "vanishing signal" in str(report)
  assert max(map(len, str(report).splitlines())) <= 100
  report.to_json(tmp_path / "report.json")
  report.to_html(tmp_path / "report.html")
  report.plot(tmp_path / "report.png")
  assert len(list(tmp_path.iterdir())) == 3
  with pytest.raises(FileExistsError):
    report.to_json(tmp_path / "report.json")


def test_graphs_are_equal_if_their_functions_are():
  """Otherwise a jitted mean of reports would name the wrong activation."""
  params = [jnp.eye(64)] * 2

  def report(activation):
    return measure(lambda p, x: activation(x @ p[0]) @ p[1], params, X)

  assert report(jnp.tanh).graph == report(jnp.tanh).graph
  assert report(jnp.tanh).graph != report(jax.lax.erf).graph
  mean = jax.jit(lambda a, b: jax.tree.map(lambda u, v: (u + v) / 2, a, b))
  names = [
    mean(report(phi), report(phi)).to_records()[1]["fed_by"]
    for phi in (jnp.tanh, jax.lax.erf)
  ]
  assert names == ["tanh", "erf"]
