"""Coordinate checks: exponents, bounds, sizes, and what must be found."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax
from initjax.graph import trace
from initjax.parametrization import Parametrization, Scaling, Setup
from initjax.parametrization import _coordinates_fit as fit
from initjax.parametrization import _coordinates_pass as one_pass
from initjax.parametrization._coordinates_report import CoordinateCheck
from initjax.parametrization._coordinates_rows import Operation, Sizes
from initjax.parametrization._coordinates_verdicts import Found, verdicts_on
from initjax.testing import assert_width_stable

WIDTHS = (64, 128, 256)
LOG2 = np.log2(WIDTHS)
RNG = np.random.default_rng(0)


def test_exponents_are_those_of_least_squares():
  sizes = 0.7 * LOG2[:, None] + RNG.normal(size=(3, 5))
  slopes = np.polyfit(LOG2, sizes, 1)[0]
  found = fit.power_law(LOG2, sizes)
  assert found == pytest.approx((slopes.mean(), slopes.std(ddof=1) / 5**0.5))


def found_of(exponents, kinds, noise=0.0, steps=2, start=0.0):
  """A check whose signals and changes go as width^exponent from step 1 on."""
  shape = (3, 4, steps + 1, len(exponents))
  logs = np.asarray(exponents) * LOG2[:, None, None, None]
  sizes = logs + noise * RNG.normal(size=shape)
  change = sizes.copy()
  change[:, :, 0] = -np.inf
  sizes = Sizes(np.full(shape, start) + 0 * sizes, change, np.ones(shape[:3]))
  operations = tuple(
    Operation(f"layer_{at}", (), kind, WIDTHS, WIDTHS)
    for at, kind in enumerate(kinds)
  )
  both = (fit.exponents(LOG2, each) for each in sizes[:2])
  return Found(WIDTHS, operations, sizes, *both)


CASES = [
  ("linear", 0.0, 0.001, []),
  ("linear", 0.3, 0.001, ["grows with width"]),
  ("linear", -0.5, 0.001, ["shrinks with width"]),
  ("linear", 0.12, 0.2, []),  # within the error
  ("linear", 0.1, 1.5, ["too uncertain"]),
  ("scores", -0.5, 0.001, []),
  ("scores", 0.5, 0.001, ["grows with width"]),
  ("readout", -0.55, 0.001, []),
  ("readout", -0.8, 0.001, ["shrinks with width"]),
  ("product", -0.3, 0.001, ["shrinks with width"]),
]


@pytest.mark.parametrize(("kind", "exponent", "noise", "expected"), CASES)
def test_bounds_are_passed_by_three_errors(kind, exponent, noise, expected):
  found = found_of([exponent], [kind], noise)
  assert [each.kind for each in verdicts_on(found, None)] == expected


def test_what_comes_first_is_told_first_with_its_exponent():
  found = found_of([0.0, -0.5, 0.9], ["linear"] * 3, 1e-3)
  first, second = verdicts_on(found, None)
  assert (first.kind, first.path, first.rows) == (
    "shrinks with width",
    "layer_1",
    (1,),
  )
  assert "width^(-0.50 ± 0.00) at step 2" in first.message
  assert second.rows == (2,)
  assert "width^(+0.90 ± 0.00) at step 2" in second.message


def test_the_last_pair_has_a_say_of_its_own():
  found = found_of([0.0], ["linear"], 1e-3)
  found.sizes.change[-1] += 0.2  # of one octave; a tenth over both
  found = found._replace(change=fit.exponents(LOG2, found.sizes.change))
  (verdict,) = verdicts_on(found, None)
  assert verdict.kind == "grows with width"
  assert "width^(+0.20 ± 0.00) at step 2 over the last two" in verdict.message


def test_rounding_is_no_change_and_nothing_else():
  eps = np.array([2.0**-23])
  signal, change = np.full((2, 1), 3.0), np.array([[-17.0], [-12.0]])
  kept = fit.without_rounding(signal, change, eps)
  np.testing.assert_array_equal(kept, [[-np.inf], [-12.0]])


def test_nothing_learnt_and_divergence_are_told():
  found = found_of([0.0], ["linear"])
  nothing = np.full_like(found.sizes.change, -np.inf)
  found = found._replace(change=fit.exponents(LOG2, nothing))
  assert [each.kind for each in verdicts_on(found, None)] == ["no change"]
  found.sizes.loss[1, 2, 1] = np.nan
  (verdict,) = verdicts_on(found, None)
  assert verdict.kind == "diverged"
  assert "width 128," in verdict.message


# What one width gives

X = RNG.normal(size=(6, 4)).astype("f")


def half_square(params, x):
  scale = lambda h, kernel: (h @ kernel, None)
  return jnp.sum(jax.lax.scan(scale, x, params)[0] ** 2) / 2


def test_sizes_and_changes_are_those_of_numpy_without_what_is_absorbed():
  c = np.array([[[1.0, 1.0, 0.25, 0.25]]])
  row = Scaling(".", (2, 4, 4), (2, 4, 4), "hidden", 1.0, 1.0, 1.0, absorbed=c)
  plan = Parametrization((row,))
  start = np.stack([np.eye(4), RNG.normal(size=(4, 4))]).astype("f")
  draw = lambda key: jnp.asarray(start)
  setup = Setup(half_square, draw, optax.sgd(0.01), X, plan)
  course = one_pass.course(setup, jax.random.split(jax.random.key(0), 2), 1)
  (site,) = course.seen
  first, second = start
  error = X @ first @ second
  gradients = X.T @ error @ second.T, (X @ first).T @ error
  moved = [k - 0.01 * g for k, g in zip(start, gradients, strict=True)]
  now = [X @ moved[0], X @ moved[0] @ moved[1]]
  before = [X @ first, X @ first @ second]
  rms = lambda h: np.sqrt(np.mean((h / c[0]) ** 2))
  expected = [
    [rms(h) for h in now],
    [rms(h - h0) for h, h0 in zip(now, before, strict=True)],
  ]
  logs = [
    each.statistics().log2_second_moment[0, 1] / 2 for each in course.seen[site]
  ]
  np.testing.assert_allclose(2 ** np.array(logs), expected, rtol=1e-4)
  still = course.seen[site].change.statistics().log2_second_moment[:, 0]
  assert np.isneginf(still).all()


def test_what_cannot_be_compared_is_refused():
  def build(n):
    kernels = [jnp.ones((4, n)), jnp.ones((n, 4))][: 1 + n % 2]
    loss = lambda params, x: sum(jnp.sum(kernel) for kernel in params)
    return Setup(loss, lambda key: kernels, optax.sgd(0.1), X)

  check = initjax.coordinate_check
  with pytest.raises(ValueError, match=r"from narrow to wide; got \(64, 32\)"):
    check(build, widths=(64, 32))
  with pytest.raises(ValueError, match=r"seeds must be an integer >= 2"):
    check(build, seeds=1)
  with pytest.raises(TypeError, match=r"must return .*Setup.*; got dict"):
    check(lambda n: {})
  with pytest.raises(ValueError, match=r"pass all data in batch, not closed"):
    check(build, widths=(32, 64), steps=1)
  vector = Setup(
    lambda w, x: x @ w, lambda key: jnp.ones((4, 2)), optax.sgd(0.1), X
  )
  with pytest.raises(ValueError, match=r"must be a scalar; got \[\(6, 2\)\]"):
    check(lambda n: vector)
  with pytest.raises(TypeError, match=r"widths must be a sequence .*; got 64"):
    check(build, widths=64)
  with pytest.raises(TypeError, match="expects an optax transformation"):
    check(lambda n: vector._replace(optimizer="adam"))
  mean = lambda w, x: jnp.mean(x @ w)
  same = Setup(mean, lambda key: jnp.ones((4, 2)), optax.sgd(0.1), X)
  with pytest.raises(ValueError, match="draws the same parameters from every"):
    check(lambda n: same, widths=(32, 64), steps=1, seeds=2)


def check_of_two():
  found = found_of([0.0, 0.9], ["linear", "readout"], 1e-3)
  return CoordinateCheck(found, verdicts_on(found, None), {})


def test_what_each_device_does_alone_is_listed():
  mesh = jax.make_mesh((1,), ("one",))
  spec = jax.sharding.PartitionSpec()
  apart = jax.shard_map(jnp.dot, mesh=mesh, in_specs=spec, out_specs=spec)
  model = lambda w, x: apart(x @ w["seen"], w["apart"])
  params = {"seen": jnp.ones((3, 4)), "apart": jnp.ones((4, 2))}
  traced = trace(model, params, jnp.ones((5, 3)))
  assert one_pass.left_out(traced) == {"apart": "shard_map"}
  (op,) = one_pass.measured_ops(traced).values()
  assert op.path == "seen"


def test_a_check_becomes_text_and_json(tmp_path):
  check = check_of_two()
  assert repr(check) == (
    "CoordinateCheck(2 operations, widths 64…256: grows with width (error))"
  )
  assert "✗  layer_1" in check.to_text()
  assert "+0.90 ± 0.00" in check.to_text()
  check.to_json(tmp_path / "check.json")
  content = json.loads((tmp_path / "check.json").read_text())
  record = content["records"][1]
  assert record["change_judgement"] == ["none", "grows", "grows"]
  assert record["change_exponent"][0] == "nan"
  assert record["change_exponent"][2] == pytest.approx(0.9, abs=0.01)
  assert content["widths"] == list(WIDTHS)
  assert not content["is_stable"]


def test_a_check_becomes_a_figure():
  check = check_of_two()
  axes = check.plot().axes
  assert axes[1].get_ylabel() == "rms of h − h₀, step 2"
  lines = [bars.lines[0].get_ydata() for bars in axes[1].containers]
  slope = np.polyfit(LOG2, np.log2(lines[1]), 1)[0]
  assert slope == pytest.approx(0.9, abs=0.01)


def test_a_check_becomes_a_page(tmp_path):
  check_of_two().to_html(tmp_path / "check.html")
  page = (tmp_path / "check.html").read_text()
  assert all(word in page for word in ("layer_1", "<svg", "grows with width"))


# Whole models: what must be found, and what must not

Y = RNG.normal(size=(6, 2)).astype("f")


def mlp(params, x):
  h = jnp.tanh(x @ params["in"])
  h = jnp.tanh(h @ params["hidden"] + params["bias"])
  return h @ params["out"]


def mlp_draw(n):
  def draw(key):
    first, second = jax.random.split(key)
    return {
      "in": jax.random.normal(first, (4, n)),
      "bias": jnp.zeros(n),
      "hidden": jax.random.normal(second, (n, n)) * n**-0.5,
      "out": jnp.zeros((n, 2)),
    }

  return draw


def mlp_setup(n, *, scaled=True, **changes):
  loss = lambda params, xy: jnp.mean((mlp(params, xy[0]) - xy[1]) ** 2)
  draw, tx = mlp_draw(n), optax.adam(3e-3)
  if not scaled:
    return Setup(loss, draw, tx, (X, Y))
  base = mlp, mlp_draw(32)(jax.random.key(0)), X
  shapes = jax.eval_shape(draw, jax.random.key(0))
  plan = initjax.mup(mlp, shapes, X, base=base, init=draw, **changes)
  return Setup(loss, plan.init, plan.optimizer(tx, kind="adam"), (X, Y), plan)


@pytest.mark.slow
def test_an_mlp_is_stable_and_standard_rates_are_not():
  small = {"widths": (64, 256), "steps": 3}
  assert_width_stable(mlp_setup, **small)
  standard = lambda n: mlp_setup(n, scaled=False)
  check = initjax.coordinate_check(standard, **small)
  assert not check.is_stable
  hidden = check.to_records()[1]
  assert hidden["path"] == "hidden"
  assert hidden["change_exponent"][2] >= 0.3
  readout = lambda n: mlp_setup(n, overrides={"out": {"adam": 1.0}})
  with pytest.raises(AssertionError, match=r"Grows with width at out"):
    assert_width_stable(readout, **small)


TOKENS = np.random.default_rng(1).integers(0, 9, (8, 9))


def rms_norm(h, scale):
  return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6) * scale


def transformer(params, tokens):
  def layer(h, p):
    q, k, v = jnp.split(rms_norm(h, p["scale"]) @ p["qkv"], 3, axis=-1)
    scores = jnp.einsum("bqd,bkd->bqk", q, k) * q.shape[-1] ** -0.5
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e9))
    return h + jnp.einsum("bqk,bkd->bqd", weights, v) @ p["o"], None

  h, _ = jax.lax.scan(layer, params["embed"][tokens], params["layers"])
  return rms_norm(h, params["scale"]) @ params["embed"].T


def transformer_draw(n, embed=1.0):
  def draw(key):
    keys = jax.random.split(key, 3)
    kernel = lambda key, *shape: jax.random.normal(key, (2, *shape)) * n**-0.5
    return {
      "embed": embed * jax.random.normal(keys[0], (9, n)),
      "layers": {
        "scale": jnp.ones((2, n)),
        "qkv": kernel(keys[1], n, 3 * n),
        "o": kernel(keys[2], n, n),
      },
      "scale": jnp.ones(n),
    }

  return draw


def token_loss(params, tokens):
  logits = jax.nn.log_softmax(transformer(params, tokens[:, :-1]))
  return -jnp.take_along_axis(logits, tokens[:, 1:, None], -1).mean()


def transformer_setup(n, *, factor=True, embed=lambda n: 1.0):
  base = transformer, transformer_draw(32)(jax.random.key(0)), TOKENS
  shapes = jax.eval_shape(transformer_draw(n), jax.random.key(0))
  plan = initjax.mup(transformer, shapes, TOKENS, base=base)
  if not factor:
    rows = (
      r._replace(absorbed=1.0) if r.path == "scale" else r for r in plan.rows
    )
    plan = dataclasses.replace(plan, rows=tuple(rows))

  def init(key):
    params = plan.rescale(transformer_draw(n)(key))
    return {**params, "embed": embed(n) * params["embed"]}

  tx = plan.optimizer(optax.adam(2e-3), kind="adam")
  return Setup(token_loss, init, tx, TOKENS, plan)


@pytest.mark.slow
def test_a_tied_transformer_is_stable_but_not_without_its_factors():
  small = {"widths": (64, 256), "steps": 3}
  check = initjax.coordinate_check(transformer_setup, **small)
  assert check.is_stable, str(check)
  rows = {(row["path"], row["repeat"]): row for row in check.to_records()}
  scores = rows["scores of layers/qkv", (0,)]
  assert scores["kind"] == "scores"
  assert scores["signal_exponent"][0] == pytest.approx(-0.5, abs=0.2)
  untied = lambda n: transformer_setup(n, factor=False)
  with pytest.raises(AssertionError, match=r"tied to an embedding needs"):
    assert_width_stable(untied, **small)
  small_embedding = lambda n: transformer_setup(n, embed=lambda n: 5 / n**0.5)
  with pytest.raises(AssertionError, match=r"Shrinks with width at embed"):
    assert_width_stable(small_embedding, **small)
