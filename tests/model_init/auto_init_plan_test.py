"""The plan: ties, constants and assumptions in words, and how it looks."""

import io
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_by_numpy import filled, normal

from initjax.gains import gain, moments
from initjax.model_init import auto_init, calibrate, plan_init

KEY = jax.random.key(0)
shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)


def plan_of(fn, params, *inputs, **options):
  return plan_init(fn, params, *inputs, **options)


def test_kernels_may_all_be_abstract_and_nothing_is_drawn():
  plan = plan_of(
    lambda w, x: jax.nn.relu(x @ w) @ w.T, shape(8, 32), shape(1, 8)
  )
  first, second = plan.rows
  assert (first.fan_in, first.fan_out, first.fed_by) == (8, 32, "input")
  assert (second.fan_in, second.fan_out, second.fed_by) == (32, 8, "relu")
  assert first.std == pytest.approx(8**-0.5)


def test_the_first_or_the_last_use_of_a_tied_kernel_decides():
  def fn(w, x):
    return jax.nn.relu(x @ w) @ w.T

  first = plan_of(fn, shape(8, 32), shape(1, 8))
  assert [row.std for row in first.rows] == pytest.approx([8**-0.5] * 2)
  assert first.rows[0].why == ""
  assert "tied: its first use decides" in first.rows[1].why
  last = plan_of(fn, shape(8, 32), shape(1, 8), tied="last")
  # V = 1/(32·q/2) and q = 8V: V² = 1/128
  assert [row.std for row in last.rows] == pytest.approx([128**-0.25] * 2)
  assert "tied: its last use decides" in last.rows[0].why


def test_a_tied_embedding_has_unit_rows_or_a_unit_readout():
  def fn(table, tokens):
    return table[tokens] @ table.T

  tokens = np.arange(4)
  first = plan_of(fn, shape(50, 16), tokens, tied="first")
  assert first.rows[0].std == 1
  # V = 1/(16·V): V = 1/4
  last = plan_of(fn, shape(50, 16), tokens, tied="last")
  assert last.rows[1].std == pytest.approx(0.5)
  readout = plan_of(fn, shape(50, 16), tokens)
  assert readout.rows[0].std == pytest.approx(0.5)
  assert "tied: its readout decides" in readout.rows[0].why
  assert readout.rows[1].why == ""


def _normed(x):
  return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True))


@pytest.mark.parametrize(
  ("before", "after", "tokens", "positions"),
  [
    (1.0, 1.0, 1 / 8, 1 / 8),  # logits of unit second moment: 1/64 an entry
    (1.0, 1 / 8, 1.0, 1.0),  # T5 divides by √d and so has unit tokens
    (8.0, 1.0, 1 / 8, 1.0),  # Vaswani et al. multiply tokens by √d
  ],
)
def test_a_readout_decides_and_positions_are_of_the_size_of_tokens(
  before, after, tokens, positions
):
  def fn(p, ids):
    x = before * p["wte"][ids] + p["wpe"][jnp.arange(6)]
    return (after * _normed(x)) @ p["wte"].T

  params = {"wte": shape(50, 64), "wpe": shape(6, 64)}
  plan = plan_of(fn, params, np.zeros((2, 6), np.int32))
  found = {row.path: row for row in plan.rows[:2]}
  assert found["wte"].std == pytest.approx(tokens)
  assert found["wpe"].std == pytest.approx(positions)
  assert "of the size of the tokens" in found["wpe"].why


def test_tables_that_are_not_read_out_keep_unit_rows_whatever_is_tied():
  def fn(p, ids):
    x = p["wte"][ids] + p["wpe"][jnp.arange(6)]
    h = jax.nn.relu(_normed(x) @ p["up"])
    return (h @ p["up"].T) @ p["out"]

  params = {
    "wte": shape(50, 64), "wpe": shape(6, 64), "up": shape(64, 32),
    "out": shape(64, 50),
  }  # fmt: skip
  plan = plan_of(fn, params, np.zeros((2, 6), np.int32))
  assert [row.std for row in plan.rows[:3]] == pytest.approx([1, 1, 1 / 8])
  assert "tied: its first use decides" in plan.rows[3].why


def test_recurrent_kernels_wait_for_a_signal():
  """Step 0 of an RNN is fed by zeros; step 1 decides, by tanh of 1."""

  def fn(p, xs):
    step = lambda h, x: (jnp.tanh(x @ p["in"] + h @ p["rec"]), None)
    return jax.lax.scan(step, jnp.zeros((1, 32)), xs)[0]

  params = {"in": shape(16, 32), "rec": shape(32, 32)}
  plan = plan_of(fn, params, shape(5, 1, 16))
  rows = [row for row in plan.rows if row.path == "rec"]
  assert "fed by zeros" in rows[0].why
  assert rows[1].why == ""
  assert rows[1].second_moment == pytest.approx(0.394294, rel=1e-5)
  assert len({row.std for row in rows}) == 1


def test_a_concatenating_cell_is_read_kernel_by_kernel():
  cell = nn.OptimizedLSTMCell(32)
  x = np.ones((4, 16))
  inputs = ((np.zeros((4, 32)),) * 2, x)
  params = jax.tree.map(jnp.asarray, filled(cell.init, *inputs))
  draw = jax.jit(lambda key: auto_init(key, cell.apply, params, *inputs))
  drawn = jax.device_get(draw(KEY))["params"]
  kernels = [drawn[f"i{gate}"]["kernel"] for gate in "ifgo"]
  for kernel in kernels:
    # √(2/512) of chance in a variance
    assert abs(np.mean(kernel**2) * 16 - 1) < 4.5 * (2 / 512) ** 0.5
  assert not np.array_equal(kernels[0], kernels[1])


def test_constants_cannot_be_set():
  constant = np.ones((8, 8), np.float32)
  plan = plan_of(lambda w, x: x @ constant @ w, shape(8, 8), shape(1, 8))
  assert plan.rows[0].std is None
  assert "cannot be set" in plan.rows[0].why
  assert "(constant)" in str(plan)


def test_computed_kernels_are_drawn_as_if_used_directly():
  def fn(p, x):
    centred = p["w"] - p["w"].mean(0)
    kernel = p["gain"] * centred / jnp.sqrt(jnp.mean(centred**2, 0) * 8)
    return x @ kernel

  params = {"w": shape(8, 16), "gain": np.ones(16, np.float32)}
  plan = plan_of(fn, params, shape(1, 8))
  assert plan.rows[0].std == pytest.approx(8**-0.5)
  assert "computed from parameters" in plan.rows[0].why
  drawn = auto_init(KEY, fn, params, shape(1, 8))
  assert drawn["gain"] is params["gain"]
  assert np.std(drawn["w"]) > 0.2


def test_products_of_parameters_are_signals_and_keep_their_values():
  """A learned query is a table, its layer a kernel; what makes one is kept."""

  def fn(p, x):
    query = p["probe"] @ p["query"] + p["bias"]
    scores = x @ p["key"] @ query
    values = x @ (p["value"] + p["up"] @ p["down"])
    return jax.nn.softmax(scores) @ values

  names = ("query", "key", "value")
  params = {name: normal(i, 32, 32) for i, name in enumerate(names)}
  params |= {"up": normal(3, 32, 4), "down": normal(4, 4, 32)}
  params |= {"probe": normal(5, 32), "bias": np.zeros(32, np.float32)}
  plan = plan_of(fn, params, shape(9, 32))
  assert plan.kept == ("bias", "down", "up")
  stds = {row.path.split(",")[0]: row.std for row in plan.rows}
  names = ("query", "key", "value")
  assert stds == {"probe": 1.0} | dict.fromkeys(names, 32**-0.5)
  drawn = auto_init(KEY, fn, params, shape(9, 32))
  assert all(drawn[path] is params[path] for path in plan.kept)


def test_assumptions_are_stated():
  def maxout(p, x):
    return jnp.maximum(x @ p["one"], x @ p["other"]) @ p["down"]

  params = {"one": shape(8, 16), "other": shape(8, 16), "down": shape(16, 8)}
  why = plan_of(maxout, params, shape(1, 8)).rows[-1].why
  assert why == "assumed unit second moment: max"

  def activated(p, x):
    return jnp.tanh((x @ p["one"]) * (x @ p["other"])) @ p["down"]

  last = plan_of(activated, params, shape(1, 8)).rows[-1]
  u, v = np.random.default_rng(0).normal(size=(2, 400_000))
  assert last.why == ""  # units of such products are drawn
  assert abs(last.second_moment / np.mean(np.tanh(u * v) ** 2) - 1) < 0.02
  of_inputs = lambda p, x: jnp.tanh(x) @ p["one"]
  why = plan_of(of_inputs, {"one": shape(8, 16)}, shape(1, 8)).rows[-1].why
  assert why == "an activation of inputs or products, taken as Gaussian"


def test_a_mean_is_assumed_of_unit_size_and_not_its_sum():
  pooled = lambda p, x: (x @ p["one"]).mean(axis=1)
  models = {
    "plain": (lambda p, x: pooled(p, x) @ p["down"], 1.0),
    "relu": (lambda p, x: jax.nn.relu(pooled(p, x)) @ p["down"], 0.5),
    "scaled": (lambda p, x: jax.nn.relu(3 * pooled(p, x)) @ p["down"], 4.5),
  }
  params = {"one": shape(8, 16), "down": shape(16, 8)}
  for fn, second_moment in models.values():
    last = plan_of(fn, params, shape(4, 100, 8)).rows[-1]
    assert last.second_moment == pytest.approx(second_moment)
    assert last.why == "assumed unit second moment: a mean over positions"


WITHOUT_MOMENTS = {
  "1/x": lambda h: 1 / h,
  "exp(x^2)": lambda h: jnp.exp(h**2),
  "atanh(x)": jnp.arctanh,
  "log(2·x)": lambda h: jnp.log(2 * h),
  "sqrt(max(x, 0))": lambda h: jnp.sqrt(jax.nn.relu(h)),
}


@pytest.mark.parametrize("name", WITHOUT_MOMENTS)
def test_an_activation_without_moments_is_assumed_to_have_one(name):
  """The layers around it have their own; the reason names it as one would."""
  phi = WITHOUT_MOMENTS[name]
  fn = lambda p, x: jax.nn.relu(phi(x @ p[0]) @ p[1]) @ p[2]
  for direction in ("forward", "backward"):
    plan = plan_of(fn, [shape(8, 8)] * 3, shape(1, 8), direction=direction)
    gains = [row.gain for row in plan.rows]
    assert gains == pytest.approx([1, 1, 2**0.5])
    why = [row.why for row in plan.rows]
    assert why[1].startswith(f"assumed unit second moment: activation {name}")
    assert (why[0], why[2]) == ("", "")


def test_an_unknown_branch_of_a_product_is_assumed_as_well():
  fn = lambda p, x: ((1 / (x @ p[0])) * (x @ p[1])) @ p[2]
  plan = plan_of(fn, [shape(8, 8)] * 3, shape(1, 8))
  assert plan.rows[2].gain == pytest.approx(1)
  assert "activation 1/x: E[φ]" in plan.rows[2].why


@pytest.mark.parametrize("phi", [jnp.exp, jnp.cosh, jnp.cbrt])
def test_what_overflows_in_a_table_or_has_a_pole_in_its_slope(phi):
  fn = lambda p, x: phi(x @ p[0]) @ p[1]
  row = plan_of(fn, [shape(8, 8)] * 2, shape(1, 8)).rows[1]
  assert (row.gain, row.why) == (pytest.approx(gain(phi), rel=1e-9), "")


def test_gated_units_are_told_by_their_branches():
  def swiglu(p, x):
    return (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]

  params = {"gate": shape(8, 16), "up": shape(8, 16), "down": shape(16, 8)}
  row = plan_of(swiglu, params, shape(1, 8)).rows[-1]
  assert (row.fed_by, row.why) == ("silu(a)·b", "")
  assert row.second_moment == pytest.approx(moments(jax.nn.silu).second_moment)


def test_normalization_gives_one_and_the_activation_after_it_its_gain():
  def norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

  fn = lambda p, x: jax.nn.relu(norm(5 * norm(x @ p[0]) @ p[1])) @ p[2]
  plan = plan_of(fn, [shape(8, 8)] * 3, shape(1, 8))
  gains = [row.gain for row in plan.rows]
  assert gains == pytest.approx([1, 1 / 5, 2**0.5])


def test_notes_on_gradients():
  params = (shape(16, 16), shape(100, 16, 16))
  fn = lambda p, x: jax.lax.scan(
    lambda h, w: (jnp.tanh(h) @ w, None), x @ p[0], p[1]
  )[0]
  (note,) = plan_of(fn, params, shape(1, 16), direction="forward").notes
  assert "1.178 times per layer fed by tanh" in note
  (note,) = plan_of(fn, params, shape(1, 16)).notes
  assert "would grow 1.3e+07 times" in note  # 1.178^100


@pytest.mark.parametrize("phi", [jnp.tanh, jax.nn.gelu, jax.nn.relu])
def test_balanced_lets_neither_signal_nor_gradient_grow(phi):
  """χ₁ = σ_w²E[φ'²] and the signal by quadrature over a grid, not our own."""
  z = np.linspace(-12, 12, 20001)
  weight = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
  layer = lambda h, w: (phi(h) @ w, None)
  fn = lambda p, x: jax.lax.scan(layer, x @ p[0], p[1])[0]
  plan = plan_of(fn, (shape(16, 16), shape(60, 16, 16)), shape(1, 16))
  size = 1.0
  slope = jax.vmap(jax.grad(phi))
  for row in plan.rows[1:]:
    h = jnp.asarray(np.sqrt(size) * z, jnp.float32)
    square = np.sum(weight * np.asarray(phi(h), float) ** 2)
    steep = np.sum(weight * np.asarray(slope(h), float) ** 2)
    assert row.gain**2 == pytest.approx(1 / max(square, steep), rel=1e-4)
    size = row.gain**2 * square
    assert size < 1 + 1e-4


def test_balanced_is_forward_where_the_gradient_stands_it():
  layer = lambda h, w: (jnp.tanh(h) @ w, None)
  fn = lambda p, x: jax.lax.scan(layer, x @ p[0], p[1])[0]
  params = (shape(16, 16), shape(14, 16, 16))
  found = [  # 1.178^14 < 10
    [row.std for row in plan_of(fn, params, shape(1, 16), **options).rows]
    for options in ({}, {"direction": "forward"})
  ]
  assert found[0] == found[1]


def test_the_table_fits():
  model = nn.Sequential(
    [nn.Dense(512), nn.gelu, nn.MultiHeadDotProductAttention(4), nn.Dense(512)]
  )
  x = shape(1, 4, 64)
  plan = plan_of(model.apply, filled(model.init, x), x)
  for width in (60, 80, 100):
    text = plan.to_text(width)
    assert max(map(len, text.splitlines())) <= width
    assert re.search(r"layers_0 +64→512 +input +1 +1 +0.125", text)
    assert "(1) assumed unit second moment: product of two signals" in text
  for width in (8, 20, 33, 47, 59, 70):
    for encoding in ("ascii", "utf-8"):
      text = plan.to_text(width, encoding)
      text.encode(encoding)
      assert max(map(len, text.splitlines())) <= width
      assert "0.125" in text


def test_a_plan_prints_in_the_encoding_of_its_reader(monkeypatch):
  fn = lambda p, x: jnp.sqrt(jax.nn.relu(x @ p["λ"])) @ p["b"]
  plan = plan_of(fn, {"λ": shape(4, 4), "b": shape(4, 4)}, shape(2, 4))
  stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  monkeypatch.setattr("sys.stdout", stdout)
  monkeypatch.setenv("COLUMNS", "60")
  print(plan, flush=True)
  assert re.search(r"\nlambda +4->4 +input", stdout.buffer.getvalue().decode())


# Errors


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"direction": "sideways"}, "direction must be one of 'forward'"),
    ({"distribution": "cauchy"}, "distribution must be one of 'trunc"),
    ({"tied": "both"}, "tied must be one of 'first', 'last'"),
    ({"second_moment": 0.0}, "second_moment must be a finite number > 0"),
  ],
)
def test_unknown_options(options, message):
  with pytest.raises(ValueError, match=message):
    plan_of(lambda w, x: x @ w, shape(2, 2), shape(1, 2), **options)


def test_what_is_no_kernel_needs_a_value():
  fn = lambda p, x: x @ p["w"] + p["b"]
  params = {"w": shape(8, 4), "b": shape(4)}
  with pytest.raises(TypeError, match=r"expected a value for b.*model.init"):
    auto_init(KEY, fn, params, shape(1, 8))


def test_nothing_to_initialize():
  with pytest.raises(ValueError, match="found none to initialize"):
    auto_init(KEY, lambda p, x: p * x, np.ones(3), np.ones(3))


def test_a_jump_has_no_backward_gain():
  fn = lambda p, x: jnp.sign(x @ p[0]) @ p[1]
  with pytest.raises(ValueError, match=r"1 jumps.*delta"):
    plan_of(fn, [shape(8, 8)] * 2, shape(1, 8), direction="backward")


def test_kernels_that_are_all_computed_are_said_to_be_there():
  made = lambda p, x: x @ (p["left"] @ p["right"])
  params = {"left": shape(8, 2), "right": shape(2, 4)}
  for verb in (plan_of, lambda *given: auto_init(KEY, *given)):
    with pytest.raises(ValueError, match=r"computed from .*: left, right; th"):
      verb(made, params, shape(3, 8))
  closed = lambda p, x: x @ np.ones((8, 2), "f") + p
  with pytest.raises(ValueError, match=r"constants that fn closes over \(1\)"):
    plan_of(closed, np.ones(2), shape(3, 8))


def test_a_plan_says_where_a_computed_kernel_need_not_keep_the_size():
  fn = lambda p, x, i: x @ (p["w"] + p["delta"][i])
  params = {"w": np.ones((8, 4), "f"), "delta": np.ones((3, 8, 4), "f")}
  inputs = np.ones((2, 8), "f"), np.int32(1)
  (row,) = plan_of(fn, params, *inputs).rows
  assert "need not have unit second moment" in row.why
  _, info = calibrate(fn, params, *inputs)
  ((_, _, why),) = info.skipped
  assert "computed" in why
