"""The recovered activation is the function that the model applies."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from initjax import gains
from initjax.graph import functional, signal_graph

X = np.ones((3, 8), np.float32)
W = np.ones((8, 8), np.float32)
POINTS = np.linspace(-3, 3, 101, dtype=np.float32)


@jax.jit
def swish_twice(x):
  return jax.nn.silu(jax.nn.silu(x))


@jax.custom_jvp
def clipped(x):
  return jnp.clip(x, -1, 1)


clipped.defjvps(lambda g, y, x: g * (abs(x) < 1))

NAMES = [
  "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish",
  "softplus", "sigmoid", "hard_sigmoid", "hard_silu", "hard_tanh",
  "log_sigmoid", "soft_sign", "squareplus",
]  # fmt: skip
ACTIVATIONS = {name: getattr(jax.nn, name) for name in NAMES} | {
  "tanh": jnp.tanh,
  "sine": lambda x: jnp.sin(30 * x),
  "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
  "where": lambda x: jnp.where(x > 0.5, x, 0.1 * x),
  "polynomial": lambda x: x**3 - 2 * x**2 + 1,
  "power": lambda x: jnp.abs(x) ** 1.5,
  "jitted": swish_twice,
  "custom rule": clipped,
}


def assert_equal_functions(pairs, **tolerance):
  """At all points, in one program."""
  found = jax.jit(lambda x: {k: [f(x) for f in pairs[k]] for k in pairs})(
    POINTS
  )
  for name, (actual, wanted) in jax.device_get(found).items():
    np.testing.assert_allclose(actual, wanted, err_msg=name, **tolerance)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_function_between_two_layers_comes_back(dtype):
  params, x = {"first": W, "bias": W[0], "second": W}, X
  params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x))
  pairs = {}
  for name, phi in ACTIVATIONS.items():
    model = lambda p, x, phi=phi: phi(x @ p["first"] + p["bias"]) @ p["second"]
    op = signal_graph(model, params, x)["second"]
    assert (op.reason, op.source) == ("linear", "first"), name
    pairs[name] = op.activation, phi
  # One rounding per equation, none of them ill-conditioned by more than 1e2;
  # constants of the trace are rounded to the model's precision.
  tolerance = 100 * float(jnp.finfo(dtype).eps)
  assert_equal_functions(pairs, rtol=tolerance, atol=tolerance)


def test_the_gain_of_a_recovered_activation_is_exact():
  def model(p, x):
    return jnp.tanh(x @ p[0]) @ p[1]

  op = signal_graph(model, [W, W], X)["1"]
  np.testing.assert_allclose(
    gains.gain(op.activation), gains.gain(jnp.tanh), rtol=1e-12
  )


@pytest.mark.parametrize(
  ("feed", "reason"),
  [
    (lambda x, w: x, "input"),
    (lambda x, w: x + x @ w, "residual sum"),
    (lambda x, w: (x @ w) * jax.nn.silu(x @ w.T), "product of two branches"),
    (lambda x, w: jax.nn.softmax(x @ w), "softmax"),
    (lambda x, w: nn.LayerNorm().apply({"params": {
      "scale": w[0], "bias": w[0]}}, x @ w), "normalization"),
    (lambda x, w: nn.RMSNorm().apply({"params": {
      "scale": w[0]}}, x @ w), "normalization"),
  ],
)  # fmt: skip
def test_without_an_activation_the_reason_is_given(feed, reason):
  op = signal_graph(lambda p, x: feed(x, p[0]) @ p[1], [W, W], X)["1"]
  assert op.activation is None
  assert op.reason == reason


def test_an_activation_after_a_sum_or_a_norm_has_that_source():
  def model(p, x):
    return jax.nn.relu(x + x @ p[0]) @ p[1]

  op = signal_graph(model, [W, W], X)["1"]
  assert op.reason == "residual sum"
  assert_equal_functions({"relu": (op.activation, jax.nn.relu)}, rtol=0)


def test_a_linear_network_is_fed_by_the_identity():
  op = signal_graph(lambda p, x: x @ p[0] @ p[1], [W, W], X)["1"]
  assert_equal_functions({"identity": (op.activation, lambda x: x)}, rtol=0)


def test_in_a_scan_the_first_repeat_has_a_feed_of_its_own():
  def model(p, x):
    def layer(h, w):
      return jnp.tanh(h) @ w, None

    h = jax.nn.relu(x @ p["first"])
    return jax.lax.scan(layer, h, p["rest"])[0]

  params = {"first": W, "rest": np.ones((4, 8, 8), np.float32)}
  op = signal_graph(model, params, X)["rest"]
  pairs = {
    "first": (op.activation, lambda x: jnp.tanh(jax.nn.relu(x))),
    "later": (op.later_feed.activation, jnp.tanh),
  }
  assert_equal_functions(pairs, rtol=1e-6)
  assert (op.source, op.later_feed.source) == ("first", "rest")


@pytest.mark.parametrize("framework", ["linen", "nnx"])
@pytest.mark.parametrize("rate", [0.1, 0.75])
def test_dropout_is_seen_through(framework, rate):
  """Its factor is that of the mean square: E[(m φ / keep)²] = φ² / keep."""
  if framework == "linen":
    drop = nn.Dropout(rate, deterministic=False)
    model = nn.Sequential([nn.Dense(8), nn.tanh, drop, nn.Dense(3)])
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.eval_shape(model.init, keys, X)
    fn = functools.partial(model.apply, rngs={"dropout": jax.random.key(2)})
  else:
    rngs = nnx.Rngs(0)
    first, last = (nnx.Linear(8, 8, rngs=rngs) for _ in range(2))
    drop = nnx.Dropout(rate, rngs=rngs)
    fn, params = functional(nnx.Sequential(first, jnp.tanh, drop, last))
  _, op = signal_graph(fn, params, X).ops
  wanted = lambda x: jnp.tanh(x) / np.sqrt(1 - rate)
  assert_equal_functions({"dropped": (op.activation, wanted)}, rtol=1e-5)
  assert op.reason == "linear"


MIXTURES = {
  "a mask of other places": lambda z: jnp.where(z[:, ::-1] < 0.5, z, 0),
  "gated linear unit": lambda z: z[:, :4] * jax.nn.sigmoid(z[:, 4:]),
  "a split gate": lambda z: jnp.multiply(*jnp.split(z, 2, axis=1)),
  "transposed": lambda z: z * z.T,
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_places_is_no_scalar_function(name):
  mix = MIXTURES[name]
  readout = np.ones((jax.eval_shape(mix, W).shape[1], 3), np.float32)
  model = lambda params, x: mix(x @ params[0]) @ params[1]
  op = signal_graph(model, [W, readout], W).ops[1]
  assert op.activation is None
  assert op.reason in ("product of two branches", "mask or dropout")


def test_the_same_place_by_two_ways_is_one():
  """Both halves of a product see z through the same slice."""
  swish = lambda z: z[:, :4] * jax.nn.sigmoid(z[:, :4])
  model = lambda params, x: swish(x @ params[0]) @ params[1]
  op = signal_graph(model, [W, W[:4]], X).ops[1]
  assert_equal_functions({"silu": (op.activation, jax.nn.silu)}, rtol=1e-6)


def test_a_recovered_function_is_called_as_one_would():
  long = lambda h: jnp.sin(
    1.234 * jnp.cos(2.345 * h + 3.456) + jnp.cos(7.89 * h)
  )
  names = {
    "tanh(2·x)": lambda h: jnp.tanh(2 * h),
    "exp(x^2)": lambda h: jnp.exp(h**2),
    "(x+1)/(x-1)": lambda h: (h + 1) / (h - 1).astype(jnp.bfloat16),
    "max(x, 0)": jax.nn.relu,
    "made of mul, add, cos, mul, mul, cos, add, sin, …": lambda h: -long(h),
  }
  for name, phi in names.items():
    fn = lambda p, x, phi=phi: phi(x @ p) @ p
    x = jnp.ones((1, 4))
    op = signal_graph(fn, jnp.ones((4, 4)), x).ops[1]
    assert repr(op.activation).startswith(name)
