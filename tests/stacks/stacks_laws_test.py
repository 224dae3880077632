"""What theory says of deep networks, met by networks of 100 layers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import digamma, polygamma

from initjax.stacks import conv, mlp, propagate, residual

DEPTH = 100
EPSILON = float(np.finfo(np.float32).eps)

identity = lambda x: x


def network(build, width, depth=DEPTH, **options):
  options = {"activation": identity} | options
  return build(
    depth=depth, width=width, kernel_init=jax.nn.initializers.zeros, **options
  )


def log2_second_moments(stack, width, seeds, sigma_w2=1.0):
  """[seeds, depth] of a stack whose kernels NumPy draws anew for every seed."""
  x, rng = np.ones((1, width), np.float32), np.random.default_rng(7)
  shapes = jax.eval_shape(lambda: stack.init(jax.random.key(0), x.shape))
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  std = np.float32(math.sqrt(sigma_w2 / width))
  draw = lambda leaf: std * rng.standard_normal(leaf.shape, np.float32)
  run = jax.jit(lambda params: stack.apply_with_statistics(params, x)[1])
  found = []
  for _ in range(seeds):
    kernels = [draw(params.first_kernel), draw(params.kernels)]
    found.append(
      run(params._replace(first_kernel=kernels[0], kernels=kernels[1]))
    )
  return np.asarray([one.log2_second_moment for one in found], np.float64)


def relu_law(width):
  """Mean and variance of log r, r = (2/n)·χ²_K with K ~ Binomial(n, 1/2).

  Given K it is log(2/n) + log 2 + ψ(K/2) with variance ψ'(K/2); K = 0, which
  has the probability 2⁻ⁿ, is left out.
  """
  k = np.arange(1, width + 1)
  weight = scipy.stats.binom.pmf(k, width, 0.5)
  weight /= weight.sum()
  means = math.log(4 / width) + digamma(k / 2)
  mean = weight @ means
  return mean, weight @ (polygamma(1, k / 2) + (means - mean) ** 2)


@pytest.mark.parametrize(
  ("width", "mean", "variance"),
  [
    (16, -0.17639732440705025, 0.4195933941067791),
    (32, -0.08254020809622675, 0.17749778722596055),
    (64, -0.040108598835745024, 0.0829973505564476),
    (512, -0.00489847935269605, 0.00983683603699509),
  ],
)
def test_the_law_itself_equals_its_reference(width, mean, variance):
  np.testing.assert_allclose(relu_law(width), (mean, variance), rtol=1e-10)


def test_a_he_relu_mlp_follows_the_binomial_chi_squared_law():
  """log(|z_L|²/|z_1|²) sums 99 independent log r: its mean and its variance.

  |φ(z)|²/|z|² depends on the direction of z alone and |W·φ|²/|φ|² on W alone,
  so their product has the law of (2/n)·χ²_K here too. The sum is close to
  normal: its sample variance has the standard deviation √(2/(N-1)), relatively.
  """
  width, seeds = 32, 500
  stack = network(mlp, width, activation=jax.nn.relu)
  found = log2_second_moments(stack, width, seeds, sigma_w2=2.0)
  logs = (found[:, -1] - found[:, 0]) * math.log(2)
  mean, variance = (DEPTH - 1) * np.array(relu_law(width))
  assert abs(logs.mean() - mean) < 4 * math.sqrt(variance / seeds)
  relative = logs.var(ddof=1) / variance - 1
  assert abs(relative) < 4 * math.sqrt(2 / (seeds - 1))


def test_a_plain_residual_block_doubles_the_second_moment():
  """|z + W·z|²/|z|² = χ'²_n(n)/n, independent: mean 2, variance 6/n."""
  width, seeds = 16, 200
  stack = network(residual, width)
  ratios = 2 ** np.diff(log2_second_moments(stack, width, seeds), axis=1)
  assert abs(ratios.mean() - 2) < 4 * math.sqrt(6 / width / ratios.size)
  # Fourth moments of a ratio are below 3·8² times its variance squared.
  assert abs(ratios.var() / (6 / width) - 1) < 4 * math.sqrt(8 / ratios.size)


def test_branches_scaled_by_depth_multiply_it_by_e():
  """Each block by χ'²/n with mean 1 + s² and variance (4s² + 2s⁴)/n."""
  width, seeds = 16, 400
  stack = network(residual, width, branch_scale=1 / math.sqrt(DEPTH))
  found = log2_second_moments(stack, width, seeds)
  growth = 2 ** (found[:, -1] - found[:, 0])
  mean, variance = 1 + 1 / DEPTH, (4 / DEPTH + 2 / DEPTH**2) / width
  expected = mean ** (DEPTH - 1)
  spread = (mean**2 + variance) ** (DEPTH - 1) - expected**2
  assert abs(growth.mean() - expected) < 4 * math.sqrt(spread / seeds)
  # (L - 1)·log(1 + 1/L) = 1 - 3/(2L) + O(1/L²)
  assert abs(math.log(expected) - 1) < 2 / DEPTH


def test_a_residual_relu_network_doubles_in_expectation_given_its_input():
  """E|z'|² = |z|² + 2|φ(z)|² for He weights, whatever z is: block by block.

  The first block's z is Gaussian, so that 2|φ(z)|² has the mean of |z|².
  A ratio has variance below 8/n: 6/n as above, and that of |φ(z)|²/|z|².
  """
  width, seeds = 64, 400
  stack = network(residual, width, depth=2, activation=jax.nn.relu)
  found = log2_second_moments(stack, width, seeds, sigma_w2=2.0)
  ratios = 2 ** (found[:, 1] - found[:, 0])
  assert abs(ratios.mean() - 2) < 4 * math.sqrt(8 / width / seeds)


@pytest.mark.parametrize("build", [mlp, functools.partial(conv, window=(1, 1))])
def test_orthogonal_linear_layers_keep_the_norm(build):
  """Forward and backward, through 100 layers, for this very draw.

  In float64 QᵀQ differs from 1 by at most n·ε, and each product rounds by as
  much again: 2·n·ε a layer, 2/ln 2 times that in log2 of a square. Statistics
  are rounded to float32 once.
  """
  width = 24
  with jax.enable_x64(True):
    stack = network(build, width)
    space = () if build is mlp else (2, 2)
    shape = (3, *space, width)
    shapes = jax.eval_shape(lambda: stack.init(jax.random.key(0), shape))
    rng = np.random.default_rng(0)
    draw = lambda leaf: np.linalg.qr(rng.normal(size=leaf.shape))[0]
    params = shapes._replace(
      first_kernel=draw(shapes.first_kernel),
      kernels=draw(shapes.kernels),
      first_bias=np.zeros(width),
      biases=np.zeros((DEPTH - 1, width)),
    )
    x, cotangent = rng.normal(size=(2, *shape))
    run = jax.jit(functools.partial(propagate, stack))
    signals = run(params, x, cotangent)
  tolerance = DEPTH * 2 * width * np.finfo(float).eps * 2 / math.log(2)
  for sent, found in ((x, signals.forward), (cotangent, signals.backward)):
    np.testing.assert_allclose(
      found.log2_second_moment,
      np.full(DEPTH, np.log2(np.mean(np.square(sent)))),
      rtol=EPSILON,
      atol=tolerance,
    )


def test_a_vanishing_signal_is_followed_below_the_smallest_square():
  """Half the identity quarters E[z²] in each of 100 layers: 2⁻²⁰⁰."""
  half = lambda key, shape, dtype: 0.5 * jnp.eye(*shape, dtype=dtype)
  stack = mlp(depth=DEPTH, width=16, activation=identity, kernel_init=half)
  x = np.ones((1, 16), np.float32)

  @jax.jit
  def run(key):
    return stack.apply_with_statistics(stack.init(key, x.shape), x)[1]

  # Halves of ones are exact, and so are their logarithms up to rounding.
  np.testing.assert_allclose(
    run(jax.random.key(0)).log2_second_moment,
    -2.0 * np.arange(1, DEPTH + 1),
    rtol=4 * EPSILON,
  )


def test_layers_are_drawn_one_by_one():
  """All different, biases too, and each with the initializer's variance."""
  depth, width = 40, 16
  stack = mlp(
    depth=depth,
    width=width,
    activation=jnp.tanh,
    kernel_init=jax.nn.initializers.normal(0.5),
    bias_init=jax.nn.initializers.normal(2.0),
  )
  init = jax.jit(stack.init, static_argnums=1)
  params = init(jax.random.key(3), (1, width))
  kernels = np.concatenate([params.first_kernel[None], params.kernels])
  biases = np.concatenate([params.first_bias[None], params.biases])
  for drawn, std in ((kernels, 0.5), (biases, 2.0)):
    flat = drawn.reshape(depth, -1)
    size = flat.shape[1]
    # Rows are independent: their correlations have standard deviation 1/√size,
    # (biases: √(16), not quite normal), and the largest of 780 stays below 5.5.
    correlations = flat @ flat.T / (size * std**2) - np.eye(depth)
    off_diagonal = correlations[~np.eye(depth, dtype=bool)]
    assert abs(off_diagonal).max() < 5.5 / math.sqrt(size)
    # χ²: the variance of N normal numbers has standard deviation √(2/N).
    assert abs(flat.var() / std**2 - 1) < 4 * math.sqrt(2 / flat.size)
  beside = kernels.reshape(depth, -1)[:, :width]
  assert np.mean(biases / 2.0 == beside / 0.5) < 0.01  # other keys than kernels


@pytest.mark.parametrize("window", [(), (3,), (2, 3), (1, 2, 3)])
def test_shapes(window):
  """First kernels fit the data; all have the dtype that was asked for."""
  build = functools.partial(conv, window=window) if window else mlp
  stack, dtype = network(build, 5, depth=4), jnp.dtype(jnp.bfloat16)
  x = jax.ShapeDtypeStruct((2, *(4 for _ in window), 3), dtype)
  params = jax.eval_shape(
    lambda: stack.init(jax.random.key(0), x.shape, jnp.bfloat16)
  )
  assert params.first_kernel.shape == (*window, 3, 5)
  assert params.kernels.shape == (3, *window, 5, 5)
  assert {leaf.dtype for leaf in params} == {dtype}
  outputs, found = jax.eval_shape(stack.apply_with_statistics, params, x)
  assert outputs.shape == (*x.shape[:-1], 5)
  assert {leaf.shape for leaf in found} == {(4,)}
