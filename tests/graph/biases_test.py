"""Parameters that meet data entry by entry: biases and scales, or named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import normal

from initjax.graph import signal_graph

BATCH, TIME, WIDTH = 2, 4, 8
X = normal(BATCH, WIDTH)
SERIES = normal(BATCH, TIME, WIDTH)
P = {"t": normal(WIDTH), "w": normal(WIDTH, WIDTH), "b": normal(WIDTH)}
APART = np.abs(np.arange(TIME)[:, None] - np.arange(TIME))


def unrolled(step):
  """h ← step(p, h, x), without a loop."""

  def model(p, x):
    steps = functools.partial(step, p)
    every = (x[:, time] for time in range(TIME))
    return functools.reduce(steps, every, jnp.zeros((BATCH, WIDTH)))

  return model, WIDTH


def scores(change):
  """softmax-free attention, with what is done to its scores."""

  def model(p, x):
    q, k = x @ p["w"], jnp.tanh(x @ p["w"])
    return change(p["t"], jnp.einsum("btd,bsd->bts", q, k)) @ x

  return model


def kernel(w):
  return w.reshape(TIME, WIDTH)


def folded(fold):
  return lambda p, x: fold(kernel(p["t"]), x[:, 0, None]), TIME * WIDTH


NAMED = {
  "average": unrolled(lambda p, h, x: p["t"] * h + (1 - p["t"]) * x),
  "one decay": unrolled(lambda p, h, x: p["t"][0] * h + x),
  "computed decay": unrolled(
    lambda p, h, x: jax.nn.sigmoid(p["t"]) * h + x @ p["w"]
  ),
  "selective decay": unrolled(
    lambda p, h, x: jnp.exp(p["t"] * jax.nn.sigmoid(x @ p["w"])) * h + x
  ),
  "with a function": unrolled(
    lambda p, h, x: jnp.tanh(p["t"] * h + x @ p["w"] + p["b"])
  ),
  "log of a sum": folded(lambda w, x: jax.nn.logsumexp(w + x, -1)),
  "nearest": folded(lambda w, x: -jax.nn.logsumexp(-abs(w - x), -1)),
  "mean of a function": folded(lambda w, x: jax.nn.softplus(w + x).mean(-1)),
  "decay of scores": (scores(lambda a, s: s * a**APART), 1),
  "table for scores": (scores(lambda a, s: s * a[APART]), TIME),
  "mask of scores": (
    scores(lambda a, s: s * jax.nn.sigmoid(a.reshape(TIME, TIME))),
    TIME**2,
  ),
  "decay of heads": (
    scores(lambda a, s: (s[:, None] * a[:, None, None] ** APART).sum(1)),
    2,
  ),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_neither_bias_nor_scale_is_named(name):
  model, size = NAMED[name]
  graph = signal_graph(model, {**P, "t": normal(size)}, SERIES)
  assert {*graph.not_followed} == {"t"}
  assert {*graph.elementwise} <= {"b"}


def layers(layer):
  """Three of one function, with the same parameters."""

  def model(p, x):
    return functools.reduce(lambda h, _: layer(p, h), range(3), x)

  return model, WIDTH


def apply(y, fn):
  return fn(y)


def attend(change):
  return scores(lambda a, s: jax.nn.softmax(change(a, s)))


PLAIN = {
  "scaled branch": layers(lambda p, h: h + p["t"] * (h @ p["w"])),
  "one scale after norms": layers(
    lambda p, h: jax.nn.standardize(h + h @ p["w"]) * p["t"] + p["b"]
  ),
  "slopes": layers(
    lambda p, h: jnp.where(h > 0, h, p["t"] * h) @ p["w"] + jnp.maximum(h, 0)
  ),
  "slopes by halves": layers(
    lambda p, h: apply(
      jnp.maximum(h, 0) + p["t"] * jnp.minimum(h, 0), lambda y: y + y @ p["w"]
    )
  ),
  "a scale each": (
    lambda p, x: p["t"][0] * (x + p["t"][1] * (x @ p["w"])),
    2,
  ),
  "snake": layers(
    lambda p, h: apply(
      h @ p["w"], lambda y: y + jnp.sin(p["t"] * y) ** 2 / p["t"]
    )
  ),
  "gated": layers(
    lambda p, h: apply(h @ p["w"], lambda y: y * jax.nn.sigmoid(p["t"] * y))
  ),
  "one number": (lambda p, x: jnp.tanh(p["t"] * (x @ p["w"])) * p["b"], 1),
  "bias of heads": (
    lambda p, x: (x @ p["w"]).reshape(BATCH, TIME, 2, 4) + p["t"].reshape(2, 4),
    WIDTH,
  ),
  "temperatures": (
    lambda p, x: jax.nn.softmax(
      jnp.einsum("bthd,bshd->bhts", *[(x @ p["w"]).reshape(2, TIME, 2, 4)] * 2)
      * jnp.exp(p["t"])[:, None, None]
    ),
    2,
  ),
  "slopes of distances": (
    attend(lambda a, s: (s[:, None] - a[:, None, None] * APART).sum(1)),
    2,
  ),
  "relative positions": (attend(lambda a, s: s + a[APART]), TIME),
  "scale of queries": (
    lambda p, x: attend(lambda a, s: s)(p, x * p["t"] + p["b"]),
    WIDTH,
  ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_biases_and_scales_are_not_named(name):
  model, size = PLAIN[name]
  graph = signal_graph(model, {**P, "t": normal(size)}, SERIES)
  assert (graph.not_followed, "t" in graph.elementwise) == ({}, True)


def test_zeros_that_are_added_are_a_bias():
  model, size = NAMED["log of a sum"]
  graph = signal_graph(model, {"t": np.zeros(size, "f")}, SERIES)
  assert (graph.not_followed, graph.elementwise) == ({}, ("t",))
  scaled = lambda p, x: (kernel(p["t"]) * x[:, 0, None]) @ p["w"]
  graph = signal_graph(scaled, {**P, "t": np.zeros(size, "f")}, SERIES)
  assert graph.not_followed == {"t": "mul"}


def test_products_written_as_einsum_are_rows():
  def model(p, x):
    return jnp.einsum("or,br,rd->bod", p["u"], x @ p["c"], p["v"])

  params = {"u": normal(6, 2), "c": normal(WIDTH, 2), "v": normal(2, WIDTH)}
  graph = signal_graph(model, params, X)
  assert {op.path: op.fan_in for op in graph} == {"c": WIDTH, "u": 1, "v": 2}
  assert (graph.elementwise, graph.not_followed) == ((), {})
