"""Deep stacks at infinite width, against closed forms and exact moments."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.gains import moments
from initjax.meanfield import (
  Layer,
  correlation_map,
  critical_point,
  fixed_point,
  length_map,
  trajectory,
)

FIRST = Layer()
RELU = Layer(jax.nn.relu, 2.0)


@pytest.mark.parametrize(
  "activation",
  [jnp.tanh, jax.nn.gelu, jax.nn.hard_tanh, jax.nn.sigmoid, jnp.sin],
)
def test_maps_are_iterated_with_exact_moments(activation):
  """The tables err by 1e-9 a layer in log₂, so 20 layers by 2e-8.

  From q = 30 to wherever the map leads: several octaves.
  """
  sigma_w2, sigma_b2, depth = 1.5, 0.1, 20
  layer = Layer(activation, sigma_w2, sigma_b2)
  found = trajectory([FIRST] + (depth - 1) * [layer], second_moment=30.0)
  q, log2_chi = [30.0], []
  for _ in range(depth - 1):
    m = moments(activation, q[-1])
    log2_chi.append(math.log2(sigma_w2 * m.derivative_second_moment))
    q.append(sigma_w2 * m.second_moment + sigma_b2)
  np.testing.assert_allclose(found.forward, np.log2(q), atol=2e-8)
  gradient = np.append(np.cumsum(log2_chi[::-1])[::-1], 0.0)
  np.testing.assert_allclose(found.backward, gradient, atol=2e-8)


def test_xavier_halves_relu_in_every_layer_however_deep():
  """2^-1100 is beyond float64; logarithms are not."""
  found = trajectory([FIRST] + 1100 * [Layer(jax.nn.relu, 1.0)])
  np.testing.assert_allclose(found.forward, -np.arange(1101.0), atol=1e-9)
  np.testing.assert_allclose(found.backward, found.forward[::-1], atol=1e-9)


def test_relu_correlations_follow_the_arc_cosine_map():
  """Iterates by mpmath. The Hermite series errs by 1e-7 a layer at a kink."""
  expected = {
    0: 0.0,
    1: 0.3183098861837907,
    2: 0.4937310902003715,
    5: 0.7359463506276367,
    10: 0.8715355160215176,
    30: 0.9720108731544702,
    100: 0.9964231466839476,
  }
  found = trajectory([FIRST] + 100 * [RELU]).correlation
  for layer, correlation in expected.items():
    assert abs(found[layer] - correlation) < 1e-12 + 1e-7 * layer


def test_tanh_on_the_edge_of_chaos():
  """χ₁ = 1 at σ_b² = 0.05; off it, correlations settle at c* (40 digits)."""
  critical = Layer(jnp.tanh, 1.760954639606738, 0.05)
  q_star = 0.5700478816407635
  found = trajectory([FIRST] + 50 * [critical], second_moment=q_star)
  np.testing.assert_allclose(found.forward, math.log2(q_star), atol=1e-9)
  np.testing.assert_allclose(found.backward, 0, atol=5e-8)
  chaotic = Layer(jnp.tanh, 2.5, 0.05)
  found = trajectory([FIRST] + 300 * [chaotic], correlation=0.9)
  np.testing.assert_allclose(
    found.forward[-1], math.log2(1.063958377416812), atol=1e-8
  )
  np.testing.assert_allclose(found.correlation[-1], 0.4468042323442662, 1e-8)
  growth = 2.0 ** (found.backward[200] - found.backward[201])
  np.testing.assert_allclose(growth, 1.1335156987042718, rtol=1e-8)


def test_biases_make_inputs_alike():
  """Linear: c' = (σ_w²·q·c + σ_b²)/(σ_w²·q + σ_b²)."""
  found = trajectory([Layer(None, 0.5, 0.5)], correlation=-0.2)
  np.testing.assert_allclose(found.correlation, [0.4], rtol=1e-12)
  np.testing.assert_allclose(found.forward, [0.0], atol=1e-12)


def test_gradients_per_element_follow_the_widths():
  """Weights of variance 1/fan_in: an element feeds n_{l+1}/n_l as many."""
  layers = [Layer(width=n) for n in (10, 40, 20)]
  np.testing.assert_allclose(trajectory(layers).backward, [1, -1, 0], atol=1e-9)


def test_plain_residual_blocks_double_beyond_float64():
  """De and Smith 2020; a gradient that comes back through both doubles too.

  2^1100, both ways, in logarithms; warnings are errors.
  """
  found = trajectory([FIRST] + 1100 * [RELU._replace(skip=1.0)])
  np.testing.assert_allclose(found.forward, np.arange(1101.0), atol=1e-9)
  np.testing.assert_allclose(found.backward, found.forward[::-1], atol=1e-9)


def test_scaled_residual_blocks_stay():
  """(1 + 1/L)^l; and with skip² + branch² = 1 nothing changes at all."""
  depth = 64
  scaled = RELU._replace(skip=1.0, branch=1 / math.sqrt(depth))
  found = trajectory([FIRST] + depth * [scaled])
  expected = np.arange(depth + 1) * math.log2(1 + 1 / depth)
  np.testing.assert_allclose(found.forward, expected, atol=1e-9)
  kept = RELU._replace(skip=-0.8, branch=0.6)
  found = trajectory([FIRST] + depth * [kept])
  np.testing.assert_allclose(found.forward, 0, atol=1e-9)
  np.testing.assert_allclose(found.backward, 0, atol=1e-9)


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh])
def test_pre_norm_blocks_grow_linearly(activation):
  """Branches of unit variance: q = l + 1, and g_l/g_{l+1} = 1 + χ/(l + 1).

  For ReLU χ = 1, so that the gradient decays as 1/(l + 1) from the input on.
  """
  m = moments(activation)
  sigma_w2 = 1 / m.second_moment
  block = Layer(activation, sigma_w2, skip=1.0, normalization="layer")
  found = trajectory([FIRST] + 30 * [block])
  np.testing.assert_allclose(2**found.forward, np.arange(1, 32), rtol=1e-8)
  chi = sigma_w2 * m.derivative_second_moment
  steps = np.log2(1 + chi / np.arange(1, 31))
  np.testing.assert_allclose(-np.diff(found.backward), steps, atol=1e-8)
  if activation is jax.nn.relu:
    expected = 31 / np.arange(1.0, 32)
    np.testing.assert_allclose(2**found.backward, expected, rtol=1e-8)


def test_layer_norm_holds_the_signal_and_not_the_gradient():
  """g_l/g_{l+1} = E[φ'²]/E[φ²] at unit variance, whatever σ_w² (no bias)."""
  m = moments(jnp.tanh)
  for sigma_w2 in (0.1, 7.0):
    layer = Layer(jnp.tanh, sigma_w2, normalization="layer")
    found = trajectory([layer] * 10, second_moment=5.0)
    q = sigma_w2 * m.second_moment
    np.testing.assert_allclose(2**found.forward, q, rtol=1e-8)
    factor = m.derivative_second_moment / m.second_moment
    np.testing.assert_allclose(2 ** -np.diff(found.backward), factor, rtol=1e-8)


def test_a_norm_after_the_activation_divides_by_its_variance():
  """Gradients grow by E[φ'²]/Var φ, π/(π - 1) of ReLU; RMSNorm keeps them."""
  for name, factor in (
    ("layer", math.pi / (math.pi - 1)),
    ("batch", math.pi / (math.pi - 1)),
    ("rms", 1.0),
  ):
    layer = Layer(jax.nn.relu, 3.0, normalization=name, normalize_after=True)
    found = trajectory([FIRST] + 8 * [layer])
    np.testing.assert_allclose(2 ** found.forward[1:], 3.0, rtol=1e-8)
    factors = 2 ** -np.diff(found.backward)
    expected = factor * np.where(np.arange(8), 1.0, 3.0)  # the data is of 1
    np.testing.assert_allclose(factors, expected, rtol=1e-8)


def test_a_gate_multiplies_both_halves():
  """Bilinear: q² and, of both halves, 2q; of ReLU half of each."""
  for phi, part in ((None, 1.0), (jax.nn.relu, 0.5)):
    gate = Layer(phi, 0.9, 0.2, gated=True)
    found = trajectory([FIRST, gate, gate], second_moment=0.7, correlation=0.6)
    q, c = [0.7], 0.6
    for _ in range(2):
      q.append(0.9 * part * q[-1] ** 2 + 0.2)
    np.testing.assert_allclose(2**found.forward, q, rtol=1e-8)
    growth = [0.9 * part * 2 * each for each in q[:2]]
    np.testing.assert_allclose(2 ** -np.diff(found.backward), growth, rtol=1e-8)
    if phi is None:
      signal = 0.9 * q[0] ** 2
      alike = (signal * c**2 + 0.2) / (signal + 0.2)
      np.testing.assert_allclose(found.correlation[1], alike, rtol=1e-8)


def test_batch_norm_explodes_by_its_growth():
  layer = Layer(jax.nn.relu, 3.0, 0.2, normalization="batch")
  found = trajectory([FIRST] + 20 * [layer])
  factors = 2 ** -np.diff(found.backward)[1:]
  np.testing.assert_allclose(factors, math.pi / (math.pi - 1), rtol=1e-8)
  q = 3.0 / 2 + 0.2
  np.testing.assert_allclose(2 ** found.forward[1:], q, rtol=1e-8)
  common = (3.0 / (2 * math.pi) + 0.2) / q
  np.testing.assert_allclose(found.correlation[1:], common, rtol=1e-8)


def test_residual_batch_norm_is_tame():
  """De and Smith 2020: the spread over inputs grows by Var φ·σ_w² a block.

  ReLU at σ_w² = 2: spread 1 + l·(1 - 1/π), gradient by 1 + 1/spread.
  """
  block = Layer(jax.nn.relu, 2.0, skip=1.0, normalization="batch")
  found = trajectory([FIRST] + 20 * [block])
  spread = 1 + np.arange(20) * (1 - 1 / math.pi)
  np.testing.assert_allclose(2**found.forward, np.arange(1, 22), rtol=1e-8)
  np.testing.assert_allclose(
    2 ** -np.diff(found.backward), 1 + 1 / spread, rtol=1e-8
  )


def test_a_jump_has_a_forward_course_only():
  found = trajectory([FIRST, Layer(jnp.sign), Layer(jnp.sign)])
  np.testing.assert_allclose(found.forward, 0, atol=1e-9)
  assert found.backward[0] == math.inf


def test_widths_unknown_means_no_chance():
  found = trajectory([FIRST] + 5 * [RELU], batch=3)
  for part in (found.forward_drift, found.forward_std, found.backward_std):
    np.testing.assert_array_equal(part, 0)


def _arrays(found):
  chance = found.forward_drift, found.backward_drift, found.backward_covariance
  return found.forward, found.backward, found.correlation, *chance


SILU = (jax.nn.silu, 1.5, 0.1)
WIDE = [Layer(width=64)] + 5 * [Layer(jax.nn.gelu, 2.0, width=64)]
NUMBERS = {
  "trajectory": lambda: _arrays(trajectory(WIDE, batch=4)),
  "length map": lambda: length_map(SILU[0], 0.8, *SILU[1:]),
  "correlation map": lambda: correlation_map(SILU[0], 0.4, *SILU[1:], q=0.8),
  "fixed point": lambda: fixed_point(jnp.tanh, 2.5, 0.05),
  "critical point": lambda: critical_point(jnp.tanh, 0.05),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_same_within_jit_and_at_any_precision(name):
  """Of everything in `meanfield`; traced first, so that nothing is cached."""
  seen, run = [], NUMBERS[name]
  for x64 in (False, True):
    with jax.enable_x64(x64):
      jax.make_jaxpr(lambda x: (seen.append(run()), x)[1])(1.0)
  for found in seen:
    jax.tree.map(np.testing.assert_array_equal, found, run())


@pytest.mark.parametrize(
  ("layers", "options", "message"),
  [
    ([], {}, "at least one Layer"),
    ([Layer(sigma_w2=0.0)], {}, r"layers\[0\].sigma_w2 must be .* > 0"),
    ([Layer(sigma_b2=-1.0)], {}, r"layers\[0\].sigma_b2"),
    ([Layer(normalization="group")], {}, "must be one of 'none', 'layer'"),
    ([Layer(width=0)], {}, r"layers\[0\].width must be an integer >= 1"),
    ([Layer(branch=0.0)], {}, "both its skip and its branch"),
    ([Layer(width=8), Layer(width=9, skip=1.0)], {}, "must have that width"),
    ([Layer(width=8), Layer()], {}, "for all layers or for none"),
    ([Layer(width=9), Layer(width=8, gated=True)], {}, "an even width"),
    ([Layer()], {"correlation": 2.0}, r"correlation must be in \[-1, 1\]"),
    ([Layer()], {"second_moment": 0.0}, "second_moment must be"),
    ([Layer()], {"batch": 0}, "batch must be an integer >= 1"),
  ],
)
def test_wrong_stacks_are_explained(layers, options, message):
  with pytest.raises(ValueError, match=message):
    trajectory(layers, **options)


def test_an_activation_by_name_is_refused():
  with pytest.raises(TypeError, match="must be a function or None; got 'relu'"):
    trajectory([Layer("relu")])
