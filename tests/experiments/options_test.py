"""Options: what cannot be run, or would be cut in silence, is refused."""

import dataclasses

import numpy as np
import pytest
from absl import app

from experiments.data import datasets
from experiments.exploding import __main__ as exploding
from experiments.kaiming import __main__ as kaiming
from experiments.mu_transfer import __main__ as mu_transfer
from experiments.normalization import __main__ as normalization
from experiments.phase_diagram import __main__ as phase_diagram
from experiments.rectifiers import __main__ as rectifiers
from experiments.residual import __main__ as residual
from experiments.runtime import command_line
from experiments.runtime.experiment import script
from experiments.runtime.job import Job
from experiments.signal_propagation import __main__ as signal_propagation
from experiments.symmetry import __main__ as symmetry
from experiments.trainability import __main__ as trainability
from experiments.trainability import fit
from experiments.vanishing import __main__ as vanishing
from experiments.xavier import __main__ as xavier

MODULES = (
  exploding, kaiming, mu_transfer, normalization, phase_diagram, rectifiers,
  residual, signal_propagation, symmetry, trainability, vanishing, xavier,
)  # fmt: skip
IN_BLOCKS = exploding, normalization, rectifiers, residual, vanishing
"""Those that note 20 points of a course"""
IMAGES = (
  (normalization, "batches", (16, 1439)),
  (normalization, "batch", 1439),
  (symmetry, "images", 1439),
  (kaiming, "batch", 1439),
  (xavier, "batch", 1439),
)
"""What takes different training images, and one more than there are"""


def named(module):
  return getattr(module, "__name__", str(module)).rpartition(".")[-1]


def refused(module, **changes):
  with pytest.raises(ValueError, match="must") as error:
    module.Config(**changes)
  return str(error.value)


@pytest.mark.parametrize("module", IN_BLOCKS, ids=named)
def test_steps_come_in_blocks(module):
  expected = "steps (50) must be a multiple of 20."
  assert refused(module, steps=50) == expected
  assert module.Config(steps=60).steps == 60


def test_steps_of_kaiming_come_in_blocks_of_its_points():
  assert refused(kaiming, steps=25) == "steps (25) must be a multiple of 10."
  assert kaiming.Config(steps=50).steps == 50


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_seeds_are_what_every_generator_takes(module):
  assert refused(module, seed=-1) == "seed must be at least 0; got -1."
  for seed in (2**31, 2**63):
    expected = f"seed must be at most 2147483647; got {seed}."
    assert refused(module, seed=seed) == expected
  assert module.Config(seed=2**31 - 1).seed == 2**31 - 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("module", MODULES, ids=named)
def test_numbers_are_finite(module, value):
  for field in dataclasses.fields(module.Config):
    if field.metadata["kind"] is float:
      given = (1.0, value) if isinstance(field.default, tuple) else value
      expected = f"{field.name} must be finite; got {value}."
      found = refused(module, **{field.name: given})
      assert found == expected or "must increase" in found


@pytest.mark.parametrize("module", MODULES, ids=named)
def test_entries_of_a_list_are_different(module):
  for field in dataclasses.fields(module.Config):
    if isinstance(field.default, tuple) and not field.metadata["repeats"]:
      first = field.default[0]
      found = refused(module, **{field.name: (*field.default, first)})
      expected = f"{field.name} must not hold {first} twice."
      assert found == expected or "must increase" in found


def test_widths_and_points_may_repeat():
  assert exploding.Config(hidden=(8, 8, 8)).hidden == (8, 8, 8)
  assert phase_diagram.Config(points=(3, 3)).points == (3, 3)
  expected = "sigma_w2 must be two finite numbers, 0 < low < high"
  assert expected in refused(phase_diagram, sigma_w2=(1.0, 1.0))


def test_a_frontier_needs_two_depths():
  assert "depths must hold two or more" in refused(trainability, depths=(4,))
  assert trainability.Config(depths=(4, 8)).depths == (4, 8)


def test_a_frontier_needs_no_more_than_one_variance():
  """And two depths; there is no line to fit."""
  config = trainability.Config(depths=(4, 16), sigma_w2=(1.76,))
  accuracy = np.array([1.0, 0.1]).reshape(2, 1, 1).repeat(2, axis=2)
  frontier = fit.frontiers(accuracy, config.depths)
  xi_c = np.array([20.0])
  line = fit.fit_line(xi_c, frontier, np.array([True]))
  np.testing.assert_allclose(frontier, 4 * 4 ** (0.45 / 0.9))
  assert np.isnan(line.exponent)


@pytest.mark.parametrize("scales", [(1.0,), (0.01, 0.05, 1.0)])
def test_normalized_networks_are_compared_between_two_scales(scales):
  assert "two of at least 0.1" in refused(normalization, scales=scales)
  plain = normalization.Config(scales=scales, kinds=("none",))
  assert plain.scales == scales
  normalization.Config(scales=(*scales, 0.1))


@pytest.mark.parametrize(("module", "name", "value"), IMAGES)
def test_no_more_images_than_there_are(module, name, value):
  """A fifth of the 1797 digits is not learnt."""
  expected = "1439 different inputs are wanted; the training part of digits "
  with pytest.raises(ValueError, match=expected + "has 1438"):
    command_line._check_data(module.Config(**{name: value}))
  fewer = (16, 1438) if isinstance(value, tuple) else 1438
  command_line._check_data(module.Config(**{name: fewer}))


@pytest.mark.parametrize(
  "module", [exploding, rectifiers, residual, trainability, vanishing],
  ids=named,
)  # fmt: skip
def test_batches_drawn_with_replacement_may_be_larger(module):
  command_line._check_data(module.Config(batch=5000))


def test_the_training_part_is_what_is_loaded():
  learnt = len(datasets.load_labelled("digits", 0).labels)
  datasets.check("digits", training=learnt)
  with pytest.raises(ValueError, match=f"the training .* has {learnt}"):
    datasets.check("digits", training=learnt + 1)


@pytest.mark.parametrize("module", [exploding, vanishing], ids=named)
def test_no_more_digits_than_there_are(module):
  assert "inputs must be at most 1797" in refused(module, inputs=1798)
  assert len(datasets.load_inputs("digits", 1797, 0)) == 1797


def test_a_run_with_uneven_units_does_not_start():
  job = Job(advance=lambda *_, **__: pytest.fail("an item was done"))
  with pytest.raises(app.UsageError, match=r"width \(18\) .* of 8, the num"):
    symmetry.run(symmetry.Config(width=18), job)


@pytest.mark.parametrize(
  ("name", "flag", "message"),
  [
    ("symmetry", "--width=18", "width (18) must be a multiple of 8"),
    ("normalization", "--batches=16,5000", "5000 different inputs are wanted"),
    ("rectifiers", "--biases=nan", "biases must be finite; got nan"),
    ("signal_propagation", "--activations=rleu", "among sigmoid, tanh"),
  ],
)
def test_a_command_line_is_refused_in_a_line(
  refused, tmp_path, name, flag, message
):
  experiment = script(name).EXPERIMENT
  said = refused(experiment, f"--output_dir={tmp_path}", flag)
  (line,) = said.splitlines()
  assert line.startswith(f"{name}: ")
  assert message in line
  assert not list(tmp_path.rglob("*.json"))
