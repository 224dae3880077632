"""`auto_init` of gated units: unit size at every row, where Flax's is not.

A layer of n features draws its mean square to 1 ± √(2(1/n + 1/samples)), and
hands on what the layers before it drew: of a product both branches, in a
residual stream the mean of all. Twice 4.5 deviations of one layer are allowed.
"""

import itertools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_by_numpy import normal
from flax import nnx

import initjax
from initjax.gains import moments
from initjax.model_init import auto_init

KEY = jax.random.key(0)
D, SAMPLES, BLOCKS = 128, 64, 12
ERROR = 2 * 4.5 * math.sqrt(2 * (1 / D + 1 / SAMPLES) / D)
X = normal(0, SAMPLES, D)
X = (X - X.mean(-1, keepdims=True)) / X.std(-1, keepdims=True)


class GatedMlp(nn.Module):
  """Gate and value of two kernels, as in LLaMA and Gemma."""

  @nn.compact
  def __call__(self, x):
    gate = nn.Dense(4 * D, use_bias=False)(x)
    value = nn.Dense(4 * D, use_bias=False)(x)
    return nn.Dense(D, use_bias=False)(nn.silu(gate) * value)


class FusedMlp(nn.Module):
  """Gate and value are halves of one kernel's output."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(D)(nn.glu(nn.Dense(8 * D)(x)))


class SplitMlp(nnx.Module):
  """The same in NNX, by `jnp.split`."""

  def __init__(self, rngs):
    self.up = nnx.Linear(D, 8 * D, rngs=rngs)
    self.down = nnx.Linear(4 * D, D, rngs=rngs)

  def __call__(self, x):
    gate, value = jnp.split(self.up(x), 2, axis=-1)
    return self.down(nnx.gelu(gate) * value)


def flax_draws(params):
  """Kernels of variance 1/fan_in, biases 0: LeCun's, by NumPy."""
  seeds = itertools.count(1)

  def draw(leaf):
    scale = leaf.shape[0] ** -0.5 if leaf.ndim > 1 else 0
    return normal(next(seeds), *leaf.shape, scale=scale)

  return jax.tree.map(draw, params)


def split_mlp():
  """A module of which only shapes are known."""
  return initjax.functional(nnx.eval_shape(lambda: SplitMlp(nnx.Rngs(0))))


def linen(mlp):
  return mlp.apply, jax.eval_shape(mlp.init, KEY, X)


MLPS = {
  "two kernels": lambda: linen(GatedMlp()),
  "one kernel, glu": lambda: linen(FusedMlp()),
  "NNX, split": split_mlp,
}


@pytest.mark.parametrize("name", MLPS)
def test_every_row_of_pre_norm_blocks_has_unit_size(name):
  mlp, shapes = MLPS[name]()
  stacked = jax.tree.map(
    lambda leaf: np.stack([leaf] * BLOCKS), flax_draws(shapes)
  )

  def model(params, x):
    block = lambda x, p: (x + mlp(p, jax.nn.standardize(x)), None)
    return jax.lax.scan(block, x, params)[0]

  @jax.jit
  def rows(params):
    forward = initjax.measure(model, params, X).forward
    return [row.log2_second_moment for row in forward]

  worst = lambda params: np.max(np.abs(2.0 ** np.array(rows(params)) - 1))
  drawn = jax.jit(lambda key: auto_init(key, model, stacked, X))(KEY)
  assert worst(drawn) < ERROR
  assert worst(stacked) > 0.5  # as Flax draws them


def test_a_stream_of_rectified_branches_is_counted_with_its_mean():
  """Without the means E[h]·E[relu(z)] the last rows would be far above 1.

  All samples come to share that mean, so each row is 1 ± √(2/D).
  """

  def model(params, x):
    block = lambda h, w: (h + jax.nn.relu(h @ w), jnp.mean((h @ w) ** 2))
    return jax.lax.scan(block, x, params)

  kernels = jax.ShapeDtypeStruct((BLOCKS, D, D), jnp.float32)
  drawn = auto_init(KEY, model, kernels, X)
  sizes = np.asarray(model(drawn, X)[1])
  assert abs(sizes - 1).max() < 4.5 * math.sqrt(2 / D)


def test_without_normalization_gates_are_unstable_and_that_is_said():
  """A product's size changes by all that its branches' sizes change."""

  def model(params, x):
    for gate, up, down in params:
      x = (jax.nn.silu(x @ gate) * (x @ up)) @ down
    return x

  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  params = [(shape(D, D), shape(D, D), shape(D, D))] * 4
  with pytest.warns(UserWarning, match=r"silu\(a\)·b") as caught:
    auto_init(KEY, model, params, X)
  (message,) = (str(warning.message) for warning in caught)
  (said,) = re.findall(r"second moment by (\S+),", message)
  above, below = (moments(jax.nn.silu, q).second_moment for q in (1.001, 0.999))
  slope = 1 + (math.log(above) - math.log(below)) / 2e-3
  assert float(said) == pytest.approx(slope, abs=6e-4)
  (whole,) = re.findall(r"the model by (\S+) until", message)
  assert float(whole) == pytest.approx(slope**4 / slope, rel=0.2)
