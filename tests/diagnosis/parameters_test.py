"""Verdicts on parameters: each mistake is found, and what is meant is not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import kinds, pasted, verdict
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

from initjax import initializers
from initjax.diagnosis import diagnose

HE = normal(64, 64, variance=2 / 64, seed=5)


@pytest.mark.parametrize("value", [0.1, -1.0])
def test_equal_columns_are_symmetric_units(value):
  constant = np.full((64, 64), value, np.float32)
  params = two_layer_params(**{"in": constant, "out": constant})
  found = verdict(diagnose(two_layers, params, X), "symmetric units")
  assert found.severity == "error"
  assert found.path == "in"  # what is read out has targets of its own
  assert "63 of its 64 columns" in found.message


def test_chance_does_not_make_units_symmetric():
  """One input, 8192 units: two float32 draws are equal by chance."""
  params = {"in": normal(1, 8192), "out": normal(8192, 1, variance=1 / 8192)}
  model = lambda p, x: jnp.sin(x @ p["in"]) @ p["out"]
  assert "symmetric units" not in kinds(diagnose(model, params, X[:, :1]))


def test_one_constant_layer_of_a_stack_is_found():
  params = kernels(1.0, 4)
  params[2] = 0.1
  assert "symmetric units" in kinds(diagnose(stack(jnp.tanh), params, X))


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

  variables = jax.jit(Outer().init)(KEY, X)
  found = verdict(diagnose(Outer().apply, variables, X), "duplicate parameters")
  assert "params/abc/def/kernel" in found.message
  assert "flax_fix_rng_separator" in found.fix


def test_copies_that_may_be_meant_are_no_error():
  """A target network; an identity and a Hadamard matrix are not drawn."""

  def loss(params, x, stop=jnp.asarray):
    (_, online), (_, target) = sorted(params.items())
    return jnp.mean((x @ online - 0.5 * x @ stop(target)) ** 2)

  def severity(loss, *names):
    report = diagnose(loss, dict.fromkeys(names, HE), X)
    return kinds(report)["duplicate parameters"]

  assert severity(loss, "online", "target") == "note"
  assert severity(loss, "a", "b") == "warning"
  stopped = functools.partial(loss, stop=jax.lax.stop_gradient)
  assert severity(stopped, "a", "b") == "note"
  model = lambda p, x: jnp.tanh(jnp.tanh(x @ p[0]) @ p[1])
  assert not diagnose(model, [np.eye(64, dtype=np.float32)] * 2, X).verdicts


def test_copies_up_to_a_factor_are_duplicates():
  model = lambda p, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ p[0]) @ p[1]) @ p[2])
  say = lambda *params: verdict(
    diagnose(model, params, X), "duplicate parameters"
  )
  other = normal(64, 64, variance=2 / 64, seed=6)
  found = say(HE, -HE, other)
  assert (found.severity, found.path) == ("warning", "0")
  assert found.message.startswith("Equal up to a factor to 1: drawn with")
  mixed = "Equal, entry by entry, to 2, and equal up to a factor to 1: drawn"
  assert say(HE, -HE, HE).message.startswith(mixed)


class Layer(nn.Module):
  """One layer of a scanned stack."""

  @nn.compact
  def __call__(self, x, _):
    dense = nn.Dense(64, kernel_init=initializers.he_normal())
    return jax.nn.relu(dense(x)), None


def test_layers_of_a_scan_drawn_with_one_key_are_identical():
  def scanned(split):
    rngs = {"params": split}
    axes = {"params": 0}
    return nn.scan(Layer, variable_axes=axes, split_rngs=rngs, length=6)()

  apply = lambda variables, x: scanned(True).apply(variables, x, None)[0]
  for split in (False, True):
    variables = jax.jit(scanned(split).init)(KEY, X, None)
    report = diagnose(apply, variables, X)
    assert ("identical layers" in kinds(report)) is not split


def test_one_key_for_two_shapes_is_found():
  init, key = jax.nn.initializers.he_normal(), jax.random.key(1)
  params = {"in": init(key, (64, 64)), "out": 0.3 * init(key, (64, 48))}
  report = diagnose(two_layers, two_layer_params(**params), X)
  found = verdict(report, "duplicate parameters")
  assert (found.severity, found.path) == ("warning", "in")
  assert "same random numbers as out (" in found.message
  assert "correlation 1.00" in found.message


def test_rows_that_were_copied_are_a_note():
  params = two_layer_params()
  params["in"][32:] = params["in"][:32]  # as where a kernel is inflated
  found = verdict(diagnose(two_layers, params, X), "equal rows")
  assert (found.severity, found.path) == ("note", "in")
  assert "of 64 along axis 0, only 32 are distinct" in found.message


def test_two_equal_layers_of_a_stack_are_found():
  params = kernels(1.0, 4)
  params[2] = params[1]
  report = diagnose(stack(jnp.tanh), params, X)
  assert (
    "along axis 0, only 3 are distinct"
    in verdict(report, "identical layers").message
  )


WRONG_FANS = [
  ("bd,dhk->bhk", (64, 8, 16), (32, 64)),
  ("bd,hdk->bhk", (8, 64, 16), (32, 64)),
  ("ebd,edf->ebf", (4, 64, 32), (4, 8, 64)),
]


@pytest.mark.parametrize(("equation", "kernel", "inputs"), WRONG_FANS)
def test_a_wrong_fan_is_found_and_its_axes_mend_it(equation, kernel, inputs):
  """The line to paste, pasted: the output has unit variance, to 5 sigma."""
  layer, x = nn.Einsum(kernel, equation, use_bias=False), normal(*inputs)
  run = layer.apply
  sick = diagnose(run, jax.jit(layer.init)(KEY, x), x)
  init = pasted(verdict(sick, "wrong fan").fix)
  variables = jax.jit(layer.clone(kernel_init=init).init)(KEY, x)
  assert not diagnose(run, variables, x).verdicts
  mended = variables["params"]["kernel"]
  variance = np.einsum(equation, x, mended).var()
  assert abs(variance - 1) < 5 * np.sqrt(2 / min(mended.size, x.size))


def test_a_transposed_convolution_is_scaled_where_no_axes_do():
  layer = nn.ConvTranspose(64, (4, 4), strides=(2, 2), use_bias=False)
  x = normal(2, 6, 6, 32)
  variables = drawn(jax.eval_shape(layer.init, KEY, x))  # as Flax does
  found = verdict(diagnose(layer.apply, variables, x), "wrong fan")
  assert found.fix.endswith('variance_scaling(4, "fan_in", "truncated_normal")')


def test_healthy_defaults_of_other_libraries():
  """U(±1/√d) as [out, in], with three times as many outputs as inputs."""
  draw = np.random.default_rng(0).uniform
  params = [
    np.float32(draw(-1 / 8, 1 / 8, shape)) for shape in ((192, 64), (64, 192))
  ]
  report = diagnose(lambda p, x: jnp.tanh(x @ p[0].T) @ p[1].T, params, X)
  assert not report.verdicts


def test_what_is_never_used_and_what_is_closed_over():
  weights = np.full(64, 1 / 64, np.float32)  # of a mean: no layer's kernel
  model = lambda p, x: jax.nn.relu(x @ HE - (x @ weights)[:, None]) @ p["out"]
  found = kinds(diagnose(model, two_layer_params(), X))
  assert found == {"unused parameters": "warning", "constant kernel": "warning"}


@pytest.mark.parametrize("given", ["parameter", "input"])
def test_nan_that_is_given_is_traced_to_where_it_comes_from(given):
  params, x = two_layer_params(), X.copy()
  (params["in"] if given == "parameter" else x)[0] = np.nan
  found = kinds(diagnose(two_layers, params, x))
  assert found[f"non-finite {given}"] == "error"


def test_complex_parameters():
  params = {"in": HE.astype(np.complex64), "out": HE.T.astype(np.complex64)}
  model = lambda p, x: abs(x.astype(jnp.complex64) @ p["in"] @ p["out"])
  assert len(diagnose(model, params, X).to_records()) == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_copies_are_found_in_every_precision(dtype):
  """16 bits hold so few numbers that most entries have a twin anyway."""
  he = HE.astype(dtype)
  model = lambda p, x: jax.nn.relu(x.astype(dtype) @ p["a"]) @ p["b"]
  report = diagnose(model, {"a": he, "b": he}, X)
  assert kinds(report) == {"duplicate parameters": "warning"}
