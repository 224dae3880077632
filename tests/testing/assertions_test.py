"""Each assertion: what passes, what fails, and what its message says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import (
  KEY,
  X,
  deep,
  kernels,
  two_layer_params,
  two_layers,
)

import initjax
from initjax import testing

ALL = [getattr(testing, n) for n in testing.__all__ if n != "assert_orthogonal"]


# Signal


def test_he_is_stable():
  testing.assert_variance_stable(deep(jax.nn.relu), kernels(2.0, 50), X)


def test_xavier_is_not_and_the_message_says_why():
  message = (
    r"(?s)^The signal is not stable: over 50 operations its log₂ E\[z²\] "
    r"drifts by -\S+ ± \S+ per layer .* standard deviations .* 2\.97 are "
    r"allowed\..*Kernels have σ_w² = \S+ .*, where relu needs 2 .*"
    r"operation +measured +healthy\n +repeat \d+ .* ± .*"
    r"To mend it:\n  kernel_init=initjax\.initializers\.he_normal\(\)"
  )
  with pytest.raises(AssertionError, match=message):
    testing.assert_variance_stable(deep(jax.nn.relu), kernels(1.0, 50), X)


def test_what_is_allowed_follows_the_false_alarm():
  """10⁻⁴ is two-sided: 3.89 standard deviations."""
  with pytest.raises(AssertionError, match=r"3\.89 are allowed"):
    testing.assert_variance_stable(
      deep(jax.nn.relu), kernels(1.0, 50), X, false_alarm=1e-4
    )


@pytest.mark.parametrize("false_alarm", [1e-300, 0.9999])
def test_any_probability_is_a_false_alarm(false_alarm):
  """10^-300 is 37 standard deviations; 3 bits a layer are 50."""
  with pytest.raises(AssertionError):
    testing.assert_variance_stable(
      deep(jax.nn.relu), kernels(0.25, 50), X, false_alarm=false_alarm
    )


def test_a_target_is_a_fixed_point():
  """tanh at 10 % too large weights keeps a signal, though another one."""
  at = initjax.meanfield.critical_point(jnp.tanh, 0.05)
  healthy = {
    "kernel": kernels(at.sigma_w2, 50),
    "bias": jnp.sqrt(0.05) * jax.random.normal(KEY, (50, 64)),
  }

  def model(params, x):
    def layer(h, p):
      return jnp.tanh(h) @ p["kernel"] + p["bias"], None

    return jax.lax.scan(layer, jnp.sqrt(at.q) * x, params)[0]

  large = {**healthy, "kernel": 1.1 * healthy["kernel"]}
  check = testing.assert_variance_stable
  check(model, healthy, X, target=at.q)
  check(model, large, X)
  with pytest.raises(AssertionError, match="The signal is not stable"):
    check(model, large, X, target=at.q)


# Gradient


def test_gradients_of_he_flow():
  testing.assert_gradients_flow(deep(jax.nn.relu), kernels(2.0, 50), X)


def test_gradients_of_tanh_at_its_gain_explode():
  """χ₁ = 1.178: no seed helps, and the signal itself is fine."""
  own = kernels(initjax.gain(jnp.tanh) ** 2, 100)
  testing.assert_variance_stable(deep(jnp.tanh), own, X)
  message = r"(?s)The gradient is not stable: .*Σδ².*gradient of tanh explodes"
  with pytest.raises(AssertionError, match=message):
    testing.assert_gradients_flow(deep(jnp.tanh), own, X)


def test_a_gradient_that_is_stopped_does_not_flow():
  def model(params, x):
    h = jax.lax.stop_gradient(jax.nn.relu(x @ params[0]))
    return jax.nn.relu(h @ params[1]) @ params[2]

  params = list(kernels(2.0, 3))
  with pytest.raises(AssertionError, match=r"Gradient is cut off at \[0\]"):
    testing.assert_gradients_flow(model, params, X)


@pytest.mark.parametrize(
  ("activation", "sigma_w2", "stable"),
  [
    (jnp.tanh, 1.0, True),  # the edge of chaos
    (jnp.tanh, 0.5, False),  # dies out
    (jax.nn.relu, 1.0, False),  # Xavier
    (jax.nn.gelu, initjax.gain(jax.nn.gelu) ** 2, False),  # unstable
  ],
  ids=["tanh edge", "tanh 0.5", "relu Xavier", "gelu"],
)
def test_a_hundred_layers(activation, sigma_w2, stable):
  arguments = deep(activation), kernels(sigma_w2, 100), X
  if stable:
    testing.assert_variance_stable(*arguments)
  else:
    with pytest.raises(AssertionError, match="The signal is not stable"):
      testing.assert_variance_stable(*arguments)


# Units, symmetry, numbers


def test_dead_units():
  testing.assert_no_dead_units(two_layers, two_layer_params(), X)
  message = r"(?s)^Dead units at \['out'\]: Up to 100%.*initializers\.zeros"
  with pytest.raises(AssertionError, match=message):
    testing.assert_no_dead_units(two_layers, two_layer_params(-9.0), X)


def test_symmetry():
  params = two_layer_params()
  testing.assert_symmetry_broken(two_layers, params, X)
  equal = {"in": jnp.full((64, 64), 0.1), "out": jnp.full((64, 64), 0.1)}
  message = r"^Symmetric units at \['in'\]: 63 of its 64 columns"
  with pytest.raises(AssertionError, match=message):
    testing.assert_symmetry_broken(two_layers, {**params, **equal}, X)


def test_layers_of_one_key_are_copies():
  copies = jnp.tile(kernels(2.0, 1), (5, 1, 1))
  with pytest.raises(AssertionError, match="Identical layers"):
    testing.assert_symmetry_broken(deep(jax.nn.relu), copies, X)


@pytest.mark.parametrize("place", ["parameter", "input"])
def test_what_is_not_finite(place):
  params = two_layer_params()
  testing.assert_finite_signal(two_layers, params, X)
  x = X.at[0, 0].set(np.nan) if place == "input" else X
  if place == "parameter":
    params["in"] = params["in"].at[0, 0].set(np.inf)
  message = rf"(?s)Non-finite {place}.*Non-finite signal at \['"
  with pytest.raises(AssertionError, match=message):
    testing.assert_finite_signal(two_layers, params, x)


def test_nothing_but_zeros_is_no_signal():
  zeros = jax.tree.map(jnp.zeros_like, two_layer_params())
  for check in (testing.assert_finite_signal, testing.assert_variance_stable):
    check(two_layers, {**two_layer_params(), "out": zeros["out"]}, X)
  with pytest.raises(AssertionError, match="Signal is cut off"):
    testing.assert_finite_signal(two_layers, two_layer_params(), 0 * X)


def test_underflow_is_told_from_a_cut():
  """2^-7 a layer: below the 2^-149 of float32 after 22."""
  small = kernels(2.0, 30) / 128
  with pytest.raises(AssertionError, match="Signal underflows to zero"):
    testing.assert_finite_signal(deep(jax.nn.relu), small, X)


def test_all_violations_are_raised_at_once():
  """A model with dead units and an infinity; one whose both ways shrink."""
  params = two_layer_params()
  params["bias"] = params["bias"].at[4:].set(-9.0)
  params["unused"] = jnp.full(2, np.inf)
  message = r"(?s)^Dead units .*\n\nNon-finite parameter"
  with pytest.raises(AssertionError, match=message):
    testing.assert_healthy(two_layers, params, X)
  with pytest.raises(AssertionError, match=r"(?s)The signal.*\n\nThe gradient"):
    testing.assert_healthy(deep(jax.nn.relu), kernels(1.0, 50), X)


def test_healthy_splits_its_false_alarm_between_two_directions():
  """0.3 % is 2.97 standard deviations, 0.15 % is 3.17."""
  with pytest.raises(AssertionError, match=r"3\.17 are allowed"):
    testing.assert_healthy(deep(jax.nn.relu), kernels(1.0, 50), X)


# Options


def with_aux(params, x):
  return two_layers(params, x), {"mean": x.mean()}


def loss(params, x):
  return jnp.mean((two_layers(params, x) - 1) ** 2)


@pytest.mark.parametrize("check", ALL)
def test_options_are_those_of_diagnose(check):
  params = two_layer_params()
  check(with_aux, params, X, has_aux=True, key=jax.random.key(3))
  check(two_layers, params, X, cotangent=jnp.ones((16, 64)))
  check(loss, params, X)
  stacked = jax.tree.map(lambda *p: jnp.stack(p), params, params, params)
  check(two_layers, stacked, X, draws=3)


def test_several_draws_are_told_from_one():
  """A drift of 5 % per layer: lost in one draw of ten layers, not in 32."""
  draw = lambda key: kernels(2.0 * 1.05**2, 20, key=key)
  model = deep(jax.nn.relu)
  testing.assert_variance_stable(model, draw(KEY), X)
  with pytest.raises(AssertionError, match="The signal is not stable"):
    testing.assert_variance_stable(model, None, X, init=draw, draws=32)


@pytest.mark.parametrize("wrong", [0, -0.1, 1, 1.5, np.nan, "x"])
@pytest.mark.parametrize(
  "check",
  [
    testing.assert_variance_stable,
    testing.assert_gradients_flow,
    testing.assert_healthy,
  ],
)
def test_a_false_alarm_is_a_probability(check, wrong):
  with pytest.raises(ValueError, match="false_alarm"):
    check(two_layers, two_layer_params(), X, false_alarm=wrong)


@pytest.mark.parametrize("wrong", [0, -1, np.inf, "x"])
def test_a_target_is_a_size(wrong):
  with pytest.raises(ValueError, match="target must be a"):
    testing.assert_variance_stable(
      two_layers, two_layer_params(), X, target=wrong
    )


def test_an_unknown_option_is_a_type_error():
  with pytest.raises(TypeError, match="'sigmas'"):
    testing.assert_healthy(two_layers, two_layer_params(), X, sigmas=3)


def test_shapes_are_no_values():
  shapes = jax.eval_shape(two_layer_params)
  with pytest.raises(TypeError, match="ShapeDtypeStruct"):
    testing.assert_healthy(two_layers, shapes, X)


def test_a_model_is_compiled_once():
  """Calls with the same function, shapes and options share it."""
  traces = []

  def model(params, x):
    traces.append(1)
    return two_layers(params, x)

  testing.assert_healthy(model, two_layer_params(), X)
  first = len(traces)
  for check in ALL:
    check(model, two_layer_params(), 2 * X, key=jax.random.key(5))
  assert len(traces) == first
