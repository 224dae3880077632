"""Vanishing gradients: laws of the small run, and of each theory alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.vanishing import networks, theory
from experiments.vanishing.__main__ import EXPERIMENT

KINDS = networks.KINDS


@pytest.mark.parametrize(
  ("dtype", "least"), [("float32", -126), ("bfloat16", -126), ("float16", -24)]
)
def test_what_the_device_rounds_to_zero(dtype, least):
  """IEEE: halving is exact down to the least number. XLA:CPU computes float32
  and bfloat16 in float32 without subnormals, and rounds to float16 with them.
  """
  alive = networks.halvings(jnp.ones(()), dtype=dtype)
  floor = theory.floor_of(np.asarray(alive), dtype)
  assert math.log2(floor.least) == least
  assert floor.subnormals == (least == -24)
  assert floor.threshold == floor.least / (2 if floor.subnormals else 1)


def test_gradients_become_zero_where_predicted(result):
  for numbers in result["underflow"].values():
    sigmoid = numbers["kinds"]["sigmoid"]
    predicted = sigmoid["predicted"]
    difference = sigmoid["observed"] - predicted["by_trajectory"]
    assert (np.abs(difference) <= 1 + 2 * predicted["std"]).all()
    for name in ("tanh", "relu"):  # χ₁ -> 1: no factor a layer
      assert numbers["kinds"][name]["predicted"]["by_trajectory"] == math.inf
      assert (numbers["kinds"][name]["observed"] == math.inf).all()


def test_zero_stays_zero(result):
  for numbers in result["underflow"].values():
    dead = numbers["kinds"]["sigmoid"]["zeros"] == 1
    assert (np.diff(dead.astype(int), axis=-1) >= 0).all()


def test_products_of_jacobians_agree_with_svd_in_float64():
  """float32: 10 products of 24 terms, each rounded by 2^-24, and that for
  singular values down to 1e-2 of the largest: 10·24·2^-24·1e2 = 1.4e-3."""
  depth, width = 11, 24
  key = jax.random.key(3)
  runs = networks.runs_of("tanh", key[None])
  inputs = jax.random.normal(jax.random.key(4), (1, 8))
  options = {"depth": depth, "width": width}
  found = networks.spectra(runs, inputs, **options)
  run = {name: leaf[0] for name, leaf in runs.items()}
  stack = networks.network(run, depth, width)
  params = stack.init(jax.random.split(key)[0], inputs.shape)
  z = np.float64(inputs[0]) @ np.float64(params.first_kernel)
  product = np.eye(width)
  for kernel in np.float64(params.kernels):
    product = product * (1 - np.tanh(z) ** 2) @ kernel
    z = np.tanh(z) @ kernel
  values = np.linalg.svd(product, compute_uv=False)
  log2 = lambda x: np.log2(x)
  np.testing.assert_allclose(found.largest[0, 0], log2(values[0]), atol=2e-3)
  mean = log2(np.mean(values**2)) / 2
  np.testing.assert_allclose(found.mean[0, 0], mean, atol=2e-3)


def test_slopes_of_sigmoid_are_distributed_as_counted():
  """10^6 normal numbers: shares within four standard errors."""
  z = 2.0 * np.random.default_rng(0).standard_normal(10**6)
  slopes = 4 / (2 + np.exp(z) + np.exp(-z))
  counts, _ = np.histogram(slopes, np.linspace(0, 1, 21))
  shares = theory.slope_shares("sigmoid", 4.0, 20)
  np.testing.assert_allclose(theory.slope_shares("tanh", 1.0, 20), shares)
  np.testing.assert_allclose(shares.sum(), 1, rtol=1e-12)
  error = np.sqrt(shares * (1 - shares) / 1e6)
  assert (np.abs(counts / 1e6 - shares) < 4 * error).all()


def test_the_spread_of_a_product_is_the_recursion():
  """2,000 products of three ReLU Jacobians of width 6 by NumPy: tr Q² and
  (tr Q)² within four standard errors of their ratio."""
  draws = np.random.default_rng(0)
  product = np.eye(6)
  for _ in range(3):
    kernel = draws.standard_normal((2000, 6, 6)) * math.sqrt(2 / 6)
    product = product @ kernel * draws.integers(0, 2, (2000, 1, 6))
  gram = np.swapaxes(product, 1, 2) @ product
  first = np.trace(gram, axis1=1, axis2=2) ** 2
  second = (gram**2).sum((1, 2))
  ratio = second.mean() / first.mean()
  error = (second - ratio * first).std() / math.sqrt(2000) / first.mean()
  assert abs(ratio - theory.concentration(6, 3, 2.0)[-1]) < 4 * error


def test_a_wide_product_spreads_by_its_depth():
  """Pennington et al.: κ·L, to first order in L/n."""
  for kurtosis in (1, 2):
    found = theory.relative_variance(10**5, 10, kurtosis)
    np.testing.assert_allclose(found, kurtosis * np.arange(1, 11), rtol=1e-3)


def test_histograms_are_shares(result):
  for shares in result["saturation"].values():
    np.testing.assert_allclose(shares["measured"].sum(-1), 1, rtol=1e-4)


def test_sigmoid_stays_at_chance_and_others_learn(result):
  """Before learning anything else a net learns the classes' shares, log 10
  up to 0.01; the rest is a matter of 40 updates."""
  loss = {name: c["loss"][:, -1] for name, c in result["courses"].items()}
  assert (np.abs(loss["sigmoid"] - math.log(10)) < 0.05).all()
  assert (loss["tanh"] < 2).all()
  assert (loss["relu"] < 2).all()


def test_claims_agree_with_theory(result):
  """Two networks each: four errors where a claim's are two standard errors."""
  claims = EXPERIMENT.claims(result)
  assert len(claims) >= 7
  for claim in claims:
    error = claim.error * (2 if claim.kind == "two errors" else 1)
    assert claim._replace(error=error).agrees, claim
  EXPERIMENT.figure(result).canvas.draw()


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match="depth must be at least 12; got 3"):
    EXPERIMENT.at_scale("smoke", depth=3)
  with pytest.raises(ValueError, match="rates must not be empty"):
    EXPERIMENT.at_scale("smoke", rates=())
