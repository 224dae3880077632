"""Rectifiers: who dies, who comes back, who is born dead; what is written."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from experiments import _launch, _rectifiers_born, rectifiers
from experiments._job import Job
from experiments.rectifiers import EXPERIMENT


@pytest.fixture(scope="module")
def found():
  config = EXPERIMENT.at_scale("smoke")
  return config, rectifiers.run(config, Job())


@pytest.mark.parametrize(
  ("dead", "finite", "share"),
  [
    ([[0, 0], [1, 1], [1, 0]], [1, 1, 1], 0.5),  # one of two came back
    ([[1, 0], [0, 1], [1, 0]], [1, 1, 1], 1.0),  # back, though dead again
    ([[0, 1], [0, 1], [0, 1]], [1, 1, 1], 0.0),
    ([[0, 1], [0, 1], [0, 0]], [1, 1, 0], 0.0),  # diverged: not alive
    ([[0, 0], [0, 0], [0, 0]], [1, 1, 1], math.nan),  # none to come back
  ],
)
def test_revival_counts_those_that_died_and_came_back(dead, finite, share):
  dead = np.array(dead, bool)[:, None, :]  # [points, layers, width]
  ours = rectifiers.revived(dead, np.array(finite, bool))
  assert float(ours) == pytest.approx(share, nan_ok=True)


def test_where_there_is_a_slope_nothing_dies(found):
  _, result = found
  assert result["activations"]["leaky_relu"]["dead"].max() == 0


def test_a_large_rate_kills_and_a_low_bias_has_killed(found):
  """At the start hidden units of bias -1 have fewer samples above 0."""
  _, result = found
  dead = result["activations"]["relu"]["dead"].mean(
    -1
  )  # [biases, rates, seeds,
  start, end = dead[..., 0].mean((1, 2)), dead[..., -1].mean((1, 2))  # points]
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


def test_networks_are_born_dead_as_often_as_theory_says(found):
  """1 - (1 - 2^-n)^L: four deviations of a share, over layers apart."""
  config, result = found
  for width, law in result["theory"].items():
    ours = result["born_alive"][width]["symmetric"]
    for depth in (1, 5, 20):
      expected = (1 - 2.0 ** -int(width)) ** depth
      assert law[depth - 1] == pytest.approx(expected)
      error = 4 * math.sqrt(expected * (1 - expected) / config.thin_networks)
      assert float(ours[depth - 1]) == pytest.approx(expected, abs=error)


def test_asymmetric_weights_are_born_dead_less_often(found):
  _, result = found
  for alive in result["born_alive"].values():
    assert alive["asymmetric"][-1] > alive["symmetric"][-1]
    assert (np.diff(alive["asymmetric"]) <= 0).all()  # none comes back


def test_sigma_is_that_of_lu():
  assert pytest.approx(0.6007, abs=5e-5) == _rectifiers_born.SIGMA


def test_all_is_written_and_drawn(found, tmp_path, capsys):
  config, result = found
  for table in EXPERIMENT.tables(result):
    rich.console.Console(width=120).print(table)
  assert "leaky_relu" in capsys.readouterr().out
  directory = _launch.save(EXPERIMENT, config, result, str(tmp_path))
  content = json.loads((directory / "rectifiers.json").read_text())
  assert content["claims"][0]["agrees"]
  assert (directory / "rectifiers.png").read_bytes().startswith(b"\x89PNG")


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
