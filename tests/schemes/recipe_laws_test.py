"""Each recipe keeps its promise at 128 layers, and fails it without.

Depth is the leading axis of every kernel in a branch: one scan.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax
from initjax import schemes

WIDTH, BATCH, SHALLOW, DEEP = 64, 8, 8, 128
HE = initjax.initializers.he_normal(batch_axis=0)
XAVIER = initjax.initializers.xavier_uniform(batch_axis=0)
X = jax.random.normal(jax.random.key(7), (BATCH, WIDTH))


def drawn(depth, names, init=HE):
  keys = jax.random.split(jax.random.key(0), len(names))
  shape = (depth, WIDTH, WIDTH)
  kernels = {n: init(k, shape) for n, k in zip(names, keys, strict=True)}
  head = jax.random.normal(jax.random.key(1), (WIDTH, 1)) / 8
  return {"branch": kernels, "head": head}


def branch(kernels, x):
  first, *others = kernels
  x = x @ first
  for kernel in others:
    x = jax.nn.relu(x) @ kernel
  return x


def residual(params, x, multiplier=1.0, divisor=1.0):
  """x + multiplier·F(x/divisor), for each layer, and the stream of each."""
  kernels = [params["branch"][name] for name in sorted(params["branch"])]
  depth = len(kernels[0])
  rows = [jnp.broadcast_to(m, depth) for m in (multiplier, divisor)]

  def layer(x, xs):
    kernels, scale, over = xs
    added = branch(kernels, x / over)
    return x + scale * added, jnp.mean(added**2)

  x, added = jax.lax.scan(layer, x, (kernels, *rows))
  return x, added


@functools.partial(jax.jit, static_argnums=0)
def update(fn, params, x, rate):
  """‖Δf‖/η after one step of SGD on Σ½(f - 1)²/batch."""
  loss = lambda p: 0.5 * jnp.mean((fn(p, x) - 1) ** 2)
  grads = jax.grad(loss)(params)
  after = jax.tree.map(lambda p, g: p - rate * g, params, grads)
  return jnp.linalg.norm(fn(after, x) - fn(params, x)) / rate


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_fixup_updates_do_not_grow_with_depth(names):
  """Branch l adds Kₗ·factor^(2m-2) to Δf/η, K of one law for all l, and the
  factor is L^(-1/(2m-2)): the sum is the mean of K. K varies by about √(5m/n)
  a layer, its mean over 8 layers by 0.17: 4 deviations make 0.7 in log.
  Without the factor the sum is L times the mean: log 16 = 2.8.
  """
  ratios = []
  for with_factor in (True, False):
    deltas = []
    for depth in (SHALLOW, DEEP):
      params = drawn(depth, names)
      made = schemes.fixup(
        params,
        num_branches=depth,
        layers_per_branch=len(names),
        branch="branch/*",
        last=f"branch/{names[-1]}",
        classifier="head",
      ).params
      assert not made["head"].any()
      np.testing.assert_array_equal(residual(made, X)[0], X)
      kernels = dict(made["branch"] if with_factor else params["branch"])
      kernels[names[-1]] = made["branch"][names[-1]]
      deltas.append(float(update(_with_head, kernels, X, 1e-5)))
    ratios.append(math.log(deltas[1] / deltas[0]))
  assert abs(ratios[0]) < 0.7
  assert ratios[1] > math.log(DEEP / SHALLOW) - 0.7


def _with_head(kernels, x):
  """The branches alone move: a head adds the same at any depth."""
  head = jax.random.normal(jax.random.key(1), (WIDTH, 1)) / 8
  return residual({"branch": kernels}, x)[0] @ head


def test_standard_residual_networks_explode():
  """He in both layers doubles the stream a layer: 2^128 = 3e38."""
  params = drawn(DEEP, "ab")
  assert not jnp.mean(residual(params, X)[0] ** 2) < 1e30


@pytest.mark.parametrize("recipe", [schemes.skip_init, schemes.re_zero])
def test_zero_gates_are_the_identity(recipe):
  made = recipe(drawn(DEEP, "ab"), num_branches=DEEP)
  alpha = made.multipliers["alpha"]
  np.testing.assert_array_equal(residual(made.params, X, alpha)[0], X)
  assert not np.allclose(residual(made.params, X, alpha + 0.1)[0], X)
  gate = jax.grad(lambda a: residual(made.params, X, a)[0].sum())(alpha)
  assert jnp.all(gate != 0)  # every branch starts to learn at once


def test_zero_last_scale_is_the_identity():
  import flax.linen as nn

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
  variables = stack.init(jax.random.key(0), x, None)
  made = schemes.zero_last_scale(variables, last_scale="*LayerNorm_1/scale")
  forward = jax.jit(lambda variables: stack.apply(variables, x, None)[0])
  np.testing.assert_array_equal(forward(made.params), x)
  assert jnp.mean(forward(variables) ** 2) > DEEP / 4


def test_zer_o_is_the_identity():
  params = drawn(DEEP, "ab")
  zer_o = functools.partial(
    schemes.zer_o, params, kernels="branch/*", stacked=True
  )
  np.testing.assert_array_equal(residual(zer_o(last="*/b").params, X)[0], X)
  assert not jnp.mean(residual(zer_o().params, X)[0] ** 2) < 1e6


def test_nf_net_branches_have_unit_variance():
  """Branch l adds variance 1·α² on top of 1 + (l-1)α², so β is right.

  A branch's second moment varies by √(5/n) = 0.28, its mean over 128 by 0.025:
  0.1 is four of these. Raw kernels of the same variance let the mean of relu
  pass: E[relu²]/Var[relu] = 1/(1 - 1/π) = 1.47.
  """
  alpha = 0.2
  made = schemes.nf_net(drawn(DEEP, "ab"), num_branches=DEEP, alpha=alpha)
  kernels = made.params["branch"]
  gain = initjax.gain(jax.nn.relu, direction="centered")
  standard = functools.partial(schemes.standardized_kernel, in_axis=1)
  nf = {"a": standard(kernels["a"]), "b": standard(kernels["b"], gain=gain)}
  lecun = kernels["a"] / math.sqrt(2)
  raw = {"a": lecun, "b": kernels["b"] / math.sqrt(2) * gain}
  beta = made.multipliers["beta"]
  x = jax.random.normal(jax.random.key(3), (64, WIDTH))
  forward = jax.jit(
    lambda kernels: residual({"branch": kernels}, x, alpha, beta)
  )
  stream, added = forward(nf)
  assert abs(jnp.mean(added) - 1) < 0.1
  assert abs(jnp.mean(stream**2) / (1 + DEEP * alpha**2) - 1) < 0.2
  _, added = forward(raw)
  assert jnp.mean(added) > 1.4  # and more, as β falls behind


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
    params = drawn(depth, "ab", XAVIER)
    made = schemes.gpt2(
      params, residual="branch/b", num_residual_branches=depth
    )
    assert abs(forward(made.params, X) - 1.5) < 0.3
    assert forward(params, X) > 1 + 0.35 * depth
