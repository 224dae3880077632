"""Two moments of the Jacobian: closed forms, and networks of finite width.

At finite width n the moments are known exactly for linear and ReLU networks,
since there D is independent of WWᵀ (a row's sign decides D, and drops out of
the product of the row with itself). With A = J·Jᵀ of the layers so far, a row
w ~ N(0, I/n) or a row of a uniform orthogonal matrix has

                          Gaussian, n²·        orthogonal, n(n+2)·
    E (wᵀAw)²             t² + 2s              t² + 2s
    E (wᵀAw')²            s                    (n·s - t²)/(n - 1)
    E (wᵀAw)(w'ᵀAw')      t²                   ((n+1)·t² - 2s)/(n - 1)

for t = tr A, s = tr A². From them the next tr A² and (tr A)² follow.
"""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from initjax.gains import moments
from initjax.meanfield import jacobian_moments
from initjax.measurement import jacobian_spectrum

linear = lambda x: x

# `gains.moments` is good to 1e-12, and depth 10 multiplies or adds ten of them.
CLOSE = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def finite_width(n, depth, sigma_w2, mu_1, mu_2, weights):
  """E (tr A/n)² and E tr A²/n after `depth` layers of width n."""
  t2, s = 1.0, 1.0  # of A = I, divided by n² and by n
  for _ in range(depth):
    if weights == "gaussian":
      same, other, two = t2 + 2 * s / n, s, t2  # times 1, 1/n, 1
    else:
      same = (t2 + 2 * s / n) * n / (n + 2)
      other = (s - t2) * n**2 / (n + 2) / (n - 1)
      two = ((n + 1) * t2 - 2 * s / n) * n / (n + 2) / (n - 1)
    diagonal, beside = mu_2, mu_1**2 * (n - 1)
    t2, s = (
      sigma_w2**2 * (diagonal * same + beside * two) / n,
      sigma_w2**2 * (diagonal * same + beside * other / n),
    )
  return t2, s


@pytest.mark.parametrize("depth", [1, 10])
@pytest.mark.parametrize(
  ("activation", "weights", "per_layer"),
  [
    (linear, "gaussian", 1),
    (linear, "orthogonal", 0),
    (jax.nn.relu, "gaussian", 2),
    (jax.nn.relu, "orthogonal", 1),
  ],
)
def test_linear_and_relu_by_depth(activation, weights, per_layer, depth):
  mu = 1.0 if activation is linear else 0.5
  found = jacobian_moments(activation, depth, 1 / mu, weights=weights)
  CLOSE(found.mean, 1)
  CLOSE(found.relative_variance, per_layer * depth)
  # Corrections are of order depth²/n < 1e-6.
  t2, s = finite_width(1e9, depth, 1 / mu, mu, mu, weights)
  CLOSE((t2, s / t2 - 1), (1, found.relative_variance), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("q", [1e-3, 0.7, 5.0])
def test_closed_forms_of_other_slopes(q):
  """Leaky ReLU: μ_k = (1 + a^2k)/2. Erf: φ'² = (4/π)·exp(-2x²)."""
  leaky = jacobian_moments(lambda x: jax.nn.leaky_relu(x, 0.3), 10, 1.5, q)
  mu_1, mu_2 = (1 + 0.3**2) / 2, (1 + 0.3**4) / 2
  CLOSE(leaky.log2_mean, 10 * math.log2(1.5 * mu_1))
  CLOSE(leaky.relative_variance, 10 * mu_2 / mu_1**2)
  erf = jacobian_moments(jax.scipy.special.erf, 10, 1.5, q)
  mu_1, mu_2 = ((4 / math.pi) ** k / math.sqrt(1 + 4 * k * q) for k in (1, 2))
  CLOSE(erf.log2_mean, 10 * math.log2(1.5 * mu_1))
  CLOSE(erf.relative_variance, 10 * mu_2 / mu_1**2)


def test_tanh_against_mpmath():
  def mu(k):
    slope = lambda x: (1 - mpmath.tanh(x) ** 2) ** (2 * k)
    density = lambda x: mpmath.exp(-(x**2)) / mpmath.sqrt(mpmath.pi)  # q = 1/2
    return mpmath.quad(lambda x: slope(x) * density(x), [-20, -2, 0, 2, 20])

  found = jacobian_moments(jnp.tanh, 3, 1.2, 0.5, weights="orthogonal")
  CLOSE(found.mean, float((1.2 * mu(1)) ** 3))
  CLOSE(found.relative_variance, float(3 * (mu(2) / mu(1) ** 2 - 1)))


def test_a_linear_output_has_kernels_only():
  last = jacobian_moments(jax.nn.relu, 10, 2.0, linear_output=True)
  CLOSE((last.mean, last.relative_variance), (2, 9 * 1 + 10 * 1))


def test_at_variance_zero_a_smooth_network_is_linear():
  found = jacobian_moments(jnp.tanh, 10, 1.0, q=0.0)
  CLOSE((found.mean, found.relative_variance), (1, 10))


def test_the_second_slope_may_be_infinite():
  """φ = |x|^1.5: φ'² = 9/4·|x|, E|x| = √(2/π), E x² = 1."""
  found = jacobian_moments(lambda x: jnp.abs(x) ** 1.5, 10, 1.0)
  CLOSE(found.relative_variance, 10 * math.pi / 2)


@pytest.mark.parametrize(
  ("sigma_w2", "mean", "sign"), [(4.0, math.inf, 1), (0.25, 0.0, -1)]
)
def test_beyond_float64_the_logarithm_remains(sigma_w2, mean, sign):
  found = jacobian_moments(linear, 5000, sigma_w2)
  assert found.mean == mean
  CLOSE(found.log2_mean, sign * 10_000)


@functools.partial(jax.jit, static_argnums=0)
def spectra(activation, kernels, biases, x):
  """Spectra [draws] for kernels [draws, depth, n, n]."""

  def layer(h, params):
    kernel, bias = params
    return activation(kernel @ h + bias), None

  def network(params, x):
    return jax.lax.scan(layer, x, params)[0]

  def one(params):
    found = jacobian_spectrum(network, params, x, method="exact")
    return found.mean, found.relative_variance

  return jax.lax.map(one, (kernels, biases))


def draw(weights, draws, depth, n, sigma_w2, sigma_b2=0.0):
  """Kernels and biases, in NumPy; a QR with positive diagonal is uniform."""
  rng = np.random.default_rng(0)
  kernels = rng.standard_normal((draws, depth, n, n)) / math.sqrt(n)
  if weights == "orthogonal":
    q, r = np.linalg.qr(kernels)
    kernels = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
  biases = math.sqrt(sigma_b2) * rng.standard_normal((draws, depth, n))
  return np.float32(math.sqrt(sigma_w2) * kernels), np.float32(biases)


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize(
  ("activation", "mu"), [(linear, 1.0), (jax.nn.relu, 0.5)]
)
def test_networks_have_the_moments_of_their_width(activation, mu, weights):
  n, depth, draws = 32, 6, 300
  params = draw(weights, draws, depth, n, 1 / mu)
  found = spectra(activation, *params, np.ones(n, np.float32))
  mean, relative_variance = map(np.asarray, found)
  t2, s = finite_width(n, depth, 1 / mu, mu, mu, weights)
  squares = mean**2
  seconds = squares * (1 + relative_variance)
  # Five standard errors of the draws; those of orthogonal linear networks do
  # not differ, but each of 2·depth products rounds, by about √n·ε = 7e-7.
  for sample, exact in ((mean, 1.0), (squares, t2), (seconds, s)):
    error = sample.std() / math.sqrt(draws)
    assert abs(sample.mean() - exact) < 5 * error + 2e-5


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_tanh_at_a_critical_point(weights):
  n, depth, draws, q = 64, 4, 30, 0.5
  m = moments(jnp.tanh, q)
  sigma_w2 = 1 / m.derivative_second_moment
  sigma_b2 = q - sigma_w2 * m.second_moment
  x = np.full(
    n, math.sqrt(m.second_moment), np.float32
  )  # so that q is that of layer 1
  params = draw(weights, draws, depth, n, sigma_w2, sigma_b2)
  found = map(np.asarray, spectra(jnp.tanh, *params, x))
  theory = jacobian_moments(jnp.tanh, depth, sigma_w2, q, weights=weights)
  expected = theory.mean, theory.relative_variance
  for sample, exact in zip(found, expected, strict=True):
    error = sample.std() / math.sqrt(draws)
    # Besides five standard errors, corrections of relative size depth/n.
    allowed = 5 * error + depth / n * exact
    assert abs(sample.mean() - exact) < allowed


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"activation": jnp.sign}, "sign jumps .* no finite moments"),
    ({"activation": jnp.zeros_like}, "constant at q = 1: the Jacobian is 0"),
    ({"depth": 0}, "depth must be an integer >= 1; got 0"),
    ({"sigma_w2": 0.0}, "sigma_w2 must be a finite number > 0"),
    ({"q": -1.0}, "q must be a finite number >= 0; got -1.0"),
    ({"weights": "uniform"}, "weights must be one of 'gaussian', 'orthogonal'"),
  ],
)
def test_errors_say_what_was_wanted(change, message):
  arguments = {"activation": jax.nn.relu, "depth": 2, "sigma_w2": 2.0}
  with pytest.raises(ValueError, match=message):
    jacobian_moments(**{**arguments, **change})
