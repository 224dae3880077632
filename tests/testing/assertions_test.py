"""Each assertion: what passes, what fails, and what its message says."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import (
  KEY,
  X,
  compilations,
  kernels,
  stack,
  two_layer_params,
  two_layers,
)

import initjax
from initjax import testing
from initjax.diagnosis import observe
from initjax.testing import _assertions
from initjax.typing import Verdict

OTHERS = {"assert_orthogonal", "assert_width_stable"}
ALL = [getattr(testing, name) for name in sorted({*testing.__all__} - OTHERS)]
DEPTH = 50  # of all that `stack` makes, so that each activation compiles once
UNSTABLE = "The signal is not stable"
relu = stack(jax.nn.relu)


def fails(message, check, *arguments, **options):
  with pytest.raises(AssertionError, match=message):
    check(*arguments, **options)


# Signal


def test_he_is_stable():
  testing.assert_variance_stable(relu, kernels(2.0, DEPTH), X)
  testing.assert_gradients_flow(relu, kernels(2.0, DEPTH), X)


def test_xavier_is_not_and_the_message_says_why():
  message = (
    r"(?s)^The signal is not stable: over 50 operations its log₂ E\[z²\] "
    r"drifts by -\S+ ± \S+ per layer .* standard deviations .* 3\.17 are "
    r"allowed\..*kernels are too small for relu: .* the 2 that keeps its .*"
    r"operation +measured +healthy\n +\. repeat \d+ .* ± .*"
    r"Suggested fix:\n  kernel_init=initjax\.initializers\.he_normal\(\)"
  )
  fails(message, testing.assert_variance_stable, relu, kernels(1.0, DEPTH), X)


def test_rows_that_chance_explains_are_not_shown():
  """Of -1 bit per layer, the first few."""
  with pytest.raises(AssertionError) as error:
    testing.assert_variance_stable(relu, kernels(1.0, DEPTH), X)
  row = r"repeat \d+ +(-?[\d.]+) +(-?[\d.]+) ± ([\d.]+)"
  shown = np.array(re.findall(row, str(error.value)), float)
  assert len(shown) >= 3
  measured, healthy, margin = shown.T
  assert (abs(measured - healthy) > margin - 0.01).all()  # of two digits


@pytest.mark.parametrize(
  ("check", "sigma_w2", "options", "sigmas"),
  [
    # Half of 10⁻⁴ is the drift's, two-sided: 4.06 standard deviations.
    (testing.assert_variance_stable, 1.0, {"false_alarm": 1e-4}, "4.06"),
    # 10⁻³⁰⁰ is 37 standard deviations; 3 bits a layer are 50.
    (testing.assert_variance_stable, 0.25, {"false_alarm": 1e-300}, "37.0"),
    (testing.assert_variance_stable, 0.25, {"false_alarm": 0.9999}, "0.67"),
    # Half of 0.3 % is 3.17; its halves for two directions are 3.37.
    (testing.assert_healthy, 1.0, {}, "3.37"),
  ],
)
def test_what_is_allowed_follows_the_false_alarm(
  check, sigma_w2, options, sigmas
):
  model = kernels(sigma_w2, DEPTH)
  fails(rf"{sigmas}\S* are allowed", check, relu, model, X, **options)


def test_a_target_is_a_fixed_point():
  """tanh at 10 % too large weights keeps a signal, though another one."""
  at = initjax.meanfield.critical_point(jnp.tanh, 0.05)
  biases = np.random.default_rng(0).normal(size=(DEPTH, 64))
  healthy = {
    "kernel": kernels(at.sigma_w2, DEPTH),
    "bias": (0.05**0.5 * biases).astype(np.float32),
  }
  x = np.sqrt(at.q).astype(np.float32) * X

  def model(params, x):
    layer = lambda h, p: (jnp.tanh(h) @ p["kernel"] + p["bias"], None)
    return jax.lax.scan(layer, x, params)[0]

  large = {**healthy, "kernel": np.float32(1.1) * healthy["kernel"]}
  check = testing.assert_variance_stable
  check(model, healthy, x, target=at.q)
  check(model, large, x)
  fails(UNSTABLE, check, model, large, x, target=at.q)


@pytest.mark.parametrize(
  ("activation", "sigma_w2", "stable"),
  [
    (jnp.tanh, 1.0, True),  # the edge of chaos
    (jnp.tanh, 0.5, False),  # dies out
    (jax.nn.gelu, initjax.gain(jax.nn.gelu) ** 2, False),  # unstable
  ],
  ids=["tanh edge", "tanh 0.5", "gelu"],
)
def test_other_activations(activation, sigma_w2, stable):
  arguments = stack(activation), kernels(sigma_w2, DEPTH), X
  if stable:
    testing.assert_variance_stable(*arguments)
  else:
    fails(UNSTABLE, testing.assert_variance_stable, *arguments)


# Gradient


def test_gradients_of_tanh_at_its_gain_explode():
  """χ₁ = 1.178: no seed helps, and the signal itself is fine."""
  own = kernels(initjax.gain(jnp.tanh) ** 2, DEPTH)
  testing.assert_variance_stable(stack(jnp.tanh), own, X)
  message = r"(?s)The gradient is not stable: .*Σδ².*gradient of tanh explodes"
  fails(message, testing.assert_gradients_flow, stack(jnp.tanh), own, X)


def test_a_gradient_that_is_stopped_does_not_flow():
  def model(params, x):
    h = jax.lax.stop_gradient(jax.nn.relu(x @ params["in"]))
    return h @ params["out"]

  message = r"Gradient is cut off at in"
  fails(message, testing.assert_gradients_flow, model, two_layer_params(), X)


# Units, symmetry, numbers


def test_dead_units():
  check = testing.assert_no_dead_units
  check(two_layers, two_layer_params(), X)
  message = r"(?s)^Dead units at out: .* up to 100% in 1 row.*ializers\.zeros"
  fails(message, check, two_layers, two_layer_params(-9.0), X)


def test_symmetry():
  check, params = testing.assert_symmetry_broken, two_layer_params()
  check(two_layers, params, X)
  equal = dict.fromkeys(("in", "out"), np.full((64, 64), 0.1, np.float32))
  message = r"^Symmetric units at in: 63 of its 64 columns"
  fails(message, check, two_layers, {**params, **equal}, X)
  copies = np.tile(kernels(2.0, 1), (DEPTH, 1, 1))
  fails("Identical layers", check, relu, copies, X)


@pytest.mark.parametrize("place", ["parameter", "input"])
def test_what_is_not_finite(place):
  """What the input explains is not said besides, but fails them all."""
  check, params, x = testing.assert_finite_signal, two_layer_params(), X.copy()
  check(two_layers, params, x)
  if place == "input":
    x[0, 0] = np.nan
    message = "^Non-finite input: [^\\n]*\\nSuggested fix:[^\\n]*\\n[^\\n]*$"
    fails(message, testing.assert_gradients_flow, two_layers, params, x)
  else:
    params["in"][0, 0] = np.inf
    message = "(?s)Non-finite parameter.*Non-finite signal at in:"
  fails(message, check, two_layers, params, x)


def test_nothing_but_zeros_is_no_signal():
  params = two_layer_params()
  branch = {**params, "out": 0 * params["out"]}
  for check in (testing.assert_finite_signal, testing.assert_variance_stable):
    check(two_layers, branch, X)
  check = testing.assert_finite_signal
  fails("Input of zeros", check, two_layers, params, 0 * X)


def test_underflow_is_told_from_a_cut():
  """2^-7 a layer: below the 2^-149 of float32 after 22."""
  small = kernels(2.0, DEPTH) / np.float32(128)
  message = "Signal underflows to zero"
  fails(message, testing.assert_finite_signal, relu, small, X)


def test_all_violations_are_raised_at_once():
  """A model with dead units and an infinity; one whose both ways shrink."""
  params = two_layer_params()
  params["bias"][4:] = -9.0
  params["unused"] = np.full(2, np.inf, np.float32)
  message = r"(?s)^Dead units .*\n\nNon-finite parameter"
  fails(message, testing.assert_healthy, two_layers, params, X)
  message = r"(?s)The signal.*\n\nThe gradient"
  fails(message, testing.assert_healthy, relu, kernels(1.0, DEPTH), X)


# Options


def with_aux(params, x):
  return two_layers(params, x), {"mean": x.mean()}


def loss(params, x):
  return jnp.mean((two_layers(params, x) - 1) ** 2)


@pytest.mark.parametrize("check", ALL)
def test_options_are_those_of_diagnose(check):
  params = two_layer_params()
  check(with_aux, params, X, has_aux=True, key=jax.random.key(3))
  check(two_layers, params, X, cotangent=np.ones_like(X))
  check(loss, params, X)
  stacked = jax.tree.map(lambda p: np.stack([p] * 3), params)
  check(two_layers, stacked, X, draws=3)


def test_several_draws_are_told_from_one():
  """A drift of 5 % per layer: lost in one draw of twenty layers, not in 32."""
  sigma_w2 = 2.0 * 1.05**2
  size = np.sqrt(sigma_w2 / 64).astype(np.float32)
  draw = lambda key: size * jax.random.normal(key, (20, 64, 64))
  check = testing.assert_variance_stable
  check(relu, kernels(sigma_w2, 20), X)
  fails(UNSTABLE, check, relu, None, X, init=draw, draws=32)


@pytest.mark.parametrize(
  "check",
  [
    testing.assert_variance_stable,
    testing.assert_gradients_flow,
    testing.assert_healthy,
  ],
)
def test_a_false_alarm_is_a_probability(check):
  for wrong in (0, -0.1, 1, 1.5, np.nan, "x"):
    with pytest.raises(ValueError, match="false_alarm"):
      check(two_layers, two_layer_params(), X, false_alarm=wrong)


def test_a_target_is_a_size():
  for wrong in (0, -1, np.inf, "x"):
    with pytest.raises(ValueError, match="target must be a"):
      testing.assert_variance_stable(
        two_layers, two_layer_params(), X, target=wrong
      )


def test_type_errors():
  with pytest.raises(TypeError, match="'sigmas'"):
    testing.assert_healthy(two_layers, two_layer_params(), X, sigmas=3)
  shapes = jax.eval_shape(two_layer_params)
  with pytest.raises(TypeError, match="ShapeDtypeStruct"):
    testing.assert_healthy(two_layers, shapes, X)


def test_a_model_is_compiled_once():
  """Calls with the same program and shapes share it, also of new functions."""

  def run():
    for check in ALL:
      model = lambda params, x: two_layers(params, x)
      check(model, two_layer_params(), 2 * X, key=KEY)

  testing.assert_healthy(two_layers, two_layer_params(), X, key=KEY)
  assert compilations(run) == 0


def test_what_diagnose_calls_an_error_fails_the_healthy_assertion():
  """A fan that is off by 2^6, as of a kernel of other axes: no assertion's."""
  params = two_layer_params()
  report = initjax.diagnose(two_layers, params, X)
  assert not report.verdicts
  wrong = Verdict("wrong fan", "error", "in", "off by 2^6", "paste this")
  observed = observe(two_layers, params, (X,))
  (found,) = _assertions._other_errors(observed, (wrong,))
  assert found.message == "Wrong fan at in: off by 2^6"
  mild = wrong._replace(severity="warning")
  known = wrong._replace(kind="dead units")
  assert not list(_assertions._other_errors(observed, (mild, known)))
