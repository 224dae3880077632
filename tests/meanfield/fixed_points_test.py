"""Fixed points and criticality against references and closed forms."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from initjax.gains import moments
from initjax.meanfield import (
  correlation_map,
  critical_point,
  fixed_point,
  half_stable_point,
  length_map,
)

# The documented accuracy of a fixed point.
close = functools.partial(np.testing.assert_allclose, rtol=1e-9)

REFERENCE = json.loads(
  (pathlib.Path(__file__).parent / "reference_meanfield.json").read_text()
)
CRITICAL = [
  pytest.param(activation, row, id=f"{activation.__name__}-{row['sigma_b2']}")
  for activation in (jnp.tanh, jax.nn.silu)
  for row in REFERENCE["critical_line"][activation.__name__]
]


def jumping(x):
  return jnp.where(x > 0.3, x, -0.2)


def root(function, low, high):
  return optimize.brentq(function, low, high, xtol=1e-15, rtol=1e-14)


NAMES = {
  "q": "q_star",
  "chi_1": "chi1",
  "length_slope": "Qprime",
  "c": "c_star",
}
NAMES |= {name: name for name in ("sigma_w2", "xi_q", "xi_c", "xi_grad")}


def assert_point(point, row):
  """What the reference tells of it: 4 numbers of a critical point, else all."""
  for name, there in NAMES.items():
    if there in row:
      close(getattr(point, name), row[there], err_msg=name)


@pytest.mark.parametrize("row", REFERENCE["tanh_points"])
def test_tanh_off_the_critical_line(row):
  point = fixed_point(jnp.tanh, row["sigma_w2"], row["sigma_b2"])
  assert_point(point, row)
  assert point.phase == ("chaotic" if row["chi1"] > 1 else "ordered")
  assert point.stable
  assert not point.degenerate


@pytest.mark.parametrize(("activation", "row"), CRITICAL)
def test_the_critical_line(activation, row):
  point = critical_point(activation, row["sigma_b2"])
  assert_point(point, row)
  assert point.stable == row["stable"]
  assert (point.chi_1, point.c, point.phase) == (1.0, 1.0, "critical")
  assert point.xi_c == point.xi_grad == math.inf
  again = fixed_point(activation, point.sigma_w2, point.sigma_b2, start=point.q)
  close(again.q, point.q)
  assert again.phase == "critical"


def test_half_stable_points():
  """SiLU as in the reference, exact GELU as in Roberts et al. 2022, Table 1."""
  want = REFERENCE["half_stable"]["silu"]
  silu = half_stable_point(jax.nn.silu)
  close((silu.q, silu.sigma_w2, silu.sigma_b2), tuple(want.values()))
  gelu = half_stable_point(functools.partial(jax.nn.gelu, approximate=False))
  # Printed there to 8 decimals.
  np.testing.assert_allclose(gelu.sigma_w2, 1.98305826, atol=5e-9, rtol=0)
  np.testing.assert_allclose(gelu.sigma_b2, 0.17292239, atol=5e-9, rtol=0)
  for point in (silu, gelu):
    assert (point.chi_1, point.phase, point.stable) == (1.0, "critical", False)
    assert abs(point.length_slope - 1) < 1e-12
    assert point.xi_q == math.inf


def test_a_length_map_that_touches_the_diagonal():
  """At SiLU's half-stable point another fixed point lies beyond it (14.593)."""
  half = half_stable_point(jax.nn.silu)
  point = fixed_point(jax.nn.silu, half.sigma_w2, half.sigma_b2)
  # F = (q - K)²F''/2 is computed to 1e-15: its minimum is found, not its root.
  close(point.q, half.q)
  beyond = fixed_point(jax.nn.silu, half.sigma_w2, half.sigma_b2, start=16.0)
  assert 14.55 < beyond.q < 14.65
  assert beyond.stable


@pytest.mark.parametrize(
  ("sigma_w2", "sigma_b2"), [(0.5, 0.1), (1.1, 0.3), (4.0, 0.05)]
)
def test_erf_networks(sigma_w2, sigma_b2):
  """E[φφ] = (2/π) arcsin(2qc/(1+2q)), E[φ'φ'] = (4/π)/√((1+2q)² - (2qc)²)."""
  kernel = lambda q, c: 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
  slopes = lambda q, c: (
    4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
  )
  q = root(lambda q: sigma_w2 * kernel(q, 1) + sigma_b2 - q, 1e-6, 100)
  chi = sigma_w2 * slopes(q, 1)
  slope = sigma_w2 * 4 / math.pi / ((1 + 2 * q) * math.sqrt(1 + 4 * q))
  point = fixed_point(jax.lax.erf, sigma_w2, sigma_b2)
  close((point.q, point.chi_1, point.length_slope), (q, chi, slope))
  c = 1.0
  if chi > 1:
    gap = lambda c: (sigma_w2 * kernel(q, c) + sigma_b2) / q - c
    c = root(gap, 0, 1 - 1e-6)
  close(point.c, c)
  close(point.xi_c, -1 / math.log(sigma_w2 * slopes(q, c)))


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.leaky_relu])
def test_relu_networks(activation):
  kept = float(moments(activation).second_moment)  # E[φ²] = kept·q
  point = fixed_point(activation, 0.75 / kept, 0.1)
  close((point.q, point.chi_1, point.length_slope), (0.4, 0.75, 0.75))
  assert point.phase == "ordered"
  lost = fixed_point(activation, 0.75 / kept, 0.0)
  assert (lost.q, lost.stable) == (0.0, True)
  close((lost.chi_1, lost.length_slope), (0.75, 0.75))


@pytest.mark.parametrize(
  ("activation", "sigma_w2"),
  [(jax.nn.relu, 2.0), (jax.nn.leaky_relu, 2 / (1 + 1e-4)), (lambda x: x, 1.0)],
)
def test_a_continuum_is_called_degenerate(activation, sigma_w2):
  for point in (
    fixed_point(activation, sigma_w2, 0.0),
    critical_point(activation, 0.0),
    half_stable_point(activation),
  ):
    close(point.sigma_w2, sigma_w2)
    assert (point.q, point.c, point.phase) == (1.0, 1.0, "critical")
    assert point.degenerate
    assert point.stable
    assert point.xi_q == point.xi_c == point.xi_grad == math.inf
  assert fixed_point(activation, sigma_w2, 0.0, start=3.0).q == 3.0


def test_sign_networks_are_chaotic():
  """E[sign·sign] = (2/π) arcsin c, of infinite slope at c = 1."""
  sigma_w2, sigma_b2 = 2.0, 0.5
  point = fixed_point(jnp.sign, sigma_w2, sigma_b2)
  q = sigma_w2 + sigma_b2
  gap = lambda c: (sigma_w2 * 2 / math.pi * math.asin(c) + sigma_b2) / q - c
  c = root(gap, 0, 0.999)
  close((point.q, point.c), (q, c))
  slope = sigma_w2 * 2 / math.pi / math.sqrt(1 - c**2) / q
  close(point.xi_c, -1 / math.log(slope))
  assert (point.chi_1, point.phase) == (math.inf, "chaotic")
  assert point.xi_q == point.xi_grad == 0.0


def test_tanh_without_bias():
  """E[tanh²] = q - 2q² + 17q³/3 + O(q⁴): q* = 0 up to σ_w² = 1."""
  for sigma_w2 in (0.5, 1.0):
    point = fixed_point(jnp.tanh, sigma_w2, 0.0)
    assert (point.q, point.stable, point.degenerate) == (0.0, True, False)
    assert point.chi_1 == point.length_slope == sigma_w2
  for excess in (1e-3, 1e-6, 1e-9):
    point = fixed_point(jnp.tanh, 1 + excess, 0.0)
    series = lambda q, e=excess: (1 + e) * (1 - 2 * q + 17 / 3 * q**2) - 1
    q = root(series, 0, 2 * excess)
    # The next term is 62·q³·(1/3), against 2q; V/q - 1 is a sum of thousands
    # of terms, rounded to some 20ε.
    np.testing.assert_allclose(point.q, q, rtol=20 * q**2 + 5e-15 / excess)


def test_a_decreasing_length_map():
  """E[cos²] = (1 + exp(-2q))/2."""
  point = fixed_point(jnp.cos, 3.0, 0.1)
  q = root(lambda q: 1.5 * (1 + math.exp(-2 * q)) + 0.1 - q, 0, 4)
  close((point.q, point.length_slope), (q, -3 * math.exp(-2 * q)))
  assert point.stable


@pytest.mark.parametrize(
  ("activation", "sigma_w2", "sigma_b2", "start"),
  [
    (jax.nn.silu, 2.728611526337324, 0.05, 0.5),
    (jax.nn.sigmoid, 5.0, 0.05, 1.0),
    (jax.nn.softplus, 0.5, 0.05, 1.0),
    (jumping, 1.5, 0.1, 1.0),
  ],
)
def test_iteration_ends_there(activation, sigma_w2, sigma_b2, start):
  """The error of iteration falls as |Q'|^layers: 200 layers, or 1e-10 left."""
  point = fixed_point(activation, sigma_w2, sigma_b2, start=start)
  assert point.stable
  q = start
  for _ in range(200):
    new, q = length_map(activation, q, sigma_w2, sigma_b2), q
    if abs(new - q) <= 1e-8 * q:
      break
    q = new
  error = abs(point.q - q) / q
  assert error <= 1e-7 / (1 - abs(point.length_slope))


def test_slopes_are_those_of_the_maps():
  """Q' and f'(c*) as difference quotients of order h⁴, h = 1e-2·q and 1e-3."""
  for activation in (jax.nn.gelu, jumping):
    point = fixed_point(activation, 1.5, 0.1)
    steps, weights = np.array([-2, -1, 1, 2]), np.array([1, -8, 8, -1]) / 12
    h = 1e-2 * point.q
    lengths = length_map(activation, point.q + h * steps, 1.5, 0.1)
    # h⁴ times a fifth derivative in units of q: below 1e-6.
    assert abs(weights @ lengths / h - point.length_slope) < 1e-6
    if point.phase == "chaotic":
      h = 1e-3
      f = correlation_map(activation, point.c + h * steps, 1.5, 0.1)
      slope = math.exp(-1 / point.xi_c)
      assert abs(weights @ f / h - slope) < 1e-6
      assert (
        abs(correlation_map(activation, point.c, 1.5, 0.1) - point.c) < 1e-9
      )


def test_just_above_criticality():
  """Smooth φ: c* = 1 - O(χ₁ - 1), and f'(c*) = 2 - χ₁ to that order squared."""
  critical = critical_point(jnp.tanh, 0.05)
  for excess in (1e-4, 1e-6):
    point = fixed_point(jnp.tanh, critical.sigma_w2 + excess, 0.05)
    assert point.phase == "chaotic"
    rate = point.chi_1 - 1
    # -1/log(f') = 1/rate + O(1), and rounding ε/rate² of f' - 1.
    assert abs(point.xi_c * rate - 1) < 5 * rate + 1e-15 / rate**1.5


def test_sigmoid_is_critical_at_large_weights_only():
  point = critical_point(jax.nn.sigmoid, 0.05)
  m = moments(jax.nn.sigmoid, point.q)
  close(point.sigma_w2 * m.derivative_second_moment, 1.0)
  close(point.sigma_w2 * m.second_moment + 0.05, point.q)


def test_critical_and_half_stable_tanh_without_bias_are_the_same():
  critical, half = critical_point(jnp.tanh, 0.0), half_stable_point(jnp.tanh)
  assert critical == half
  assert (half.sigma_w2, half.q, half.stable) == (1.0, 0.0, True)
  assert not critical_point(jax.nn.silu, 0.0).stable  # there V(q) > q


ERRORS = [
  (fixed_point, (jax.nn.relu, 2.5, 0.0), {}, "V.q. exceeds q for every q"),
  (fixed_point, (jax.nn.relu, 2.0, 0.1), {}, "grows without bound"),
  (fixed_point, (jnp.exp, 1.0, 0.1), {}, "no fixed point .* Lower sigma_w2"),
  (fixed_point, (jnp.tanh, -1.0, 0.1), {}, "sigma_w2 must be"),
  (fixed_point, (jnp.tanh, 1.0, 0.1), {"start": 0.0}, "start must be"),
  (critical_point, (jax.nn.relu, 0.1), {}, "positively homogeneous"),
  (critical_point, (jnp.sign, 0.1), {}, "jumps, so χ₁ = .* is infinite"),
  (critical_point, (jax.nn.softplus, 0.1), {}, "has no critical point"),
  (half_stable_point, (jax.nn.sigmoid,), {}, "has no half-stable point"),
  (half_stable_point, (jnp.sign,), {}, "jumps"),
]


@pytest.mark.parametrize(("solve", "given", "options", "message"), ERRORS)
def test_errors_give_the_reason(solve, given, options, message):
  with pytest.raises(ValueError, match=message):
    solve(*given, **options)


@pytest.mark.parametrize(
  ("sigma_w2", "sigma_b2"), [(1.75, 0.5), (1.5, 1.0), (1.75, 1.0), (1.0, 0.5)]
)
def test_a_fixed_point_on_the_grid_of_the_search(sigma_w2, sigma_b2):
  """ReLU: q = σ_b²/(1 - σ_w²/2), here a power of 2, where V(q) - q is 0."""
  point = fixed_point(jax.nn.relu, sigma_w2, sigma_b2)
  np.testing.assert_allclose(
    point.q,
    sigma_b2 / (1 - sigma_w2 / 2),
    rtol=1e-11,  # moments to 1e-12, over 1 - Q' >= 1/8
  )
