"""What a function computes and drops decides nothing."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from small_models import normal

from initjax.graph import signal_graph

X = normal(4, 6)
PARAMS = {"w": normal(6, 6), "head": normal(6, 3), "table": normal(5, 6)}


def at_once(p, x):
  h = jnp.tanh(x @ p["w"])
  _ = h[None] @ p["head"], p["head"].T @ p["w"], x * p["head"][:, 0]
  return h @ p["head"]


def in_jit(p, x):
  return jax.jit(lambda x: (x @ p["w"], x * 2 @ p["w"].T))(x)[0]


def carried(p, x):
  def body(carry, _):
    h, dropped = carry
    return (jnp.tanh(h @ p["w"]), h @ p["w"].T + dropped * p["w"][0]), None

  (h, _), _ = lax.scan(body, (x, x), None, length=3)
  return h @ p["head"]


def looped(p, x):
  body = lambda c: (c[0] + 1, jnp.tanh(c[1] @ p["w"]), c[2] * 2 @ p["w"].T)
  return lax.while_loop(lambda c: c[0] < 3, body, (0, x, x))[1]


def branched(p, x):
  run = lambda x: (x @ p["w"], x @ p["w"].T)
  return lax.cond(x[0, 0] > 0, run, lambda x: (x, x), x)[0]


def looked_up(p, x):
  rows = p["table"][jnp.argmax(x[:, :5], -1)]
  _ = rows * 2
  return jnp.einsum("bi,bi->b", x, rows)


DROPPED = {
  "at once": (at_once, {"w": 6, "head": 6}),
  "in jit": (in_jit, {"w": 6}),
  "carried": (carried, {"w": 6, "head": 6}),
  "looped": (looped, {"w": 6}),
  "branched": (branched, {"w": 6}),
  "looked up": (looked_up, {"table": 6}),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_dropped_is_no_use(name):
  model, fans = DROPPED[name]
  graph = signal_graph(model, PARAMS, X)
  assert [(op.path, op.fan_in) for op in graph] == [*fans.items()]
  assert graph.elementwise == ()
  assert graph.not_followed == {}
  assert {*graph.unused} == PARAMS.keys() - fans.keys()


def test_a_parameter_that_is_only_dropped_keeps_its_row():
  def model(p, x):
    h = x @ p["w"]
    _ = h @ p["head"], h * p["scale"]
    return h

  params = PARAMS | {"scale": normal(6)}
  graph = signal_graph(model, params, X)
  assert [op.path for op in graph] == ["w", "head"]
  assert (graph.elementwise, graph.unused) == (("scale",), ("table",))


def test_a_second_output_is_a_use():
  def model(p, x):
    h = x @ p["w"]
    return h, {"logits": h @ p["head"], "norm": jnp.linalg.norm(p["w"])}

  graph = signal_graph(model, PARAMS, X)
  assert [op.path for op in graph] == ["w", "head"]
