"""Modules where a function and its parameters are wanted, and `functional`."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import KEY, drawn, normal

import initjax
from initjax import functional, testing

try:
  import equinox as eqx
except Exception:  # not installed, or made for another jax
  eqx = None

X = normal(6, 4)
KERNELS = normal(4, 8, seed=2, variance=0.5), normal(8, 2, seed=3)
needs_equinox = pytest.mark.skipif(eqx is None, reason="needs Equinox")


def plain(params, x):
  first, second = params
  return jnp.tanh(x @ first) @ second


class Linen(nn.Module):
  @nn.compact
  def __call__(self, x, scale=1.0):
    first, second = (nn.Dense(n, use_bias=False) for n in (8, 2))
    return scale * second(jnp.tanh(first(x)))

  def encode(self, x):
    return 2 * x


class Nnx(nnx.Module):
  def __init__(self, rngs, kernels=KERNELS):
    self.layers = nnx.List(
      nnx.Linear(*kernel.shape, use_bias=False, rngs=rngs) for kernel in kernels
    )
    self.calls = nnx.Variable(jnp.zeros((), jnp.int32))
    for layer, kernel in zip(self.layers, kernels, strict=True):
      layer.kernel.set_value(jnp.asarray(kernel))

  def __call__(self, x, scale=1.0):
    self.calls.set_value(self.calls.get_value() + 1)
    return scale * self.layers[1](jnp.tanh(self.encode(x)))

  def encode(self, x):
    return self.layers[0](x)


NAMED = zip(("Dense_0", "Dense_1"), KERNELS, strict=True)
VARIABLES = {"params": {name: {"kernel": kernel} for name, kernel in NAMED}}


def equinox_module():
  no_bias = {"use_bias": False, "use_final_bias": False}
  model = eqx.nn.MLP(4, 2, 8, 1, jnp.tanh, **no_bias, key=KEY)
  weights = lambda model: [layer.weight for layer in model.layers]
  return eqx.tree_at(weights, model, [jnp.asarray(k.T) for k in KERNELS])


def batched(module, x):
  return jax.vmap(module)(x)


def fn_of_equinox():
  return batched, equinox_module()


def jitted():
  return eqx.filter_jit(plain), KERNELS


# what goes before the inputs, by kind
MODELS = {
  "nnx": lambda: (Nnx(nnx.Rngs(0)),),
  "bound linen": lambda: (Linen().bind(VARIABLES),),
  "linen": lambda: (Linen(), VARIABLES),
  "function of nnx": lambda: (lambda module, x: module(x), Nnx(nnx.Rngs(0))),
}
EQUINOX = {
  "function of equinox": fn_of_equinox,
  "filter_jit": jitted,
  "vmapped equinox": lambda: (eqx.filter_vmap(equinox_module()),),
}
KINDS = [*MODELS, *(pytest.param(k, marks=needs_equinox) for k in EQUINOX)]
of_each_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind):
  return (MODELS | EQUINOX)[kind]()


def kernels_in(given):
  """Both kernels as [in, out], whatever holds them."""
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(_arrays(given))]
  pair = [leaf for leaf in leaves if leaf.ndim == 2]
  return [k.T if k.shape in ((8, 4), (2, 8)) else k for k in pair]


def _arrays(given):
  if isinstance(given, nnx.Module):
    return nnx.state(given, nnx.Param)
  if isinstance(given, nn.Module):
    return given.variables
  return given if eqx is None else eqx.filter(given, eqx.is_array)


def numbers(report):
  rows = [*report.forward, *report.backward]
  return np.array([float(row.log2_second_moment) for row in rows])


@functools.cache
def expected():
  return numbers(initjax.measure(plain, KERNELS, X))


@of_each_kind
def test_graph(kind):
  graph = initjax.signal_graph(*model_of(kind), X)
  assert [(op.fan_in, op.fan_out) for op in graph.ops] == [(4, 8), (8, 2)]
  assert not graph.unused


@of_each_kind
def test_measured_and_diagnosed(kind):
  model = model_of(kind)
  wanted = expected()
  np.testing.assert_allclose(
    numbers(initjax.measure(*model, X)), wanted, rtol=1e-5, atol=1e-5
  )
  measured = initjax.measure_and_grad(*model, X)
  assert measured.outputs.shape == (6, 2)
  assert len(kernels_in(measured.gradients)) == 2
  report = initjax.diagnose(*model, X)
  np.testing.assert_allclose(numbers(report), wanted, rtol=1e-5, atol=1e-5)
  assert report.judged


@of_each_kind
def test_theory(kind):
  model = model_of(kind)
  found = initjax.predict(*model, X).forward
  wanted = initjax.predict(plain, KERNELS, X).forward
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  plan = initjax.plan_init(*model, X)
  assert [row.fan_in for row in plan.rows] == [4, 8]


@of_each_kind
def test_jacobian(kind):
  spectrum = initjax.jacobian_spectrum(*model_of(kind), X)
  wanted = initjax.jacobian_spectrum(plain, KERNELS, X)
  np.testing.assert_allclose(spectrum.mean, wanted.mean, rtol=1e-5)


@of_each_kind
def test_what_is_returned_is_of_the_kind_given(kind):
  model = model_of(kind)
  given = model[-1]
  drawn = initjax.auto_init(KEY, *model, X)
  rescaled, info = initjax.calibrate(*model, X)
  factors = [operation.factor for operation in info.operations]
  for new in (drawn, rescaled):
    assert type(new) is type(given)
    assert new is not given
  for kernel, old, new, factor in zip(
    KERNELS, kernels_in(given), kernels_in(rescaled), factors, strict=True
  ):
    np.testing.assert_array_equal(old, kernel)  # the given one is not changed
    np.testing.assert_allclose(new, factor * kernel, rtol=1e-5)
  outputs = plain(kernels_in(rescaled), X)
  np.testing.assert_allclose(np.mean(np.square(outputs)), 1, rtol=1e-4)


@of_each_kind
def test_assertions(kind):
  model = model_of(kind)
  testing.assert_healthy(*model, X)
  with pytest.raises(AssertionError, match="2 of 2 kernels are not orthogonal"):
    testing.assert_orthogonal(*model, X)


@pytest.mark.parametrize(
  "check",
  [
    testing.assert_variance_stable,
    testing.assert_gradients_flow,
    testing.assert_no_dead_units,
    testing.assert_symmetry_broken,
    testing.assert_finite_signal,
  ],
)
def test_each_assertion_takes_a_module_and_options(check):
  check(Nnx(nnx.Rngs(0)), X, key=KEY)


def test_a_new_nnx_module_has_the_rest_of_the_old():
  module = Nnx(nnx.Rngs(0))
  module(X)
  new, _ = initjax.calibrate(module, X)
  assert int(new.calls.get_value()) == int(module.calls.get_value()) == 1
  np.testing.assert_allclose(np.mean(np.square(new(X))), 1, rtol=1e-4)


@needs_equinox
def test_an_equinox_module_of_one_sample():
  report = initjax.measure(equinox_module(), X[0])
  assert [op.path for op in report.graph] == [
    "layers/0/weight",
    "layers/1/weight",
  ]
  pair = {"actor": equinox_module(), "critic": equinox_module()}
  both = lambda models, x: sum(jax.vmap(m)(x) for m in models.values())
  graph = initjax.signal_graph(both, pair, X)
  assert [op.path for op in graph][-1] == "critic/layers/1/weight"


def test_bound_linen_keeps_its_keys_and_what_may_change():
  model = Normalized()
  variables = drawn(jax.eval_shape(model.init, KEY, X))
  bound = model.bind(variables, rngs={"dropout": KEY}, mutable=["batch_stats"])
  fn, params = functional(bound, train=True)
  np.testing.assert_allclose(fn(params, X), bound(X, train=True), rtol=1e-6)
  new = initjax.auto_init(KEY, model.bind(variables), X)
  assert new(X, train=False).shape == (6, 2)


# functional


class Normalized(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


class NnxNormalized(nnx.Module):
  def __init__(self, rngs, average=False):
    self.first = nnx.Linear(4, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, use_running_average=average, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.last = nnx.Linear(8, 2, rngs=rngs)

  def __call__(self, x):
    return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


@pytest.mark.parametrize("average", [False, True])
def test_an_abstract_nnx_module_is_as_a_fresh_one(average):
  make = lambda: NnxNormalized(nnx.Rngs(0), average)
  fn, params = functional(make())
  abstract, shapes = functional(nnx.eval_shape(make))
  assert all(
    isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes)
  )
  ops, wanted = (
    initjax.signal_graph(*model, X).ops
    for model in ((abstract, shapes), (fn, params))
  )
  feeds = lambda ops: [(op.path, op.reason, op.activation) for op in ops]
  assert feeds(ops) == feeds(wanted)
  np.testing.assert_allclose(  # the same mean and variance, not the same mask
    initjax.predict(abstract, params, X).forward,
    initjax.predict(fn, params, X).forward,
    rtol=1e-5,
  )


@needs_equinox
def test_an_abstract_equinox_module():
  make = lambda key: eqx.nn.MLP(4, 2, 8, 1, key=key)
  fn, params = functional(eqx.filter_eval_shape(make, KEY))
  graph = initjax.signal_graph(fn, params, X[0])
  assert [op.fan_in for op in graph] == [4, 8]


def test_methods_and_keywords():
  module, linen = Nnx(nnx.Rngs(0)), Linen()
  hidden = X @ KERNELS[0]
  for method in ("encode", Nnx.encode, module.encode):
    fn, params = functional(module, method=method)
    np.testing.assert_allclose(fn(params, X), hidden, rtol=1e-5)
  for method in ("encode", Linen.encode):
    for arguments in ((linen, VARIABLES), (linen.bind(VARIABLES),)):
      fn, params = functional(*arguments, method=method)
      np.testing.assert_array_equal(fn(params, X), 2 * X)
  outputs = plain(KERNELS, X)
  for arguments in ((linen, VARIABLES), (linen.bind(VARIABLES),), (module,)):
    fn, params = functional(*arguments, scale=3.0)
    np.testing.assert_allclose(fn(params, X), 3 * outputs, rtol=1e-4)


@needs_equinox
def test_keywords_of_equinox():
  drop = eqx.nn.Dropout(0.5)
  model = eqx.nn.Sequential([equinox_module(), drop])
  fn, params = functional(model, key=KEY)
  assert set(np.unique(fn(params, X[0]) == 0)) <= {True, False}
  fn, params = functional(equinox_module(), method="__call__")
  np.testing.assert_allclose(fn(params, X[0]), plain(KERNELS, X[0]), rtol=1e-5)


def test_batch_statistics_of_linen_come_beside():
  model = Normalized()
  variables = drawn(jax.eval_shape(model.init, KEY, X))
  fn, params = functional(
    model, variables, train=True, mutable=["batch_stats"], rngs=KEY
  )
  report = initjax.measure(fn, params, X, has_aux=True)
  assert len(report.graph) == 2
  shapes = jax.eval_shape(model.init, KEY, X)
  graph = initjax.signal_graph(*functional(model, shapes), X)
  assert [op.fan_in for op in graph] == [4, 8]


class Transform(NamedTuple):  # as Haiku's
  init: Any
  apply: Any


class WithoutCall(nnx.Module):
  def encode(self, x):
    return x


OF_FUNCTION = [
  ((Linen(), X), "holds no variables; pass .module, variables, .inputs."),
  ((Linen(), {"image": X}), "got dict for them"),
  ((Linen, VARIABLES, X), r"got the class Linen; pass Linen\(\.\.\.\)"),
  ((Nnx, X), "got the class Nnx"),
  ((Linen().bind(VARIABLES), VARIABLES, X), "Linen holds its own parameters:"),
  ((Transform(plain, plain), KERNELS, X), r"transform\.apply, params, key"),
  (("model", KERNELS, X), "a module; got str"),
  ((WithoutCall(), X), "WithoutCall has no __call__; say which method"),
]


@pytest.mark.parametrize(("arguments", "message"), OF_FUNCTION)
def test_errors_say_what_to_pass(arguments, message):
  for verb in (initjax.signal_graph, initjax.measure, initjax.calibrate):
    with pytest.raises(TypeError, match=message):
      verb(*arguments)


def test_parameters_of_an_nnx_module_are_not_given_twice():
  module = Nnx(nnx.Rngs(0))
  with pytest.raises(TypeError, match=r"holds its own.*functional"):
    initjax.diagnose(module, nnx.state(module, nnx.Param), X)


@pytest.mark.parametrize(
  ("arguments", "options", "error", "message"),
  [
    ((Linen(),), {}, TypeError, "holds no variables"),
    ((Linen, VARIABLES), {}, TypeError, "got the class Linen"),
    ((Linen().bind(VARIABLES), VARIABLES), {}, TypeError, "holds its own para"),
    ((plain,), {}, TypeError, "an NNX, Equinox or linen module; got func"),
    ((WithoutCall(),), {}, TypeError, r"module, method=\.\.\."),
    ((WithoutCall(),), {"method": "en"}, AttributeError, "no method 'en'"),
  ],
)
def test_functional_says_what_it_wants(arguments, options, error, message):
  with pytest.raises(error, match=message):
    functional(*arguments, **options)
