"""Calls with sub-programs are entered, and run as they were."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap
from small_models import normal

from initjax import calibrate, measure, plan_init, signal_graph
from initjax.measurement import measure_and_grad

X = normal(16, 8)
PARAMS = {
  "in": normal(8, 8, variance=1 / 8, seed=2),
  "out": normal(8, 8, seed=3),
}


@custom_vmap
def with_vmap_rule(x, w):
  return jnp.tanh(x @ w)


@with_vmap_rule.def_vmap
def _rule(size, batched, x, w):
  del size
  axes = tuple(0 if each else None for each in batched)
  return jax.vmap(lambda x, w: jnp.tanh(x @ w), in_axes=axes)(x, w), True


@functools.partial(jax.lax.composite, name="library.layer")
def composite(x, w):
  return jnp.tanh(x @ w)


def solved(x, w):
  """(1 + wᵀw)⁻¹ x by conjugate gradients: one linear solve."""
  system = lambda v: v + (v @ w) @ w.T
  return jax.scipy.sparse.linalg.cg(system, x, maxiter=5)[0]


def solved_at_once(x, w):
  solve = lambda matvec, b: b / 2 - matvec(b) / 16
  system = lambda v: v + (v @ w) @ w.T
  return jax.lax.custom_linear_solve(system, x, solve, symmetric=True)


LAYERS = {
  "custom_vmap": with_vmap_rule,
  "composite": composite,
  "cg": solved,
  "custom_linear_solve": solved_at_once,
}


def model(name):
  return lambda p, x: LAYERS[name](x, p["in"]) @ p["out"]


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_inside_is_seen(name):
  graph = signal_graph(model(name), PARAMS, X)
  assert not graph.opaque
  assert {op.path for op in graph.ops} == {"in", "out"}
  assert all((op.fan_in, op.fan_out) == (8, 8) for op in graph.ops)
  last = graph["out"]
  followed = name in ("custom_vmap", "composite")
  assert (last.feed.stream is not None) == followed
  rows = plan_init(model(name), PARAMS, X).rows
  assert bool(rows[-1].why) != followed


@pytest.mark.parametrize("name", LAYERS)
def test_results_and_gradients_stay(name):
  fn = model(name)
  measured = measure_and_grad(fn, PARAMS, X, cotangent=np.ones_like(X))
  layer = LAYERS[name]
  if name in ("composite", "custom_vmap"):  # JAX cannot differentiate them
    layer = lambda x, w: jnp.tanh(x @ w)
  loss = lambda p: jnp.sum(layer(X, p["in"]) @ p["out"])
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  near(measured.outputs, fn(PARAMS, X))
  for path, wanted in jax.grad(loss)(PARAMS).items():
    found = measured.gradients[path]
    near(found, wanted)


@pytest.mark.parametrize("name", ["custom_vmap", "composite"])
def test_calibrate_enters(name):
  params, info = calibrate(model(name), PARAMS, X)
  assert [op.path for op in info.operations] == ["in", "out"]
  assert not info.skipped
  np.testing.assert_allclose(np.mean((X @ params["in"]) ** 2), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["cg", "custom_linear_solve"])
def test_calibrate_leaves_a_solver_alone(name):
  params, info = calibrate(model(name), PARAMS, X)
  assert {path for path, *_ in info.skipped} >= {"in"}
  np.testing.assert_array_equal(params["in"], PARAMS["in"])
  solution = LAYERS[name](X, params["in"]) @ params["out"]
  np.testing.assert_allclose(np.mean(solution**2), 1, rtol=1e-5)


def test_measure_sees_the_solution_of_a_solver():
  report = measure(model("custom_linear_solve"), PARAMS, X)
  solution = np.mean(np.square(LAYERS["custom_linear_solve"](X, PARAMS["in"])))
  sizes = [2.0 ** float(r.log2_second_moment) for r in report.forward[:-1]]
  np.testing.assert_allclose(sizes[-1], solution, rtol=1e-4)
