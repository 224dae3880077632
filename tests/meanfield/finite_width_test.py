"""The law of one ReLU layer and of many, and fluctuations of any activation."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from initjax.meanfield import fluctuation, relu_log_norm

REFERENCE = json.loads(
  (pathlib.Path(__file__).parent / "reference_finite_width.json").read_text()
)
LEAKY = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)


@pytest.mark.parametrize("width", REFERENCE["exact"])
def test_a_hundred_layers_match_the_exact_sums(width):
  expected = REFERENCE["exact"][width]
  law = relu_log_norm(100, int(width))
  np.testing.assert_allclose(law.mean, expected["relu_mean_100"], rtol=1e-11)
  np.testing.assert_allclose(law.std, expected["relu_std_100"], rtol=1e-12)


@pytest.mark.parametrize("width", REFERENCE["exact"])
def test_pre_activations_are_one_linear_layer_behind(width):
  """|z_100|²/|x_0|² = |x_99|²/|x_0|² · (2/n)·χ²_n."""
  expected = REFERENCE["exact"][width]
  law, half = relu_log_norm(99, int(width)), int(width) / 2
  mean = law.mean + math.log(2) + special.digamma(half) - math.log(half)
  std = math.sqrt(law.std**2 + special.polygamma(1, half))
  np.testing.assert_allclose(mean, expected["relu_preact_mean_100"], rtol=1e-10)
  np.testing.assert_allclose(std, expected["relu_preact_std_100"], rtol=1e-12)


def test_monte_carlo_of_whole_matrices_obeys_it():
  """4 standard errors; the std of a std over N draws is std/√(2N)."""
  for width, found in REFERENCE["mc_matrix"].items():
    law, draws = relu_log_norm(100, int(width)), found["samples"]
    for kind in ("post", "jvp_unit_vec", "vjp_random"):
      if found[kind] is None:
        continue
      error = law.std / math.sqrt(draws)
      assert abs(found[kind]["mean"] - law.mean) < 4 * error
      assert abs(found[kind]["std"] - law.std) < 4 * error / math.sqrt(2)


def test_one_unit_is_a_squared_normal_or_a_sign():
  """log 2χ²_1 has mean -γ and variance π²/2; orthogonal: r = 2."""
  gaussian, orthogonal = relu_log_norm(3, 1), relu_log_norm(3, 1, "orthogonal")
  np.testing.assert_allclose(gaussian.mean, -3 * np.euler_gamma, rtol=1e-14)
  np.testing.assert_allclose(gaussian.std**2, 3 * math.pi**2 / 2, rtol=1e-14)
  np.testing.assert_allclose(
    [gaussian.survival, orthogonal.survival], 1 / 8, rtol=1e-14
  )
  np.testing.assert_allclose(orthogonal.mean, 3 * math.log(2), rtol=1e-14)
  assert orthogonal.std == 0


@pytest.mark.parametrize(
  ("weights", "kappa"), [("gaussian", 5), ("orthogonal", 3)]
)
def test_wide_layers_follow_the_order_1_over_n(weights, kappa):
  """n·mean = -κ/2 and n·variance = κ but for a relative error of about 4/n."""
  for n in (300, 4096, 4097, 100_000):
    law = relu_log_norm(1, n, weights)
    np.testing.assert_allclose(law.mean * n, -kappa / 2, rtol=8 / n)
    np.testing.assert_allclose(law.std**2 * n, kappa, rtol=8 / n)


def test_layers_of_different_width_add_up():
  mixed = relu_log_norm(5, [8, 8, 32, 8, 32])
  narrow, wide = relu_log_norm(3, 8), relu_log_norm(2, 32)
  np.testing.assert_allclose(mixed.mean, narrow.mean + wide.mean)
  np.testing.assert_allclose(mixed.std**2, narrow.std**2 + wide.std**2)
  np.testing.assert_allclose(
    mixed.survival, narrow.survival * wide.survival, rtol=1e-12
  )
  assert relu_log_norm(0, 8) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
def test_small_nets_obey_the_law(weights):
  """Width 6, where the approximation is far off; 4 standard errors."""
  depth, width, draws = 10, 6, 2000

  kernels = np.random.default_rng(0).normal(size=(depth, draws, width, width))
  if weights == "orthogonal":
    q, r = np.linalg.qr(kernels)
    kernels = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
  else:
    kernels /= math.sqrt(width)
  x = np.tile(np.eye(width)[0], (draws, 1))
  for kernel in kernels:
    x = math.sqrt(2) * np.maximum(np.einsum("dij,dj->di", kernel, x), 0)
  sizes = np.sum(x**2, axis=1)
  alive = sizes > 0
  law = relu_log_norm(depth, width, weights)
  rate_error = math.sqrt(law.survival * (1 - law.survival) / draws)
  assert abs(alive.mean() - law.survival) < 4 * rate_error
  logs = np.log(sizes[alive])
  error = law.std / math.sqrt(logs.size)
  assert abs(logs.mean() - law.mean) < 4 * error
  fourth = ((logs - logs.mean()) ** 4).mean() / law.std**4
  assert abs(logs.std() - law.std) < 4 * error * math.sqrt((fourth - 1) / 4)


def test_wrong_arguments_are_explained():
  with pytest.raises(ValueError, match="depth must be an integer >= 0"):
    relu_log_norm(-1, 8)
  with pytest.raises(ValueError, match="one for each of the 3 layers; got 2"):
    relu_log_norm(3, [8, 8])
  with pytest.raises(ValueError, match="orthogonal weights need one width"):
    relu_log_norm(2, [8, 16], "orthogonal")
  with pytest.raises(ValueError, match="weights must be one of"):
    relu_log_norm(2, 8, "uniform")


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_piecewise_linear_fluctuation_in_closed_form(direction, slope):
  """6(1 + a⁴)/(1 + a²)² - 1 both ways: 5 for ReLU, 2 for the identity."""
  leaky = functools.partial(jax.nn.leaky_relu, negative_slope=slope)
  expected = 6 * (1 + slope**4) / (1 + slope**2) ** 2 - 1
  for variance in (0.01, 1.0, 30.0):
    found = fluctuation(leaky, variance, direction=direction)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_fluctuations_of_two_inputs_in_closed_form():
  """Identity: 2c² and 2γ². ReLU backward: both are on with (π - θ)/2π."""
  for c in (-1.0, -0.3, 0.0, 0.8):
    np.testing.assert_allclose(
      fluctuation(lambda x: x, correlation=c), 2 * c**2, atol=1e-11
    )
    for gamma in (0.0, 0.5, -1.0):
      found = fluctuation(
        jax.nn.relu,
        direction="backward",
        correlation=c,
        cotangent_correlation=gamma,
      )
      both = (math.pi - math.acos(c)) / (2 * math.pi)
      expected = (1 + 2 * gamma**2) * both * 4 - 1
      np.testing.assert_allclose(found, expected, atol=1e-11)


def test_the_second_moment_of_a_deep_relu_net_is_exact():
  """E[(|x_L|²/|x_0|²)²] = (1 + κ/n)^L."""
  for width, expected in REFERENCE["exact"].items():
    found = (1 + fluctuation(jax.nn.relu) / int(width)) ** 100
    np.testing.assert_allclose(found, expected["ratio_2nd_moment_100"])


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.gelu, LEAKY])
def test_one_layer_fluctuates_by_kappa_over_n(activation):
  """Of two inputs with c = γ = 0.6: variances and covariances, both ways.

  4 standard errors of the average product of two deviations, n = 16 units each.
  """
  c, n, draws = 0.6, 16, 20_000
  rng = np.random.default_rng(0)

  def pair():
    a, b = rng.standard_normal((2, draws, n))
    return a, c * a + 0.8 * b

  z, u = pair(), pair()
  both = jax.jit(lambda x: jax.jvp(activation, (x,), (jnp.ones_like(x),)))
  values, slopes = map(np.asarray, both(np.float32(z)))
  forward = np.mean(values**2, axis=2)
  backward = np.mean((slopes * u) ** 2, axis=2)
  for direction, found in (("forward", forward), ("backward", backward)):
    deviations = [x / x.mean() - 1 for x in found]
    for other, correlation in ((0, 1.0), (1, c)):
      products = deviations[0] * deviations[other]
      error = products.std() / math.sqrt(draws)
      expected = fluctuation(
        activation,
        direction=direction,
        correlation=correlation,
        cotangent_correlation=correlation,
      )
      assert abs(products.mean() - expected / n) < 4 * error


def test_fluctuation_errors():
  with pytest.raises(ValueError, match="direction must be one of"):
    fluctuation(jax.nn.relu, direction="sideways")
  with pytest.raises(ValueError, match=r"correlation must be in \[-1, 1\]"):
    fluctuation(jax.nn.relu, correlation=1.5)
  with pytest.raises(ValueError, match="variance must be a finite number > 0"):
    fluctuation(jax.nn.relu, 0.0)
  with pytest.raises(ValueError, match="backward second moment of inf"):
    fluctuation(jnp.sign, direction="backward")
