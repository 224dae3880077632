"""Joint moments against closed forms, Price's theorem, and a lattice sum."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from initjax.gains import _joint, _joint_mesh, joint_moments, moments

# The accuracy that `joint_moments` documents: 1e-12 of the value, and 1e-14 of
# the natural size for a moment that is 0 or nearly cancels.
RELATIVE, ABSOLUTE = 1e-12, 1e-14

CORRELATIONS = [-1.0, -0.7, 0.0, 1e-5, 0.3, 0.9, 0.9999, 1 - 1e-12, 1.0]
VARIANCES = [1e-12, 2.3, 1e6]


def arc_cosine(degree, c):
  """E over the half-space functions x^n·1[x > 0] at unit variance."""
  angle = math.acos(c)
  sine, rest = math.sqrt((1 - c) * (1 + c)), math.pi - angle
  kernel = (rest, sine + rest * c, 3 * sine * c + rest * (1 + 2 * c * c))
  return kernel[degree] / (2 * math.pi)


def leaky(slope):
  return lambda x: jnp.where(x > 0, x, slope * x)


def leaky_case(c, q, a=0.3):
  """φ = relu(x) - a·relu(-x): sums of arc-cosine kernels at ±c."""
  same, other = [(1 + a**2, 2 * a), (1 + a**4, 2 * a**2)], (c, -c)
  slopes, product, squares = (
    [arc_cosine(degree, sign) for sign in other] for degree in (0, 1, 2)
  )
  (one, cross), (fourth, both) = same
  return (
    q * (one * product[0] - cross * product[1]),
    one * slopes[0] + cross * slopes[1],
    q**2 * (fourth * squares[0] + both * squares[1]),
    fourth * slopes[0] + both * slopes[1],
  )


relu_case, linear_case = (functools.partial(leaky_case, a=a) for a in (0, 1))


def sine_case(c, q):
  """E cos(αu)cos(βv) and E sin sin from E exp(i(αu + βv)), Var = sums."""
  plus, minus = math.exp(-q * (1 + c)), math.exp(-q * (1 - c))
  square = (1 - 2 * math.exp(-2 * q) + (minus**4 + plus**4) / 2) / 4
  cosine_square = square + math.exp(-2 * q)
  return (minus - plus) / 2, (minus + plus) / 2, square, cosine_square


def square_case(c, q):
  product = q**2 * (1 + 2 * c**2)
  fourth = q**4 * (9 + 72 * c**2 + 24 * c**4)  # E u⁴v⁴, Isserlis
  return product, 4 * q * c, fourth, 16 * q**2 * (1 + 2 * c**2)


CASES = {  # φ, its moments, n of φ(√q·x) = q^(n/2)·φ(x), variances
  "linear": (lambda x: x, linear_case, 1, [2.3]),
  "relu": (jax.nn.relu, relu_case, 1, VARIANCES),
  "leaky_relu": (leaky(0.3), leaky_case, 1, [2.3]),
  "square": (jnp.square, square_case, 2, VARIANCES),
  # Beyond, its closed form cancels at 1e-12.
  "sin": (jnp.sin, sine_case, 0, [1.0, 2.3, 400.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_closed_forms(name):
  activation, closed_form, degree, variances = CASES[name]
  for q in variances:
    got = joint_moments(activation, np.array(CORRELATIONS), q)
    for i, c in enumerate(CORRELATIONS):
      want, unit = closed_form(c, q), closed_form(1.0, q)  # its natural size
      # acos(c) in the closed form is off by ε/√(1-c²), the sines by ε·q.
      condition = np.finfo(float).eps * 4 / math.sqrt(1 - c**2 + 1e-16)
      for row, expected, size in zip(got, want, unit, strict=False):
        error = abs(row[i] - expected)
        slack = ABSOLUTE + (condition if degree == 1 else 0)
        assert error <= RELATIVE * abs(expected) + slack * abs(size), (q, c)


@pytest.mark.parametrize("q", VARIANCES)
def test_erf_is_the_arcsine_kernel(q):
  """Williams 1997, Eq. 11, and its derivative with respect to c."""
  for c in CORRELATIONS:
    got = joint_moments(jax.lax.erf, c, q)
    rest = (1 + 2 * q * (1 - c)) * (1 + 2 * q * (1 + c))  # (1+2q)² - (2qc)²
    want = 2 / math.pi * math.atan2(2 * q * c, math.sqrt(rest))
    size = min(q, 1.0)
    np.testing.assert_allclose(got.product, want, RELATIVE, ABSOLUTE * size)
    slopes = 4 / math.pi / math.sqrt(rest)
    np.testing.assert_allclose(got.derivative_product, slopes, RELATIVE)


def both_above(k, c):
  """P(u > k, v > k): Plackett's identity, integrated over r = sin θ."""
  nodes, weights = np.polynomial.legendre.leggauss(60)
  half = math.asin(c) / 2
  tilted = np.exp(-(k**2) / (1 + np.sin(half * (1 + nodes))))
  area = half * weights @ tilted
  return ndtr(-k) ** 2 + area / (2 * math.pi)


@pytest.mark.parametrize("k", [0.0, 0.3, 1e-3, -1.7])
@pytest.mark.parametrize("c", [-0.6, 0.4, 0.97])
def test_a_step_or_a_kink_anywhere(k, c):
  """φ' of the step is a delta; E[(u-k)₊(v-k)₊] by parts from its table."""
  step = joint_moments(lambda x: jnp.where(x > k, 1.0, 0.0), c)
  above = both_above(k, c)
  np.testing.assert_allclose(step.product, above, RELATIVE)
  root = math.sqrt((1 - c) * (1 + c))
  density = math.exp(-(k**2) / (1 + c)) / (2 * math.pi * root)
  np.testing.assert_allclose(step.derivative_product, density, RELATIVE)
  assert math.isinf(step.derivative_square_product)

  kink = joint_moments(lambda x: jax.nn.relu(x - k), c)
  edge = math.exp(-(k**2) / 2) / math.sqrt(2 * math.pi)
  tail = ndtr(-k * math.sqrt((1 - c) / (1 + c)))
  want = (c + k**2) * above - 2 * k * edge * tail + root**2 * density
  # Three terms of size up to 1 + k² cancel in the closed form.
  np.testing.assert_allclose(kink.product, want, RELATIVE, 4e-15)
  np.testing.assert_allclose(kink.derivative_product, above, RELATIVE)


def lattice_sum(function, c, h=0.2):
  """E over u and v = c·u + √(1-c²)·t, by the trapezoidal rule in the plane.

  For functions analytic in |Im x| < a its error is exp(-2πa/h): a = π/2 for
  tanh, so exp(-49) at h = 0.2; the plane is cut off at 9.6σ, exp(-46).
  """
  grid = h * np.arange(-48, 49)
  u, t = np.meshgrid(grid, grid)
  weights = np.exp(-(u**2 + t**2) / 2) * h**2 / (2 * math.pi)
  v = c * u + math.sqrt(1 - c**2) * t
  return (weights * function(u) * function(v)).sum()


@pytest.mark.parametrize("c", [-0.9, 0.2, 0.8, 0.999])
def test_tanh_equals_a_lattice_sum(c):
  got = joint_moments(jnp.tanh, c)
  slope = lambda x: 1 / np.cosh(x) ** 2
  functions = (np.tanh, slope)
  functions += tuple(lambda x, f=f: f(x) ** 2 for f in functions)
  for value, function in zip(got, functions, strict=False):
    np.testing.assert_allclose(value, lattice_sum(function, c), RELATIVE)


ANY = {
  "tanh": jnp.tanh,
  "gelu": jax.nn.gelu,
  "selu": jax.nn.selu,
  "softplus": jax.nn.softplus,
  "steps": lambda x: jnp.floor(0.7 * x),
  "bent": lambda x: jnp.where(x > 0.1234567, jnp.sin(x), x**2),
  "root": lambda x: jnp.abs(x) ** 1.5,
}


@pytest.mark.parametrize("name", ANY)
def test_the_ends_are_one_dimensional(name):
  activation, q = ANY[name], 1.7
  one = moments(activation, q)
  zero, equal, opposite = (
    joint_moments(activation, c, q) for c in (0.0, 1.0, -1.0)
  )
  # Every jump adds 1e-14 to the one-dimensional moments: steps has some 30.
  close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
  close(zero.product, one.mean**2, atol=1e-14)
  close(zero.derivative_product, one.derivative_mean**2, atol=1e-14)
  close(zero.square_product, one.second_moment**2)
  close(equal.product, one.second_moment)
  close(equal.derivative_product, one.derivative_second_moment)
  assert equal.square_difference == 0
  even = moments(lambda x: activation(x) * activation(-x), q).mean
  close(opposite.product, even, atol=1e-14 * one.second_moment)


@pytest.mark.parametrize("name", ANY)
def test_the_difference_completes_the_product(name):
  """E[(φ(u)-φ(v))²] = 2E[φ²] - 2E[φ(u)φ(v)]: both sides cancel to ε·E[φ²]."""
  got = joint_moments(ANY[name], np.array([-0.8, 0.6, 0.9999]), 1.7)
  second = moments(ANY[name], 1.7).second_moment
  gap = 2 * (second - got.product) - got.square_difference
  assert (abs(gap) <= 2 * RELATIVE * second).all()


@pytest.mark.parametrize("name", ANY)
def test_prices_theorem(name):
  """d E[φφ]/dc = v·E[φ'φ']: a difference quotient of order h⁴, h = 1e-3.

  Its error is h⁴/5 times a fifth derivative (below 100 here) plus 1e-12/h.
  """
  h, v = 1e-3, 1.7
  got = joint_moments(ANY[name], 0.4 + h * np.arange(-2, 3), v)
  quotient = np.dot([1, -8, 0, 8, -1], got.product) / (12 * h)
  slope = v * got.derivative_product[2]
  assert abs(quotient - slope) <= 1e-9 * abs(slope) + 1e-9


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "linear"])
def test_small_differences_keep_their_digits(name):
  """As c -> 1, E[(φ(u)-φ(v))²] -> 2(1-c)·v·E[φ'²]; next order √(1-c)·that."""
  activation = CASES[name][0]
  c = 1 - 1e-12
  got = joint_moments(activation, c, 3.0).square_difference
  slopes = moments(activation, 3.0).derivative_second_moment
  want = 2 * (1 - c) * 3.0 * slopes
  # The differences themselves carry rounding ε/√(1-c) = 2e-10.
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_declared_derivative_does_not_count():
  """Straight-through sign: its slope is 1 by decree, Price's theorem rules."""
  through = lambda x: x + jax.lax.stop_gradient(jnp.sign(x) - x)
  got = joint_moments(through, 0.5)
  np.testing.assert_allclose(got.product, 2 / math.pi * math.asin(0.5), 1e-12)
  want = 2 / math.pi / math.sqrt(1 - 0.25)
  np.testing.assert_allclose(got.derivative_product, want, 1e-12)
  assert math.isinf(joint_moments(through, 1.0).derivative_product)
  assert math.isnan(joint_moments(through, -1.0).derivative_product)


@pytest.mark.parametrize("x64", [False, True])
def test_the_same_within_jit_and_at_any_precision(x64):
  outside = joint_moments(jnp.tanh, 0.25, 1.3)
  seen = []

  def traced(x):
    seen.append(joint_moments(lambda y: jnp.tanh(y * 1.0), 0.25, 1.3))
    return x

  with jax.enable_x64(x64):
    jax.jit(traced)(jnp.zeros(3))
  np.testing.assert_array_equal(seen[0], outside)


def test_panels_that_are_too_coarse_are_cut(monkeypatch):
  """Without the edges foreseen near the kink, the error check finds them."""
  coarse = lambda mesh, c: np.linspace(0.0, mesh.edges[-1], 3)
  monkeypatch.setattr(_joint, "_outer_edges", coarse)
  c, q = 0.9999, 1.234567  # in no cache
  got = joint_moments(jax.nn.relu, c, q)
  np.testing.assert_allclose(got[:4], relu_case(c, q), RELATIVE)


def test_shapes_and_types():
  table = joint_moments(jnp.tanh, np.array([[0.1, 0.2, 0.3]]))
  assert all(row.shape == (1, 3) for row in table)
  assert all(type(value) is float for value in joint_moments(jnp.tanh, 0.1))
  assert table.product[0, 1] == joint_moments(jnp.tanh, 0.2).product


ERRORS = [
  (jnp.tanh, 1.001, 1.0, r"correlation must be in \[-1, 1\]"),
  (jnp.tanh, math.nan, 1.0, r"correlation must be in \[-1, 1\]"),
  (jnp.tanh, 0.5, 0.0, "variance must be a finite number > 0"),
  (lambda x: jnp.exp(x**2 / 7), 0.5, 1.0, r"E\[φ⁴\].* diverges or overflows"),
  (jnp.sqrt, 0.5, 1.0, "is NaN at x"),
]


@pytest.mark.parametrize(("activation", "c", "variance", "message"), ERRORS)
def test_errors(activation, c, variance, message):
  with pytest.raises(ValueError, match=message):
    joint_moments(activation, c, variance)


def test_a_traced_correlation_is_refused():
  with pytest.raises(TypeError, match="got a traced value"):
    jax.jit(lambda c: joint_moments(jnp.tanh, c).product)(0.5)


@pytest.mark.parametrize(
  ("value", "slope", "knots"),
  [
    (np.tanh, lambda x: 1 - np.tanh(x) ** 2, []),
    (lambda x: np.maximum(x, 0), lambda x: x > 0, [0.0]),
    (lambda x: np.where(x > 0.3, x, 0), lambda x: x > 0.3, [0.3]),
  ],
)
def test_a_mesh_knows_where_a_function_or_its_slope_jumps(value, slope, knots):
  """To the step of float64 by which an edge is found."""
  evaluate = lambda x: (value(x) * 1.0, slope(x) * 1.0)
  found = _joint_mesh.mesh_of(evaluate, 1.0).knots
  np.testing.assert_allclose(found, knots, atol=1e-12)
