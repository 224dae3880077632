"""Kernels that data have a say in, and parameters that act in every repeat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import normal

from initjax.graph import signal_graph

B, IN, OUT, TIME = 4, 8, 6, 5
X = normal(B, IN)
CONTEXT = normal(B, 3)
PARAMS = {
  "w": normal(IN, OUT),
  "made": normal(3, IN * OUT),
  "gain": normal(3, OUT),
  "v": normal(OUT, OUT),
  "bias": normal(OUT),
  "left": normal(IN, 2),
  "low": normal(3, IN * 2),
  "high": normal(3, 2 * OUT),
  "right": normal(2, OUT),
  "core": normal(3, 2),
}


def of(p, c):
  return (c @ p["made"]).reshape(IN, OUT)


def each(kernel):
  return lambda p, x, c: jax.vmap(lambda x: x @ kernel(p, jnp.tanh(x[:3])))(x)


def by_hand(kernel):
  return lambda p, x, c: jax.vmap(
    lambda x: (kernel(p, jnp.tanh(x[:3])) * x[:, None]).sum(0)
  )(x)


def once(kernel):
  return lambda p, x, c: x @ kernel(p, jnp.tanh(x.mean(0)[:3]))


MADE = {
  "hypernetwork": (of, {"made"}),
  "bounded": (lambda p, c: jnp.tanh(of(p, c)), {"made"}),
  "delta": (lambda p, c: p["w"] + of(p, c), {"w", "made"}),
  "gated": (lambda p, c: p["w"] * jax.nn.sigmoid(of(p, c)), {"w", "made"}),
  "scaled outputs": (lambda p, c: p["w"] * (1 + c @ p["gain"]), {"w"}),
  "scaled": (lambda p, c: p["w"] * c[0], {"w"}),
  "shifted rows": (lambda p, c: p["w"] + c[0], {"w"}),
  "plus an outer product": (
    lambda p, c: p["w"] + c[jnp.arange(IN) % 3][:, None] * c[:1],
    {"w"},
  ),
  "low rank, scaled": (
    lambda p, c: (p["left"] * (c @ p["core"])) @ p["right"],
    {"left", "right"},
  ),
  "low rank, half of it": (
    lambda p, c: (c @ p["low"]).reshape(IN, 2) @ p["right"],
    {"low", "right"},
  ),
  "low rank, from the left": (
    lambda p, c: (p["right"].T @ (c @ p["low"]).reshape(2, IN)).T,
    {"low", "right"},
  ),
  "low rank": (
    lambda p, c: (
      p["w"] + (c @ p["low"]).reshape(IN, 2) @ (c @ p["high"]).reshape(2, OUT)
    ),
    {"w", "low", "high"},
  ),
}


@pytest.mark.parametrize("way", [each, once, by_hand])
@pytest.mark.parametrize("name", MADE)
def test_parameters_of_a_kernel_that_data_make_are_named(name, way):
  kernel, named = MADE[name]
  graph = signal_graph(way(kernel), PARAMS, X, CONTEXT)
  assert graph.not_followed.keys() >= named
  assert not named & {*graph.elementwise, *graph.unused}


def attend(scores):
  def model(p, x, c):
    q = x @ p["w"] + p["bias"]
    k, v = jnp.tanh(q) @ p["v"], q @ p["v"] + p["bias"]
    return scores(q, k, v)

  return model


SIGNALS = {
  "attention": attend(lambda q, k, v: jax.nn.softmax(q @ k.T / 3) @ v),
  "linear attention": attend(lambda q, k, v: q @ (k.T @ v)),
  "between features": attend(lambda q, k, v: v @ jax.nn.softmax(k.T @ q)),
  "of heads": lambda p, x, c: jnp.einsum(
    "bhd,bgd->bhg", *[(x @ p["w"] + p["bias"]).reshape(B, 2, 3)] * 2
  ),
  "experts": lambda p, x, c: jnp.einsum(
    "bk,bko->bo",
    jax.nn.softmax(c),
    jnp.einsum("bi,kio->bko", x, normal(3, IN, OUT)) + p["bias"],
  ),
  "gates": lambda p, x, c: jnp.einsum(
    "bk,bko->bo", jax.nn.sigmoid(c), (x @ p["w"]).reshape(B, 3, 2)
  ),
  "with a decay": attend(lambda q, k, v: (q @ k.T * 0.9 ** jnp.arange(B)) @ v),
  "relative positions": attend(
    lambda q, k, v: jax.nn.softmax(q @ k.T + normal(B, B)) @ v
  ),
  "mixed tokens": attend(lambda q, k, v: k @ k.T @ (normal(B, B) @ v)),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_products_of_signals_name_no_parameter(name):
  graph = signal_graph(SIGNALS[name], PARAMS, X, CONTEXT)
  assert graph.not_followed == {}
  assert graph.products


# Recurrences

SERIES = normal(TIME, B, IN)
STATE = jnp.zeros((B, IN))


def over_time(step):
  def model(p, x):
    body = lambda h, x: (step(p, h, x),) * 2
    return lax.scan(body, STATE, x)[1]

  return model


def selective(decay, inside):
  """The state space of Mamba: h ← exp(Δ·A)·h + Δ·b·x for each of N states."""

  def model(p, x):
    step = jax.nn.softplus(x @ p["step"] + p["bias"])
    drive = (step * x)[..., None] * (x @ p["b"])[..., None, :]
    a = lambda step: jnp.exp(decay(step, -jnp.exp(p["a"])))

    def body(h, given):
      rate, drive = given
      h = (a(rate) if inside else rate) * h + drive
      return h, h.sum(-1)

    start = jnp.zeros((B, IN, 3))
    y = lax.scan(body, start, (step if inside else a(step), drive))[1]
    return (y + p["skip"] * x) @ p["out"]

  params = {"a": normal(IN, 3), "b": normal(IN, 3), "out": normal(IN, OUT)}
  params |= {"step": normal(IN, IN), "bias": normal(IN), "skip": normal(IN)}
  return model, params, ("a",)


def pairs(left, right):
  return left[0] * right[0], right[0] * left[1] + right[1]


def at_once(decay):
  """h ← a·h + x by an associative scan."""

  def model(p, x):
    a, driven = decay(p, x), jnp.tanh(x @ p["w"] + p["bias"])
    return lax.associative_scan(pairs, (a, driven.astype(a.dtype)))[1]

  return model, DIAGONAL, ("a",)


def summed_decay(p, x):
  """Of Mamba 2: exp of differences of a cumulative sum."""
  step = jax.nn.softplus(x @ p["w"] + p["bias"])
  total = jnp.cumsum(-jnp.exp(p["a"]) * step, 0)
  later = jnp.tri(TIME, dtype=bool)[..., None, None]
  decay = jnp.exp(jnp.where(later, total[:, None] - total, -jnp.inf))
  return jnp.einsum("tsbd,sbd->tbd", decay, x)


def matrices(p, x):
  def pairs(left, right):
    carried = jnp.einsum("tij,tbj->tbi", right[0], left[1])
    return jnp.einsum("tij,tjk->tik", right[0], left[0]), carried + right[1]

  every = jnp.broadcast_to(p["w"], (TIME, IN, IN))
  return lax.associative_scan(pairs, (every, x))[1]


def gated(p, x):
  """Of Griffin: a = exp(-8·softplus(Λ)·r)."""
  gate = jax.nn.sigmoid(x @ p["w"] + p["bias"])
  a = jnp.exp(-8 * jax.nn.softplus(p["a"]) * gate)
  body = lambda h, z: (z[0] * h + jnp.sqrt(1 - z[0] ** 2) * z[1],) * 2
  return lax.scan(body, STATE, (a, x))[1]


DIAGONAL = {"a": normal(IN), "w": normal(IN, IN), "bias": normal(IN)}
plain = lambda step: (over_time(step), DIAGONAL, ("a",))
outer = lambda step, a: step[..., None] * a
RECURRENT = {
  "selective": selective(outer, True),
  "selective, before": selective(outer, False),
  "selective, einsum": selective(
    lambda step, a: jnp.einsum("tbd,dn->tbdn", step, a), False
  ),
  "gated": (gated, DIAGONAL, ("a",)),
  "diagonal": plain(lambda p, h, x: p["a"] * h + x @ p["w"] + p["bias"]),
  "independent": plain(
    lambda p, h, x: jax.nn.relu(p["a"] * h + x @ p["w"] + p["bias"])
  ),
  "leaky": plain(
    lambda p, h, x: (
      (1 - jax.nn.sigmoid(p["a"])) * h + jnp.tanh(h @ p["w"] + x + p["bias"])
    )
  ),
  "euler": plain(
    lambda p, h, x: h + 0.1 * (jnp.tanh(x @ p["w"] + p["bias"]) - p["a"] * h)
  ),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_what_multiplies_the_carry_of_a_loop_is_named(name):
  model, params, named = RECURRENT[name]
  graph = signal_graph(model, params, SERIES)
  assert graph.not_followed == dict.fromkeys(named, "scan")
  assert {op.path for op in graph}.isdisjoint(named)
  assert "bias" in graph.elementwise


AT_ONCE = {
  "parameter": at_once(lambda p, x: jnp.broadcast_to(p["a"], x.shape)),
  "computed": at_once(lambda p, x: jnp.broadcast_to(jnp.exp(-p["a"]), x.shape)),
  "selective": at_once(lambda p, x: jnp.exp(x * p["a"])),
  "complex": at_once(
    lambda p, x: jnp.broadcast_to(jnp.exp(1j * p["a"]), x.shape)
  ),
  "product": (lambda p, x: jnp.cumprod(p["a"] * x, 0), DIAGONAL, ("a",)),
  "segments": (summed_decay, DIAGONAL, ("a",)),
  "matrices": (matrices, DIAGONAL, ("w",)),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_powers_without_a_loop_are_named(name):
  model, params, named = AT_ONCE[name]
  graph = signal_graph(model, params, SERIES)
  assert {*graph.not_followed} == {*named}
  assert {*graph.elementwise} <= {"bias"}


def test_gates_by_an_associative_scan_are_signals():
  model, params, _ = at_once(lambda p, x: jax.nn.sigmoid(x @ p["w"] + p["a"]))
  graph = signal_graph(model, params, SERIES)
  assert (graph.not_followed, graph.elementwise) == ({}, ("a", "bias"))


def test_every_other_feature_as_a_gate_is_no_power():
  gate = lambda h: h[..., ::2] * h[..., 1::2]
  fn = lambda p, x: gate(x @ p["w"] * p["a"])
  graph = signal_graph(fn, DIAGONAL, X)
  assert (graph.not_followed, graph.elementwise) == ({}, ("a",))


def test_in_a_while_loop_as_well():
  step = lambda p: lambda c: (c[0] + 1, p["a"] * c[1] + jnp.tanh(c[1] @ p["w"]))
  fn = lambda p, x: lax.while_loop(lambda c: c[0] < 4, step(p), (0, x))[1]
  assert signal_graph(fn, DIAGONAL, X).not_followed == {"a": "while"}


KERNELS = normal(3, IN, IN)
LAYERS = {
  "scaled branch": lambda h, w, p: h + w[1] * jnp.tanh(h @ w[0]),
  "scaled stream": lambda h, w, p: w[1] * h + jnp.tanh(h @ w[0]),
  "one norm for all": lambda h, w, p: (
    jax.nn.standardize(h + jnp.tanh(h @ w[0])) * p["a"] + p["bias"]
  ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_scales_of_layers_are_no_recurrence(name):
  layer = lambda p: lambda h, w: (LAYERS[name](h, w, p), None)
  fn = lambda p, x: lax.scan(layer(p), x, (p["w"], p["scales"]))[0]
  params = {**DIAGONAL, "w": KERNELS, "scales": np.ones((3, IN), "f")}
  graph = signal_graph(fn, params, X)
  assert graph.not_followed == {}


def test_gates_are_signals():
  def cell(p, h, x):
    forget, new = (x @ p["w"] + h @ p["w"].T + p["bias"] for _ in range(2))
    return jax.nn.sigmoid(forget) * h + jax.nn.sigmoid(new) * jnp.tanh(new)

  graph = signal_graph(over_time(cell), DIAGONAL, SERIES)
  assert (graph.not_followed, graph.elementwise) == ({}, ("bias",))


def test_a_kernel_below_many_layers_is_found():
  def model(p, x):
    h = x
    for _ in range(400):
      h = h + jnp.tanh(h)
    return jax.vmap(lambda x, c: x @ of(p, c))(h, jnp.tanh(h @ p["w"])[:, :3])

  assert {*signal_graph(model, PARAMS, X).not_followed} == {"made"}
