"""Xavier: the law of pyramids, theory of squashing, what is written."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import fan_networks
from experiments.xavier import __main__ as xavier
from experiments.xavier import claims
from experiments.xavier.__main__ import EXPERIMENT


@pytest.mark.parametrize("shape", xavier.SHAPES)
@pytest.mark.parametrize("mode", fan_networks.MODES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_pyramids_obey_the_law_of_fans(config, result, shape, mode, direction):
  """q is exact in expectation; a Gaussian layer of n units multiplies E[q²] by
  1 + 2/n for one input, and by less for several. Five standard errors."""
  widths = np.array(result["widths"][shape], float)
  seen = result["pyramids"][shape][mode]["normal"][direction].mean(0)
  law = result["theory"]["pyramids"][shape][mode][direction]
  spread = np.cumprod(1 + 2 / widths) - 1
  if direction == "backward":
    spread = np.cumprod(1 + 2 / widths[::-1])[::-1] - 1
  error = 5 * np.sqrt(spread / config.pyramids)
  assert (abs(seen / law - 1) < error).all()


def test_the_law_telescopes():
  """Each fan alone gives the ratio of the ends, whatever is between."""
  widths = (7, 100, 3, 40, 28)
  laws = {mode: fan_networks.law(widths, mode) for mode in fan_networks.MODES}
  ones = np.ones(5)
  np.testing.assert_allclose(laws["fan_in"]["forward"], ones, rtol=1e-12)
  np.testing.assert_allclose(laws["fan_out"]["backward"], ones, rtol=1e-12)
  assert laws["fan_in"]["backward"][0] == pytest.approx(28 / 7)
  assert laws["fan_out"]["forward"][-1] == pytest.approx(7 / 28)
  geometric = laws["fan_geo_avg"]
  assert geometric["forward"][-1] == pytest.approx(math.sqrt(7 / 28))
  assert geometric["backward"][0] == pytest.approx(math.sqrt(28 / 7))
  average = laws["fan_avg"]
  both = average["forward"][-1] * average["backward"][0]
  n = np.array(widths, float)
  means = 4 * n[:-1] * n[1:] / (n[:-1] + n[1:]) ** 2
  assert both == pytest.approx(means.prod())  # < 1: the mean of a ratio loses


def test_what_is_seen_is_the_chain_rule():
  """Against numpy in float64; float32 rounds some 30 times, each by ε/2."""
  keys = jax.random.split(jax.random.key(0), 3)
  kernels = fan_networks.draw(
    keys[0], (4, 5, 5, 3), jax.nn.initializers.normal(0.5)
  )
  x = jax.random.normal(keys[1], (6, 4))
  cotangent = jax.random.normal(keys[2], (6, 3))
  seen = fan_networks.see(jnp.tanh, kernels, x, lambda z: (z * cotangent).sum())
  a, b, c = (np.asarray(kernel, np.float64) for kernel in kernels)
  z1 = np.asarray(x, np.float64) @ a
  z2 = np.tanh(z1) @ b
  g3 = np.asarray(cotangent, np.float64)
  g2 = g3 @ c.T * (1 - np.tanh(z2) ** 2)
  g1 = g2 @ b.T * (1 - np.tanh(z1) ** 2)
  expected = [z1, z2, np.tanh(z2) @ c, g1, g2, g3]
  for ours, theirs in zip(
    [*seen.signals, *seen.gradients], expected, strict=True
  ):
    np.testing.assert_allclose(
      ours, theirs, atol=15 * 1.2e-7 * abs(theirs).max()
    )


def test_kernels_of_equal_shape_differ_and_shapes_keep_their_order():
  kernels = fan_networks.draw(
    jax.random.key(0), (4, 5, 5, 5, 4), jax.nn.initializers.normal()
  )
  assert [k.shape for k in kernels] == [(4, 5), (5, 5), (5, 5), (5, 4)]
  assert not jnp.array_equal(kernels[1], kernels[2])


@pytest.mark.parametrize("activation", xavier.ACTIVATIONS)
@pytest.mark.parametrize("init", xavier.INITS)
def test_gradients_of_squashing_networks_keep_to_theory(
  config, result, activation, init
):
  """Four standard errors, and the drift: those of one input bound a batch's.

  Both are of first order in depth/n; the second is their square or so.
  """
  law = result["theory"]["squashed"][activation][init]
  seen = result["squashed"][activation][init]
  for ours, name in (
    (seen["log2_gradient"] - law["log2_gradient"], "log2_gradient"),
    (np.log2(seen["q"] / law["q"]), "log2_q"),
  ):
    std, drift = law[f"{name}_std"], abs(law[f"{name}_drift"])
    error = 4 * std / math.sqrt(config.seeds) + drift + (std + drift) ** 2
    assert (abs(ours.mean(0)) < error + 1e-5).all()


def test_a_sigmoid_makes_images_alike_and_loses_gradients(result):
  """Without its mean images stay apart; with slope 1 gradients stay as well."""
  kinds = ("sigmoid", "sigmoid - ½", "4·(sigmoid - ½)")
  seen = [result["squashed"][name]["normalized"] for name in kinds]
  alike = [float(one["correlation"][:, -1].mean()) for one in seen]
  assert alike[0] > 0.99
  assert max(map(abs, alike[1:])) < 0.1
  kept = [float(one["log2_gradient"][:, 0].mean()) for one in seen]
  assert kept[2] > -3 > -12 > max(kept[:2])


def test_histograms_count_every_value(result):
  for inits in result["squashed"].values():
    for seen in inits.values():
      np.testing.assert_allclose(seen["sizes"].sum(-1), 1, atol=1e-5)


def test_the_variance_of_ln_q_is_that_of_chi_squared():
  """Monte Carlo of 40000 products, of which runs of many inputs tell no more
  than one input does; three standard errors of the variance."""
  rng = np.random.default_rng(0)
  widths = (16, 8, 32)
  q = np.prod([rng.chisquare(n, 40000) / n for n in widths], axis=0)
  ours = claims.variances(np.stack([q, q], 1))
  error = 3 * ours.std() / 200
  assert ours.mean() == pytest.approx(claims.variance_law(widths), abs=error)
  assert ours.mean() == pytest.approx(np.log(q).var(ddof=1))


def test_modes_are_drawn_apart_and_distributions_in_pairs():
  kinds = (("fan_in", "normal"), ("fan_out", "normal"), ("fan_out", "uniform"))
  draws = fan_networks.draw_kinds(
    jax.random.split(jax.random.key(0), 1),
    widths=(4, 16, 16), scale=1.0, kinds=kinds,
  )  # fmt: skip
  a, b, c = (np.ravel(kernels[1]) for kernels in draws)
  assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 16  # of 256 pairs: 1/16 by chance
  assert np.corrcoef(b, c)[0, 1] > 0.95


def test_there_are_claims_and_all_is_drawn(result):
  assert len(EXPERIMENT.claims(result)) >= 15
  EXPERIMENT.figure(result).canvas.draw()


def test_a_pyramid_must_have_a_top():
  with pytest.raises(ValueError, match=r"narrow \(64\) must be less than wide"):
    xavier.Config(wide=64, narrow=64)
