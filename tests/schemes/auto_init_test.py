"""`auto_init` over depth: the law of finite width, residual sums, loops."""

import functools
import math
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initjax
from initjax.meanfield import relu_log_norm
from initjax.schemes import auto_init

KEY = jax.random.key(0)
shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)


def relu_mlp(kernels, x):  # depth by scan; the first layer is fed by the input
  def layer(h, kernel):
    h = jax.nn.relu(h) @ kernel
    return h, None

  return jax.lax.scan(layer, x @ kernels["in"], kernels["rest"])[0]


def test_a_hundred_relu_layers_follow_the_law_of_finite_width():
  """log of |x_L|²/|x_0|² of 64 draws: mean and deviation of theory."""
  depth, width, draws = 100, 64, 64
  params = {"in": shape(width, width), "rest": shape(depth, width, width)}
  x = jax.random.normal(KEY, (1, width))

  @jax.jit
  def one(key):
    drawn = auto_init(key, relu_mlp, params, x, distribution="normal")
    before = x @ drawn["in"]
    return jnp.log(jnp.sum(relu_mlp(drawn, x) ** 2) / jnp.sum(before**2))

  ratios = jax.lax.map(one, jax.random.split(KEY, draws))
  law = relu_log_norm(depth, width)
  assert law.survival > 0.999999
  assert abs(float(ratios.mean()) - law.mean) < 4 * law.std / math.sqrt(draws)
  # of a Gaussian, the deviation of 64 draws scatters by 1/√126
  assert abs(float(ratios.std()) / law.std - 1) < 4 / math.sqrt(126)


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
  model = Residual(12)
  x = jax.random.normal(KEY, (128, 256))
  params = model.init(KEY, x)
  fn = lambda params, x: model.apply(params, x)[0]
  plan = auto_init(KEY, fn, params, x, plan=True)
  for layer, row in enumerate(plan.rows[1:], 1):
    assert row.second_moment == pytest.approx(layer / 2, rel=1e-6)
    assert row.std == pytest.approx((256 * layer / 2) ** -0.5, rel=1e-6)
  _, sizes = model.apply(auto_init(KEY, fn, params, x), x)
  error = 6 * math.sqrt(5 * 12 / 256 / 128) + 4 * math.sqrt(5 / 256)
  np.testing.assert_allclose(sizes / np.arange(1, 14), 1, atol=error)


def scanned(params, x):  # the same stream, its layers stacked
  def layer(h, kernel):
    return h + jax.nn.relu(h) @ kernel, None

  return jax.lax.scan(layer, x @ params["in"], params["rest"])[0]


def test_each_repeat_of_a_scan_has_its_own_variance():
  depth, width = 12, 256
  params = {"in": shape(width, width), "rest": shape(depth, width, width)}
  drawn = auto_init(KEY, scanned, params, shape(1, width))
  wanted = (width * np.arange(1, depth + 1) / 2) ** -0.5
  stds = drawn["rest"].std(axis=(1, 2))
  # a sample variance of m entries has relative deviation of at most √(2/m)
  np.testing.assert_allclose(stds, wanted, rtol=5 * math.sqrt(0.5) / width)


class Block(nn.Module):
  width: int = 128

  @nn.compact
  def __call__(self, x):
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(4)(h, h)
    h = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
    return x + nn.Dense(self.width)(h)


class Transformer(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(200, 128)(tokens)
    x = Block()(x)
    return nn.Dense(200)(nn.LayerNorm()(x))


def test_a_transformer_has_unit_size_but_for_what_is_assumed():
  """Every row but the one after softmax, to the chance of its last layer.

  A layer of n features draws its mean square to 1 ± √(2(1/n + 1/samples)), and
  takes over what the n before it had: twice that, for 4.5 deviations. Rows of
  the embedding are 200·128 entries of relative variance 2.
  """
  model = Transformer()
  tokens = jax.random.randint(KEY, (8, 32), 0, 200)
  params = auto_init(KEY, model.apply, jax.jit(model.init)(KEY, tokens), tokens)
  report = initjax.measure(model.apply, params, tokens)
  for row in report.to_records():
    if "'out'" not in row["path"]:
      error = 2 * 4.5 * math.sqrt(2 * (1 / 128 + 1 / 256) / 128)
      size = 2 ** row["forward_log2_second_moment"]
      assert abs(size - 1) < error, row["path"]


# What is not a kernel, and kernels without values


def mlp(params, x):
  h = jax.nn.relu(x @ params["first"] + params["bias"])
  return h @ params["second"]


def test_biases_count_and_keep_their_values():
  bias = jnp.full((64,), 2.0)
  params = {"first": shape(32, 64), "bias": bias, "second": shape(64, 8)}
  drawn = auto_init(KEY, mlp, params, shape(1, 32))
  assert drawn["bias"] is bias
  plan = auto_init(KEY, mlp, params, shape(1, 32), plan=True)
  assert plan.rows[1].second_moment == pytest.approx((1 + 4) / 2, rel=1e-9)
  assert plan.kept == ("['bias']",)


def test_values_depend_on_the_path_alone():
  x = shape(1, 32)
  alone = auto_init(KEY, lambda p, x: x @ p["w"], {"w": shape(32, 8)}, x)
  more = {"a": shape(32, 4), "w": shape(32, 8), "z": shape(8, 2)}
  fn = lambda p, x: (x @ p["a"], x @ p["w"] @ p["z"])
  np.testing.assert_array_equal(alone["w"], auto_init(KEY, fn, more, x)["w"])
  assert not jnp.array_equal(
    alone["w"], auto_init(jax.random.key(1), fn, more, x)["w"]
  )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("distribution", ["uniform", "orthogonal"])
def test_the_dtype_stays_and_the_variance_too(dtype, distribution):
  params = jax.ShapeDtypeStruct((256, 64), dtype)
  drawn = auto_init(
    KEY, lambda w, x: x @ w, params, shape(1, 256), distribution=distribution
  )
  assert drawn.dtype == dtype
  variance = float(jnp.mean(drawn.astype(jnp.float32) ** 2))
  # 2^-8 of bfloat16's rounding, √(2/m) of chance
  assert variance * 256 == pytest.approx(1, abs=2**-8 + 4 * math.sqrt(2) / 128)


def test_under_jit_the_same_values():
  params = {
    "first": shape(32, 64),
    "bias": jnp.zeros(64),
    "second": shape(64, 8),
  }
  init = lambda key: auto_init(key, mlp, params, shape(1, 32))
  chex_equal = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(chex_equal, init(KEY), jax.jit(init)(KEY))


def test_shardings_stay_and_do_not_change_values():
  mesh = jax.make_mesh((2, 4), ("x", "y"))
  spec = jax.sharding.PartitionSpec("x", "y")
  sharding = jax.sharding.NamedSharding(mesh, spec)
  fn = lambda w, x: x @ w
  plain = auto_init(KEY, fn, shape(32, 64), shape(1, 32))
  struct = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=sharding)
  drawn = auto_init(KEY, fn, struct, shape(1, 32))
  assert drawn.sharding.is_equivalent_to(sharding, 2)
  np.testing.assert_allclose(drawn, plain, rtol=1e-6)


def test_nnx_states_come_back_as_states():
  model = nnx.Sequential(
    nnx.Linear(32, 64, rngs=nnx.Rngs(0)), jax.nn.tanh,
    nnx.Linear(64, 64, rngs=nnx.Rngs(1)),
  )  # fmt: skip
  fn, params = initjax.functional(model)
  drawn = auto_init(KEY, fn, params, shape(1, 32))
  nnx.update(model, drawn)
  std = float(model.layers[2].kernel[...].std())
  gain = initjax.gain(jnp.tanh)
  assert std * 8 == pytest.approx(gain, rel=5 * math.sqrt(0.5) / 64)


# What the factor between leaf and operation does


def test_constant_factors_are_taken_out():
  fn = lambda w, x: x @ (w / math.sqrt(32))
  plan = auto_init(KEY, fn, shape(32, 64), shape(1, 32), plan=True)
  assert plan.rows[0].std == pytest.approx(1.0)
  assert plan.rows[0].gain == pytest.approx(1.0)


def test_backward_gains_keep_the_gradient():
  """100 tanh layers: E[δ²] of the first over the last, averaged over draws.

  Its logarithm has a deviation of about √(κL/n), κ = 3E[φ'⁴]/E[φ'²]² - 1 < 5.
  """
  width, depth = 128, 100
  fn = lambda p, x: jax.lax.scan(
    lambda h, w: (jnp.tanh(h) @ w, None), x @ p["in"], p["rest"]
  )[0]
  params = {"in": shape(width, width), "rest": shape(depth, width, width)}
  x = jax.random.normal(KEY, (4, width))
  drawn = auto_init(KEY, fn, params, x, direction="backward")
  out, pull_back = jax.vjp(lambda h: fn({**drawn, "in": jnp.eye(width)}, h), x)
  delta = jax.random.normal(jax.random.key(1), out.shape)
  (gradient,) = pull_back(delta)
  ratio = float(jnp.log(jnp.sum(gradient**2) / jnp.sum(delta**2)))
  assert abs(ratio) < 4 * math.sqrt(5 * depth / width)
  forward = auto_init(KEY, fn, params, x)
  (grown,) = jax.vjp(lambda h: fn(forward, h), x)[1](delta)
  assert jnp.sum(grown**2) > 1e5 * jnp.sum(gradient**2)  # 1.178^100 = 1.3e7


def deep(phi):
  return lambda p, x: jax.lax.scan(
    lambda h, w: (phi(h) @ w, None), x @ p[0], p[1]
  )[0]


def test_unstable_maps_are_warned_of():
  params = (shape(16, 16), shape(100, 16, 16))
  with pytest.warns(UserWarning, match=r"unstable: fed by gelu.*1\.144.*half"):
    auto_init(KEY, deep(jax.nn.gelu), params, shape(1, 16))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    auto_init(KEY, deep(jnp.tanh), params, shape(1, 16))


@pytest.mark.parametrize("how", ["plain", "half"])
def test_a_model_with_wrong_fans_is_mended(how):
  """Depthwise convolution in flax: fan_out counts what is not summed."""
  layer = nn.Conv(
    64, (3,), padding="CIRCULAR", feature_group_count=64, use_bias=False,
    kernel_init=nn.initializers.variance_scaling(1.0, "fan_out", "normal"),
  )  # fmt: skip
  x = jax.random.normal(KEY, (512, 8, 64))
  broken = layer.init(KEY, x)
  assert float(jnp.mean(layer.apply(broken, x) ** 2)) < 0.1
  if how == "half":
    broken = jax.tree.map(lambda leaf: leaf * 0.5, broken)
  mended = auto_init(KEY, layer.apply, broken, x)
  error = math.sqrt(2 * (1 / 3 + 1 / 512) / 64)
  size = float(jnp.mean(layer.apply(mended, x) ** 2))
  assert abs(size - 1) < 4.5 * error
