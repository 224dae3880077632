"""100 layers with our initializers as kernel_init, in linen and in NNX.

Where signal and gradient shall be stable, `initjax.testing` says what chance
may do at these widths; elsewhere they are compared with what theory predicts,
`meanfield.trajectory`, within four of its standard deviations.
"""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initjax
from initjax import gains, initializers, meanfield
from initjax.testing import assert_gradients_flow, assert_variance_stable

DEPTH, DRAWS, BATCH = 100, 8, 4
WIDTH = {"mlp": 128, "conv": 48}
SPACE = {"mlp": (), "conv": (3, 3)}
KEY = jax.random.key(0)


class LinenLayer(nn.Module):
  kind: str
  activation: object
  inits: dict

  @nn.compact
  def __call__(self, h, _):
    return _linen_linear(self)(self.activation(h)), None


def _linen_linear(module):
  width = WIDTH[module.kind]
  if module.kind == "mlp":
    return nn.Dense(width, **module.inits)
  return nn.Conv(width, (3, 3), padding="CIRCULAR", **module.inits)


class LinenStack(nn.Module):
  kind: str
  activation: object
  inits: dict

  @nn.compact
  def __call__(self, x):
    layers = nn.scan(
      LinenLayer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=DEPTH - 1,
    )(self.kind, self.activation, self.inits)
    return layers(_linen_linear(self)(x), None)[0]


class NnxStack(nnx.Module):
  def __init__(self, kind, activation, inits, key):
    first, *rest = jax.random.split(key, DEPTH)
    self.activation = activation
    linear = functools.partial(self._linear, kind, inits)
    self.first = linear(first)
    self.layers = nnx.vmap(linear)(jnp.stack(rest))

  @staticmethod
  def _linear(kind, inits, key):
    width, rngs = WIDTH[kind], nnx.Rngs(params=key)
    if kind == "mlp":
      return nnx.Linear(width, width, rngs=rngs, **inits)
    return nnx.Conv(
      width, width, (3, 3), padding="CIRCULAR", rngs=rngs, **inits
    )

  def __call__(self, x):
    step = lambda h, layer: layer(self.activation(h))
    return nnx.scan(step, out_axes=nnx.Carry)(self.first(x), self.layers)


def inputs(kind):
  shape = (BATCH, *SPACE[kind], WIDTH[kind])
  return jax.random.normal(jax.random.key(1), shape)


def linen_stack(kind, activation, inits):
  """The function, and one of a key that gives its parameters."""
  stack = LinenStack(kind, activation, inits)
  return stack.apply, lambda key: stack.init(key, inputs(kind))


def nnx_stack(kind, activation, inits):
  build = functools.partial(NnxStack, kind, activation, inits)
  fn, _ = initjax.functional(build(KEY))
  return fn, lambda key: initjax.functional(build(key))[1]


FRAMEWORKS = {"linen": linen_stack, "nnx": nnx_stack}


def stable(stack, kind, **options):
  """Both assertions, on the mean over several draws."""
  fn, init = stack
  options |= {"init": init, "draws": DRAWS, "key": KEY}
  assert_variance_stable(fn, None, inputs(kind), **options)
  options.pop("target", None)
  assert_gradients_flow(fn, None, inputs(kind), **options)


LEAKY = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
RELU_FAMILY = {
  "relu": (jax.nn.relu, initializers.he_normal()),
  "leaky_relu": (LEAKY, initializers.kaiming_normal(negative_slope=0.2)),
}


@pytest.mark.parametrize("name", RELU_FAMILY)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_relu_family_is_stable_both_ways_at_the_he_gain(framework, kind, name):
  activation, init = RELU_FAMILY[name]
  stack = FRAMEWORKS[framework](kind, activation, {"kernel_init": init})
  stable(stack, kind)


@pytest.mark.parametrize(
  ("kind", "wrong"),
  [
    ("mlp", initializers.xavier_normal()),
    ("mlp", initializers.variance_scaling(2.1, "fan_in", "normal")),
    ("conv", initializers.xavier_normal()),
  ],
)
def test_xavier_on_relu_is_caught_and_five_percent_of_variance(kind, wrong):
  stack = linen_stack(kind, jax.nn.relu, {"kernel_init": wrong})
  with pytest.raises(AssertionError, match="signal is not stable"):
    stable(stack, kind)


def test_tanh_on_the_edge_of_chaos_is_stable_both_ways():
  """σ_w² = 1.76095, σ_b² = 0.05: χ₁ = 1 at q* = 0.57005 (Schoenholz 2017)."""
  sigma_w2, sigma_b2, q = 1.760954639606738, 0.05, 0.5700478816407635
  found = meanfield.critical_point(jnp.tanh, sigma_b2)
  np.testing.assert_allclose((found.sigma_w2, found.q), (sigma_w2, q), 1e-9)
  inits = {
    "kernel_init": initializers.variance_scaling(sigma_w2, "fan_in", "normal"),
    "bias_init": initializers.normal(math.sqrt(sigma_b2)),
  }
  stable(nnx_stack("mlp", jnp.tanh, inits), "mlp", target=q)


# What is not stable: theory says by how much


def measured(activation, init, log2_lift=0.0):
  """log₂ second moments [draws, depth] of a linen MLP, forward and backward.

  The cotangent is sent off 2^log2_lift times larger, so that a gradient that
  vanishes by 1e-80 does not underflow before it arrives.
  """
  fn, draw = linen_stack("mlp", activation, {"kernel_init": init})
  x = inputs("mlp")

  @jax.jit
  def run(key):
    cotangent = jax.random.normal(key, x.shape) * 2.0**log2_lift
    report = initjax.measure(fn, draw(key), x, cotangent=cotangent)
    return [
      jnp.concatenate([one.log2_second_moment.ravel() for one in rows])
      for rows in (report.forward, report.backward)
    ]

  keys = jax.random.split(KEY, DRAWS)
  forward, backward = map(np.stack, zip(*map(run, keys), strict=True))
  return forward, backward - 2 * log2_lift


def predicted(activation, sigma_w2):
  width = WIDTH["mlp"]
  first = meanfield.Layer(None, sigma_w2, width=width)
  other = meanfield.Layer(activation, sigma_w2, width=width)
  return meanfield.trajectory([first, *[other] * (DEPTH - 1)], batch=BATCH)


BOUNDED = {
  "tanh": jnp.tanh,
  "softsign": jax.nn.soft_sign,
  "elu": jax.nn.elu,
  "selu": jax.nn.selu,
  "sigmoid": jax.nn.sigmoid,
}


@pytest.mark.parametrize("name", BOUNDED)
def test_own_gain_keeps_the_signal_and_gradients_match_chi(name):
  activation = BOUNDED[name]
  theory = predicted(activation, gains.gain(activation) ** 2)
  assert abs(theory.forward[-1]) < 0.03  # the fixed point is q = 1
  init = initializers.activation_scaling(activation, distribution="normal")
  lift = max(0.0, -theory.backward[0] * 3 / 8)  # of half that, in amplitude
  forward, backward = measured(activation, init, lift)
  chex.assert_tree_all_finite((forward, backward))
  noise = 4 / math.sqrt(DRAWS)
  chex.assert_trees_all_close(
    forward[:, -1].mean(),
    theory.forward[-1] + theory.forward_drift[-1],
    atol=noise * theory.forward_std[-1],
  )
  chex.assert_trees_all_close(
    (backward[:, 0] - backward[:, -1]).mean(),
    theory.backward[0] + theory.backward_drift[0],
    atol=noise * theory.backward_std[0],
  )
  if name in ("tanh", "softsign", "sigmoid"):  # far from stable, and shown so
    assert abs(theory.backward[0]) > 3 * noise * theory.backward_std[0]


@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.silu])
def test_gelu_and_silu_run_away_at_their_own_gain(activation):
  """Q' > 1: the deviation of layer 1 grows until the signal grows for good."""
  init = initializers.activation_scaling(activation)
  point = meanfield.fixed_point(activation, gains.gain(activation) ** 2, 0.0)
  assert point.length_slope > 1.14
  assert not point.stable
  stack = linen_stack("mlp", activation, {"kernel_init": init})
  with pytest.raises(AssertionError, match="this fixed point is unstable"):
    stable(stack, "mlp")
