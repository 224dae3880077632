"""Normalizations are read for what they do: over what, centred or not."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from initjax.graph import signal_graph

X = np.ones((4, 8), np.float32)
W = np.ones((8, 8), np.float32)
KEY = jax.random.key(0)


def filled(shapes):
  return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)


def linen(layer):
  variables = filled(jax.eval_shape(layer.init, KEY, X))
  return lambda z: layer.apply(variables, z, mutable=["batch_stats"])[0]


def haiku(layer):
  pure = hk.without_apply_rng(hk.transform_with_state(layer))
  variables = filled(jax.eval_shape(pure.init, KEY, X))
  return lambda z: pure.apply(*variables, z)[0]


def equinox_batch_norm(z):
  make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
  norm, state = make(8, axis_name="batch", mode="batch")
  given = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
  return jax.vmap(norm, **given)(z, state)[0]


def mean(z, axis=-1):
  return jnp.mean(z, axis, keepdims=True)


def fast(z):
  return (z - mean(z)) * jax.lax.rsqrt(mean(z * z) - mean(z) ** 2 + 1e-5)


def size(z):
  return jnp.linalg.norm(z, axis=-1, keepdims=True)


RNGS = nnx.Rngs(0)
CENTRED = {
  "linen LayerNorm": linen(nn.LayerNorm()),
  "linen, two passes": linen(nn.LayerNorm(use_fast_variance=False)),
  "linen, half precision": linen(nn.LayerNorm(dtype=jnp.bfloat16)),
  "linen GroupNorm": linen(nn.GroupNorm(num_groups=2)),
  "nnx LayerNorm": nnx.LayerNorm(8, rngs=RNGS),
  "nnx GroupNorm": nnx.GroupNorm(8, num_groups=2, rngs=RNGS),
  "equinox LayerNorm": jax.vmap(eqx.nn.LayerNorm(8)),
  "equinox GroupNorm": jax.vmap(eqx.nn.GroupNorm(2, 8)),
  "haiku LayerNorm": haiku(lambda z: hk.LayerNorm(-1, True, True)(z)),
  "haiku GroupNorm": haiku(lambda z: hk.GroupNorm(2)(z)),
  "standardize": jax.nn.standardize,
  "by std": lambda z: (z - mean(z)) / (z.std(-1, keepdims=True) + 1e-5),
  "by var": lambda z: (z - mean(z)) / jnp.sqrt(jnp.var(z, -1, keepdims=True)),
  "by a power": lambda z: (z - mean(z)) * z.var(-1, keepdims=True) ** -0.5,
  "difference of moments": fast,
}
AS_THEY_ARE = {
  "linen RMSNorm": linen(nn.RMSNorm()),
  "nnx RMSNorm": nnx.RMSNorm(8, rngs=RNGS),
  "equinox RMSNorm": jax.vmap(eqx.nn.RMSNorm(8)),
  "haiku RMSNorm": haiku(lambda z: hk.RMSNorm(-1)(z)),
  "by the mean square": lambda z: z * jax.lax.rsqrt(mean(z**2) + 1e-6),
  "by its root": lambda z: z / jnp.sqrt(mean(z**2) + 1e-6),
  "by a sum": lambda z: z / jnp.sqrt(jnp.sum(z * z, -1, keepdims=True) / 8),
  "of one plus a scale": lambda z: z * (1 / jnp.sqrt(mean(z**2))) * (1 + X[0]),
}
OVER_SAMPLES = {
  "linen BatchNorm": linen(nn.BatchNorm(use_running_average=False)),
  "haiku BatchNorm": haiku(lambda z: hk.BatchNorm(True, True, 0.9)(z, True)),
  "equinox BatchNorm": equinox_batch_norm,
  "by hand": lambda z: (z - z.mean(0)) / (z.std(0) + 1e-5),
}
NORMS = [
  *((name, norm, "units", True) for name, norm in CENTRED.items()),
  *((name, norm, "units", False) for name, norm in AS_THEY_ARE.items()),
  *((name, norm, "samples", True) for name, norm in OVER_SAMPLES.items()),
]


def last_feed(norm, x=X):
  fn = lambda p, x: norm(x @ p[0]) @ p[1]
  return signal_graph(fn, [W, W], x).ops[-1].feed


@pytest.mark.parametrize(
  ("norm", "over", "centred"), [n[1:] for n in NORMS], ids=[n[0] for n in NORMS]
)
def test_the_mean_is_taken_away_or_not(norm, over, centred):
  feed = last_feed(norm)
  term = feed.stream[0]
  assert feed.reason == "normalization"
  assert (term.kind, term.over, term.centred) == ("normalized", over, centred)
  assert term.inner[0].kind == "output"


SIZES = {
  "of unit length": (lambda z: z / size(z), 8**-0.5),
  "no less than": (lambda z: z / jnp.maximum(size(z), 1e-6), 8**-0.5),
  "times a number": (lambda z: 3 * z / size(z), 3 * 8**-0.5),
  "by its inverse": (lambda z: z * (1 / size(z)), 8**-0.5),
  "of unit mean square": (lambda z: z / size(z) * 8**0.5, 1.0),
  "one degree of freedom less": (jax.nn.standardize, 1.0),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_unit_vector_has_entries_of_its_length(name):
  """Σ z² = 1 over 8 entries: E[z²] = 1/8, by the numbers that it has."""
  norm, root_mean_square = SIZES[name]
  z = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
  measured = np.sqrt(np.mean(np.square(norm(z))))
  np.testing.assert_allclose(measured, root_mean_square, rtol=1e-3)
  feed = last_feed(norm)
  (term,), linear = feed.stream, feed.activation or (lambda x: x)
  factor = linear(jnp.float32(term.factor))
  np.testing.assert_allclose(factor, root_mean_square, rtol=1e-6)


def test_channels_first_are_the_units_of_a_convolution():
  """Their axis is where the kernel puts it, also where positions come last."""
  image, kernel = np.ones((2, 3, 5, 5), np.float32), np.ones((4, 3, 1, 1))
  conv = lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME")
  for axis, over in ((1, "units"), ((0, 2, 3), "samples"), ((2, 3), "samples")):
    norm = lambda z, axis=axis: jax.nn.standardize(z, axis=axis)
    fn = lambda p, x, norm=norm: conv(norm(conv(x, p[0])), p[1])
    kernels = [np.float32(kernel), np.ones((4, 4, 1, 1), np.float32)]
    (term,) = signal_graph(fn, kernels, image).ops[-1].feed.stream
    assert (term.over, term.centred) == (over, True)


def test_behind_dropout_every_layer_is_a_norm():
  """However many random numbers are drawn between a norm and its sum."""

  def block(x):
    h = hk.Linear(8)(hk.LayerNorm(-1, True, True)(x))
    h = hk.dropout(hk.next_rng_key(), 0.1, h)
    return x + hk.dropout(hk.next_rng_key(), 0.1, jax.nn.relu(h))

  def net(x):
    for _ in range(6):
      x = block(x)
    return hk.Linear(8)(hk.LayerNorm(-1, True, True)(x))

  model = hk.transform(net)
  params = jax.eval_shape(model.init, KEY, X)
  graph = signal_graph(lambda p, key, x: model.apply(p, key, x), params, KEY, X)
  assert {op.reason for op in graph.ops} == {"normalization"}
  assert all(op.feed.stream[0].centred for op in graph.ops)
