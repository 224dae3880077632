"""Calibration of models as people write them: linen, NNX, Equinox."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibrated import check, tolerance
from drawn_by_numpy import filled, normal
from flax import nnx

import initjax

KEY = jax.random.key(0)
X = normal(1, 16, 12)
WILD = 3.0  # no scale that suits any layer


def assert_scaled(after, before, factor):
  np.testing.assert_allclose(
    after / before, np.broadcast_to(factor, before.shape), rtol=1e-6
  )


class Residual(nn.Module):
  """Branches whose sizes depend on all branches before."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(16)(x)
    for _ in range(2):
      branch = nn.tanh(nn.Dense(32)(nn.relu(x)))
      x = x + nn.Dense(16)(branch)
    return x


class Convolutional(nn.Module):
  """With batch statistics in training mode, strides, groups, transposes."""

  @nn.compact
  def __call__(self, x, train=True):
    x = nn.Conv(8, (3, 3), strides=2)(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.Conv(8, (3, 3), feature_group_count=4)(x)
    x = nn.ConvTranspose(4, (3, 3), strides=(2, 2))(nn.relu(x))
    x = nn.ConvLocal(4, (3, 3))(x)
    return nn.DenseGeneral((2, 3), axis=(-3, -1))(x)


class Block(nn.Module):
  """Attention and a perceptron, as one layer of a scan or by itself."""

  @nn.compact
  def __call__(self, x, _=None):
    x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
    h = nn.gelu(nn.Dense(32)(nn.LayerNorm()(x)))
    return x + nn.Dense(16)(h), None


class Scanned(nn.Module):
  """Layers under scan and remat, each with its own parameters."""

  @nn.compact
  def __call__(self, x):
    stack = nn.scan(
      nn.remat(Block),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=3,
    )
    return stack()(x, None)[0]


class Translator(nn.Module):
  """Tokens in, and logits by a readout of its own."""

  @nn.compact
  def __call__(self, tokens):
    return nn.Dense(20)(Block()(nn.Embed(20, 16)(tokens))[0])


TOKENS = np.arange(18).reshape(3, 6)


@pytest.mark.parametrize(
  ("module", "x", "fan_in", "depth"),
  [(Residual(), X, 32, 5), (Translator(), TOKENS, 32, 8)],
  ids=["Residual", "Translator"],
)
def test_linen(module, x, fan_in, depth):
  """Attention's softmax and norms pass rounding on by a small factor: 10."""
  variables = filled(module.init, x, scale=WILD)
  check(module.apply, variables, x, rtol=10 * tolerance(fan_in, depth))


def test_every_layer_of_a_scan_has_a_factor_of_its_own():
  module, x = Scanned(), normal(3, 3, 6, 16)
  variables = filled(module.init, x, scale=WILD)
  _, info = check(module.apply, variables, x, rtol=10 * tolerance(32, 3 * 6))
  for row in info.rows:
    assert row.factor.shape == (3,)
    assert len(set(row.factor.tolist())) == 3


def test_convolutions_and_batch_norm_in_training():
  module, images = Convolutional(), normal(2, 4, 8, 8, 3)
  variables = filled(module.init, images, scale=WILD)
  fn = functools.partial(module.apply, mutable=["batch_stats"])
  after, info = check(fn, variables, images, rtol=10 * tolerance(9 * 8, 5))
  assert len(info.operations) == 5
  jax.tree.map(
    np.testing.assert_array_equal,
    after["batch_stats"],
    variables["batch_stats"],
  )


def test_nnx_scan_and_the_modules_own_parameters():
  wild = jax.nn.initializers.normal(WILD)

  class Layer(nnx.Module):
    def __init__(self, rngs):
      self.linear = nnx.Linear(12, 12, kernel_init=wild, rngs=rngs)

    def __call__(self, x):
      return nnx.relu(self.linear(x))

  class Model(nnx.Module):
    def __init__(self, rngs):
      make = nnx.vmap(Layer, in_axes=0, out_axes=0)
      self.layers = make(rngs.split(3))
      self.dropout = nnx.Dropout(0.2, rngs=rngs)
      self.readout = nnx.Linear(12, 3, kernel_init=wild, rngs=rngs)

    def __call__(self, x):
      run = nnx.scan(lambda h, layer: layer(h), in_axes=(nnx.Carry, 0),
                     out_axes=nnx.Carry)  # fmt: skip
      return self.readout(self.dropout(run(x, self.layers)))

  model = nnx.jit(Model)(nnx.Rngs(0))
  fn, params = initjax.functional(model)
  after, info = check(fn, params, X, rtol=tolerance(12, 4))
  assert [row.factor.shape for row in info.rows] == [(3,), ()]
  nnx.update(model, after)
  hidden = X @ np.asarray(model.layers.linear.kernel[...])[0]
  np.testing.assert_allclose((hidden**2).mean(), 1, rtol=tolerance(12))


@pytest.mark.slow
def test_equinox():
  eqx = pytest.importorskip("equinox", reason="an optional framework")
  mlp = eqx.nn.MLP(12, 3, 16, 3, key=KEY)
  model = eqx.tree_at(
    lambda m: m.layers[0].weight, mlp, replace_fn=lambda w: 50 * w
  )
  fn, params = initjax.functional(model)
  batched = lambda params, x: jax.vmap(lambda one: fn(params, one))(x)
  after, _ = check(batched, params, X, rtol=tolerance(16, 4))
  assert isinstance(after, eqx.nn.MLP)


# Plain functions


def experts(params, x, gates):
  """A mixture: one operation of all experts, so one factor."""
  hidden = jnp.einsum("bd,edf->bef", x, params["up"])
  out = jnp.einsum("bef,efd->bed", jax.nn.relu(hidden), params["down"])
  return jnp.einsum("bed,be->bd", out, gates)


def test_experts_of_one_product_share_its_factor():
  params = {"up": normal(4, 4, 12, 8), "down": normal(5, 4, 8, 12)}
  gates = abs(normal(6, 16, 4))
  after, info = check(experts, params, X, gates, rtol=tolerance(12, 2))
  assert_scaled(after["up"], params["up"], info.rows[0].factor)


def test_slices_of_a_fused_kernel_have_factors_of_their_own():
  """Of a kernel that is cut before the product; cut after it, it is one."""
  scales = np.array([1, 10, 100], np.float32)[:, None]
  params = {"qkv": normal(7, 12, 3, 4) * scales}

  def before(params, x):
    q, k, v = (x @ params["qkv"][:, part] for part in range(3))
    return jax.nn.softmax(q @ k.T) @ v

  def after(params, x):
    q, k, v = jnp.split(x @ params["qkv"].reshape(12, 12), 3, axis=-1)
    return jax.nn.softmax(q @ k.T) @ v

  cut, info = check(before, params, X, rtol=tolerance(12))
  factors = np.array([row.factor for row in info.rows])
  assert_scaled(cut["qkv"], params["qkv"], factors[:, None])
  _, info = check(after, params, X, rtol=tolerance(12))
  assert len(info.rows) == 1


def test_nested_and_reversed_scans():
  """A stack [2, 3, 12, 12]; the inner scan runs backward."""

  def fn(params, x):
    layer = lambda h, w: (jnp.tanh(h @ w), None)
    inner = lambda h, w: (jax.lax.scan(layer, h, w, reverse=True)[0], None)
    return jax.lax.scan(inner, x, params["kernel"])[0]

  kernel = normal(8, 2, 3, 12, 12, scale=5)
  after, info = check(fn, {"kernel": kernel}, X, rtol=tolerance(12, 6))
  assert info.rows[0].factor.shape == (2, 3)
  assert_scaled(after["kernel"], kernel, info.rows[0].factor[..., None, None])


def test_a_vmapped_model():
  """Members of an ensemble are one operation."""
  fn = jax.vmap(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], (0, None))
  params = {"a": normal(9, 3, 12, 8), "b": normal(10, 3, 8, 2)}
  check(fn, params, X, rtol=tolerance(12, 2))


def test_rules_for_derivatives_are_entered():
  """No derivative is taken, so what is inside is as good as outside.

  `measure` takes one, and sees the whole: 3 times the product.
  """

  @jax.custom_vjp
  def product(x, w):
    return 3 * (x @ w)

  product.defvjp(
    lambda x, w: (product(x, w), (x, w)),
    lambda kept, g: (g @ kept[1].T, kept[0].T @ g),
  )
  params = {"w": normal(11, 12, 8, scale=7)}
  fn = lambda p, x: product(x, p["w"])
  after, info = jax.jit(functools.partial(initjax.model_init.calibrate, fn))(
    params, X
  )
  assert not info.skipped
  moment = ((X @ np.asarray(after["w"])) ** 2).mean()
  np.testing.assert_allclose(moment, 1, rtol=tolerance(12))
