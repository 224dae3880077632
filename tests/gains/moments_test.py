"""Moments against closed forms, references at 40 digits, and Stein's lemma."""

import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from mpmath.calculus.quadrature import GaussLegendre
from scipy.special import erfcx, ndtr

from initjax.gains import Moments, gain, moments

# The accuracy that `moments` documents: 1e-12 of the value, and 1e-14 of the
# size of the integrand for a moment that is 0.
RELATIVE, ABSOLUTE = 1e-12, 1e-14

ACTIVATIONS = {
  "identity": lambda x: x,
  "relu": jax.nn.relu,
  "leaky_relu_0.01": jax.nn.leaky_relu,
  "elu": jax.nn.elu,
  "selu": jax.nn.selu,
  "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
  "silu": jax.nn.silu,
  "tanh": jnp.tanh,
  "sigmoid": jax.nn.sigmoid,
  "sin": jnp.sin,
  "relu_squared": lambda x: jax.nn.relu(x) ** 2,
}
REFERENCE = json.loads(
  (pathlib.Path(__file__).parent / "reference_gains.json").read_text()
)


def assert_moments(actual: Moments, expected, sizes=(1, 1, 1, 1)):
  """`sizes`: of the integrands, for moments that may be 0 by cancellation."""
  for name, got, want, size in zip(
    Moments._fields, actual, expected, sizes, strict=True
  ):
    np.testing.assert_allclose(
      got, want, rtol=RELATIVE, atol=ABSOLUTE * size, err_msg=name
    )


def test_the_reference_covers_these_activations():
  assert REFERENCE.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", REFERENCE)
def test_moments_and_gains_equal_the_reference(name):
  r = {key: float(value) for key, value in REFERENCE[name].items()}
  m = moments(ACTIVATIONS[name])
  assert_moments(m, (r["E_phi"], r["E_phi2"], r["E_dphi"], r["E_dphi2"]))
  # The same relative tolerance, plus rounding where the mean is taken away.
  np.testing.assert_allclose(
    m.second_moment - m.mean**2, r["var_phi"], rtol=RELATIVE
  )
  for direction in ("forward", "backward", "centered"):
    want = r[f"{direction}_gain".replace("centered", "var")]
    found = gain(ACTIVATIONS[name], direction)
    np.testing.assert_allclose(found, want, rtol=1e-12)  # documented


def clipped_moments(low, high, v):
  """Of clip(x, low, high), from integrals of z·N(z) and z²·N(z) by parts."""
  std = math.sqrt(v)
  a, b = low / std, high / std
  below, above, inside = ndtr(a), ndtr(-b), ndtr(b) - ndtr(a)
  density_a, density_b = (
    math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (a, b)
  )
  mean = low * below + high * above + std * (density_a - density_b)
  second = low**2 * below + high**2 * above
  second += v * (inside + a * density_a - b * density_b)
  return mean, second, inside, inside


def gelu_moments(v):
  """E[φ²] and E[φ'] by Stein's lemma twice; E[φ'²] has its own test."""
  square = v * (0.25 + math.asin(v / (1 + v)) / (2 * math.pi))
  square += v**2 / (math.pi * math.sqrt(1 + 2 * v) * (1 + v))
  return v / math.sqrt(2 * math.pi * (1 + v)), square, 0.5


def elu_moments(v):
  one = erfcx(math.sqrt(v / 2)) / 2  # E[exp(x); x < 0] = exp(v/2)Φ(-√v)
  two = erfcx(math.sqrt(2 * v)) / 2  # E[exp(2x); x < 0]
  mean = math.sqrt(v / (2 * math.pi)) + one - 0.5
  return mean, v / 2 + two - 2 * one + 0.5, 0.5 + one, 0.5 + two


def sin_moments(v):
  even, square = math.exp(-v / 2), math.exp(-2 * v)
  return 0, (1 - square) / 2, even, (1 + square) / 2


def erf_moments(v):
  square = 2 / math.pi * math.asin(2 * v / (1 + 2 * v))
  slope = 2 / math.sqrt(math.pi * (1 + 2 * v))
  return 0, square, slope, 4 / (math.pi * math.sqrt(1 + 4 * v))


CLOSED_FORMS = {
  "elu": (jax.nn.elu, elu_moments),
  "sin": (jnp.sin, sin_moments),
  "erf": (jax.scipy.special.erf, erf_moments),
  "gelu": (ACTIVATIONS["gelu_exact"], gelu_moments),
  "exp": (jnp.exp, lambda v: (math.exp(v / 2), math.exp(2 * v)) * 2),
  "square": (jnp.square, lambda v: (v, 3 * v**2, 0, 4 * v)),
  "cube": (lambda x: x**3, lambda v: (0, 15 * v**3, 3 * v, 27 * v**2)),
  "relu6": (jax.nn.relu6, lambda v: clipped_moments(0, 6, v)),
  "hard_tanh": (jax.nn.hard_tanh, lambda v: clipped_moments(-1, 1, v)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_moments_equal_closed_forms(name):
  activation, closed_form = CLOSED_FORMS[name]
  for variance in (0.1, 1.0, 7.0):
    m = moments(activation, variance)
    # E|φ| <= √E[φ²] and E|φ'| <= √E[φ'²] are the sizes of the integrands.
    sizes = [math.sqrt(m.second_moment), 0, math.sqrt(m[3]), 0]
    want = closed_form(variance)
    assert_moments(m, (*want, m[3])[:4], sizes)


def test_the_closed_form_of_gelu_at_one():
  mean, root = 1 / (2 * math.sqrt(math.pi)), 2 * math.sqrt(3) * math.pi
  at_one = (mean, 1 / 3 + 1 / root)
  np.testing.assert_allclose(gelu_moments(1)[:2], at_one, rtol=1e-15)


def gelu_tanh_mp(x):
  u = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)
  t = mpmath.tanh(u)
  slope = mpmath.sqrt(2 / mpmath.pi) * (1 + 3 * mpmath.mpf("0.044715") * x**2)
  return x * (1 + t) / 2, (1 + t) / 2 + x * (1 - t**2) * slope / 2


def silu_mp(x):
  s = 1 / (1 + mpmath.exp(-x))
  return x * s, s * (1 + x * (1 - s))


def softplus_mp(x):
  return mpmath.log1p(mpmath.exp(x)), 1 / (1 + mpmath.exp(-x))


def moments_mp(value_and_slope, v):
  """48 Gauss-Legendre nodes on each dyadic panel up to 12√v, at 25 digits.

  Beyond lies exp(-72) = 5e-32 of the whole. No panel comes closer to a pole of
  these functions than its own half width, so that an ellipse with ρ > 2.4 fits
  and the rule errs by less than 2.4^-96 = 3e-37 of the largest value.
  """
  total = mpmath.zeros(4, 1)
  with mpmath.workdps(25):
    nodes = GaussLegendre(mpmath.mp).calc_nodes(5, 90)
    std = mpmath.sqrt(v)
    edge, edges = 12 * std, [0]
    while edge > min(1, std) / 8:
      edges.insert(1, edge)
      edge /= 2
    for left, right in itertools.pairwise([-e for e in edges[::-1]] + edges):
      for node, weight in nodes:
        x = (left + right) / 2 + node * (right - left) / 2
        value, slope = value_and_slope(x)
        weight *= mpmath.npdf(x, 0, std) * (right - left) / 2
        total += weight * mpmath.matrix([value, value**2, slope, slope**2])
  return [float(moment) for moment in total]


@pytest.mark.parametrize(
  ("activation", "oracle", "variances"),
  [
    (jax.nn.gelu, gelu_tanh_mp, [1e-6, 1.0, 1e6]),
    (jax.nn.silu, silu_mp, [0.3, 1e6]),
    (jax.nn.softplus, softplus_mp, [1e-6, 50.0]),
  ],
)
def test_moments_equal_mpmath(activation, oracle, variances):
  for v in variances:
    assert_moments(moments(activation, v), moments_mp(oracle, v))
