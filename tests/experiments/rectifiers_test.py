"""Rectifiers: who dies, who comes back, who is born dead; what is written."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import plots
from experiments.rectifiers import __main__ as rectifiers
from experiments.rectifiers import born, show
from experiments.rectifiers.__main__ import EXPERIMENT
from experiments.runtime.job import Job


@pytest.mark.parametrize(
  ("dead", "finite", "share"),
  [
    ([[0, 0], [1, 1], [1, 0]], [1, 1, 1], 0.5),  # one of two came back
    ([[1, 0], [0, 1], [1, 0]], [1, 1, 1], 1.0),  # back, though dead again
    ([[0, 1], [0, 1], [0, 1]], [1, 1, 1], 0.0),
    ([[0, 1], [0, 1], [0, 0]], [1, 1, 0], math.nan),  # diverged
    ([[0, 0], [0, 0], [0, 0]], [1, 1, 1], math.nan),  # none to come back
  ],
)
def test_revival_counts_those_that_died_and_came_back(dead, finite, share):
  dead = np.array(dead, bool)[:, None, :]  # [points, layers, width]
  ours = rectifiers.revived(dead, np.array(finite, bool))
  assert float(ours) == pytest.approx(share, nan_ok=True)


@pytest.fixture
def diverged():
  """Of 3 networks, the first diverges, the second dies, the third lives.

  Arrays [biases, rates, seeds, points, ...], of 1 layer of 2 units.
  """
  dead = np.zeros((1, 1, 3, 3, 1, 2), bool)
  dead[0, 0, 0, 2] = True  # no slope at NaN: of that nothing is to be told
  dead[0, 0, 1, 1:] = True
  finite = np.ones((1, 1, 3, 3), bool)
  finite[0, 0, 0, 1] = False
  right = np.full((1, 1, 3, 3), 0.5)
  right[0, 0, 0] = 0.1
  return rectifiers.summary(dead, finite, right)


def result_of(found, name="elu", seeds=slice(None)):
  return {
    "rates": (1.0,), "biases": (0.0,), "steps": np.arange(3),
    "activations": {name: {key: v[:, :, seeds] for key, v in found.items()}},
    "born_alive": {}, "born_networks": 10, "theory": {}, "about": "",
  }  # fmt: skip


def cell(result):
  return list(EXPERIMENT.tables(result)[0].columns[2].cells)[0]  # noqa: RUF015


def test_who_diverged_is_neither_dead_nor_alive_from_then_on(diverged):
  dead = diverged["dead"][0, 0, ..., 0]  # [seeds, points]
  nan = math.nan
  np.testing.assert_array_equal(dead, [[0, nan, nan], [0, 1, 1], [0, 0, 0]])
  np.testing.assert_array_equal(diverged["diverged"][0, 0], [1, 0, 0])
  np.testing.assert_array_equal(diverged["revived"][0, 0], [nan, 0, nan])
  assert (np.isnan(diverged["test_accuracy"]) == np.isnan(dead)).all()


@pytest.mark.parametrize(
  ("seeds", "told"),
  [
    (slice(0, 3), "50.0%, 0%, 50% (1 of 3 diverged)"),
    (slice(0, 2), "100.0%, 0%, 50% (1 of 2 diverged)"),
    (slice(1, 3), "50.0%, 0%, 50%"),
    (slice(0, 1), "1 of 1 diverged"),
  ],
)
def test_means_are_over_networks_that_did_not_diverge(diverged, seeds, told):
  result = result_of(diverged, seeds=seeds)
  assert cell(result) == told
  EXPERIMENT.figure(result).canvas.draw()  # warns of nothing


def test_a_network_that_diverged_counts_as_a_guess(diverged):
  np.testing.assert_array_equal(show.counted(diverged, 0, 0), [0.1, 0.5, 0.5])


def test_networks_born_dead_learn_the_mean_and_others_more():
  """Before, they say 0, of which y² is left."""
  keys = jax.random.split(jax.random.key(0), 40)
  before = born.trained(keys, width=2, depth=3, steps=0)
  after = born.trained(keys, width=2, depth=3, steps=100)
  y = np.linspace(1 / 16, 1, 16)
  blank = np.isclose(before, (y**2).mean() / y.var(), rtol=1e-5)
  law = 1 - 0.75**3
  assert abs(blank.mean() - law) < 4 * math.sqrt(law * (1 - law) / 40)
  assert (np.asarray(after)[blank] > 0.99).all()
  assert (np.asarray(after)[~blank] < 0.9).mean() > 0.5


def test_errors_are_two_standard_errors_of_those_left():
  """(1 - 0)/2 · 2 for two networks, none for one; by hand."""
  nan = math.nan
  values = [[0.0, nan, nan], [1.0, 0.3, nan], [nan, nan, nan]]
  mean, error = plots.of_finite(values)
  np.testing.assert_allclose(mean, [0.5, 0.3, nan])
  np.testing.assert_allclose(error, [1.0, nan, nan])


def test_a_network_that_overflows_is_told_to_have_diverged():
  config = EXPERIMENT.at_scale(
    "smoke", rates=(0.01, 1e6), biases=(0.0,), activations=("relu",)
  )
  found = rectifiers.run(config, Job())["activations"]["relu"]
  np.testing.assert_array_equal(found["diverged"], [[[0, 0], [1, 1]]])
  assert np.isfinite(found["dead"][0, 0]).all()
  assert np.isfinite(found["dead"][0, 1, :, 0]).all()  # before it did
  assert np.isnan(found["dead"][0, 1, :, -1]).all()


@pytest.mark.parametrize(("z", "dies"), [(-15.0, False), (-20.0, True)])
def test_elu_dies_where_its_slope_rounds_to_zero(z, dies):
  """expm1(z) + 1 is 0 where e^z < 2⁻²⁵, half of float32's step below 1.

  JAX's slope before 0.12; later ones take e^z itself.
  """
  assert (math.exp(z) < 2**-25) == dies
  assert (jnp.expm1(jnp.float32(z)) + 1 == 0) == dies
  slope = jax.grad(jax.nn.elu)(jnp.float32(z))
  assert (slope == 0) == (dies and jax.__version_info__ < (0, 12))


def test_where_there_is_a_slope_nothing_dies(result):
  assert np.nanmax(result["activations"]["leaky_relu"]["dead"]) == 0


def test_a_large_rate_kills_and_a_low_bias_has_killed(result):
  """At the start hidden units of bias -1 have fewer samples above 0."""
  relu = result["activations"]["relu"]
  assert not relu["diverged"].any()
  dead = relu["dead"].mean((1, 2, 4))  # [biases, points]
  start, end = dead[:, 0], dead[:, -1]
  assert start[1] > start[0]
  assert end[0] > start[0]


def test_dead_units_have_no_gradient():
  """A unit is dead by the slope: its kernel's column gets no gradient."""
  config = EXPERIMENT.at_scale("smoke", batch=8)
  params = rectifiers.draw(config, 64, jax.random.key(0), jnp.float32(-3.0))
  x = jax.random.normal(jax.random.key(1), (8, 64))
  first = rectifiers.hidden(jax.nn.relu, params, x)[0]
  silent = np.asarray((first <= 0).all(0))
  assert 0 < silent.sum() < config.width
  gradients = jax.grad(
    lambda params: rectifiers.apply(jax.nn.relu, params, x).sum()
  )(params)
  column = np.asarray(abs(gradients[0][0]).sum(0))
  assert (column[silent] == 0).all()


def test_networks_are_born_dead_as_often_as_theory_says(config, result):
  """1 - (1 - 2^-n)^L: four deviations of a share, over layers apart."""
  for width, law in result["theory"].items():
    ours = result["born_alive"][width]["symmetric"]
    for depth in (1, 5, 20):
      expected = (1 - 2.0 ** -int(width)) ** depth
      assert law[depth - 1] == pytest.approx(expected)
      error = 4 * math.sqrt(expected * (1 - expected) / config.thin_networks)
      assert float(ours[depth - 1]) == pytest.approx(expected, abs=error)


def test_asymmetric_weights_are_born_dead_less_often(result):
  for alive in result["born_alive"].values():
    assert alive["asymmetric"][-1] > alive["symmetric"][-1]
    assert (np.diff(alive["asymmetric"]) <= 0).all()  # none comes back


def test_sigma_is_that_of_lu():
  assert pytest.approx(0.6007, abs=5e-5) == born.SIGMA


def test_what_is_claimed_agrees_and_is_drawn(result):
  assert all(claim.agrees for claim in EXPERIMENT.claims(result))
  EXPERIMENT.figure(result).canvas.draw()


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"activations": ("relu6",)}, "activations must be among relu, leaky_relu"),
    ({"rates": (-1.0,)}, "rates must be at least 0"),
    ({"thin": (0,)}, "thin must be at least 1"),
  ],
)
def test_a_wrong_config_says_what_is_wanted(wrong, message):
  with pytest.raises(ValueError, match=message):
    rectifiers.Config(**wrong)


def test_a_share_says_when_there_is_none():
  assert plots.percent(0.5, 0.012) == "50.0% ± 1.2%"
  assert plots.percent(0.5, np.nan) == "50.0%"  # of one network alone
  assert plots.percent(np.nan, np.nan) == "diverged"
