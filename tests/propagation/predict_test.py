"""`predict` against closed forms, and against what is measured.

Kernels of closed forms hold ±σ in equal numbers: their mean square is exactly
σ², so that what theory makes of it is exact but for rounding to float32 (1e-7)
and the tables of moments (1e-9 in log₂): 1e-5 is allowed for.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import drawn, normal

from initjax import measure, signal_graph
from initjax.gains import moments
from initjax.meanfield import Layer, batch_norm_gradient_growth, trajectory
from initjax.propagation import predict

N, X = 64, normal(8, 64)
relu, standardize = jax.nn.relu, jax.nn.standardize


def signs(shape, variance, seed=0):
  values = np.where(np.arange(math.prod(shape)) % 2, 1, -1)
  shuffled = np.random.default_rng(seed).permutation(values)
  return np.float32(shuffled.reshape(shape) * np.sqrt(variance))


def square(sigma_w2, seed=0):
  return signs((N, N), sigma_w2 / N, seed)


def stack(depth, sigma_w2):
  """A first kernel with σ_w² = 1, so that signals of size 1 come in."""
  return [square(1.0)] + [square(sigma_w2, i + 1) for i in range(depth)]


def predicted(fn, params, *inputs, **options):
  return predict(fn, params, *(inputs or (X,)), **options)


def check(found, forward, backward):
  np.testing.assert_allclose(found.forward, forward, atol=1e-5)
  np.testing.assert_allclose(found.backward, backward, atol=1e-5)


def through(block):
  """A first kernel, then h ← block(h, kernel) with each of the others."""

  def model(kernels, x):
    h = x @ kernels[0]
    for kernel in kernels[1:]:
      h = block(h, kernel)
    return h

  return model


chain = through(lambda h, w: relu(h) @ w)


def residual(scale=1.0):
  return through(lambda h, w: h + scale * (relu(h) @ w))


def test_he_keeps_both_and_xavier_halves_both():
  check(predicted(chain, stack(5, 2.0)), np.zeros(6), np.zeros(6))
  down = -np.arange(6.0)
  check(predicted(chain, stack(5, 1.0)), down, down[::-1])


def test_the_second_moment_of_inputs_is_passed_on():
  found = predicted(chain, stack(2, 2.0), second_moment=8.0)
  check(found, [3.0] * 3, [0.0] * 3)


def test_pyramids_share_out_the_gradient():
  """An element of width n feeds n' of the next, with Var W = 2/n."""
  first, second, third = (N, 128), (128, 32), (32, 16)
  kernels = [signs(first, 1 / N), signs(second, 2 / 128), signs(third, 2 / 32)]
  check(predicted(chain, kernels), [0, 0, 0], np.log2([16 / 128, 16 / 32, 1]))


def test_plain_residual_blocks_double():
  """The output's gradient comes back through both, but to the last branch.

  An activation behind the last sum changes no ratio.
  """
  plain = residual()
  for fn in (plain, lambda p, x: jnp.tanh(plain(p, x))):
    check(predicted(fn, stack(4, 2.0)), [0, 0, 1, 2, 3], [4, 3, 2, 1, 0])


def test_scaled_branches_grow_by_one_and_the_square_of_their_scale():
  """q_{l+1} = (1 + α²)·q_l; a branch gets α² of the gradient behind it."""
  alpha, depth = 0.5, 6
  up = math.log2(1 + alpha**2) * np.arange(depth + 1)
  found = predicted(residual(alpha), stack(depth, 2.0))
  stem = up[-1] - 2 * math.log2(alpha)
  check(found, [0, *up[:-1]], [stem, *up[-2::-1]])


def test_pre_norm_grows_linearly():
  """q = l + 1; going back from l + 1 to l the gradient gains 1 + 1/(l + 1).

  With a normalized readout the stream of L blocks gets χ/(L + 1), χ = 1 for a
  linear readout with σ_w² = 1.
  """
  depth = 5
  fn = through(lambda h, w: h + relu(standardize(h)) @ w)
  found = predicted(fn, stack(depth, 2.0))
  gains = np.log2([1 + 1 / (at + 1) for at in range(depth)])
  stream = np.append(np.cumsum(gains[::-1])[::-1], 0.0)
  np.testing.assert_allclose(stream[0], math.log2(depth + 1))
  check(found, np.zeros(depth + 1), [stream[0], *stream[1:]])

  readout = lambda p, x: standardize(fn(p[:-1], x)) @ p[-1]
  found = predicted(readout, [*stack(depth, 2.0), square(1.0, 99)])
  last = -math.log2(depth + 1)
  check(found, np.zeros(depth + 2), [*(stream + last), 0.0])


@pytest.mark.parametrize("phi", [relu, jnp.tanh, lambda x: x])
def test_batch_norm_explodes_by_the_law_of_its_batch(phi):
  """By E[φ'²]/Var φ of many samples, π/(π - 1) for relu; more of few."""
  fn = through(lambda h, w: phi(standardize(h, axis=0, epsilon=0)) @ w)
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  for batch in (6, 8, 32, 10**6):
    found = predicted(fn, [shape(N, N)] * 5, shape(batch, N))
    step = found.backward[2] - found.backward[3]
    stated = found.backward_error[2] - found.backward_error[3]
    law = math.log2(batch_norm_gradient_growth(phi, min(batch, 10**4)))
    assert abs(step - law) <= stated + 2e-4
    assert stated <= 8 / batch**1.5 + 1 / N  # beside first order in 1/N
  found = predicted(fn, [shape(N, N)] * 5, shape(3, N))
  assert np.isnan(found.backward[:-1]).all()  # E[1/s²] is infinite
  assert np.isfinite(found.forward).all()


def test_embeddings_and_biases():
  """An embedding's rows have the variance of its table; biases add theirs."""

  def fn(p, tokens):
    return relu(p["table"][tokens] @ p["in"] + p["bias"]) @ p["out"]

  params = {
    "table": signs((50, N), 0.25),
    "in": square(2.0, 1),
    "bias": signs((N,), 0.5, 2),
    "out": square(2.0, 3),
  }
  found = predicted(fn, params, np.zeros(4, int))
  check(found, [-2, -1, 0], [1, 0, 0])  # (1/2 + 1/2)·2/2


BLOCKS = {
  "plain": lambda h, w, b: h + 0.5 * (jnp.tanh(h) @ w + b),
  "pre-norm": lambda h, w, b: h + relu(standardize(h) + b) @ w,
  "post-norm": lambda h, w, b: standardize(h + relu(h) @ w + b),
  "chain": lambda h, w, b: relu(h + b) @ w,
  "batch norm": lambda h, w, b: relu(standardize(h, axis=0) + b) @ w,
}


def in_both_forms(block, depth=5):
  """Predictions for layers under a scan, and for the same written out."""

  def scanned(p, x):
    layer = lambda h, layer: (block(h, *layer), None)
    return jax.lax.scan(layer, x @ p["first"], p["layers"])[0]

  def unrolled(p, x):
    return through(lambda h, layer: block(h, *layer))(
      [p["first"], *zip(*p["layers"], strict=True)], x
    )

  first = square(1.0)
  kernels = [square(1.5, i) for i in range(depth)]
  biases = [signs((N,), 0.1, i) for i in range(depth)]
  stacked = {"first": first, "layers": (np.stack(kernels), np.stack(biases))}
  listed = {"first": first, "layers": (kernels, biases)}
  return predicted(scanned, stacked), predicted(unrolled, listed)


@pytest.mark.parametrize("name", BLOCKS)
def test_scanned_is_unrolled(name):
  scanned, unrolled = in_both_forms(BLOCKS[name])
  check(scanned, unrolled.forward, unrolled.backward)
  assert np.isfinite(unrolled.forward).all()
  assert np.isfinite(unrolled.backward).all()


def test_a_carry_that_feeds_no_operation_itself_is_unknown():
  """Of h + b, in a loop, only the sum has a name: what h was is lost."""
  block = lambda h, w, b: h + jnp.tanh(h + b) @ w
  scanned, unrolled = in_both_forms(block)
  assert np.isnan(scanned.forward[2:]).all()
  assert np.isfinite(unrolled.forward).all()


def test_convolutions_by_their_true_fans():
  """3×3 at stride 2: 9·C terms in, 9·C'/4 out; He keeps the signal.

  An element gets back Var W·fan_out·E[φ'²] = 2/(9·C)·(9·C'/4)/2.
  """
  kernels = [
    signs((3, 3, 3, 8), 1 / 27),
    signs((3, 3, 8, 16), 2 / 72, 1),
    signs((3, 3, 16, 4), 2 / 144, 2),
  ]

  def convolve(x, kernel, stride):
    names = ("NHWC", "HWIO", "NHWC")
    border = (2 - stride, 1)  # of its own entries: there is no padding
    x = jnp.pad(x, ((0, 0), border, border, (0, 0)), mode="wrap")
    return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), "VALID", dimension_numbers=names
    )

  def fn(p, x):
    h = relu(convolve(x, p[0], 1))
    return convolve(relu(convolve(h, p[1], 2)), p[2], 2)

  found = predicted(fn, kernels, np.ones((2, 16, 16, 3), np.float32))
  ratios = np.array([16 / 8 / 4, 4 / 16 / 4])
  backward = np.log2([ratios[0] * ratios[1], ratios[1], 1.0])
  check(found, np.zeros(3), backward)


# What theory does not follow


def standardized(kernel):
  return (kernel - kernel.mean(0)) / kernel.std(0) / math.sqrt(N)


UNKNOWN = {
  "attention": lambda p, x: jax.nn.softmax(x @ p[0] @ x.T) @ x @ p[1] @ p[2],
  "pooling": lambda p, x: jnp.tile(
    relu(x @ p[0]).reshape(8, -1, 2).max(-1), 2
  ) @ p[1] @ p[2],
  "maximum": lambda p, x: jnp.maximum(x @ p[0], x @ p[1]) @ p[2],
  "weight standardization": lambda p, x: relu(
    relu(x @ p[0]) @ standardized(p[1])
  ) @ p[2],
  "constant kernel": lambda p, x: relu(
    relu(x @ p[0]) @ jnp.ones((N, N))
  ) @ p[1] @ p[2],
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_theory_does_not_follow_is_unknown(name):
  found = predicted(UNKNOWN[name], stack(2, 1.0))
  assert np.isnan(found.forward[-1])
  assert found.silent[-1]
  assert np.isnan(found.backward[0])
  assert found.backward[-1] == 0
  assert np.isfinite(found.forward[0])


def test_a_kernel_of_nonzero_mean_is_unknown_and_what_it_feeds():
  first, second, third = stack(2, 1.0)
  found = predicted(chain, [first, second + 0.1, third])
  np.testing.assert_allclose(found.forward[0], 0, atol=1e-5)
  assert np.isnan(found.forward[1:]).all()
  assert np.isnan(found.backward[0])


def test_an_activation_of_inputs_is_unknown():
  """They are not Gaussian."""
  found = predicted(lambda p, x: relu(x) @ p, square(1.0))
  assert np.isnan(found.forward).all()


def test_heads_beside_the_last_make_the_gradient_unknown():
  def fn(p, x):
    h = relu(x @ p[0])
    return h @ p[1], h @ p[2]

  found = predicted(fn, stack(2, 2.0))
  np.testing.assert_allclose(found.forward, 0, atol=1e-5)
  np.testing.assert_array_equal(found.backward, [np.nan, np.nan, 0])


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(N, name="embed")(x)
    h = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(h)
    h = nn.gelu(nn.Dense(2 * N, name="up")(nn.LayerNorm()(x)))
    return x + nn.Dense(N, name="down")(h)


def test_a_transformer_block_is_known():
  """Also its attention, whose scores are small."""
  model, x = Block(), np.ones((2, 5, N), np.float32)
  variables = drawn(jax.eval_shape(model.init, jax.random.key(0), x))
  graph = signal_graph(model.apply, variables, x)
  found = predict(model.apply, variables, x)
  rows = {
    op.path.split("/")[-2]: value
    for op, value in zip(graph.ops, found.forward, strict=True)
  }
  up, down = (variables["params"][name]["kernel"] for name in ("up", "down"))
  squares = float(moments(nn.gelu, N * np.mean(up**2)).second_moment)
  second = 2 * N * np.mean(down**2) * squares
  np.testing.assert_allclose(rows["down"], math.log2(second), atol=1e-5)
  assert np.isfinite(found.forward).all()
  assert np.isfinite(found.backward).all()
  assert not any(found.silent)
  assert np.isfinite(found.entropy).sum() == 1


# Against what is measured


def test_predictions_are_met_on_average():
  """64 draws of a scaled residual net, to four standard errors.

  `trajectory` gives drift and standard deviation at this width, to first order
  in 5·depth/n = 0.5: of the drift a quarter of itself may be missing.
  """
  depth, draws, scale = 6, 64, 0.7
  fn, x = residual(scale), np.ones((1, N), np.float32)

  def bits(draw):
    kernels, cotangent = draw
    report = measure(fn, list(kernels), x, cotangent=cotangent)
    both = report.forward, report.backward
    return [[row.log2_second_moment for row in rows] for rows in both]

  variances = np.array([1.0] + depth * [2.0])[:, None, None] / N
  kernels = normal(draws, depth + 1, N, N, variance=variances)
  cotangents = normal(draws, 1, N, seed=2)
  run = jax.jit(lambda draw: jax.lax.map(bits, draw))
  measured = np.array(run((kernels, cotangents)))
  forward, backward = measured.mean(axis=-1)
  found = predicted(fn, stack(depth, 2.0), x)
  block = Layer(relu, 2.0, width=N, skip=1.0, branch=scale)
  law = trajectory([Layer(width=N)] + depth * [block])
  drift, std = law.forward_drift[:-1], law.forward_std[:-1]
  off = abs(forward[1:] - found.forward[1:] - drift)
  fresh = 2 / N / math.log(2)  # a branch has its own kernel: 2/n more variance
  assert (off < 4 * (std + fresh**0.5) / 8 + abs(drift) / 4 + fresh).all()
  off = backward[0] - backward[-1] - found.backward[0] - law.backward_drift[0]
  assert abs(off) < 4 * 2 * law.backward_std[0] / 8


@pytest.mark.parametrize("norm", ["units", "samples"])
def test_predictions_of_normalized_stacks_are_met(norm):
  """One wide draw: fluctuations are of order √(5·depth/n) = 0.2 in log₂ q.

  Four of them are 0.9; the gradient of batch normalization grows by 0.55 a
  layer and 8 layers, that of a stack taken for plain by nothing.
  """
  width, depth = 512, 8
  axis = -1 if norm == "units" else 0

  def fn(kernels, x):
    layer = lambda h, w: (relu(standardize(h, axis=axis)) @ w, None)
    return jax.lax.scan(layer, x, kernels)[0]

  kernels = normal(depth, width, width, variance=2 / width)
  x = normal(128, width, seed=2)
  rows = jax.jit(functools.partial(measure, fn))(kernels, x).to_records()
  found = predicted(fn, kernels, x)
  for direction in ("forward", "backward"):
    bits = [row[f"{direction}_log2_second_moment"] for row in rows]
    bits = np.array(bits) - (bits[-1] if direction == "backward" else 0)
    known = np.isfinite(getattr(found, direction))
    assert known[1:].all()
    off = abs(bits - getattr(found, direction))[known]
    assert off.max() < 0.9
  assert abs(bits[1] - (7 - 1) * (norm == "samples") * 0.5535) < 0.9


@pytest.mark.parametrize("size", [0, -1.0, math.nan, "one"])
def test_a_second_moment_is_a_positive_number(size):
  with pytest.raises(ValueError, match="second_moment must be a"):
    predict(lambda p, x: x @ p, square(1.0), X, second_moment=size)


@pytest.mark.parametrize("centred", [True, False])
def test_a_norm_behind_relu_grows_by_what_its_mean_takes_away(centred):
  # E[φ'²]/Var φ is π/(π - 1) for relu, E[φ'²]/E[φ²] is 1.
  rms_norm = lambda h: h / jnp.sqrt(jnp.mean(h * h, -1, keepdims=True))
  norm = standardize if centred else rms_norm
  fn = through(lambda h, w: norm(relu(h)) @ w)
  growth = math.log2(math.pi / (math.pi - 1)) if centred else 0.0
  check(predicted(fn, stack(5, 1.0)), np.zeros(6), growth * np.arange(6)[::-1])
