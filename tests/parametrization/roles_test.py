"""Roles and factors: against the published table, for three models."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scaled_models as models

import initjax

R = 4.0


def mlp_plan(wide=64, base=16):
  return initjax.mup(
    models.mlp,
    models.mlp_shapes(wide),
    models.X,
    base=(models.mlp, models.mlp_shapes(base), models.X),
  )


@functools.cache
def gpt_plan(tied=False):
  shapes = functools.partial(models.gpt_shapes, tied=tied)
  base = (models.gpt, shapes(16), models.TOKENS)
  return initjax.mup(models.gpt, shapes(64), models.TOKENS, base=base)


def factors(row):
  return row.role, row.init, row.adam, row.sgd, row.eps


INPUT = ("input", 1, 1, R, 1 / R)
HIDDEN = ("hidden", R**-0.5, 1 / R, 1, 1 / R)
OUTPUT = ("output", 1 / R, 1 / R, 1 / R, 1)
VECTOR = ("vector", 1, 1, R, 1 / R)


def test_an_mlp_follows_the_table():
  plan = mlp_plan()
  expected = {"in": INPUT, "hidden": HIDDEN, "out": OUTPUT, "bias": VECTOR}
  assert {row.path: factors(row) for row in plan.rows} == expected


def test_at_the_base_all_is_1():
  with pytest.warns(UserWarning, match="nothing grows"):
    plan = mlp_plan(16, 16)
  assert {factors(row)[1:] for row in plan.rows} == {(1, 1, 1, 1)}


def test_a_base_that_is_wider_is_warned_of():
  with pytest.warns(UserWarning, match="base is wider"):
    mlp_plan(16, 64)


def test_a_transformer_follows_the_table():
  plan, first = gpt_plan(), "blocks/0/"
  assert factors(plan["embed"]) == INPUT
  assert factors(plan["out"]) == OUTPUT
  for name in ("q", "k", "v", "o", "up", "down"):
    assert factors(plan[first + name]) == HIDDEN  # 4·d cancels
  for name in ("q_bias", "scale1", "bias2"):
    assert factors(plan[first + name]) == VECTOR


class Conv(nn.Module):
  features: int

  @nn.compact
  def __call__(self, x):
    n = self.features
    x = nn.relu(nn.Conv(n, (3, 3), name="first")(x))
    x = nn.Conv(n, (3, 3), feature_group_count=n, name="depthwise")(x)
    x = nn.Conv(2 * n, (1, 1), use_bias=False, name="point")(nn.relu(x))
    return nn.Dense(5, name="out")(x.mean((1, 2)))


def test_windows_do_not_grow_and_groups_are_copies():
  images = models.shape(2, 8, 8, 3)

  def of(width):
    model = Conv(width)
    init = functools.partial(model.init, jax.random.key(0))
    return model, jax.eval_shape(init, images), images

  plan = initjax.mup(*of(32), base=of(8))
  kernel = lambda name: factors(plan[f"params/{name}/kernel"])
  assert kernel("first") == INPUT
  assert kernel("depthwise") == VECTOR
  assert kernel("point") == HIDDEN
  assert kernel("out") == OUTPUT
  assert factors(plan["params/out/bias"]) == ("fixed", 1, 1, 1, 1)


def test_a_multiplier_of_the_model_divides_init_and_rate():
  ntk = lambda w, x: x @ (w["in"] * 1.0) @ (w["out"] / w["out"].shape[0] ** 0.5)
  shapes = lambda n: {"in": models.shape(3, n), "out": models.shape(n, 2)}
  base = (ntk, shapes(16), models.X)
  plan = initjax.mup(ntk, shapes(64), models.X, base=base)
  # m/m0 is ½: what init × 1/r_in is without it is × 2/r_in with it
  assert plan["out"].absorbed == pytest.approx(2.0)
  assert plan["out"].init_total == pytest.approx(2 / R)
  assert plan["out"].steps("sgd") == pytest.approx((2, 4 / R / 2, 4 / R / 2, 0))


def test_an_interior_output_is_a_bottleneck():
  narrow = lambda w, x: (x @ w["in"] @ w["down"]) @ w["up"] @ w["out"]

  def shapes(n):
    sizes = {"in": (3, n), "down": (n, 4), "up": (4, n), "out": (n, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (narrow, shapes(16), models.X)
  plan = initjax.mup(narrow, shapes(64), models.X, base=base)
  assert factors(plan["down"]) == ("bottleneck", *OUTPUT[1:])
  assert factors(plan["up"]) == INPUT
  assert "down is a bottleneck" in plan.notes[0]


def test_layers_and_experts_do_not_count():
  def deep(params, x):
    layer = lambda h, w: (jnp.tanh(h @ w), None)
    h, _ = jax.lax.scan(layer, x @ params["in"], params["stack"])
    return jnp.einsum("bd,edf->ebf", h, params["experts"])

  def shapes(n):
    sizes = {"in": (3, n), "stack": (7, n, n), "experts": (4, n, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (deep, shapes(16), models.X)
  plan = initjax.mup(deep, shapes(64), models.X, base=base)
  assert factors(plan["stack"]) == HIDDEN
  assert factors(plan["experts"]) == OUTPUT


def test_what_is_no_width_is_an_error():
  shapes = models.mlp_shapes
  base = (models.mlp, shapes(16), models.shape(6, 3))
  with pytest.raises(ValueError, match=r"only the width may differ"):
    initjax.mup(models.mlp, shapes(64), models.X, base=base)
  more = shapes(16) | {"other": models.shape(3)}
  base = (models.mlp, more, models.X)
  with pytest.raises(ValueError, match="the model lacks other"):
    initjax.mup(models.mlp, shapes(64), models.X, base=base)
  look_up = lambda w, tokens: w["embed"][tokens] @ w["out"]
  table = lambda n, rows: {
    "embed": models.shape(rows, n), "out": models.shape(n, 2)
  }  # fmt: skip
  classes = shapes(16) | {"out": models.shape(16, 1)}
  with pytest.warns(UserWarning, match="out has 2 outputs, and 1 in the base"):
    initjax.mup(
      models.mlp, shapes(64), models.X, base=(models.mlp, classes, models.X)
    )
  base = (look_up, table(16, 9), models.TOKENS)
  with pytest.raises(ValueError, match="embed has 8 rows, and 9"):
    initjax.mup(look_up, table(64, 8), models.TOKENS, base=base)
  with pytest.raises(ValueError, match=r"base must be \(fn, params"):
    initjax.mup(look_up, table(64, 8), models.TOKENS, base=None)


def test_a_plan_prints_and_says_little_in_a_session():
  plan = gpt_plan()
  assert "hidden" in str(plan)
  assert repr(plan).startswith("Parametrization(")
  assert "\n" not in repr(plan)


def overridden(overrides):
  base = (models.mlp, models.mlp_shapes(16), models.X)
  shapes = models.mlp_shapes(64)
  return initjax.mup(
    models.mlp, shapes, models.X, base=base, overrides=overrides
  )


def test_overrides_set_factors_and_roles():
  plan = overridden({"in": {"adam": 0.5}, "*i*dden": {"role": "output"}})
  assert plan["in"].adam == 0.5
  assert "set by in" in plan["in"].why
  assert factors(plan["in"])[1:2] + factors(plan["in"])[3:] == (1, R, 1 / R)
  assert factors(plan["hidden"])[:3] == OUTPUT[:3]


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"inn": {"adam": 1.0}}, "'inn' matches no leaf; near it: in"),
    ({"in": {"rate": 1.0}}, "what an override sets must be one of"),
    ({"in": {"adam": 0.0}}, "adam must be a finite number > 0"),
    ({"in": 0.5}, r"overrides are pairs \(pattern"),
    ([("in", {"role": "big"})], "role must be one of"),
  ],
)
def test_overrides_are_checked(overrides, message):
  with pytest.raises(ValueError, match=message):
    overridden(overrides)


def test_joined_parts_that_grow_differently_have_their_own_factors():
  def model(w, x):
    h = jnp.concatenate([jnp.tanh(x @ w["in"]), x], axis=-1)
    return jnp.tanh(h @ w["joined"]) @ w["out"]

  def shapes(n):
    sizes = {"in": (3, n), "joined": (n + 3, n), "out": (n, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (model, shapes(16), models.X)
  plan = initjax.mup(model, shapes(64), models.X, base=base)
  row = plan["joined"]
  assert row.role == "hidden"
  np.testing.assert_allclose(row.init.ravel(), [R**-0.5] * 64 + [1] * 3)
  np.testing.assert_allclose(row.adam.ravel(), [1 / R] * 64 + [1] * 3)
  np.testing.assert_allclose(row.sgd.ravel(), [1] * 64 + [R] * 3)
  assert row.eps == 1 / R


def test_what_is_to_be_looked_at_is_warned_of():
  def model(w, x):
    h = models.norm(x @ w["in"] @ w["down"], w["scale"], w["scale"])
    h = h @ w["up"]
    return h @ w["square"] @ w["out"] + h @ w["square"][:, :2]

  def shapes(n):
    sizes = {"in": (3, n), "down": (n, 4), "up": (4, n), "out": (n, 2)}
    sizes |= {"square": (n, n), "scale": (4,)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (model, shapes(16), models.X)
  with (
    pytest.warns(UserWarning, match="a normalization follows"),
    pytest.warns(UserWarning, match="square has two roles: hidden and output"),
  ):
    initjax.mup(model, shapes(64), models.X, base=base)


def test_a_router_is_no_bottleneck_of_the_stream_that_it_gates():
  def model(w, x):
    h = x @ w["in"]
    gates = jax.nn.softmax(h @ w["router"])
    y = jnp.einsum("bd,edf,be->bf", h, w["experts"], gates)
    return models.norm(h + y, w["scale"], w["scale"]) @ w["out"]

  def shapes(n):
    sizes = {"in": (3, n), "router": (n, 4), "out": (n, 2)}
    sizes |= {"experts": (4, n, n), "scale": (n,)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (model, shapes(16), models.X)
  plan = initjax.mup(model, shapes(64), models.X, base=base)
  assert (plan["router"].role, plan["experts"].role) == ("bottleneck", "hidden")


def test_the_length_of_a_normalized_kernel_is_a_vector():
  def model(w, x):
    kernel = w["v"] / jnp.linalg.norm(w["v"], axis=0) * w["length"]
    return jnp.tanh(x @ w["in"]) @ kernel @ w["out"]

  def shapes(n):
    sizes = {"in": (3, n), "v": (n, n), "length": (n,), "out": (n, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (model, shapes(16), models.X)
  plan = initjax.mup(model, shapes(64), models.X, base=base)
  assert factors(plan["length"]) == VECTOR
  assert factors(plan["v"]) == HIDDEN


def test_outputs_that_are_cut_into_parts_that_grow_differently():
  """Queries of more heads, fused with keys and values of one."""

  def model(w, x):
    n = w["in"].shape[1]
    h = jnp.tanh(x @ w["in"]) @ w["qkv"] + w["bias"]
    q, k, v = jnp.split(h, [n, n + 8], axis=-1)
    return (q.reshape(len(x), -1, 8) * (k + v)[:, None]).reshape(len(x), -1) @ (
      w["out"]
    )

  def shapes(n):
    sizes = {"in": (3, n), "qkv": (n, n + 16), "bias": (n + 16,), "out": (n, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (model, shapes(16), models.X)
  row = initjax.mup(model, shapes(64), models.X, base=base)["qkv"]
  assert (row.role, row.growth_out) == ("hidden", R)
  np.testing.assert_allclose(row.init.ravel(), [R**-0.5] * 64 + [1 / R] * 16)
  np.testing.assert_allclose(row.eps.ravel(), [1 / R] * 64 + [1] * 16)
  assert row.adam == 1 / R


def test_widths_may_grow_differently():
  def shapes(n, m):
    sizes = {"in": (3, n), "bias": (n,), "hidden": (n, m), "out": (m, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (models.mlp, shapes(4, 4), models.X)
  plan = initjax.mup(models.mlp, shapes(8, 32), models.X, base=base)
  assert factors(plan["in"]) == ("input", 1, 1, 2, 1 / 2)
  # r_in is 2 and r_out 8; entries grow × 16
  expected = ("hidden", pytest.approx(2**-0.5), 1 / 2, 4, 1 / 8)
  assert factors(plan["hidden"]) == expected
  assert plan["hidden"].muon == 2
  assert factors(plan["out"]) == ("output", 1 / 8, 1 / 8, 1 / 8, 1)


def mixture(form):
  """Experts of a number of their own, in one of the ways to write them."""

  def model(w, x):
    h = jnp.tanh(x @ w["in"])
    gates = jax.nn.sigmoid(h @ w["router"])
    gates /= gates.sum(-1, keepdims=True)
    number = gates.shape[-1]
    match form:
      case "one product":
        return jnp.einsum("bd,edf,be->bf", h, w["experts"], gates)
      case "written out":
        each = [
          gates[:, e, None] * (h @ w["experts"][e]) for e in range(number)
        ]
        return sum(each)
      case "one-hot rows":
        top, which = jax.lax.top_k(gates, 2)
        gates = jnp.einsum("bk,bke->be", top, jax.nn.one_hot(which, number))
    y = jax.nn.relu(jnp.einsum("bd,edf->bef", h, w["experts"]))
    if form == "entry by entry":
      return (y * gates[..., None]).sum(1)
    return jnp.einsum("bef,be->bf", y, gates)

  def shapes(n, number):
    sizes = {"in": (3, n), "router": (n, number), "experts": (number, n, n)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  return model, shapes


FORMS = ("one product", "written out", "one-hot rows", "entry by entry", "two")


@pytest.mark.parametrize("form", FORMS)
def test_another_number_of_experts_is_an_error(form):
  model, shapes = mixture(form)
  base = (model, shapes(16, 4), models.X)
  with pytest.raises(ValueError, match="router weights a sum of 8, and of 4"):
    initjax.mup(model, shapes(64, 8), models.X, base=base)


def efficient_attention(w, x):
  q, k, v = (x @ w["in"] @ w[name] for name in "qkv")
  sums = jnp.einsum("btd,bte->bde", jax.nn.softmax(k, 1), v)
  return jax.nn.softmax(q) @ sums


def gated_heads(w, x):
  heads = lambda name: (x @ w["in"] @ w[name]).reshape(*x.shape[:2], -1, 8)
  gates = jax.nn.sigmoid(heads("q").mean(-1, keepdims=True))
  return (heads("v") * gates * heads("k")).reshape(*x.shape[:2], -1)


@pytest.mark.parametrize("model", [efficient_attention, gated_heads])
def test_shares_of_features_that_are_no_experts_may_grow(model):
  def shapes(n):
    return {name: models.shape(n, n) for name in "qkv"} | {
      "in": models.shape(16, n)
    }

  x = models.shape(2, 6, 16)
  initjax.mup(model, shapes(64), x, base=(model, shapes(16), x))
