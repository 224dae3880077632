"""The quadrature against scipy, its own degree, and integrals that diverge."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from initjax.gains import _moments, moments
from initjax.gains._quadrature import (
  NODES,
  DivergenceError,
  gaussian_integrals,
  lobatto,
)

VARIANCES = np.array([1e-3, 1.0, 40.0])


def integrals(*functions, v=VARIANCES):
  return gaussian_integrals(lambda x: np.stack([f(x) for f in functions]), v)


@pytest.mark.parametrize("degree", range(13))
def test_powers_equal_normal_moments(degree):
  (actual,) = integrals(lambda x: x**degree)
  expected = [
    scipy.stats.norm(scale=math.sqrt(v)).moment(degree) for v in VARIANCES
  ]
  # 1e-14 per interval of some 100; odd ones are 0 beside E|x|^n < 2^n·v^(n/2).
  size = 2.0**degree * VARIANCES ** (degree / 2) * np.sqrt(math.factorial(6))
  assert (abs(actual - expected) <= 1e-12 * size).all()


@pytest.mark.parametrize(
  ("function", "points"),
  [
    (np.tanh, [0.0]),
    (lambda x: abs(x - 0.3), [0.3]),
    (lambda x: np.where(x > 0.7, x, -1.0), [0.7]),
    (lambda x: abs(x) ** 0.75, [0.0]),
    (lambda x: abs(x + 0.2) ** 0.75, [-0.2]),
    (lambda x: np.clip(x, -1, 1) ** 2, [-1.0, 1.0]),
    (lambda x: np.where((x > 0.1) & (x < 0.11), 1.0, 0.0), [0.1, 0.11]),
    (lambda x: np.floor(3 * x), [n / 3 for n in range(-30, 31)]),
  ],
)
def test_functions_equal_scipy_quad(function, points):
  (actual,) = integrals(function, v=np.array([1.0]))

  def integrand(x):
    return function(np.asarray(x)) * math.exp(-(x**2) / 2)

  cuts = sorted({-12.0, *points, 12.0})  # beyond 12: exp(-72) = 5e-32
  pieces = [
    scipy.integrate.quad(integrand, a, b, epsabs=1e-14, epsrel=1e-13)
    for a, b in itertools.pairwise(cuts)
  ]
  expected, error = np.sum(pieces, axis=0) / math.sqrt(2 * math.pi)
  # scipy's own estimate of its error, and 1e-14 for each of 100 intervals.
  assert abs(actual[0] - expected) <= error + 1e-12 * max(1, abs(expected))


def test_rows_and_columns_are_independent():
  rows = (lambda x: 2 + np.cos(x), lambda x: x**4, lambda x: np.exp(-(x**2)))
  together = integrals(*rows)
  assert together.shape == (3, VARIANCES.size)
  for row, function in zip(together, rows, strict=True):
    for value, v in zip(row, VARIANCES, strict=True):
      alone = integrals(function, v=np.array([v]))[0, 0]
      assert abs(value - alone) <= 2e-12 * abs(alone)


def test_the_rules_are_exact_up_to_their_degrees():
  """Lobatto: 2·NODES - 3, but for its hair; coarse: one less than its nodes.

  The sums have at most 21 terms, weights that add up to 1 and x <= 1, so they
  carry 21 roundings; solving for the weights gives a few more.
  """
  nodes, weights, coarse_weights = lobatto()
  rounding = 4 * NODES * np.finfo(float).eps
  coarse_nodes = np.count_nonzero(coarse_weights)
  for rule, degree in (
    (weights, 2 * NODES - 3),
    (coarse_weights, coarse_nodes),
  ):
    powers = np.arange(degree)
    errors = rule @ nodes[:, None] ** powers - 1 / (powers + 1)
    assert (abs(errors) <= rounding).all()
  # One more degree than it has nodes for, and the coarse rule must differ.
  assert abs(coarse_weights @ nodes**coarse_nodes - 1 / (coarse_nodes + 1)) > (
    1e3 * rounding
  )


def test_a_jump_anywhere_shows_as_a_gap_between_the_rules():
  """The error for a jump at t is below 3 times the gap that is seen."""
  nodes, weights, coarse_weights = lobatto()
  t = np.linspace(1e-9, 1 - 1e-9, 100_001)[:, None]
  right = nodes > t
  fine, coarse = right @ weights, right @ coarse_weights
  assert (abs(fine - (1 - t[:, 0])) <= 3 * abs(fine - coarse)).all()


@pytest.mark.parametrize(
  ("function", "reason"),
  [
    (lambda x: np.exp(x**2), "grows"),
    (lambda x: np.exp(x**2 / 2), "grows"),
    (lambda x: 1 / x, "pole"),
    (lambda x: 1 / abs(x), "pole"),
    (lambda x: 1 / abs(x - 0.3), "pole"),
    (lambda x: 1 / (x - 0.3) ** 2, "pole"),
    (lambda x: abs(x) ** -0.98, "stalls"),  # finite, but not in float64
    (lambda x: np.sin(1e7 * x), "stalls"),
    (lambda x: np.full_like(x, np.inf), "grows"),
  ],
)
def test_divergence_names_the_integral(function, reason):
  with np.errstate(over="ignore"), pytest.raises(DivergenceError) as caught:
    integrals(np.cos, function, v=np.array([1e-6, 1.0]))
  assert caught.value.reason == reason
  assert caught.value.row == 1


def test_divergence_names_the_variance():
  """E[exp(x²/4)] = 1/√(1 - v/2) is finite for v < 2 alone."""
  grows = lambda x: np.exp(x**2 / 4)
  np.testing.assert_allclose(
    integrals(grows, v=np.array([1.0])), math.sqrt(2), rtol=1e-12
  )
  with np.errstate(over="ignore"), pytest.raises(DivergenceError) as caught:
    integrals(grows, v=np.array([0.5, 1.0, 2.0]))
  assert (caught.value.reason, caught.value.column) == ("grows", 2)


def test_nothing_is_seen_where_nothing_is():
  """Bounded functions that live beyond 30σ: their integral is just tiny."""
  step = integrals(lambda x: np.where(x > 31, 1.0, 0.0), v=np.array([1.0]))
  # Near its edge, a relative 1e-14 of x is 31² times that in the exponent.
  np.testing.assert_allclose(step, scipy.stats.norm.sf(31), rtol=1e-11)
  assert integrals(lambda x: np.where(x > 40, 1.0, 0.0)).shape == (1, 3)


@pytest.fixture
def evaluations(monkeypatch):
  """Counts calls of φ, each of 48 intervals."""
  calls = []
  original = _moments.evaluator

  def counted(traced):
    evaluate = original(traced)
    return lambda x: (calls.append(x.shape), evaluate(x))[1]

  monkeypatch.setattr(_moments, "evaluator", counted)
  for cached in (_moments.cached_moments, _moments._of_library):
    cached.cache_clear()
  return calls


@pytest.mark.parametrize(
  "activation",
  [jnp.tanh, jax.nn.silu, jax.nn.gelu, jax.nn.elu, jax.nn.mish, jax.nn.relu],
)
def test_smooth_functions_need_few_evaluations(evaluations, activation):
  """Four calls hold the 146 panels, 48 each; the widest are cut once more.

  Each of 48 pieces of a panel is 48⁻¹⁰ = 1e-17 as far from a polynomial of
  degree 9, so there is no third level but through a lack of room.
  """
  moments(activation)
  assert 4 <= len(evaluations) <= 6


@pytest.mark.parametrize("place", [0.3, 1 / 3, math.pi, -1.7, 0.05])
def test_kinks_need_few_evaluations(evaluations, place):
  """A stubborn interval shrinks 48-fold: 48⁻⁹ = 7e-16 ends it in 9 rounds.

  Four more for the panels and two for the smooth rest to be done first.
  """
  moments(lambda x: abs(x - place))
  assert len(evaluations) <= 15
