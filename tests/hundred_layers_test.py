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

DEPTH, DRAWS = 100, 8
# Inputs. A convolution is as wide as they are, and its window covers them.
SHAPES = {"mlp": (4, 128), "conv": (1, 2, 2, 48)}
KEY = jax.random.key(0)


class LinenLayer(nn.Module):
  kind: str
  activation: object
  inits: dict

  @nn.compact
  def __call__(self, h, _):
    return _linen_linear(self)(self.activation(h)), None


def _linen_linear(module):
  _, *window, width = SHAPES[module.kind]
  if module.kind == "mlp":
    return nn.Dense(width, **module.inits)
  return nn.Conv(width, window, padding="CIRCULAR", **module.inits)


class LinenStack(LinenLayer):
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
    (_, *window, width), rngs = SHAPES[kind], nnx.Rngs(params=key)
    if kind == "mlp":
      return nnx.Linear(width, width, rngs=rngs, **inits)
    options = {"padding": "CIRCULAR", "rngs": rngs, **inits}
    return nnx.Conv(width, width, window, **options)

  def __call__(self, x):
    step = lambda h, layer: layer(self.activation(h))
    return nnx.scan(step, out_axes=nnx.Carry)(self.first(x), self.layers)


def inputs(kind):
  return np.float32(np.random.default_rng(1).normal(size=SHAPES[kind]))


def linen_stack(kind, activation, inits):
  """The function, and one of a key that gives its parameters."""
  stack = LinenStack(kind, activation, inits)
  fn = lambda params, x: stack.apply(params, x)  # has a hash: compiled once
  return fn, lambda key: stack.init(key, inputs(kind))


def nnx_stack(kind, activation, inits):
  build = functools.partial(NnxStack, kind, activation, inits)
  fn, _ = initjax.functional(nnx.eval_shape(lambda: build(KEY)))
  return fn, lambda key: initjax.functional(build(key))[1]


FRAMEWORKS = {"linen": linen_stack, "nnx": nnx_stack}


def drawn(stack):
  """The function and several draws of its parameters, stacked."""
  fn, init = stack
  return fn, jax.jit(jax.vmap(init))(jax.random.split(KEY, DRAWS))


def stable(fn, params, kind, **options):
  """Both assertions, on the mean over several draws."""
  arguments = fn, params, inputs(kind)
  assert_variance_stable(*arguments, draws=DRAWS, **options)
  assert_gradients_flow(*arguments, draws=DRAWS)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
LEAKY = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
RELU_FAMILY = {
  "relu": (jax.nn.relu, initializers.he_normal()),
  "leaky_relu": (LEAKY, initializers.kaiming_normal(negative_slope=0.2)),
}


@functools.cache
def relu_family(framework, kind, name):
  activation, init = RELU_FAMILY[name]
  return drawn(FRAMEWORKS[framework](kind, activation, {"kernel_init": init}))


@pytest.mark.parametrize(
  ("framework", "kind", "name"),
  [("linen", "mlp", "relu"), ("nnx", "conv", "leaky_relu")],
)
def test_relu_family_is_stable_both_ways_at_the_he_gain(framework, kind, name):
  stable(*relu_family(framework, kind, name), kind)


@pytest.mark.slow
def test_every_layer_of_both_frameworks_is_stable_at_the_he_gain():
  """Those that the default test leaves; framework, kind, φ in pairs."""
  for case in (("linen", "conv", "relu"), ("nnx", "mlp", "leaky_relu")):
    stable(*relu_family(*case), case[1])


def test_five_percent_of_variance_are_caught():
  fn, params = relu_family("linen", "mlp", "relu")
  wrong = jax.tree.map(lambda leaf: math.sqrt(1.05) * np.asarray(leaf), params)
  with pytest.raises(AssertionError, match="signal is not stable"):
    stable(fn, wrong, "mlp")


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_xavier_on_relu_is_caught(kind):
  inits = {"kernel_init": initializers.xavier_normal()}
  with pytest.raises(AssertionError, match="signal is not stable"):
    stable(*drawn(linen_stack(kind, jax.nn.relu, inits)), kind)


def test_tanh_on_the_edge_of_chaos_is_stable_both_ways():
  """σ_w² = 1.76095, σ_b² = 0.05: χ₁ = 1 at q* = 0.57005 (Schoenholz 2017)."""
  sigma_w2, sigma_b2, q = 1.760954639606738, 0.05, 0.5700478816407635
  found = meanfield.critical_point(jnp.tanh, sigma_b2)
  np.testing.assert_allclose((found.sigma_w2, found.q), (sigma_w2, q), 1e-9)
  inits = {
    "kernel_init": initializers.variance_scaling(sigma_w2, "fan_in", "normal"),
    "bias_init": initializers.normal(math.sqrt(sigma_b2)),
  }
  stable(*drawn(nnx_stack("mlp", jnp.tanh, inits)), "mlp", target=q)


# What is not stable: theory says by how much


def measured(activation, init, log2_lift=0.0):
  """log₂ second moments [draws, depth] of a linen MLP, forward and backward.

  The cotangent is sent off 2^log2_lift times larger, so that a gradient that
  vanishes by 1e-80 does not underflow before it arrives.
  """
  fn, draw = linen_stack("mlp", activation, {"kernel_init": init})
  x = inputs("mlp")
  rng = np.random.default_rng(2)
  cotangents = rng.normal(0, 2.0**log2_lift, (DRAWS, *x.shape))

  @jax.jit
  def run(drawn):
    key, cotangent = drawn
    report = initjax.measure(fn, draw(key), x, cotangent=cotangent)
    return [
      jnp.concatenate([one.log2_second_moment.ravel() for one in rows])
      for rows in (report.forward, report.backward)
    ]

  drawn = jax.random.split(KEY, DRAWS), np.float32(cotangents)
  forward, backward = map(np.asarray, jax.lax.map(run, drawn))
  return forward, backward - 2 * log2_lift


def predicted(activation, sigma_w2):
  batch, width = SHAPES["mlp"]
  first = meanfield.Layer(None, sigma_w2, width=width)
  other = meanfield.Layer(activation, sigma_w2, width=width)
  return meanfield.trajectory([first, *[other] * (DEPTH - 1)], batch=batch)


# A gradient that explodes, and one that vanishes; the rest repeats them.
OTHERS = map(slow, (jax.nn.soft_sign, jax.nn.elu, jax.nn.selu))


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.sigmoid, *OTHERS])
def test_own_gain_keeps_the_signal_and_gradients_match_chi(activation):
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
  nearly_stable = jax.nn.elu, jax.nn.selu
  if activation not in nearly_stable:
    assert abs(theory.backward[0]) > 3 * noise * theory.backward_std[0]


@pytest.mark.parametrize("activation", [jax.nn.gelu, slow(jax.nn.silu)])
def test_gelu_and_silu_run_away_at_their_own_gain(activation):
  """Q' > 1: the deviation of layer 1 grows until the signal grows for good."""
  init = initializers.activation_scaling(activation)
  point = meanfield.fixed_point(activation, gains.gain(activation) ** 2, 0.0)
  assert point.length_slope > 1.14
  assert not point.stable
  stack = linen_stack("mlp", activation, {"kernel_init": init})
  with pytest.raises(
    AssertionError, match="but any deviation from it grows by"
  ):
    stable(*drawn(stack), "mlp")
