"""Depth: factors of residual branches, and where they are absorbed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scaled_models as models

import initjax

M = 3.0


def plan_of(model, shapes, inputs=models.TOKENS, layers=6, base=2, **options):
  return initjax.mup(
    model, shapes(layers), inputs, base=(model, shapes(base), inputs), **options
  )


def gpt_shapes(layers):
  return models.gpt_shapes(16, layers)


def factors(row):
  c = row.absorbed
  return c, row.adam * c, row.eps / c, row.sgd * c * c


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_branches_follow_the_table(alpha):
  plan = plan_of(models.gpt, gpt_shapes, depth_exponent=alpha)
  inside = (1, M ** (alpha - 1), M**-alpha, M ** (2 * alpha - 1))
  last = (M**-alpha, 1 / M, 1, 1 / M)
  for number in range(6):
    for name in ("q", "k_bias", "up", "scale1", "bias2"):
      assert factors(plan[f"blocks/{number}/{name}"]) == pytest.approx(inside)
    for name in ("o", "down"):
      assert factors(plan[f"blocks/{number}/{name}"]) == pytest.approx(last)
  for name in ("embed", "scale", "bias", "out"):
    assert factors(plan[name]) == (1, 1, 1, 1)
  assert not plan.incomplete


X = models.shape(2, 6, 16)


def stack(layer):
  def model(params, x):
    x = x @ params["in"]
    x, _ = jax.lax.scan(lambda x, w: (layer(x, w), None), x, params["layers"])
    return x @ params["out"]

  def shapes(layers, **more):
    stacked = {"w": models.shape(layers, 16, 16)}
    for name in ("scale", "bias", "end_scale", "end_bias"):
      stacked[name] = models.shape(layers, 16)
    found = {"in": models.shape(16, 16), "out": models.shape(16, 5)}
    return found | {"layers": stacked}

  return model, shapes


def absorbed(plan):
  found = {row.path: row.absorbed for row in plan.rows}
  return {path: c for path, c in found.items() if c != 1}


def test_a_scan_over_layers_counts_its_repeats():
  def layer(x, w):
    return x + jnp.tanh(models.norm(x, w["scale"], w["bias"])) @ w["w"]

  plan = plan_of(*stack(layer), X)
  assert absorbed(plan) == {"layers/w": pytest.approx(1 / 3)}
  assert plan["layers/scale"].eps == pytest.approx(1 / 3)
  assert plan["layers/end_scale"].eps == 1  # not used


def test_a_norm_at_the_end_of_a_branch_absorbs():
  def layer(x, w):
    h = jnp.tanh(models.norm(x, w["scale"], w["bias"])) @ w["w"]
    return x + models.norm(h, w["end_scale"], w["end_bias"])

  ends = ("layers/end_scale", "layers/end_bias")
  plan = plan_of(*stack(layer), X)
  assert absorbed(plan) == dict.fromkeys(ends, pytest.approx(1 / 3))


def test_post_norm_is_refused():
  def layer(x, w):
    return models.norm(x + jnp.tanh(x) @ w["w"], w["scale"], w["bias"])

  model, shapes = stack(layer)
  with pytest.raises(ValueError, match="post-norm"):
    plan_of(model, shapes, X)
  with pytest.warns(UserWarning, match="nothing grows"):
    plan_of(model, shapes, X, layers=2)


def test_no_branch_and_more_layers_is_an_error():
  plain = stack(lambda x, w: jnp.tanh(x @ w["w"]))
  with pytest.raises(ValueError, match="no residual branch"):
    plan_of(*plain, X)


def test_parallel_branches_and_a_model_that_divides_by_depth():
  def layer(depth, x, w):
    h = models.norm(x, w["scale"], w["bias"])
    return x + (jnp.tanh(h) @ w["w"] + w["end_bias"]) / depth

  def model(params, x):
    depth = params["layers"]["w"].shape[0]
    return stack(functools.partial(layer, depth))[0](params, x)

  _, shapes = stack(None)
  assert not absorbed(plan_of(model, shapes, X))

  def both(x, w):
    h = models.norm(x, w["scale"], w["bias"])
    return x + jnp.tanh(h) @ w["w"] + jnp.sin(h) @ w["w2"]

  def more(layers):
    found = shapes(layers)
    found["layers"]["w2"] = models.shape(layers, 16, 16)
    return found

  plan = plan_of(stack(both)[0], more, X)
  assert set(absorbed(plan)) == {"layers/w", "layers/w2"}


def test_a_branch_that_can_absorb_nothing_is_incomplete():
  layer = lambda x, w: x + jnp.tanh(x @ w["w"])
  plan = plan_of(*stack(layer), X)
  assert "write x + 0.333333 * f(x)" in plan.incomplete[0]


def test_base_depth_may_be_said():
  plan = plan_of(models.gpt, gpt_shapes, layers=6, base=6, base_depth=2)
  assert plan["blocks/0/o"].absorbed == pytest.approx(1 / 3)


def test_absorbed_depth_is_what_a_multiplier_does():
  layer = lambda x, w: (
    x + jnp.tanh(models.norm(x, w["scale"], w["bias"])) @ w["w"]
  )
  times = lambda x, w: x + (layer(x, w) - x) / 3
  (model, shapes), (explicit, _) = stack(layer), stack(times)
  plan, params = plan_of(model, shapes, X), models.drawn(shapes(6))
  x = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
  wanted = explicit(params, x)
  params["layers"]["w"] = params["layers"]["w"] * plan["layers/w"].absorbed
  np.testing.assert_allclose(model(params, x), wanted, rtol=1e-4, atol=1e-4)


def test_layers_that_are_numbered_together_match_by_shape():
  def model(w, x):
    names = sorted(w, key=lambda name: int(name.split("_")[1]))
    first, *layers, last = (w[name] for name in names)
    x = x @ first
    for up, down in zip(layers[::2], layers[1::2], strict=True):
      x = x + jnp.tanh(x @ up) @ down
    return x @ last

  def shapes(n, layers):
    sizes = [(3, n), *[(n, 2 * n), (2 * n, n)] * layers, (n, 5)]
    return {f"Dense_{i}": models.shape(*s) for i, s in enumerate(sizes)}

  x = models.shape(4, 3)
  base = (model, shapes(8, 1), x)
  plan = initjax.mup(model, shapes(32, 6), x, base=base)
  # Dense_3 is the readout of the base, and a hidden kernel here
  assert [plan[f"Dense_{i}"].role for i in (0, 3, 4, 13)] == [
    "input", "hidden", "hidden", "output"
  ]  # fmt: skip
  assert plan["Dense_13"].adam == 1 / 4
  odd = (model, shapes(8, 1) | {"Dense_3": models.shape(8, 16)}, x)
  with pytest.raises(ValueError, match="which layers are alike cannot be told"):
    initjax.mup(model, shapes(32, 6), x, base=odd)


def test_cross_attention_is_of_its_branch_and_the_encoder_is_not():
  def model(w, x):
    z = jnp.tanh(x @ w["encoder"])
    x = x @ w["in"]
    for p in w["layers"]:
      q, k, v = (y[..., None, :] for y in (x @ p["q"], z @ p["k"], z @ p["v"]))
      x = x + models.attend(q, k, v, 0.25) @ p["o"]
    return x

  def shapes(layers):
    layer = {name: models.shape(16, 16) for name in "qkvo"}
    ends = {name: models.shape(16, 16) for name in ("encoder", "in")}
    return ends | {"layers": [dict(layer) for _ in range(layers)]}

  plan = plan_of(model, shapes, X)
  inside = {row.path for row in plan.rows if row.eps != 1}
  assert inside == {f"layers/{i}/{name}" for i in range(6) for name in "qkvo"}
