"""Inputs that scale or shift features alike are constants, others are data."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import drawn, normal

from initjax import calibrate, diagnose, measure, plan_init, signal_graph
from initjax.propagation import predict

X = normal(64, 16)
KEY = jax.random.key(0)
WIDTH = 32


class Net(nn.Module):
  train: bool = False

  @nn.compact
  def __call__(self, x):
    for _ in range(2):
      x = nn.Dense(WIDTH, use_bias=False)(x)
      x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(x))
    return nn.Dense(4)(x)


def of_linen(train=False):
  net = Net(train)
  shapes = jax.eval_shape(net.init, KEY, X)

  def fn(params, stats, x):
    variables = {"params": params, "batch_stats": stats}
    return net.apply(variables, x, mutable=["batch_stats"])

  return fn, drawn(shapes["params"]), shapes["batch_stats"]


def filled(shapes, mean=0.0, variance=1.0):
  """Means of both signs, so that what they shift has none."""

  def fill(path, leaf):
    shift = mean * (-1.0) ** np.arange(leaf.size).reshape(leaf.shape)
    is_variance = "var" in jax.tree_util.keystr(path)
    full = np.full(leaf.shape, variance) if is_variance else shift
    return full.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def test_running_statistics_count_with_their_values():
  """E[relu²((z - m)/√v)] is half of (E[z²] + m²)/v, in closed form."""
  fn, params, shapes = of_linen()
  stats = filled(shapes, 3.0, 16.0)
  graph = signal_graph(fn, params, stats, X)
  assert graph.statistics == (0, 1, 2, 3)
  kinds = [term.kind for term in graph.ops[1].feed.stream]
  assert kinds == ["output", "bias", "bias"]
  plan = plan_init(fn, params, stats, X)
  gains = [row.gain for row in plan.rows]
  half = 0.5 * (1 + 3.0**2) / 16
  np.testing.assert_allclose(gains, [1, *[half**-0.5] * 2], rtol=1e-5)


def test_theory_agrees_whether_they_are_parameters_constants_or_inputs():
  fn, params, shapes = of_linen()
  stats = filled(shapes, 0.5, 4.0)
  found = [
    predict(fn, params, stats, X),
    predict(lambda p, x: fn(p, stats, x)[0], params, X),
    predict(
      lambda v, x: fn(v["p"], v["s"], x)[0], {"p": params, "s": stats}, X
    ),
  ]
  assert np.isfinite(found[0].forward).all()
  for other in found[1:]:
    for one, two in zip(found[0][:2], other[:2], strict=True):
      np.testing.assert_allclose(one, two, atol=1e-5)


def nnx_model(train):
  class Model(nnx.Module):
    def __init__(self, rngs):
      self.first = nnx.Linear(16, WIDTH, rngs=rngs)
      self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
      self.dropout = nnx.Dropout(0.5, rngs=rngs)
      self.last = nnx.Linear(WIDTH, 4, rngs=rngs)

    def __call__(self, x):
      return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))

  model = Model(nnx.Rngs(0))
  model.train() if train else model.eval()
  shape, params, rest = nnx.split(model, nnx.Param, ...)

  def fn(params, rest, x):
    model = nnx.merge(shape, params, rest, copy=True)
    return model(x), nnx.state(model, nnx.BatchStat)

  return fn, params, rest


def haiku_model(train):
  hk = pytest.importorskip("haiku")

  def net(train, x):
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(WIDTH)(x), train)
    return hk.Linear(4)(jax.nn.relu(x))

  pure = lambda train: hk.without_apply_rng(
    hk.transform_with_state(functools.partial(net, train))
  )
  shapes, state = jax.eval_shape(pure(True).init, KEY, X)
  params = {name: drawn(leaves) for name, leaves in shapes.items()}
  params["batch_norm"]["offset"] = np.zeros((1, WIDTH), np.float32)
  params["batch_norm"]["scale"] = np.ones((1, WIDTH), np.float32)
  return pure(train).apply, params, filled(state)


def equinox_model(train):
  eqx = pytest.importorskip("equinox")
  make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
  norm, state = make(WIDTH, "batch", mode="batch", inference=not train)
  axes = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}

  def fn(params, state, x):
    h, state = jax.vmap(norm, **axes)(x @ params[0], state)
    return jax.nn.relu(h) @ params[1], state

  kernels = [normal(16, WIDTH, variance=1 / 16), normal(WIDTH, 4)]
  return fn, kernels, state


MODELS = {
  "linen": lambda train: (*of_linen(train)[:2], filled(of_linen(train)[2])),
  "nnx": nnx_model,
  "haiku": haiku_model,
  "equinox": equinox_model,
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_verb_takes_statistics_beside_parameters(name, train):
  fn, params, stats = MODELS[name](train)
  graph = signal_graph(fn, params, stats, X)
  terms = graph.ops[-1].feed.stream
  assert terms[0].kind == ("normalized" if train else "output")
  assert graph.ops[-1].reason == ("normalization" if train else "linear")
  plan = plan_init(fn, params, stats, X)
  assert not any(row.why for row in plan.rows)
  dropped = train and name == "nnx"  # half of relu's output, doubled
  gain = 1.0 if dropped else 2**0.5
  np.testing.assert_allclose(plan.rows[-1].gain, gain, rtol=1e-5)


@pytest.mark.slow
def test_measuring_and_calibrating_take_them_too():
  fn, params, shapes = of_linen()
  stats = filled(shapes, 0.5, 4.0)
  params, _ = calibrate(fn, params, stats, X)
  report = measure(fn, params, stats, X)
  sizes = [float(row.log2_second_moment) for row in report.forward]
  np.testing.assert_allclose(sizes, 0.0, atol=1e-4)
  report = diagnose(fn, params, stats, X)
  theory = [forward for forward, *_ in report.predicted]
  np.testing.assert_allclose(theory, 0.0, atol=0.5)  # of 32 units


def test_without_values_they_scale_by_one_and_the_plan_says_so():
  fn, params, shapes = of_linen()
  plan = plan_init(fn, params, shapes, X)
  gains = [row.gain for row in plan.rows]
  np.testing.assert_allclose(gains, [1, 2**0.5, 2**0.5], rtol=1e-5)
  assert [("without values" in row.why) for row in plan.rows] == [0, 1, 1]
  assert np.isnan(predict(fn, params, shapes, X).forward[1:]).all()


KERNELS = {"a": normal(16, 32), "c": normal(5, 32), "b": normal(32, 4)}
DATA = {
  "a mask of samples": (normal(64, 1), lambda h, m, p: h * m),
  "a vector of them": (normal(64), lambda h, m, p: h * m[:, None]),
  "noise": (normal(64, 32), lambda h, e, p: h + e),
  "FiLM": (normal(64, 5), lambda h, c, p: h * (1 + c @ p["c"])),
  "FiLM of one sample": (normal(5), lambda h, c, p: h * (1 + c @ p["c"])),
  "a time": (
    np.float32(0.3), lambda h, t, p: h + jnp.sin(t * np.arange(5.0)) @ p["c"]
  ),
  "a choice": (
    np.float32(0.3), lambda h, t, p: jnp.where(t < 0.5, h, jnp.tanh(h))
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_what_differs_between_samples_or_meets_a_kernel_is_data(name):
  given, use = DATA[name]
  fn = lambda p, c, x: jax.nn.relu(use(x @ p["a"], c, p)) @ p["b"]
  assert signal_graph(fn, KERNELS, given, X).statistics == ()
  if "FiLM" in name:
    paths = [op.path for op in signal_graph(fn, KERNELS, given, X).ops]
    assert paths == ["a", "c", "b"]


ALIKE = {
  "a scale": (normal(32, variance=9.0), lambda h, s: h * s),
  "a number": (np.float32(3.0), lambda h, s: h * s),
  "channels": (normal(1, 32, variance=9.0), lambda h, s: s * h),
  "a quotient": (np.full(32, 2.0, np.float32), lambda h, s: h / s),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_treats_all_samples_alike_is_a_constant(name):
  given, use = ALIKE[name]
  square = np.mean(np.square(use(np.ones(32), given)))
  fn = lambda p, s, x: use(x @ p["a"], s) @ p["b"]
  graph = signal_graph(fn, KERNELS, given, X)
  assert graph.statistics == (0,)
  plan = plan_init(fn, KERNELS, given, X)
  assert plan.rows[1].gain == pytest.approx(square**-0.5)
  moved = predict(fn, {**KERNELS, "a": KERNELS["a"] / 2}, given, X)
  assert np.isfinite(moved.forward).all()


@pytest.mark.parametrize("others", [(), (KEY,), (np.zeros(64, np.int32),)])
def test_one_signal_beside_keys_and_choices_is_data(others):
  """Neither can be what it were a statistic of."""
  fn = lambda p, x, *others: x * p["scale"]
  graph = signal_graph(fn, {"scale": np.ones(16)}, X, *others)
  assert graph.elementwise == ("scale",)
