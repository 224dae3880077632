"""What was not looked at is never called healthy, and no model crashes a look.

JAX's own checks (debug_nans, strict promotion, ...) and functions without
Gaussian moments are the two that once did.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import kinds
from small_models import KEY, X, kernels, normal, two_layer_params, two_layers

from initjax import testing
from initjax.diagnosis import diagnose
from initjax.diagnosis._parameters import not_entered
from initjax.graph import signal_graph
from initjax.measurement import jacobian_spectrum, measure

W = normal(64, 8, variance=1 / 64)
NOT_SEEN = "nothing to judge: no linear operation of a parameter was found"
NO_SAMPLE = "nothing to judge: no sample was given"


@pytest.mark.parametrize(
  ("fn", "arguments", "words"),
  [
    (lambda x: x @ W, (X,), NOT_SEEN),
    (lambda params, x: 2 * x, ({}, X), NOT_SEEN),
    (lambda params, x: 1.0, (W, X), NOT_SEEN),
    (two_layers, (two_layer_params(), X[:0]), NO_SAMPLE),
  ],
  ids=["closure", "without operations", "a number", "no sample"],
)
def test_nothing_to_judge_is_not_healthy(fn, arguments, words):
  report = diagnose(fn, *arguments)
  assert not report.judged
  assert words in " ".join(str(report).split())
  assert "healthy" not in str(report)
  assert "dead units" not in kinds(report)
  with pytest.raises(AssertionError, match=words.capitalize()) as error:
    testing.assert_healthy(fn, *arguments)
  assert str(error.value)[1:] in " ".join(str(report).split())


def test_what_was_measured_is_not_judged():
  dead = two_layer_params(-100.0)
  measured, judged = (verb(two_layers, dead, X) for verb in (measure, diagnose))
  assert "not judged: use initjax.diagnose" in str(measured)
  assert "healthy" not in str(measured)
  assert (measured.judged, judged.judged) == (False, True)
  healthy = diagnose(two_layers, two_layer_params(), X)
  assert str(healthy).endswith("no problems found in 2 operations")


def test_a_branch_that_did_not_run_is_not_called_healthy():
  def model(params, x):
    h = jax.nn.relu(x @ params["in"])
    return jax.lax.cond(x.sum() > 1e9, lambda: h @ params["out"], lambda: h)

  params = {"in": two_layer_params()["in"], "out": two_layer_params()["out"]}
  text = str(diagnose(model, params, X))
  assert "no problems found in 1 operation; 1 did not run" in text


def test_a_loop_of_no_repeat_does_not_run():
  def model(params, x):
    layer = lambda h, kernel: (jnp.tanh(h @ kernel), None)
    h, _ = jax.lax.scan(layer, x, params["none"])
    return h @ params["out"]

  text = str(diagnose(model, {"none": kernels(1, 2)[:0], "out": W}, X))
  assert text.endswith("no problems found in 1 operation")


def test_no_gradient_flows_through_nan():
  params = two_layer_params()
  params["out"] = np.nan * params["out"]
  with pytest.raises(AssertionError, match="Non-finite"):
    testing.assert_gradients_flow(two_layers, params, X)
  params = two_layer_params() | {"in": params["out"]}
  assert "symmetric units" not in kinds(diagnose(two_layers, params, X))


# Functions without moments

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
POLES = [
  pytest.param(jnp.arctanh, id="arctanh"),
  slow(jnp.cbrt, id="cbrt"),
  slow(lambda h: jnp.exp(h**2), id="exp h²"),
  slow(lambda h: 1 / h, id="1/h"),
  slow(lambda h: jnp.sqrt(jax.nn.relu(h)), id="sqrt relu"),
  slow(lambda h: h / abs(h), id="sign"),
  slow(lambda h: jnp.log(abs(h)), id="log"),
  slow(lambda h: jnp.exp(jnp.exp(h)), id="exp exp"),
]


@pytest.mark.parametrize("phi", POLES)
def test_where_theory_is_silent_the_measurement_stands(phi):
  """Every sum is NumPy's; after the first φ theory has a reason or a number."""
  params = kernels(0.02, 5, 16)

  def model(params, x):
    h = x @ params[0]
    for kernel in params[1:]:
      h = phi(h) @ kernel
    return h

  x = X[:8, :16]
  report = diagnose(model, list(params), x)
  rows = report.to_records()
  h = x.astype(np.float64) @ params[0]
  np.testing.assert_allclose(
    rows[0]["forward_log2_second_moment"], np.log2((h**2).mean()), rtol=1e-5
  )
  assert len(rows) == 5
  silent = rows[1]["theory_silent"]
  assert (rows[1]["forward_predicted"] is None) == bool(silent)
  assert ("theory is silent from 1 on: " in str(report)) == bool(silent)
  with contextlib.suppress(AssertionError):  # whatever it finds
    testing.assert_healthy(model, list(params), x)


# JAX's own checks, and numbers of other types


def embedded(params, ids):
  return jnp.tanh(params["in"][ids]) @ params["out"]


def test_every_verb_runs_under_the_checks_of_jax():
  """NaN is "unknown", -inf the logarithm of 0; ids have few bits."""
  params, ids = two_layer_params(), np.arange(32, dtype=np.int16)
  del params["bias"]
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  zero = {**half, "in": 0 * half["in"]}
  broken = {**params, "in": np.nan * params["in"]}
  with (
    jax.debug_nans(True),
    jax.debug_infs(True),
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
  ):
    report = diagnose(embedded, params, ids)
    assert str(report).endswith("no problems found in 2 operations")
    testing.assert_healthy(embedded, params, ids)
    found = kinds(diagnose(embedded, zero, ids.astype(np.uint32)))
    assert "signal is cut off" in found
    assert "non-finite signal" in kinds(diagnose(embedded, broken, ids))
    spectrum = jacobian_spectrum(lambda p, x: x @ p, params["in"], X[0])
    assert np.isfinite(spectrum.log2_mean)


def test_python_numbers_are_outputs():
  report = diagnose(lambda p, x: (x @ p, 1.0), W, X)
  assert len(report.to_records()) == 1


def test_errors_show_names_not_addresses():
  class Module:
    apply = __call__ = lambda self, params, x: x @ params["w"]

  named = {"w": W, "activation": jax.nn.relu}
  for verb in (diagnose, jacobian_spectrum, testing.assert_healthy):
    with pytest.raises(TypeError, match=r"at activation\. .*functional"):
      verb(lambda params, x: x @ params["w"], named, X[0])
    with pytest.raises(
      TypeError, match=r"such as model\.apply, .* got Module\."
    ):
      verb(Module(), {"w": W}, X[0])


def test_shapes_are_no_parameters():
  shapes = jax.eval_shape(two_layer_params)
  with pytest.raises(TypeError, match="expected arrays, got ShapeDtypeStruct"):
    diagnose(two_layers, shapes, X)


KEYED = [
  measure,
  diagnose,
  testing.assert_healthy,
  testing.assert_variance_stable,
  lambda fn, params, x, key: jacobian_spectrum(fn, params, x[0], key=key),
]


@pytest.mark.parametrize("verb", KEYED)
def test_a_key_is_a_key(verb):
  for wrong in (0, "k", jax.random.split(KEY), np.zeros(3, np.uint32)):
    with pytest.raises(TypeError, match="expected one key, such as"):
      verb(two_layers, two_layer_params(), X, key=wrong)


def test_what_is_not_measured_inside_a_shard_map_is_said():
  """Their units are dead, but of samples each device has its own."""
  mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec
  specs = {"in_specs": (spec(), spec("data")), "out_specs": spec("data")}
  shards = jax.shard_map(two_layers, mesh=mesh, **specs)
  dead = two_layer_params(-100.0)
  with pytest.warns(UserWarning, match=r"shard_map, .*2 operations.* dead"):
    testing.assert_no_dead_units(shards, dead, X)
  graph = signal_graph(shards, dead, X)
  (verdict,) = not_entered(graph)
  assert (verdict.kind, verdict.severity) == ("not looked at", "note")
  assert not list(not_entered(signal_graph(two_layers, dead, X)))
