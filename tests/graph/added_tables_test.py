"""Tables of positions that are added whole or in part.

How many are added is seen in derivatives: each of a table's entries moves one
feature of one token, in all samples alike.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import KEY, normal

import initjax
from initjax.graph import signal_graph

BATCH, TIME, WIDTH = 3, 6, 8
IDS = np.arange(BATCH * TIME, dtype=np.int32).reshape(BATCH, TIME) % 11
IMAGES = normal(BATCH, 4, 6, 3)
WORDS = normal(11, WIDTH)
WINDOW = normal(2, 2, 3, WIDTH)
KERNELS = normal(4, WIDTH, WIDTH)


def patches(images):
  return lax.conv_general_dilated(
    images, WINDOW, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def with_class(images):
  tokens = patches(images).reshape(BATCH, TIME, WIDTH)
  return jnp.concatenate([jnp.zeros((BATCH, 1, WIDTH)), tokens], 1)


def layers(table, e, kernels):
  layer = lambda h, w: (jnp.tanh((h + w[1]) @ w[0]), None)
  return lax.scan(layer, e, (kernels, table))[0]


TABLES = {
  "part": (lambda p, e, x: e + p[:TIME], (9, WIDTH)),
  "one sample": (lambda p, e, x: e[0] + p[:TIME], (9, WIDTH)),
  "dynamic slice": (
    lambda p, e, x: e + lax.dynamic_slice(p, (1, 0), (TIME, WIDTH)),
    (9, WIDTH),
  ),
  "with an axis of samples": (
    lambda p, e, x: e + p,
    (1, TIME, WIDTH),
  ),
  "vmap": (
    lambda p, e, x: jax.vmap(lambda e: e + p)(e),
    (TIME, WIDTH),
  ),
  "of features": (
    lambda p, e, x: jnp.swapaxes(jnp.swapaxes(e, 1, 2) + p, 1, 2),
    (WIDTH, TIME),
  ),
  "images": (
    lambda p, e, x: patches(x).reshape(BATCH, TIME, WIDTH) + p,
    (1, TIME, WIDTH),
  ),
  "images in two axes": (lambda p, e, x: patches(x) + p, (2, 3, WIDTH)),
  "a token more": (lambda p, e, x: with_class(x) + p, (1, TIME + 1, WIDTH)),
  "after a layer": (
    lambda p, e, x: jnp.tanh(e @ KERNELS[0]) @ KERNELS[1] + 2 * p,
    (TIME, WIDTH),
  ),
  "at each layer": (
    lambda p, e, x: layers(p, e, KERNELS),
    (4, TIME, WIDTH),
  ),
}


def graph_of(model, table):
  fn = lambda p, ids, x: model(p["t"], p["words"][ids], x)
  return signal_graph(fn, {"t": table, "words": WORDS}, IDS, IMAGES)


@pytest.mark.parametrize("name", TABLES)
def test_a_parameter_that_tells_tokens_apart_is_a_table(name):
  model, shape = TABLES[name]
  graph = graph_of(model, normal(*shape))
  (op,) = (op for op in graph.ops if op.path == "t")
  assert (op.kind, op.fan_in, op.fan_out) == ("embedding", 1, WIDTH)
  assert (op.usual_feed.reason, graph.elementwise) == ("positions", ())
  features = shape.index(WIDTH)
  assert op.out_axes == (features,)
  assert op.repeats == ((4,) if name == "at each layer" else ())


def beside(table, e):
  """Its rows before the tokens of each sample."""
  rows = jnp.broadcast_to(table, (BATCH, *table.shape[-2:]))
  return jnp.concatenate([rows, e], 1)


def heads(x):
  return x.reshape(*x.shape[:-1], 2, WIDTH // 2)


JOINED = {
  "class token": (lambda p, e, x: beside(p, e), (1, 1, WIDTH)),
  "tiled": (
    lambda p, e, x: jnp.concatenate([jnp.tile(p, (BATCH, 1, 1)), e], 1),
    (1, 1, WIDTH),
  ),
  "of one sample": (
    lambda p, e, x: jax.vmap(lambda e: jnp.concatenate([p, e]))(e),
    (1, WIDTH),
  ),
  "prompt": (lambda p, e, x: beside(p, e), (4, WIDTH)),
  "prefix of keys": (
    lambda p, e, x: jnp.concatenate(
      [
        jnp.broadcast_to(heads(p), (BATCH, 4, 2, 4)),
        heads(e @ KERNELS[0]),
      ],
      1,
    ),
    (4, WIDTH),
  ),
  "more features": (
    lambda p, e, x: jnp.concatenate(
      [e, jnp.broadcast_to(p, (BATCH, TIME, WIDTH))], -1
    ),
    (TIME, WIDTH),
  ),
}


@pytest.mark.parametrize("name", JOINED)
def test_rows_beside_tokens_are_a_table(name):
  model, shape = JOINED[name]
  graph = graph_of(model, normal(*shape))
  (op,) = (op for op in graph.ops if op.path == "t")
  assert (op.kind, op.fan_in, op.fan_out) == ("embedding", 1, WIDTH)
  assert (op.usual_feed.reason, graph.elementwise) == ("positions", ())


def test_class_token_and_positions_may_be_one_table_of_two():
  def model(p, ids):
    table = jnp.concatenate([p["first"], p["rest"]])
    return beside(p["cls"], p["words"][ids]) + table

  params = {"cls": normal(1, WIDTH), "first": normal(1, WIDTH)}
  params |= {"rest": normal(TIME, WIDTH), "words": WORDS}
  graph = signal_graph(model, params, IDS)
  assert {op.path: op.kind for op in graph} == dict.fromkeys(
    ("words", "cls", "first, rest"), "embedding"
  )


def test_rows_and_columns_are_two_tables():
  def model(p, x):
    both = (p["row"][:, None] + p["column"]).reshape(TIME, WIDTH)
    return patches(x).reshape(BATCH, TIME, WIDTH) + both + p["bias"]

  params = {"row": normal(2, WIDTH), "column": normal(3, WIDTH)}
  params["bias"] = normal(WIDTH)
  graph = signal_graph(model, params, IMAGES)
  found = {op.path: op.kind for op in graph.ops if op.paths}
  assert found == dict.fromkeys(("row", "column"), "embedding")
  assert graph.elementwise == ("bias",)


def bias_of_scores(p, e, x):
  scores = jnp.einsum("btc,bsc->bts", e @ KERNELS[0], e @ KERNELS[1])
  return jax.nn.softmax(scores / 3 + p) @ e


BIASES = {
  "of features": (lambda p, e, x: e @ KERNELS[0] + p, (1, 1, WIDTH)),
  "of heads": (
    lambda p, e, x: (e @ KERNELS[0]).reshape(BATCH, TIME, 2, 4) + p,
    (2, 4),
  ),
  "of mixed tokens": (
    lambda p, e, x: jnp.swapaxes(e, 1, 2) @ np.ones((TIME, 5), "f") + p,
    (5,),
  ),
  "of positions that share features": (
    lambda p, e, x: e @ KERNELS[0] + p,
    (TIME, 1),
  ),
  "of one kernel each": (
    lambda p, e, x: jnp.einsum("btc,tcd->btd", e, normal(TIME, WIDTH, 5)) + p,
    (TIME, 5),
  ),
  "joined as features": (
    lambda p, e, x: jnp.concatenate(
      [e @ KERNELS[0], jnp.broadcast_to(p, (BATCH, TIME, 5))], -1
    ),
    (5,),
  ),
  "of layers": (
    lambda p, e, x: lax.scan(
      lambda h, w: (jnp.tanh(h @ w[0] + w[1]), None), e, (KERNELS, p)
    )[0],
    (4, WIDTH),
  ),
  "of scores": (bias_of_scores, (TIME, TIME)),
}


@pytest.mark.parametrize("name", BIASES)
def test_what_is_the_same_for_all_tokens_is_a_bias(name):
  model, shape = BIASES[name]
  assert graph_of(model, normal(*shape)).elementwise == ("t",)


def test_what_starts_at_zero_is_a_bias_where_that_is_known():
  model, shape = TABLES["images in two axes"]
  assert graph_of(model, np.zeros(shape, "f")).elementwise == ("t",)
  token, rows = JOINED["class token"]
  assert graph_of(token, np.zeros(rows, "f")).elementwise == ("t",)
  abstract = jax.ShapeDtypeStruct(shape, jnp.float32)
  assert graph_of(model, abstract).elementwise == ()


# Learned queries


def attend(q, k, v):
  return jax.nn.softmax(jnp.einsum("bqc,btc->bqt", q, k) / 3) @ v


def by_probe(p, e):
  return jnp.tile(p["probe"][None], (BATCH, 1, 1)) @ p["q"]


QUERIES = {
  "probe": by_probe,
  "with a bias": lambda p, e: by_probe(p, e) + p["bias"],
  "of normalized latents": lambda p, e: (
    jnp.broadcast_to(jax.nn.standardize(p["probe"]), (BATCH, 2, WIDTH)) @ p["q"]
  ),
  "kernel first": lambda p, e: jax.vmap(lambda row: p["q"].T @ row)(p["probe"])[
    None
  ].repeat(BATCH, 0),
}
ATTENDING = {"q": KERNELS[0], "k": KERNELS[1], "v": KERNELS[2]}
ATTENDING |= {"probe": normal(2, WIDTH), "bias": normal(WIDTH), "words": WORDS}


@pytest.mark.parametrize("name", QUERIES)
def test_learned_queries_and_their_kernels_are_rows(name):
  def model(p, ids):
    e = p["words"][ids]
    return attend(QUERIES[name](p, e), e @ p["k"], e @ p["v"])

  graph = signal_graph(model, ATTENDING, IDS)
  assert {op.path: (op.kind, op.fan_in) for op in graph} == {
    "probe": ("embedding", 1),
    "words": ("embedding", 1),
    **dict.fromkeys("qkv", ("dot", WIDTH)),
  }
  assert graph.not_followed == {}


def test_queries_of_data_and_plain_low_rank_kernels_are_not_named():
  def model(p, ids):
    e = p["words"][ids]
    h = attend(e @ p["q"], e @ p["k"], e @ p["v"])
    probed = attend(jnp.stack([p["probe"]] * BATCH), h, h)
    return jax.nn.softmax(probed @ (p["q"] @ p["k"]))

  assert signal_graph(model, ATTENDING, IDS).not_followed == {}


def gpt(rows):
  def model(p, ids):
    h = p["wte"][ids] + rows(p["wpe"], ids.shape[1])
    return jnp.tanh(h @ p["up"] / 2) @ p["down"]

  return model


@pytest.mark.slow
def test_every_verb_treats_it_as_the_look_up_that_it_is():
  shapes = {"wte": (11, 64), "wpe": (9, 64), "up": (64, 64), "down": (64, 64)}
  params = {name: normal(*shape) for name, shape in shapes.items()}
  given = []
  for rows in (lambda w, n: w[:n], lambda w, n: w[jnp.arange(n)]):
    model = gpt(rows)
    stds = {
      row.path: row.std for row in initjax.plan_init(model, params, IDS).rows
    }
    drawn = initjax.auto_init(KEY, model, params, IDS)
    calibrated, info = initjax.calibrate(model, params, IDS)
    rows = initjax.measure(model, calibrated, IDS).to_records()
    sizes = {row["path"]: row["forward_size"] for row in rows}
    predicted = initjax.predict(model, params, IDS).forward
    given.append((stds, drawn, calibrated, sizes, sum(predicted)))
    assert not info.skipped
  jax.tree.map(lambda *each: np.testing.assert_allclose(*each, 1e-4), *given)
