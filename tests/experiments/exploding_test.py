"""Exploding gradients: growth, the limit of stability, clipping."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.exploding import claims as exploding_claims
from experiments.exploding import networks
from experiments.exploding.__main__ import EXPERIMENT


@pytest.mark.parametrize("kind", range(4))
def test_clipping_bounds_what_it_says(kind):
  gradients = {"a": jnp.array([3.0, -0.01, 0.0, 4.0]), "b": jnp.full(12, 1e-3)}
  limit = 0.8  # each entry, or each block's root mean square: 0.2
  clip = networks.clipped(jnp.array(kind), limit, 16)
  found, _ = clip.update(gradients, clip.init(gradients))
  expected = {
    0: gradients["a"],
    1: jnp.array([0.2, -0.01, 0.0, 0.2]),
    2: gradients["a"] * 0.8 / 5,
    3: gradients["a"] * 0.2 / 2.5,
  }[kind]  # 5 is the norm of all, 2.5 the root mean square of a; up to 1e-6
  np.testing.assert_allclose(found["a"], expected, rtol=2e-5)
  kept = gradients["b"] * (0.8 / 5 if kind == 2 else 1)
  np.testing.assert_allclose(found["b"], kept, rtol=2e-5)


def test_gradients_grow_with_weights_and_depth_as_predicted(result):
  """Each network, within four standard deviations of the law."""
  for size, law in zip(result["log2_size"], result["growth_law"], strict=True):
    growth = size[:, -1] - size[:, 0]
    assert (np.abs(growth - law["mean"]) <= 4 * law["std"]).all()


def test_the_law_of_growth_is_that_of_chi_and_its_drift(result):
  """½·log₂(σ_w²/2) a layer; of one input -5/(2n) nats of the square at first
  order, and no more for the mean over inputs."""
  layers = result["log2_size"].shape[-1] - 1
  lowest = -2.5 / result["width"] / 2 / math.log(2)
  for variance, law in zip(
    result["variances"], result["growth_law"], strict=True
  ):
    growth = math.log2(variance / 2) / 2
    np.testing.assert_allclose(law["limit"] / layers, growth, atol=1e-9)
    assert lowest - 1e-9 <= law["mean"] / layers - growth <= 0


def test_a_quadratic_loss_diverges_above_two_over_lambda_alone(result):
  loss = result["descents"]["quadratic"]["loss"]
  for factor, curves in zip(result["factors"], loss, strict=True):
    decreases = np.isfinite(curves).all() and (np.diff(curves) <= 0).all()
    assert decreases == (factor < 1)
  assert exploding_claims.threshold(result, "quadratic") == (0.9, 1.1)


@pytest.mark.parametrize(
  ("ends", "bracket"),
  [
    ((0.5, 0.9, 7.0, 0.4), (0.5, 1.5)),  # what descends beyond: by chance
    ((7.0, 7.0, 7.0, 7.0), None),
    ((0.5, 0.5, 0.5, 0.5), None),
    ((0.5, 0.5, np.inf, np.nan), (0.5, 1.5)),
  ],
)
def test_a_threshold_lies_between_what_descends_and_what_does_not(
  ends, bracket
):
  """Factors in no order: 0.25, 0.5, 1.5, 3; every loss starts at 1."""
  factors = [1.5, 0.25, 3.0, 0.5]
  last = dict(zip(sorted(factors), ends, strict=True))
  loss = np.array([[[1.0, last[f]], [1.0, last[f] / 2]] for f in factors])
  given = {"factors": factors, "descents": {"deep": {"loss": loss}}}
  assert exploding_claims.threshold(given, "deep") == bracket


def test_curvature_of_a_quadratic_loss_stays(result):
  """Lanczos from one vector, at two points: rounding of 64 terms."""
  found = result["descents"]["quadratic"]
  calm = np.array(result["factors"]) < 1
  np.testing.assert_allclose(
    found["start"][calm], found["end"][calm], rtol=64 * 2**-23
  )


def test_a_misplaced_point_in_the_rate_diverges_and_clipping_is_finite(result):
  cause = result["causes"]["rate × 10"]
  assert np.all(cause["finite"][1:, :, -1])
  assert exploding_claims.learning(result, "rate × 10", "none") == 0
  assert result["causes"]["nothing wrong"]["finite"].all()


def test_claims_agree_with_theory(result):
  claims = EXPERIMENT.claims(result)
  assert len(claims) >= 5
  for claim in claims:
    if "recurrent, clipping by" in claim.quantity:
      continue  # 40 updates are too few to learn
    assert claim.agrees, claim
  EXPERIMENT.figure(result).canvas.draw()


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match=r"factors must be at least 0\.001"):
    EXPERIMENT.at_scale("smoke", factors=(0.5, -1.0))
  with pytest.raises(ValueError, match="shallow must be at least 3; got 2"):
    EXPERIMENT.at_scale("smoke", shallow=2)
