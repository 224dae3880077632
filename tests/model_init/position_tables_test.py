"""Tables of positions are drawn and calibrated as those of tokens are.

Each is looked up row by row, so a row of n features has unit variance where
its entries have; their mean square is 1 ± √(2/entries) of a normal.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import KEY, drawn

import initjax

WORDS, LENGTH, WIDTH = 64, 16, 64
IDS = np.arange(4 * LENGTH, dtype=np.int32).reshape(4, LENGTH) * 7 % WORDS


class Linen(nn.Module):
  """The embeddings of GPT-2 and one block."""

  @nn.compact
  def __call__(self, ids):
    tokens = nn.Embed(WORDS, WIDTH, name="wte")
    x = tokens(ids) + nn.Embed(LENGTH, WIDTH, name="wpe")(
      jnp.arange(ids.shape[1])
    )
    hidden = nn.relu(nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm()(x)))
    x = x + nn.Dense(WIDTH, name="down")(hidden)
    return tokens.attend(nn.LayerNorm()(x))


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.wte = nnx.Embed(WORDS, WIDTH, rngs=rngs)
    self.wpe = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
    self.up = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

  def __call__(self, ids):
    return self.up(self.wte(ids) + self.wpe(jnp.arange(ids.shape[1])))


def equinox_model():
  eqx = pytest.importorskip("equinox")
  tables = [eqx.nn.Embedding(n, WIDTH, key=KEY) for n in (WORDS, LENGTH)]

  def fn(params, ids):
    wte, wpe, up = params
    positions = jnp.arange(ids.shape[1])
    one = lambda ids: jax.vmap(wte)(ids) + jax.vmap(wpe)(positions)
    return jax.vmap(jax.vmap(up))(jax.vmap(one)(ids))

  return fn, (*tables, eqx.nn.Linear(WIDTH, WIDTH, key=KEY))


def model(framework):
  if framework == "linen":
    shapes = jax.eval_shape(Linen().init, KEY, IDS)
    return initjax.functional(Linen(), drawn(shapes))
  if framework == "nnx":
    return initjax.functional(Nnx(nnx.Rngs(0)))
  return equinox_model()


@pytest.mark.parametrize("framework", ["linen", "nnx", "equinox"])
def test_positions_are_a_table_in_every_framework(framework):
  fn, params = model(framework)
  plan = initjax.plan_init(fn, params, IDS, tied="first")
  tokens, positions, up, *_ = plan.rows
  for row, fed_by in ((tokens, "indices"), (positions, "positions")):
    assert (row.kind, row.fan_in, row.fan_out) == ("embedding", 1, WIDTH)
    assert (row.std, row.why, row.fed_by) == (1.0, "", fed_by)
  # two tables of unit variance, or that sum normalized
  assert up.second_moment == (1.0 if framework == "linen" else 2.0)


@pytest.mark.parametrize("way", ["auto_init", "calibrate"])
def test_logits_of_tied_tokens_have_unit_size_and_positions_that_of_tokens(way):
  """A row that is not the token's own is independent of what multiplies it.

  Its squared logits have mean 1 after a norm, and relative variance 2 at most
  where all samples agree: over 64 rows a standard error of √(2/64).
  """
  fn, params = model("linen")
  if way == "auto_init":
    params = initjax.auto_init(KEY, fn, params, IDS)
  else:
    params, info = initjax.calibrate(fn, params, IDS)
    assert {reason for _, _, reason in info.skipped} == {
      "table that is read out: one factor, from its readout, also for "
      "positions that are added to its rows"
    }
  logits = np.asarray(fn(params, IDS))
  others = np.arange(WORDS) != IDS[..., None]
  error = np.sqrt(2 / WORDS)
  assert abs((logits[others] ** 2).mean() - 1) < 4 * error
  tables = [params["params"][name]["embedding"] for name in ("wte", "wpe")]
  tokens, positions = (float((table**2).mean()) for table in tables)
  # of 256 ids that are 64 words equally often, and of all positions
  error = 0 if way == "calibrate" else np.sqrt(2 / tables[1].size)
  assert abs(positions / tokens - 1) < 5 * error + 1e-5


@pytest.mark.slow
def test_a_gpt_is_initialized_calibrated_and_healthy():
  fn, params = model("linen")
  unit = {"tied": "first", "check": False}  # logits of size WIDTH are warned of
  params = initjax.auto_init(KEY, fn, params, IDS, **unit)
  report = initjax.diagnose(fn, params, IDS)
  assert [op.path.split("/")[-2] for op in report.graph.ops] == [
    "wte", "wpe", "up", "down", "wte"
  ]  # fmt: skip
  assert "no problems found in 5 operations" in str(report)
  rows = LENGTH * WIDTH
  found = 2.0 ** float(report.forward[1].log2_second_moment)
  assert abs(found - 1) < 4 * np.sqrt(2 / rows)
  changed, info = initjax.calibrate(fn, params, IDS, **unit)
  exact = initjax.measure(fn, changed, IDS).forward
  ones = [2.0 ** float(each.log2_second_moment) for each in exact[:4]]
  np.testing.assert_allclose(ones, 1, rtol=1e-4)
  assert [path for path, *_ in info.skipped] == [report.graph.ops[0].path]


def test_the_gradient_of_positions_adds_up_over_samples_and_is_not_predicted():
  shape = jax.ShapeDtypeStruct
  fn = lambda p, i: (p["wte"][i] + p["wpe"][jnp.arange(LENGTH)]) @ p["up"]
  rng = np.random.default_rng(0)
  params = {
    name: rng.normal(size=(size, WIDTH)).astype("f") / WIDTH**half
    for name, size, half in (
      ("wte", WORDS, 0), ("wpe", LENGTH, 0), ("up", WIDTH, 0.5)
    )
  }  # fmt: skip
  ids = shape(IDS.shape, jnp.int32)
  found = initjax.predict(fn, params, ids)
  assert np.isfinite(found.forward).all()
  assert np.isnan(found.backward).tolist() == [False, True, False]
