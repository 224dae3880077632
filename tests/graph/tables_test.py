"""Tables that only what reads them tells from biases and kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import normal

import initjax
from initjax.graph import signal_graph

BATCH, TIME, WIDTH = 2, 4, 8
X = normal(BATCH, TIME, WIDTH)
W = normal(WIDTH, WIDTH)
_WIDE = ("NWC", "WIO", "NWC")
LATE = {
  "positions": (lambda p, x: (x + p["t"]) @ p["w"], (TIME, WIDTH)),
  "a part of them": (lambda p, x: (x + p["t"][:TIME]) @ p["w"], (9, WIDTH)),
  "before a norm": (
    lambda p, x: jax.nn.standardize(2 * x + p["t"]) @ p["w"],
    (1, TIME, WIDTH),
  ),
  "class token": (
    lambda p, x: (
      jnp.concatenate([jnp.tile(p["t"], (BATCH, 1, 1)), x], 1) @ p["w"]
    ),
    (1, 1, WIDTH),
  ),
  "before a convolution": (
    lambda p, x: lax.conv_general_dilated(
      x + p["t"], p["w"][None], (1,), "SAME", dimension_numbers=_WIDE
    ),
    (TIME, WIDTH),
  ),
  "queries of a decoder": (
    lambda p, x: jnp.tanh((x[:, 0] @ p["w"])[:, None] + p["t"]) @ p["w"],
    (3, WIDTH),
  ),
  "latents of two attentions": (
    lambda p, x: attend(p, attend(p, jnp.stack([p["t"]] * BATCH), x), x),
    (3, WIDTH),
  ),
  "one query": (
    lambda p, x: jax.vmap(lambda x: attend(p, p["t"], x))(x),
    (WIDTH,),
  ),
  "queries that attend to themselves": (
    lambda p, x: attend(p, attend(p, p["t"][None], p["t"][None]), x),
    (3, WIDTH),
  ),
}


def attend(p, q, x):
  q = jax.nn.standardize(q) @ p["w"]
  return q + jax.nn.softmax(q @ jnp.swapaxes(x @ p["w"], -1, -2)) @ x


@pytest.mark.parametrize("name", LATE)
def test_what_tells_tokens_apart_for_its_readers_is_a_table(name):
  model, shape = LATE[name]
  graph = signal_graph(model, {"t": normal(*shape), "w": W}, X)
  (op,) = (op for op in graph.ops if op.path == "t")
  assert (op.kind, op.fan_in, op.fan_out) == ("embedding", 1, WIDTH)
  assert (op.reason, op.shape) == ("positions", shape)
  assert (graph.elementwise, graph.not_followed) == ((), {})
  assert all(op.fan_in == WIDTH for op in graph.ops if op.path == "w")


BIASES = {
  "of features": (lambda p, x: (x + p["t"]) @ p["w"], (WIDTH,)),
  "of all that is flat": (
    lambda p, x: (x + p["t"]).reshape(BATCH, -1, 2) @ p["w"][:2],
    (1, TIME, 1),
  ),
  "of flat features": (
    lambda p, x: (x + p["t"]).reshape(-1, 4 * WIDTH) @ jnp.tile(p["w"], (4, 1)),
    (TIME, WIDTH),
  ),
  "of scores": (
    lambda p, x: jax.nn.softmax(x @ x.swapaxes(1, 2) + p["t"]) @ x @ p["w"],
    (TIME, TIME),
  ),
}


@pytest.mark.parametrize("name", BIASES)
def test_what_its_readers_sum_over_is_a_bias(name):
  model, shape = BIASES[name]
  graph = signal_graph(model, {"t": normal(*shape), "w": W}, X)
  assert (graph.elementwise, graph.not_followed) == (("t",), {})


def test_a_table_of_zeros_is_a_bias():
  model, shape = LATE["positions"]
  graph = signal_graph(model, {"t": np.zeros(shape, "f"), "w": W}, X)
  assert graph.elementwise == ("t",)


@pytest.mark.slow
def test_every_verb_runs_the_model_as_it_is():
  model, shape = LATE["latents of two attentions"]
  params = {"t": 3 * normal(*shape), "w": W}
  measured = initjax.measure_and_grad(model, params, X, cotangent=X[:, :3])
  outputs, pull_back = jax.vjp(lambda p: model(p, X), params)
  np.testing.assert_allclose(measured.outputs, outputs, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    measured.gradients,
    *pull_back(X[:, :3]),
  )
  drawn = initjax.auto_init(jax.random.key(0), model, params, X)
  assert 0.5 < drawn["t"].std() < 1.5
  changed, info = initjax.calibrate(model, params, X)
  reasons = {row.path: row.reason for row in info.operations}
  assert reasons["t"] == "calibrated"
  np.testing.assert_allclose((changed["t"] ** 2).mean(), 1, rtol=1e-5)
