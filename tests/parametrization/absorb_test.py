"""Constant factors that leaves take over: attention's 1/d, tied readouts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scaled_models as models

import initjax

HALF = pytest.approx(0.5)  # √(d₀/d), for heads that are four times as wide


def plan_of(model, shapes, inputs=models.TOKENS, wide=64, base=16):
  return initjax.mup(
    model, shapes(wide), inputs, base=(model, shapes(base), inputs)
  )


def absorbed(plan):
  """What is not 1."""
  found = {row.path: row.absorbed for row in plan.rows}
  return {path: c for path, c in found.items() if np.any(c != 1)}


def test_queries_and_their_biases_take_1_over_d():
  plan = plan_of(models.gpt, models.gpt_shapes)
  names = [f"blocks/{i}/{q}" for i in (0, 1) for q in ("q", "q_bias")]
  assert absorbed(plan) == dict.fromkeys(names, HALF)
  assert not plan.incomplete


def test_heads_that_do_not_grow_need_none():
  def model(params, tokens):
    return models.gpt(params, tokens, params["embed"].shape[1] // 8)

  assert not absorbed(plan_of(model, models.gpt_shapes))


X = models.shape(2, 6, 16)


def attention(power, prepare=lambda params, q, k: (q, k)):
  """One head of all features, its scores divided by d^power."""

  def model(params, x):
    q, k, v = (x @ params["in"] @ params[name] for name in "qkv")
    q, k = prepare(params, q, k)
    return models.attend(
      *(y[..., None, :] for y in (q, k, v)), q.shape[-1] ** -power
    )

  def shapes(n, *more):
    found = {name: models.shape(n, n) for name in "qkv"}
    return (
      found | {"in": models.shape(16, n)} | {m: models.shape(n) for m in more}
    )

  return model, shapes


def test_what_the_model_divides_by_counts():
  assert absorbed(plan_of(*attention(0.5), X)) == {"q": HALF}
  assert absorbed(plan_of(*attention(0.0), X)) == {"q": pytest.approx(0.25)}
  assert not absorbed(plan_of(*attention(1.0), X))


def test_it_may_divide_queries_as_well():
  def divided(params, q, k):
    return q * q.shape[-1] ** -0.25, k / jnp.sqrt(q.shape[-1]) ** 0.5

  assert absorbed(plan_of(*attention(0.0, divided), X)) == {"q": HALF}


def test_rotary_positions_after_that_do_not_hide_it():
  def divided(params, q, k):
    q = q * q.shape[-1] ** -0.5
    return rotated(q[..., None, :])[..., 0, :], k

  assert absorbed(plan_of(*attention(0.0, divided), X)) == {"q": HALF}


def unit(x, power):
  return (
    x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True)) / x.shape[-1] ** power
  )


def test_queries_and_keys_of_length_1_need_none():
  lengths = lambda params, q, k: (unit(q, 0.5), unit(k, 0.5))
  assert not absorbed(plan_of(*attention(0.0, lengths), X))


def test_normalized_queries_take_it_in_their_scale_and_offset():
  def normed(params, q, k):
    q = models.norm(q, params["scale"], params["bias"])
    return q, models.norm(k, params["scale_k"], params["bias_k"])

  model, shapes = attention(0.5, normed)
  shapes = functools.partial(
    lambda n: attention(0.5)[1](n, "scale", "bias", "scale_k", "bias_k")
  )
  assert absorbed(plan_of(model, shapes, X)) == {"scale": HALF, "bias": HALF}


def test_where_nothing_can_take_it_the_line_is_given():
  normed = lambda params, q, k: (unit(q, 0.0), unit(k, 0.0))
  plan = plan_of(*attention(0.5, normed), X)
  assert not absorbed(plan)
  (line,) = plan.incomplete
  assert "write scores = scores * 0.5 in the model" in line
  assert "incomplete: " in str(plan)


def test_queries_that_are_used_elsewhere_leave_it_to_keys():
  def model(params, x):
    h = x @ params["in"]
    q, k = h @ params["q"], h @ params["k"]
    one = lambda y: y[..., None, :]
    return models.attend(one(q), one(k), one(q), q.shape[-1] ** -0.5)

  _, shapes = attention(0.5)
  plan = plan_of(
    model, lambda n: {k: v for k, v in shapes(n).items() if k != "v"}, X
  )
  assert absorbed(plan) == {"k": HALF}


def rotated(x):
  """Rotary positions: x·cos + rotate(x)·sin."""
  angles = np.arange(x.shape[1])[:, None] * np.ones(x.shape[-1])
  one, other = jnp.split(x, 2, axis=-1)
  turned = jnp.concatenate([-other, one], axis=-1)
  return x * np.cos(angles)[:, None] + turned * np.sin(angles)[:, None]


@pytest.mark.parametrize("layout", ["parts", "heads"])
def test_a_fused_kernel_of_a_scan_takes_it_on_its_part(layout):
  def layer(h, params):
    h = h @ params["qkv"] + params["qkv_bias"]
    if layout == "parts":
      q, k, v = (models.heads(y, h.shape[-1] // 6) for y in jnp.split(h, 3, -1))
    else:  # each head has its queries, keys and values side by side
      h = h.reshape(*h.shape[:2], 2, 3, -1)
      q, k, v = h[..., 0, :], h[..., 1, :], h[..., 2, :]
    q, k = rotated(q), rotated(k)
    return models.attend(q, k, v, q.shape[-1] ** -0.5), None

  def model(params, x):
    return jax.lax.scan(layer, x @ params["in"], params["layers"])[0]

  def shapes(n):
    layers = {"qkv": models.shape(3, n, 3 * n)}
    layers["qkv_bias"] = models.shape(3, 3 * n)
    return {"in": models.shape(16, n), "layers": layers}

  plan = plan_of(model, shapes, X)
  kernel, bias = (plan[f"layers/{n}"].absorbed for n in ("qkv", "qkv_bias"))
  order = (3, 64) if layout == "parts" else (2, 3, 32)
  parts = bias.reshape(order)
  queries = parts[0] if layout == "parts" else parts[:, 0]
  others = parts[1:] if layout == "parts" else parts[:, 1:]
  assert np.all(queries == 0.5)
  assert np.all(others == 1)
  np.testing.assert_array_equal(kernel, bias[:, None])


def test_a_fused_convolution_takes_it_on_its_features():
  def model(w, x):
    names = ("NWC", "WIO", "NWC")
    y = jax.lax.conv_general_dilated(
      x, w["qkv"], (1,), "SAME", dimension_numbers=names
    )
    q, k, v = (y[..., None, :] for y in jnp.split(y, 3, -1))
    return models.attend(q, k, v, q.shape[-1] ** -0.5) @ w["out"]

  def shapes(n):
    return {"qkv": models.shape(3, 16, 3 * n), "out": models.shape(n, 2)}

  found = absorbed(plan_of(model, shapes, X))
  assert set(found) == {"qkv"}
  expected = np.where(np.arange(192) < 64, 0.5, 1.0)
  np.testing.assert_array_equal(found["qkv"], expected[None, None])


def test_grouped_queries_of_a_scan_over_layers():
  def layer(h, w):
    q = jnp.einsum("btd,dghk->btghk", h, w["q"])
    k, v = jnp.split(jnp.einsum("btd,dgk->btgk", h, w["kv"]), 2, axis=-1)
    scores = jnp.einsum("btghk,bsgk->bghts", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bghts,bsgk->btghk", jax.nn.softmax(scores), v)
    return h + jnp.einsum("btghk,ghkd->btd", mixed, w["o"]), None

  def model(params, x):
    return jax.lax.scan(layer, x @ params["in"], params["layers"])[0]

  def shapes(n):
    sizes = {"q": (3, n, 2, 2, n // 4), "kv": (3, n, 2, n // 2)}
    sizes["o"] = (3, 2, 2, n // 4, n)
    layers = {name: models.shape(*size) for name, size in sizes.items()}
    return {"in": models.shape(16, n), "layers": layers}

  plan = plan_of(model, shapes, X)
  assert absorbed(plan) == {"layers/q": HALF}
  assert plan["layers/q"].role == "hidden"


def test_linen_attention_as_it_is():
  class Model(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, mask):
      h = nn.Dense(self.width)(x)
      attend = nn.MultiHeadDotProductAttention(2, normalize_qk=True)
      return nn.Dense(3)(h + attend(nn.LayerNorm()(h), mask=mask))

  mask = jax.ShapeDtypeStruct((2, 1, 6, 6), bool)

  def of(width):
    model = Model(width)
    init = functools.partial(model.init, jax.random.key(0))
    return model, jax.eval_shape(init, X, mask), X, mask

  plan = initjax.mup(*of(64), base=of(16))
  found = absorbed(plan)
  assert set(found.values()) == {0.5}
  (path,) = found
  assert path.endswith("query_ln/scale")


def test_a_tied_readout_takes_1_over_r_in_the_norm_before():
  shapes = functools.partial(models.gpt_shapes, tied=True)
  plan = plan_of(models.gpt, shapes)
  assert plan["embed"].role == "input"
  found = {path: c for path, c in absorbed(plan).items() if "/" not in path}
  assert found == {"scale": 0.25, "bias": 0.25}


def test_a_tied_readout_of_a_norm_that_feeds_more_is_incomplete():
  def model(params, tokens):
    h = params["embed"][tokens]
    h = models.norm(h, params["scale"], params["bias"])
    return h @ params["embed"].T, h @ params["value"]

  def shapes(n):
    found = {name: models.shape(n) for name in ("scale", "bias")}
    found["value"] = models.shape(n, 1)
    return found | {"embed": models.shape(models.VOCABULARY, n)}

  plan = plan_of(model, shapes)
  assert not absorbed(plan)
  assert "write logits = logits * 0.25" in plan.incomplete[0]


@pytest.mark.parametrize("one", [0.0, 1.0])
def test_embeddings_multiplied_by_root_d(one):
  """As in Gemma, which adds 1 to its scales."""

  def model(params, tokens):
    h = params["embed"][tokens] * params["embed"].shape[1] ** 0.5
    return models.norm(h, one + params["scale"], 0.0) @ params["embed"].T

  def shapes(n):
    found = {"scale": models.shape(n)}
    return found | {"embed": models.shape(models.VOCABULARY, n)}

  plan = plan_of(model, shapes)
  # √d grows × 2: embeddings start at ½, and so the readout has half of 1/4
  assert absorbed(plan) == {"embed": HALF, "scale": HALF}
  assert plan["scale"].offset == one
  assert not plan.incomplete


def test_what_is_absorbed_is_what_a_multiplier_does():
  shapes = functools.partial(models.gpt_shapes, tied=True)
  plan, params = plan_of(models.gpt, shapes), models.drawn(shapes(64))
  leaves, structure = jax.tree.flatten(params)
  taken = jax.tree.unflatten(
    structure,
    [
      np.asarray(leaf + 0.1) * row.absorbed  # so that biases are not 0
      for leaf, row in zip(leaves, plan.rows, strict=True)
    ],
  )
  given = jax.tree.map(lambda leaf: leaf + 0.1, params)
  tokens = np.arange(12).reshape(2, 6) % models.VOCABULARY
  explicit = models.gpt(given, tokens, score=0.5, logits=0.25)
  np.testing.assert_allclose(models.gpt(taken, tokens), explicit, rtol=1e-4)


def test_means_over_features_need_none():
  def model(params, x):  # scores of features, summed over positions
    h = x @ params["in"]
    q, k, v = (h @ params[name] for name in "qkv")
    scores = jnp.einsum("btd,bte->bde", q, k) / x.shape[1]
    return jnp.einsum("bde,bte->btd", jax.nn.softmax(scores), v)

  assert not absorbed(plan_of(model, attention(0.5)[1], X))


def test_softmax_in_chunks_of_keys():
  def model(params, x):
    h = x @ params["in"]
    q, k, v = (h @ params[name] for name in "qkv")
    d = q.shape[-1]
    chunks = [y.reshape(2, 3, 2, d).swapaxes(0, 1) for y in (k, v)]

    def body(carry, chunk):
      top, total, mixed = carry
      scores = jnp.einsum("btd,bsd->bts", q, chunk[0]) * d**-0.5
      new = jnp.maximum(top, scores.max(-1))
      weights, fade = jnp.exp(scores - new[..., None]), jnp.exp(top - new)
      own = jnp.einsum("bts,bsd->btd", weights, chunk[1])
      total = total * fade + weights.sum(-1)
      return (new, total, mixed * fade[..., None] + own), None

    start = jnp.full((2, 6), -1e30), jnp.zeros((2, 6)), jnp.zeros((2, 6, d))
    (_, total, mixed), _ = jax.lax.scan(body, start, tuple(chunks))
    return mixed / total[..., None]

  assert absorbed(plan_of(model, attention(0.5)[1], X)) == {"q": HALF}


def test_features_of_linear_attention_take_no_factor():
  def model(params, x):
    h = x @ params["in"]
    q, k, v = (h @ params[name] for name in "qkv")
    sums = jnp.einsum("btd,bte->bde", jax.nn.elu(k) + 1, v)
    return (jax.nn.elu(q) + 1) @ sums

  plan = plan_of(model, attention(0.5)[1], X)
  assert not absorbed(plan)
  assert "write the product = the product * 0.25" in plan.incomplete[0]
