"""Each recipe keeps its promise at 128 layers, and fails it without.

Depth is the leading axis of every kernel in a branch: one scan.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_by_numpy import filled, normal

import initjax
from initjax import recipes

WIDTH, BATCH, SHALLOW, DEEP = 64, 8, 8, 128
X = normal(7, BATCH, WIDTH)
HEAD = normal(1, WIDTH, 1, scale=1 / 8)


def drawn(depth, names, variance=2.0):
  """He's kernels, or of another variance × fan_in."""
  scale = math.sqrt(variance / WIDTH)
  shape = (depth, WIDTH, WIDTH)
  kernels = {name: normal(ord(name), *shape, scale=scale) for name in names}
  return {"branch": kernels, "head": HEAD}


def branch(kernels, x):
  first, *others = kernels
  x = x @ first
  for kernel in others:
    x = jax.nn.relu(x) @ kernel
  return x


@jax.jit
def residual(params, x, multiplier=1.0, divisor=1.0):
  """x + multiplier·F(x/divisor), for each layer, and the size of each F."""
  kernels = [params["branch"][name] for name in sorted(params["branch"])]
  depth = len(kernels[0])
  rows = [jnp.broadcast_to(m, depth) for m in (multiplier, divisor)]

  def layer(x, xs):
    kernels, scale, over = xs
    added = branch(kernels, x / over)
    return x + scale * added, jnp.mean(added**2)

  x, added = jax.lax.scan(layer, x, (kernels, *rows))
  return x, added


def size(stream):
  return np.mean(np.asarray(stream, np.float64) ** 2)


@jax.jit
def update(kernels, rate=1e-5):
  """‖Δf‖/η after one step of SGD on Σ½(f - 1)²/batch.

  The branches alone move: a head adds the same at any depth.
  """
  fn = lambda kernels: residual({"branch": kernels}, X)[0] @ HEAD
  loss = lambda kernels: 0.5 * jnp.mean((fn(kernels) - 1) ** 2)
  grads = jax.grad(loss)(kernels)
  after = jax.tree.map(lambda p, g: p - rate * g, kernels, grads)
  return jnp.linalg.norm(fn(after) - fn(kernels)) / rate


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_fixup_updates_do_not_grow_with_depth(names):
  """Branch l adds Kₗ·factor^(2m-2) to Δf/η, K of one law for all l, and the
  factor is L^(-1/(2m-2)): the sum is the mean of K. K varies by about √(5m/n)
  a layer, its mean over 8 layers by 0.17: 4 deviations make 0.7 in log.
  Without the factor the sum is L times the mean: log 16 = 2.8.
  """
  deltas = []
  for depth in (SHALLOW, DEEP):
    params = drawn(depth, names)
    made = recipes.fixup(
      params, num_branches=depth, layers_per_branch=len(names),
      branch="branch/*", last=f"branch/{names[-1]}", classifier="head",
    ).params  # fmt: skip
    assert not np.any(made["head"])
    np.testing.assert_array_equal(residual(made, X)[0], X)
    without = params["branch"] | {names[-1]: made["branch"][names[-1]]}
    deltas.append([float(update(made["branch"])), float(update(without))])
  with_factor, without_factor = np.log(deltas[1]) - np.log(deltas[0])
  assert abs(with_factor) < 0.7
  assert without_factor > math.log(DEEP / SHALLOW) - 0.7


def test_standard_residual_networks_explode():
  """He in both layers doubles the stream a layer: 2^128 = 3e38."""
  params = drawn(DEEP, "ab")
  stream, _ = residual(params, X)
  assert not size(stream) < 1e30


def test_zero_gates_are_the_identity():
  def end(alpha, params):
    return residual(params, X, alpha)[0].sum()

  for recipe in (recipes.skipinit, recipes.rezero):
    made = recipe(drawn(DEEP, "ab"), num_branches=DEEP)
    alpha = np.asarray(made.multipliers["alpha"])
    np.testing.assert_array_equal(residual(made.params, X, alpha)[0], X)
    moved, _ = residual(made.params, X, alpha + np.float32(0.1))
    assert not np.allclose(moved, X)
    gate = jax.jit(jax.grad(end))(alpha, made.params)
    assert np.all(gate)  # every branch starts to learn at once


def test_zero_last_scale_is_the_identity():
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      h = nn.relu(nn.LayerNorm()(nn.Dense(16)(x)))
      return x + nn.LayerNorm()(nn.Dense(16)(h)), None

  stack = nn.scan(
    Block,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    length=DEEP,
  )()
  x = X[:, :16]
  variables = filled(stack.init, x, None)
  made = recipes.zero_last_scale(variables, last_scale="*LayerNorm_1/scale")
  forward = jax.jit(lambda variables: stack.apply(variables, x, None)[0])
  np.testing.assert_array_equal(forward(made.params), x)
  assert size(forward(variables)) > DEEP / 4


def test_zer_o_is_the_identity():
  params = drawn(DEEP, "ab")
  zero_initialization = functools.partial(
    recipes.zero_initialization, params, kernels="branch/*", batch_axis=0
  )
  np.testing.assert_array_equal(
    residual(zero_initialization(last="*/b").params, X)[0], X
  )
  stream, _ = residual(zero_initialization().params, X)
  assert not size(stream) < 1e6


def test_nf_net_branches_have_unit_variance():
  """Branch l adds variance 1·α² on top of 1 + (l-1)α², so β is right.

  A branch's second moment varies by √(5/n) = 0.28, its mean over 128 by 0.025:
  0.1 is four of these. Raw kernels of the same variance let the mean of relu
  pass: E[relu²]/Var[relu] = 1/(1 - 1/π) = 1.47.
  """
  alpha = 0.2
  made = recipes.nfnet(drawn(DEEP, "ab"), num_branches=DEEP, alpha=alpha)
  kernels, beta = made.params["branch"], made.multipliers["beta"]
  gain = initjax.gain(jax.nn.relu, direction="centered")
  standard = functools.partial(recipes.standardized_kernel, in_axis=1)
  nf = jax.jit(lambda a, b: {"a": standard(a), "b": standard(b, gain=gain)})
  lecun = np.float32(math.sqrt(1 / 2))
  raw = {"a": kernels["a"] * lecun, "b": kernels["b"] * lecun * gain}
  x = normal(3, 64, WIDTH)
  stream, added = residual({"branch": nf(**kernels)}, x, alpha, beta)
  assert abs(np.mean(added) - 1) < 0.1
  assert abs(size(stream) / (1 + DEEP * alpha**2) - 1) < 0.2
  _, added = residual({"branch": raw}, x, alpha, beta)
  assert np.mean(added) > 1.4  # and more, as β falls behind


def test_gpt2_keeps_the_residual_stream():
  """N branches of variance v = ½ (He's relu after LayerNorm, Xavier out) add v
  in all with the factor, and N·v without."""

  def forward(params, x):
    def layer(x, kernels):
      up, down = kernels
      norm = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True))
      return x + jax.nn.relu(norm @ up) @ down, None

    kernels = (params["branch"]["a"], params["branch"]["b"])
    return jnp.mean(jax.lax.scan(layer, x, kernels)[0] ** 2)

  forward = jax.jit(forward)
  for depth in (SHALLOW, DEEP):
    params = drawn(depth, "ab", variance=1)
    made = recipes.gpt2(params, residual="branch/b", num_branches=depth)
    assert abs(forward(made.params, X) - 1.5) < 0.3
    assert forward(params, X) > 1 + 0.35 * depth
