"""`predict` where positions are mixed: pools, attention, borders, slices.

Kernels hold ±σ in equal numbers; expected values are closed forms, integrals by
SciPy and NumPy's own draws. Each law has a case that is beyond it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from small_models import normal

from initjax import signal_graph
from initjax.propagation import predict
from initjax.propagation._softmax import weights_of

N, T = 32, 6
X = normal(4, T, N)
IMAGES = normal(2, 8, 8, N)
relu = jax.nn.relu
NAMES = ("NHWC", "HWIO", "NHWC")


def signs(*shape, variance, seed=0):
  values = np.where(np.arange(math.prod(shape)) % 2, 1, -1)
  shuffled = np.random.default_rng(seed).permutation(values)
  return np.float32(shuffled.reshape(shape) * math.sqrt(variance))


def square(sigma_w2=1.0, seed=0):
  return signs(N, N, variance=sigma_w2 / N, seed=seed)


def convolve(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=NAMES
  )


# Pools


def test_an_average_keeps_what_positions_share():
  """(½ + (T - 1)/2π)/T for relu of independent positions; δ comes back as δ/T.

  The gradient of the output before it is E[φ'²]/T² = 1/(2·T²).
  """
  fn = lambda p, x: relu(x @ p[0]).mean(axis=1) @ p[1]
  found = predict(fn, [square(), square(seed=1)], X)
  expected = (0.5 + (T - 1) / (2 * math.pi)) / T
  assert found.forward == pytest.approx([0, math.log2(expected)], abs=1e-5)
  assert found.backward == pytest.approx([math.log2(0.5 / T**2), 0], abs=1e-5)


def test_an_average_leaves_each_unit_its_slopes():
  """δ at z, for relu(y + F(y)) of y = relu(z): masks of one unit go together.

  P(z > 0, y + F > 0) is that of normals of correlation 1/√(1 + σ²/2), and half
  of σ²·P(y + F > 0) comes through F.
  """

  def fn(p, x):
    y = relu(x @ p[0])
    return relu(y + y @ p[1]).mean(axis=1) @ p[2]

  kernels = [square(), square(2.0, seed=1), square(seed=2)]
  both = 0.25 + math.asin(2**-0.5) / (2 * math.pi)
  at_branch = both + 0.25
  expected = np.array([both + at_branch, at_branch, T**2]) / T**2
  found = predict(fn, kernels, X).backward
  assert found == pytest.approx(np.log2(expected), abs=0.02)


def test_an_average_over_units_is_not_followed():
  fn = lambda p, x: relu(x @ p[0]).mean(axis=-1, keepdims=True) @ p[1][:1]
  found = predict(fn, [square(), square(seed=1)], X)
  assert np.isnan(found.forward[1])
  assert found.silent[1] == "reduce sum"


def pool(x):
  window = (1, 2, 2, 1)
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, window, window, "VALID"
  )


def test_a_maximum_by_the_law_of_four_normals():
  """∫ max(z, 0)² · 4·n(z)·N(z)³ dz; the gradient goes to one of four."""
  fn = lambda p, x: convolve(relu(pool(convolve(x, p[0]))), p[1])
  kernels = [signs(1, 1, N, N, variance=1 / N, seed=i) for i in range(2)]
  found = predict(fn, kernels, IMAGES)
  density = lambda z: 4 * stats.norm.pdf(z) * stats.norm.cdf(z) ** 3
  expected, _ = integrate.quad(lambda z: z * z * density(z), 0, 9)
  alive = 1 - 0.5**4
  assert abs(found.forward[1] - math.log2(expected)) <= found.forward_error[1]
  back = math.log2(alive / 4)
  assert abs(found.backward[0] - back) <= found.backward_error[0]
  assert found.forward_error[1] < 0.15


def test_a_maximum_of_what_is_no_gaussian_is_unknown_and_says_so():
  """Other rows stay known."""

  def fn(p, x):
    h = convolve(x, p[0])
    h = pool(relu(h + relu(convolve(h, p[1]))))
    return convolve(jax.nn.standardize(convolve(h, p[2])), p[3])

  kernels = [signs(1, 1, N, N, variance=1 / N, seed=i) for i in range(4)]
  found = predict(fn, kernels, IMAGES)
  assert np.isnan(found.forward).tolist() == [False, False, True, False]
  assert found.silent[2] == "a maximum of what is not Gaussian"
  assert np.isnan(found.backward).tolist() == [True, True, True, False]


# Attention


def attention(p, x, mask=None, values=None):
  q, k, v = x @ p[0], x @ p[1], (x if values is None else values) @ p[2]
  scores = q @ k.swapaxes(-1, -2) / math.sqrt(N)
  if mask is not None:
    scores = jnp.where(mask, scores, -1e30)
  return jax.nn.softmax(scores) @ v


def kernels(size, count=4):
  return [square(size if i < 2 else 1.0, seed=i) for i in range(count)]


def test_small_scores_average_and_a_mask_averages_what_it_shows():
  """1/T, and the mean of 1/(i + 1) under a causal mask; entropies log n."""
  plain = predict(lambda p, x: attention(p, x) @ p[3], kernels(1e-6), X)
  mask = np.tri(T, dtype=bool)
  fn = lambda p, x: attention(p, x, mask) @ p[3]
  causal = predict(fn, kernels(1e-6), X)
  seen = np.arange(1, T + 1)
  assert plain.forward[3] == pytest.approx(-math.log2(T), abs=1e-4)
  assert causal.forward[3] == pytest.approx(
    math.log2(np.mean(1 / seen)), abs=1e-4
  )
  assert plain.entropy[3] == pytest.approx(math.log(T), abs=1e-4)
  assert causal.entropy[3] == pytest.approx(np.log(seen).mean(), abs=1e-4)


@pytest.mark.parametrize("variance", [0.1, 1.0, 3.0])
def test_weights_of_a_softmax_are_those_of_draws(variance):
  rng, draws, keys = np.random.default_rng(0), 20_000, 8
  q, k = rng.normal(size=(draws, N)), rng.normal(size=(draws, keys, N))
  scores = np.einsum("df,dkf->dk", q, k) * math.sqrt(variance / N)
  a = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
  found = weights_of(variance, (float(keys),), N)
  moments = ((a**2).sum(1), (a**3).sum(1), -(a * np.log(a)).sum(1))
  for theory, drawn in zip(found, moments, strict=True):
    assert abs(theory[0] - drawn.mean()) < 4.5 * drawn.std() / draws**0.5


def test_tokens_collapse_without_residual_branches():
  """Dong et al. 2021: uniform averages of all tokens are one token."""

  def fn(p, x, skip):
    for _ in range(3):
      x = skip * x @ p[3] + attention(p[:3], x)
    return x @ p[3]

  found = predict(lambda p, x: fn(p, x, 0.0), kernels(1e-6), X).cosine
  kept = predict(lambda p, x: fn(p, x, 1.0), kernels(1e-6), X).cosine
  assert found[-1] == pytest.approx(1, abs=1e-3)
  assert kept[-1] < 0.9
  assert (np.diff(kept[2::4]) > 0).all()  # values, layer by layer


def test_large_scores_are_unknown_and_say_so():
  fn = lambda p, x: attention(p, x) @ p[3]
  found = predict(fn, kernels(4.0), X)
  assert np.isnan(found.forward[3])
  assert "a softmax of large scores: their variance is 1" in found.silent[3]
  assert np.isnan(found.backward[:3]).all()


def test_a_mask_of_data_is_unknown():
  fn = lambda p, x: attention(p, x, x[..., :1] > 0) @ p[3]
  assert np.isnan(predict(fn, kernels(1.0), X).forward[3])


def test_rotations_of_features_keep_their_size():
  """Angles are constants of the model; pairs do not overlap."""

  def turned(x):
    half = N // 2
    angles = jnp.arange(T)[:, None] * 0.5 ** jnp.arange(half)
    cos, sin = (jnp.tile(f(angles), 2) for f in (jnp.cos, jnp.sin))
    other = jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cos + other * sin

  fn = lambda p, x: turned(x @ p[0]) @ p[1]
  found = predict(fn, [square(), square(seed=1)], X)
  assert found.forward == pytest.approx([0, 0], abs=1e-5)
  assert found.backward == pytest.approx([0, 0], abs=1e-5)


# Borders, slices, streams with a mean


def test_borders_take_less_from_layer_to_layer():
  """Positions by powers of the matrix that tells which taps meet which."""
  depth = 6
  each = [signs(3, 3, N, N, variance=2 / 9 / N, seed=i) for i in range(depth)]

  def fn(p, x):
    x = convolve(x, p[0])
    for kernel in p[1:]:
      x = convolve(relu(x), kernel)
    return x

  found = predict(fn, each, IMAGES)
  taps = np.tri(8, k=1) - np.tri(8, k=-2)
  ones, sizes = np.ones(8), []
  for _ in range(depth):
    ones = taps @ ones / 3
    sizes.append(2 * math.log2(ones.mean()) + 1)  # the first: σ_w² = 2, no relu
  assert found.forward == pytest.approx(sizes, abs=1e-5)
  back = np.append(np.array(sizes[:-1])[::-1] - 1, 0.0)  # relu at each
  assert found.backward == pytest.approx(back, abs=1e-5)


def test_batch_statistics_know_what_borders_do_to_every_sample():
  """relu of white maps, 3 × 3 taps, BN: δ by N × N covariances in NumPy.

  K = (1/2 - 1/2π)·diag + (1/2π)·(taps that two positions share); of what is
  left without its mean s² is χ² of m = (tr K)²/tr K² over m, and δ loses two of
  its N directions. A kernel of fan_in 9·32 adds 2/fan_in.
  """
  batch, size = 8, 4
  bn = lambda z: jax.nn.standardize(z, axis=(0, 1, 2), epsilon=0)
  fn = lambda p, x: bn(convolve(relu(bn(convolve(x, p[0]))), p[1])) @ p[2]
  kernels = [signs(k, k, N, N, variance=1 / k / k / N) for k in (1, 3)]
  x = jnp.zeros((batch, size, size, N))
  found = predict(fn, [*kernels, square()], x)
  inside = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]])
  taps = np.kron(inside @ inside.T, inside @ inside.T) / 9
  many, shared = batch * size**2, 1 / (2 * math.pi)
  own = np.kron(np.eye(batch), np.diag(np.diag(taps))) * (0.5 - shared)
  own += np.kron(np.ones((batch, batch)), taps * shared)
  away = np.eye(many) - 1 / many
  own = away @ own @ away
  m = np.trace(own) ** 2 / (own**2).sum()
  growth = many / np.trace(own) * m / (m - 2) * (1 - 2 / many)
  law = math.log2(growth / (1 - 2 / 9 / N))
  assert found.backward[1] == pytest.approx(law, abs=0.01)
  assert abs(found.backward[1] - law) <= found.backward_error[1] <= 0.1


def test_a_slice_gives_its_share_of_the_gradient():
  """The first of T tokens alone has one: 1/T of the mean square."""
  fn = lambda p, x: (x @ p[0])[:, 0] @ p[1]
  found = predict(fn, [square(), square(seed=1)], X)
  assert found.backward == pytest.approx([-math.log2(T), 0], abs=1e-5)


def rectified(p, x):
  h = x @ p[0]
  for kernel in p[1:]:
    h = relu(h + relu(h) @ kernel)
  return h @ p[0]


def test_rectified_streams_by_draws_of_units():
  """A unit is h ← max(h + g, 0), g ~ N(0, σ_w²·E[relu(h)²]) by NumPy.

  Backward, E[δ²] of a unit is summed over its two ways, and the way through the
  kernel is the same for all units.
  """
  depth, units = 4, 1_000_000
  rng = np.random.default_rng(0)
  h, forward, alive = rng.normal(size=units), [0.0], []
  for _ in range(depth):
    size = np.mean(np.maximum(h, 0) ** 2)
    forward.append(math.log2(size))
    slope = h > 0
    h = h + rng.normal(size=units) * math.sqrt(size)
    alive.append((slope, h > 0))
    h = np.maximum(h, 0)
  given = np.ones(units)
  backward = []
  for slope, passed in reversed(alive):
    given = given * passed
    backward.append(math.log2(given.mean()))
    given = given + slope * given.mean()
  backward.append(math.log2(given.mean()))
  found = predict(rectified, [square(seed=i) for i in range(depth + 1)], X)
  forward.append(math.log2(np.mean(h**2)))
  assert abs(found.forward - forward).max() < 0.05
  assert (found.forward_error[2:] >= 0.02).all()
  expected = [*backward[::-1], 0.0]
  assert abs(found.backward - expected).max() < 0.05


def test_rectified_sums_with_inputs_are_unknown():
  """Of inputs theory knows no law."""
  fn = lambda p, x: relu(x + x @ p[0]) @ p[1]
  found = predict(fn, [square(), square(seed=1)], X)
  assert np.isnan(found.forward[1])
  assert found.silent[1] == "an activation of inputs"


def test_a_constant_shifts_what_an_activation_sees():
  """E[max(z + 1, 0)²] = 2·N(1) + n(1)."""
  fn = lambda p, x: relu(x @ p[0] + 1.0) @ p[1]
  found = predict(fn, [square(), square(seed=1)], X)
  expected = 2 * stats.norm.cdf(1) + stats.norm.pdf(1)
  assert found.forward[1] == pytest.approx(math.log2(expected), abs=1e-5)
  assert found.backward[0] == pytest.approx(
    math.log2(stats.norm.cdf(1)), abs=1e-5
  )


def test_an_unknown_row_leaves_others_known():
  """Only what has a say in it loses its gradient."""

  def fn(p, x):
    side = jnp.sort(x @ p[0], axis=-1) @ p[1]
    return jax.nn.standardize(side) @ p[2] + (x @ p[3]) @ p[4]

  found = predict(fn, [square(seed=i) for i in range(5)], X)
  assert np.isnan(found.forward).tolist() == [0, 1, 0, 0, 0]
  assert found.silent == ("", "sort", "", "", "")
  graph = signal_graph(fn, [square(seed=i) for i in range(5)], X)
  order = [op.path for op in graph.ops]
  known = dict(zip(order, np.isfinite(found.backward), strict=True))
  assert known == {"0": False, "1": False, "2": True, "3": True, "4": True}


def test_a_factor_before_a_norm_goes_into_its_statistic():
  """As the √d by which Gemma multiplies its embeddings."""

  def fn(p, x):
    h = 8.0 * (x @ p[0])
    return (3.0 * h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True))) @ p[1]

  found = predict(fn, [square(), square(seed=1)], X)
  assert found.forward == pytest.approx([0, math.log2(9)], abs=1e-5)
