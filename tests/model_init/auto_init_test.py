"""`auto_init` over depth: the law of finite width, residual sums, loops."""

import functools
import math
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_by_numpy import filled, normal
from flax import nnx

import initjax
from initjax.meanfield import relu_log_norm
from initjax.model_init import auto_init, plan_init

KEY = jax.random.key(0)
shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)


def stack(depth, width):
  """The first layer is fed by the input, the others are scanned."""
  return {"in": shape(width, width), "rest": shape(depth, width, width)}


def deep(phi, skip=0.0):
  def layer(h, kernel):
    return skip * h + phi(h) @ kernel, None

  return lambda p, x: jax.lax.scan(layer, x @ p["in"], p["rest"])[0]


def product(w, x):
  return x @ w


def draw(fn, params, *inputs, key=KEY, **options):
  """`auto_init` in one program."""
  made = jax.jit(lambda key: auto_init(key, fn, params, *inputs, **options))
  return jax.device_get(made(key))


def test_a_hundred_relu_layers_follow_the_law_of_finite_width():
  """log of |x_L|²/|x_0|² of 128 draws: mean and deviation of theory."""
  depth, width, draws = 100, 32, 128
  fn, params = deep(jax.nn.relu), stack(depth, width)
  x = normal(0, 1, width)

  def one(key):
    drawn = auto_init(key, fn, params, x, distribution="normal")
    before = x @ drawn["in"]
    return jnp.log(jnp.sum(fn(drawn, x) ** 2) / jnp.sum(before**2))

  many = jax.jit(lambda key: jax.lax.map(one, jax.random.split(key, draws)))
  ratios = np.asarray(many(KEY))
  law = relu_log_norm(depth, width)
  assert law.survival > 0.999999
  assert abs(ratios.mean() - law.mean) < 4 * law.std / math.sqrt(draws)
  # of a Gaussian, the deviation of 128 draws scatters by 1/√254
  assert abs(ratios.std() / law.std - 1) < 4 / math.sqrt(254)


class Residual(nn.Module):
  """A stream to which every branch adds unit second moment."""

  depth: int
  width: int = 256

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(self.width)(x)
    sizes = [jnp.mean(x**2)]
    for _ in range(self.depth):
      x = x + nn.Dense(self.width)(jax.nn.relu(x))
      sizes.append(jnp.mean(x**2))
    return x, jnp.stack(sizes)


def test_residual_sums_are_counted():
  """Second moments 1, 2, ..., L + 1: each kernel has 1/(fan_in·l/2).

  A branch is 1 ± √(5/n)·(1 + chance before it): to be safe 6·√(5·L/n).
  """
  model, depth, x = Residual(12), 12, normal(0, 128, 256)
  params = filled(model.init, x)
  fn = lambda params, x: model.apply(params, x)[0]
  plan = plan_init(fn, params, x)
  for layer, row in enumerate(plan.rows[1:], 1):
    assert row.second_moment == pytest.approx(layer / 2, rel=1e-6)
    assert row.std == pytest.approx((256 * layer / 2) ** -0.5, rel=1e-6)
  drawn = auto_init(KEY, fn, params, x)
  _, sizes = jax.jit(model.apply)(drawn, x)
  error = 6 * math.sqrt(5 * depth / 256 / 128) + 4 * math.sqrt(5 / 256)
  np.testing.assert_allclose(sizes / np.arange(1, 14), 1, atol=error)


def test_each_repeat_of_a_scan_has_its_own_variance():
  """The same stream, its layers stacked."""
  depth, width = 12, 256
  fn, params = deep(jax.nn.relu, skip=1), stack(depth, width)
  drawn = draw(fn, params, shape(1, width))
  wanted = (width * np.arange(1, depth + 1) / 2) ** -0.5
  stds = drawn["rest"].std(axis=(1, 2))
  # a sample variance of m entries has relative deviation of at most √(2/m)
  np.testing.assert_allclose(stds, wanted, rtol=5 * math.sqrt(0.5) / width)


class Transformer(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(200, 128)(tokens)
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(4)(h, h)
    h = nn.gelu(nn.Dense(512)(nn.LayerNorm()(x)))
    return nn.Dense(200)(nn.LayerNorm()(x + nn.Dense(128)(h)))


def test_a_transformer_has_unit_size_but_for_what_is_assumed():
  """Every row but the one after softmax, to the chance of its last layer.

  A layer of n features draws its mean square to 1 ± √(2(1/n + 1/samples)), and
  takes over what the n before it had: twice that, for 4.5 deviations. Rows of
  the embedding are 200·128 entries of relative variance 2.
  """
  model = Transformer()
  tokens = np.random.default_rng(0).integers(0, 200, (8, 32))
  params = filled(model.init, tokens)

  @jax.jit
  def measured(key, tokens):
    drawn = auto_init(key, model.apply, params, tokens)
    report = initjax.measure(model.apply, drawn, tokens)
    return report, report.forward

  report, rows = jax.device_get(measured(KEY, tokens))
  error = 2 * 4.5 * math.sqrt(2 * (1 / 128 + 1 / 256) / 128)
  for op, row in zip(report.graph.ops, rows, strict=True):
    if "/out/" not in op.path:
      assert abs(2**row.log2_second_moment - 1) < error, op.path


# What is not a kernel, and kernels without values


def mlp(params, x):
  h = jax.nn.relu(x @ params["first"] + params["bias"])
  return h @ params["second"]


def mlp_params(bias):
  return {"first": shape(32, 64), "bias": bias, "second": shape(64, 8)}


def test_biases_count_and_keep_their_values():
  bias = np.full(64, 2, np.float32)
  params = mlp_params(bias)
  drawn = auto_init(KEY, mlp, params, shape(1, 32))
  assert drawn["bias"] is bias
  plan = plan_init(mlp, params, shape(1, 32))
  assert plan.rows[1].second_moment == pytest.approx((1 + 4) / 2, rel=1e-9)
  assert plan.kept == ("bias",)
  huge = mlp_params(np.full(64, 2.0**80, np.float32))  # no square of float32
  plan = plan_init(mlp, huge, shape(1, 32))
  assert plan.rows[1].second_moment == pytest.approx(2.0**160 / 2, rel=1e-9)


def test_values_depend_on_the_path_alone():
  x = shape(1, 32)
  alone = draw(lambda p, x: x @ p["w"], {"w": shape(32, 8)}, x)
  more = {"a": shape(32, 4), "w": shape(32, 8), "z": shape(8, 2)}
  fn = lambda p, x: (x @ p["a"], x @ p["w"] @ p["z"])
  draws = [
    auto_init(jax.random.key(seed), fn, more, x)["w"] for seed in range(2)
  ]
  np.testing.assert_array_equal(alone["w"], draws[0])
  assert not np.array_equal(alone["w"], draws[1])


@pytest.mark.parametrize("distribution", ["uniform", "orthogonal"])
def test_the_dtype_stays_and_the_variance_too(distribution):
  dtypes = (jnp.bfloat16, jnp.float16, jnp.float32)
  params = [jax.ShapeDtypeStruct((256, 64), dtype) for dtype in dtypes]
  fn = lambda params, x: [x @ w for w in params]
  found = draw(fn, params, shape(1, 256), distribution=distribution)
  for drawn, dtype in zip(found, dtypes, strict=True):
    assert drawn.dtype == dtype
    variance = np.mean(drawn.astype(np.float32) ** 2)
    # 2^-8 of bfloat16's rounding, √(2/m) of chance
    assert abs(variance * 256 - 1) < 2**-8 + 4 * math.sqrt(2) / 128


def test_under_jit_the_same_values():
  params = mlp_params(np.zeros(64, np.float32))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  outside = auto_init(KEY, mlp, params, shape(1, 32))
  jax.tree.map(close, outside, draw(mlp, params, shape(1, 32)))


def test_shardings_stay_and_do_not_change_values():
  mesh = jax.make_mesh((2, 4), ("x", "y"))
  spec = jax.sharding.PartitionSpec("x", "y")
  sharding = jax.sharding.NamedSharding(mesh, spec)
  plain = auto_init(KEY, product, shape(32, 64), shape(1, 32))
  struct = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=sharding)
  drawn = auto_init(KEY, product, struct, shape(1, 32))
  assert drawn.sharding.is_equivalent_to(sharding, 2)
  np.testing.assert_allclose(drawn, np.asarray(plain), rtol=1e-6)


def test_nnx_states_come_back_as_states():
  model = nnx.Sequential(
    nnx.Linear(32, 64, rngs=nnx.Rngs(0)), jax.nn.tanh,
    nnx.Linear(64, 64, rngs=nnx.Rngs(1)),
  )  # fmt: skip
  fn, params = initjax.functional(model)
  nnx.update(model, auto_init(KEY, fn, params, shape(1, 32)))
  std = np.std(np.asarray(model.layers[2].kernel[...]))
  gain = initjax.gain(jnp.tanh)
  assert std * 8 == pytest.approx(gain, rel=5 * math.sqrt(0.5) / 64)


def test_constant_factors_are_taken_out():
  fn = lambda w, x: x @ (w / math.sqrt(32))
  plan = plan_init(fn, shape(32, 64), shape(1, 32))
  assert plan.rows[0].std == pytest.approx(1.0)
  assert plan.rows[0].gain == pytest.approx(1.0)


def test_backward_gains_keep_the_gradient():
  """100 tanh layers: E[δ²] of the first over the last, averaged over draws.

  Its logarithm has a deviation of about √(κL/n), κ = 3E[φ'⁴]/E[φ'²]² - 1 < 5.
  """
  width, depth = 128, 100
  fn, params = deep(jnp.tanh), stack(depth, width)
  x, delta = normal(0, 4, width), normal(1, 4, width)

  @functools.partial(jax.jit, static_argnums=1)
  def gradient(key, direction):
    drawn = auto_init(key, fn, params, x, direction=direction)
    bare = lambda h: fn({**drawn, "in": jnp.eye(width)}, h)
    return jnp.sum(jax.vjp(bare, x)[1](delta)[0] ** 2)

  kept = float(gradient(KEY, "backward"))
  ratio = math.log(kept / np.sum(delta**2))
  assert abs(ratio) < 4 * math.sqrt(5 * depth / width)
  # 1.178^100 = 1.3e7
  assert gradient(KEY, "forward") > 1e5 * kept


def test_unstable_maps_are_warned_of():
  given = stack(100, 16), shape(1, 16)
  run = lambda phi: auto_init(KEY, deep(phi), *given, direction="forward")
  with pytest.warns(UserWarning, match=r"unstable: fed by gelu.*1\.144.*half"):
    run(jax.nn.gelu)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    run(jnp.tanh)


def test_a_model_with_wrong_fans_is_mended():
  """Depthwise convolution in flax: fan_out counts what is not summed.

  What the broken kernels are does not matter.
  """
  layer = nn.Conv(
    64, (3,), padding="CIRCULAR", feature_group_count=64, use_bias=False,
    kernel_init=nn.initializers.variance_scaling(1.0, "fan_out", "normal"),
  )  # fmt: skip
  x = normal(0, 512, 8, 64)

  @jax.jit
  def sizes(key, x):
    broken = layer.init(key, x)
    half = jax.tree.map(lambda leaf: leaf * 0.5, broken)
    mended = [auto_init(key, layer.apply, p, x) for p in (broken, half)]
    outs = [layer.apply(params, x) for params in (broken, *mended)]
    return [jnp.mean(out**2) for out in outs]

  broken, *mended = map(float, sizes(KEY, x))
  assert broken < 0.1
  error = math.sqrt(2 * (1 / 3 + 1 / 512) / 64)
  for size in mended:
    assert abs(size - 1) < 4.5 * error
