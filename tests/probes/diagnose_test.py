"""Verdicts: each sick model gets its own, with the cure that mends it.

A cure is tested by what it does: the model it is applied to is healthy.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax import initializers
from initjax.probes import diagnose, measure
from initjax.probes._growth import check_growth

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (32, 64))


def stack(activation):
  def model(kernels, x):
    layer = lambda h, kernel: (activation(h @ kernel), None)
    return jax.lax.scan(layer, x, kernels)[0]

  return model


def kernels(initializer, depth, width=64, key=KEY):
  one = lambda key: initializer(key, (width, width), jnp.float32)
  return jax.lax.map(one, jax.random.split(key, depth))


def diagnosed(activation, initializer, depth, width=64, x=X):
  return diagnose(stack(activation), kernels(initializer, depth, width), x)


def kinds(report):
  return {verdict.kind: verdict.severity for verdict in report.verdicts}


def verdict(report, kind):
  (found,) = (v for v in report.verdicts if v.kind == kind)
  return found


# Growth


def test_xavier_on_relu_vanishes_both_ways_and_he_mends_it():
  sick = diagnosed(jax.nn.relu, initializers.xavier_normal(), 50)
  assert kinds(sick) == {
    "vanishing signal": "error",
    "vanishing gradient": "error",
  }
  cure = verdict(sick, "vanishing signal").cure
  assert cure == "kernel_init=initjax.initializers.he_normal()"
  assert not diagnosed(jax.nn.relu, initializers.he_normal(), 50).verdicts


def test_growth_is_the_factor_that_theory_gives():
  """ReLU halves: 0.5 per layer lies in the interval that is printed."""
  sick = diagnosed(jax.nn.relu, initializers.xavier_normal(), 50)
  message = verdict(sick, "vanishing signal").message
  low, high = map(
    float, re.search(r"\(([\d.]+) to ([\d.]+)\)", message).groups()
  )
  assert low < 0.5 < high < 0.6


@pytest.mark.parametrize("width", [64, 128])
def test_a_healthy_hundred_layer_net_is_not_called_sick(width):
  """Of 60 draws none leaves three standard deviations by a further 4 bits."""
  x = jax.random.normal(jax.random.key(3), (8, width))
  init = initializers.he_normal()

  @jax.jit
  def measured(key):
    params = kernels(init, 100, width, key)
    return measure(stack(jax.nn.relu), params, x, key=key)

  for key in jax.random.split(KEY, 60):
    report = measured(key)
    bits = {
      direction: np.asarray(getattr(report, direction)[0][1])[None]
      for direction in ("forward", "backward")
    }
    rows = report.to_records()
    assert not list(check_growth(rows, bits, report.graph, {}))


@pytest.mark.parametrize(
  ("activation", "name", "kind"),
  [
    (jnp.tanh, "tanh explodes, χ₁ = σ_w²E[φ'²] = 1.1", "exploding gradient"),
    (jax.nn.sigmoid, "sigmoid vanishes, χ₁ = σ_w²E[φ'²] = 0.15",
     "vanishing gradient"),
  ],
)  # fmt: skip
def test_what_theory_expects_is_said_by_name(activation, name, kind):
  init = initializers.activation_scaling(activation)
  found = verdict(diagnosed(activation, init, 120), kind)
  assert name in found.message


def test_an_unstable_length_map_is_said_to_be_one():
  init = initializers.activation_scaling(jax.nn.silu)
  report = diagnosed(jax.nn.silu, init, 150, x=3 * X)
  found = verdict(report, "exploding signal")
  assert "silu keeps unit variance" in found.message
  assert "normalization" in found.cure


def test_weights_too_large_saturate_and_explode():
  found = kinds(diagnosed(jnp.tanh, initializers.normal(1.0), 12))
  assert found["saturation"] == "warning"
  assert found["exploding gradient"] == "error"


@pytest.mark.parametrize(
  ("activation", "sick"),
  [
    (jnp.tanh, initializers.normal(0.02)),
    (jax.nn.relu, initializers.normal(0.5)),
    (jax.nn.leaky_relu, initializers.normal(0.05)),
  ],
)
def test_the_line_to_paste_mends_what_grows_or_vanishes(activation, sick):
  found = diagnosed(activation, sick, 40).verdicts
  init = pasted(found[0].cure)
  assert found[0].severity == "error"
  assert not diagnosed(activation, init, 40).verdicts


def pasted(cure):
  """The initializer of a cure, by running its line."""
  line = cure.split("\n")[0].removeprefix("kernel_init=initjax.")
  return eval(line)


@pytest.mark.parametrize("how", ["init", "stacked"])
def test_several_draws_narrow_the_interval(how):
  draw = lambda key: kernels(initializers.xavier_normal(), 12, key=key)
  model = stack(jax.nn.relu)
  if how == "init":
    report = diagnose(model, None, X, init=draw, draws=6)
  else:
    params = jax.lax.map(draw, jax.random.split(KEY, 6))
    report = diagnose(model, params, X, draws=6)
  assert kinds(report)["vanishing signal"] == "warning"
  assert report.to_records()[0]["draws"] == 6


def test_the_band_is_the_law_of_finite_width():
  """He-ReLU: log drifts by -5/(2n) per layer, variance 5/n (Hanin 2018)."""
  report = diagnosed(jax.nn.relu, initializers.he_normal(), 40)
  rows = report.to_records()
  low, high = rows[-1]["forward_band"]
  drift, spread = -39 * 2.5 / 64, np.sqrt(39 * 5 / 64)
  start = rows[0]["forward_log2_second_moment"]
  middle = start + drift / np.log(2)
  np.testing.assert_allclose((low + high) / 2, middle, rtol=1e-6)
  np.testing.assert_allclose(high - low, 6 * spread / np.log(2), rtol=1e-6)


# Single operations


def two_layers(params, x):
  hidden = jax.nn.relu(x @ params["in"] + params["bias"])
  return hidden @ params["out"]


def two_layer_params(bias=0.0, init=None):
  init = init or initializers.he_normal()
  return {
    "in": init(KEY, (64, 64)),
    "bias": jnp.full(64, bias),
    "out": init(jax.random.key(1), (64, 64)),
  }


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


def test_samples_that_become_one_are_reported():
  params = kernels(initializers.normal(0.05), 20)
  model = lambda p, x: jax.lax.scan(
    lambda h, w: (jnp.tanh(h @ w + 1.0), None), x, p
  )[0]
  assert "rank collapse" in kinds(diagnose(model, params, X))


@pytest.mark.parametrize("value", [0.1, -1.0])
def test_equal_columns_are_symmetric_units(value):
  params = two_layer_params(init=initializers.constant(value))
  found = verdict(diagnose(two_layers, params, X), "symmetric units")
  assert found.severity == "error"
  assert "63 of its 64 columns" in found.message
  assert "['out']" in found.message


def test_a_branch_that_starts_at_zero_is_no_error():
  def residual(params, x):
    return x + jax.nn.relu(x @ params["in"]) @ params["out"]

  params = two_layer_params() | {"out": jnp.zeros((64, 64))}
  report = diagnose(residual, params, X)
  assert set(kinds(report).values()) <= {"warning"}


def test_equal_kernels_drawn_apart_are_duplicates():
  """As Flax makes them by default: ab/cdef and abc/def (flax#2157)."""

  class Inner(nn.Module):
    name_of_dense: str

    @nn.compact
    def __call__(self, x):
      return nn.Dense(64, name=self.name_of_dense)(x)

  class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = jax.nn.relu(Inner("cdef", name="ab")(x))
      return Inner("def", name="abc")(x)

  variables = Outer().init(KEY, X)
  found = verdict(diagnose(Outer().apply, variables, X), "duplicate parameters")
  assert "['params']['abc']['def']['kernel']" in found.message
  assert "flax_fix_rng_separator" in found.cure


class Layer(nn.Module):
  """One layer of a scanned stack."""

  @nn.compact
  def __call__(self, x, _):
    dense = nn.Dense(64, kernel_init=initializers.he_normal())
    return jax.nn.relu(dense(x)), None


@pytest.mark.parametrize("split", [False, True])
def test_layers_of_a_scan_drawn_with_one_key_are_identical(split):
  model = nn.scan(
    Layer,
    variable_axes={"params": 0},
    split_rngs={"params": split},
    length=6,
  )()
  apply = lambda variables, x: model.apply(variables, x, None)[0]
  report = diagnose(apply, model.init(KEY, X, None), X)
  assert ("identical layers" in kinds(report)) is not split


WRONG_FANS = {
  "bd,dhk": (nn.Einsum((64, 8, 16), "bd,dhk->bhk", use_bias=False), (32, 64)),
  "bd,hdk": (nn.Einsum((8, 64, 16), "bd,hdk->bhk", use_bias=False), (32, 64)),
  "experts": (
    nn.Einsum((4, 64, 32), "ebd,edf->ebf", use_bias=False), (4, 8, 64)
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FANS)
def test_a_wrong_fan_is_found_and_its_axes_mend_it(name):
  """The line to paste, pasted: the output has unit variance, to 5 sigma."""
  layer, shape = WRONG_FANS[name]
  x = jax.random.normal(jax.random.key(2), shape)
  sick = diagnose(layer.apply, layer.init(KEY, x), x)
  cure = verdict(sick, "wrong fan").cure.split("\n")[0]
  init = eval(cure.removeprefix("kernel_init=initjax."))
  mended = layer.clone(kernel_init=init)
  variables = mended.init(KEY, x)
  assert not diagnose(mended.apply, variables, x).verdicts
  variance = jnp.var(mended.apply(variables, x))
  entries = variables["params"]["kernel"].size
  assert abs(variance - 1) < 5 * np.sqrt(2 / min(entries, x.size))


def test_a_transposed_convolution_is_scaled_where_no_axes_do():
  layer = nn.ConvTranspose(64, (4, 4), strides=(2, 2), use_bias=False)
  x = jax.random.normal(jax.random.key(2), (2, 6, 6, 32))
  found = verdict(diagnose(layer.apply, layer.init(KEY, x), x), "wrong fan")
  assert found.cure.endswith(
    'variance_scaling(4, "fan_in", "truncated_normal")'
  )


def test_what_is_never_used_and_what_is_closed_over():
  constant = initializers.he_normal()(KEY, (64, 64))
  model = lambda p, x: jax.nn.relu(x @ constant) @ p["out"]
  found = kinds(diagnose(model, two_layer_params(), X))
  assert found == {"unused parameters": "warning", "constant kernel": "warning"}


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


# What is given


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
