"""What `diagnose` takes, and what its report can do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import diagnosed
from small_models import X, normal, two_layer_params, two_layers

from initjax.diagnosis import diagnose
from initjax.measurement import measure


def test_numbers_among_the_parameters():
  scales = {"integer": 2, "number": 2.0, "scalar": np.float32(2)}
  params = {"w": normal(64, 8, variance=2 / 64), **scales}

  def model(p, x):
    return x @ p["w"] * p["integer"] * p["number"] * p["scalar"]

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
  assert origins == [("in", "derived"), ("out", "parameter")]


def test_reports_of_two_traces_are_one_kind_of_pytree():
  def run(params, x):
    one, two = (measure(two_layers, params, x) for x in (x, 2 * x))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, one, two)
    both = [lambda x=x: measure(two_layers, params, x) for x in (x, 2 * x)]
    return one, mean, jax.lax.cond(True, *both)

  one, *others = jax.eval_shape(run, two_layer_params(), X)
  jax.tree.map(np.testing.assert_equal, others, [one, one])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"draws": 3}, r"a leading axis of that length .*bias has shape"),
    ({"draws": 0}, "draws must be an integer >= 1"),
  ],
)
def test_errors_say_what_is_wanted(options, message):
  with pytest.raises(ValueError, match=message):
    diagnose(two_layers, two_layer_params(), X, **options)


def test_no_function_is_a_type_error():
  with pytest.raises(TypeError, match="expected a module, got the class Dense"):
    diagnose(nn.Dense, {}, X)


def test_a_report_prints_and_writes_itself(tmp_path):
  report = diagnosed(jax.nn.relu, 1.0, 20)
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

  def report(activation):
    model = lambda p, x: activation(x @ p[0]) @ p[1]
    shapes = jax.eval_shape(lambda *a: measure(model, *a), [np.eye(64)] * 2, X)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

  tanh, again, erf = map(report, (jnp.tanh, jnp.tanh, jax.lax.erf))
  assert tanh.graph == again.graph
  assert tanh.graph != erf.graph
  mean = jax.jit(lambda a, b: jax.tree.map(lambda u, v: (u + v) / 2, a, b))
  names = [
    mean(*reports).to_records()[1]["fed_by"]
    for reports in ((tanh, again), (erf, erf))
  ]
  assert names == ["tanh", "erf"]
