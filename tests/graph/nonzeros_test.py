"""Sums over one-hot rows, bags of them and what they are joined to.

Terms are counted: of an output, the entries of a kernel's Jacobian that are not
0. Each id is looked up once in a bag, so that no two terms are one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import KEY, normal

import initjax
from initjax.graph import signal_graph

WORDS, OUT = 9, 4
IDS = np.array([[0, 2, 5], [1, 3, 8]], np.int32)
WEIGHTS = abs(normal(2, 3)) + 1
X = normal(2, 6)
PARAMS = {"E": normal(WORDS, OUT), "F": normal(2 * WORDS, OUT)}
JOINED = {"G": normal(6 + WORDS, OUT)}
WINDOW = {"C": normal(3, WORDS, OUT)}


def rows(ids):
  return jax.nn.one_hot(ids, WORDS)


def scattered(i, w):
  return jax.vmap(lambda i, w: jnp.zeros(WORDS).at[i].add(w))(i, w)


def kept(x):
  return jnp.where(jax.random.bernoulli(KEY, 0.5, x.shape), 2 * x, 0)


def convolved(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
  )


BAGS = {
  "sum": (lambda p, i, w, x: rows(i).sum(1) @ p["E"], PARAMS),
  "mean": (lambda p, i, w, x: rows(i).mean(1) @ p["E"], PARAMS),
  "largest": (lambda p, i, w, x: rows(i).max(1) @ p["E"], PARAMS),
  "clipped": (
    lambda p, i, w, x: jnp.clip(rows(i).sum(1), 0, 1) @ p["E"],
    PARAMS,
  ),
  "any": (lambda p, i, w, x: (rows(i).sum(1) > 0).astype("f") @ p["E"], PARAMS),
  "flat": (lambda p, i, w, x: rows(i[:, :2]).reshape(2, -1) @ p["F"], PARAMS),
  "tables apart": (
    lambda p, i, w, x: jnp.einsum(
      "bln,lnd->bd", rows(i[:, :2]), p["F"].reshape(2, WORDS, -1)
    ),
    PARAMS,
  ),
  "scan": (
    lambda p, i, w, x: lax.scan(
      lambda h, row: (h, row.sum(0) @ p["E"]), 0.0, rows(i)
    )[1],
    PARAMS,
  ),
  "set": (
    lambda p, i, w, x: scattered(i, jnp.ones_like(w)) @ p["E"],
    PARAMS,
  ),
}
ONE = {
  "identity": (lambda p, i, w, x: jnp.eye(WORDS)[i] @ p["E"], PARAMS),
  "closed over": (
    lambda p, i, w, x: jnp.asarray(np.eye(WORDS, dtype="f"))[i] @ p["E"],
    PARAMS,
  ),
  "by hand": (
    lambda p, i, w, x: (rows(i)[..., None] * p["E"]).sum(-2),
    PARAMS,
  ),
}
OTHERS = {
  "weighted": (
    lambda p, i, w, x: (rows(i) * w[..., None]).sum(1) @ p["E"],
    PARAMS,
  ),
  "combined": (
    lambda p, i, w, x: jnp.einsum("bl,bln->bn", w, rows(i)) @ p["E"],
    PARAMS,
  ),
  "compared": (
    lambda p, i, w, x: (
      jnp.where(i[..., None] == jnp.arange(WORDS), w[..., None], 0.0).sum(1)
      @ p["E"]
    ),
    PARAMS,
  ),
  "added": (lambda p, i, w, x: scattered(i, w) @ p["E"], PARAMS),
  "padded mean": (
    lambda p, i, w, x: rows(i).sum(1) / w.sum(1, keepdims=True) @ p["E"],
    PARAMS,
  ),
  "joined": (
    lambda p, i, w, x: jnp.concatenate([x, rows(i[:, 0])], -1) @ p["G"],
    JOINED,
  ),
  "joined first": (
    lambda p, i, w, x: jnp.tanh(jnp.hstack([rows(i[:, 0]), x])) @ p["G"],
    JOINED,
  ),
  "convolved": (lambda p, i, w, x: convolved(rows(i), p["C"]), WINDOW),
  "smoothed": (lambda p, i, w, x: (rows(i) + 0.1) @ p["E"], PARAMS),
  "ordinal": (
    lambda p, i, w, x: 1.0 * (10 + i[..., None] >= jnp.arange(WORDS)) @ p["E"],
    PARAMS,
  ),
}


def counted(fn, params):
  """Entries of kernels that an output depends on, at most."""
  flat = lambda p: fn(p, IDS, WEIGHTS, X).ravel()
  found = jax.tree.leaves(jax.jit(jax.jacobian(flat))(params))
  return max(
    (np.asarray(x) != 0).reshape(len(x), -1).sum(1).max() for x in found
  )


@pytest.mark.parametrize("name", {**BAGS, **ONE, **OTHERS})
def test_terms_that_are_zero_are_not_counted(name):
  fn, params = {**BAGS, **ONE, **OTHERS}[name]
  (op,) = signal_graph(fn, params, IDS, WEIGHTS, X).ops
  assert op.fan_in == counted(fn, params)
  assert (op.kind == "embedding") == (name not in OTHERS)
  assert op.fan_out == OUT * (3 if name == "convolved" else 1)


WIDE = 512
DRAWN = [*BAGS, *ONE, "joined", "convolved"]


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_has_unit_size(name):
  """Given the inputs, entries are independent Gaussians: 1 ± √(2/n)."""
  fn, params = {**BAGS, **ONE, **OTHERS}[name]
  shapes = {k: np.zeros((*v.shape[:-1], WIDE), "f") for k, v in params.items()}
  inputs = IDS, WEIGHTS, jnp.sign(X)
  params = initjax.auto_init(KEY, fn, shapes, *inputs, distribution="normal")
  y = np.asarray(fn(params, *inputs))
  assert abs(np.mean(y**2) - 1) < 4 * (2 / y.size) ** 0.5


def test_products_of_signals_count_terms_as_well():
  """Tokens are combined with what two of eight experts made of them."""

  def combine(p, x, i):
    chosen = jax.nn.one_hot(i, 8) * jax.nn.softmax(x)[:, :1, None]
    experts = jnp.einsum("bd,edf->bef", x, p["w"])
    return jnp.einsum("be,bef->bf", chosen.sum(1), experts)

  graph = signal_graph(combine, {"w": normal(8, 6, 5)}, X, IDS[:, :2])
  (op,), (product,) = graph.ops, graph.products
  assert (op.fan_in, product.fan_in) == (6, 2)
