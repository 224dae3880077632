"""Equal units: they stay equal, count as one, and part as predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runtime.job import Job, device_mesh
from experiments.symmetry import __main__ as symmetry
from experiments.symmetry import networks, show
from experiments.symmetry.__main__ import EXPERIMENT, FLOAT32


@pytest.fixture(scope="module", params=[1, 2])
def config(request):
  """With one hidden layer, and with two, whose middle kernel has equal units
  on both sides."""
  return EXPERIMENT.at_scale("smoke", hidden=request.param)


def test_equal_units_stay_equal_to_the_last_bit_on_one_device():
  config = EXPERIMENT.at_scale("smoke", hidden=2, steps=20, noises=(1e-2,))
  with jax.default_device(jax.devices()[0]):
    found = EXPERIMENT.run(config, Job(device_mesh(jax.devices()[:1])))
  assert found["devices"] == 1
  assert (found["constant"]["spread"] == 0).all()
  assert (found["noisy"]["spread"] > 1e-3).all()
  assert (found["random"]["spread"] > 0.1).all()


def test_equal_units_stay_equal_within_rounding_on_eight(result):
  """One rounding for each update, though every sum over units is partial."""
  updates = result["parallel_spread"].shape[-1]
  assert result["devices"] == 8
  assert (result["parallel_spread"] <= FLOAT32 * updates).all()


def test_ranks(result):
  """1 for equal weights, 0 if these are 0, full if random."""
  for constant, ranks in zip(result["constants"], result["ranks"], strict=True):
    assert (ranks == (1 if constant else 0)).all()
  sizes = [result["width"]] * (result["kernels"] - 1) + [10]
  assert (result["random_ranks"] == sizes).all()


def test_a_network_of_equal_units_is_one_unit(result):
  """Before chance of rounding grows: one rounding an update, of 2.3 nats."""
  early = result["constant"]["loss"].shape[-1] // 4
  difference = result["constant"]["loss"] - result["one_unit_loss"]
  assert (np.abs(difference)[:, :early] < 2.3 * FLOAT32 * early).all()


def test_equal_units_learn_less(result):
  one = result["constants"].index(1.0)
  zero = result["constants"].index(0.0)
  accuracy = result["constant"]["accuracy"]
  assert (accuracy[zero] == accuracy[zero, 0]).all()
  assert accuracy[one, -1] > accuracy[zero, -1]
  assert result["random"]["accuracy"][:, -1].min() > accuracy[one, -1] + 0.3


def test_noise_follows_the_linearised_path_while_it_is_small(result):
  """Second order: the noise itself, relative; over twenty updates."""
  index = len(result["noises"]) - 1
  noise = result["noises"][index]
  measured = np.log(result["noisy"]["asymmetry"][index, :, :20] / noise)
  np.testing.assert_allclose(
    measured, result["log_linear"][:, :20], atol=20 * noise + 1e-3
  )


def test_asymmetry_is_what_permuting_units_changes():
  """Its projection is orthogonal to what is left, and kills equal units."""
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = ((4, 6), (6, 6), (6, 3))
  params = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
  apart = networks.apart(params)
  rest = [p - a for p, a in zip(params, apart, strict=True)]
  products = [(a * r).sum() for a, r in zip(apart, rest, strict=True)]
  np.testing.assert_allclose(products, 0, atol=36 * FLOAT32 * 4)
  for kernel in networks.apart(rest):
    np.testing.assert_allclose(kernel, 0, atol=4 * FLOAT32)
  assert networks.spread([jnp.ones(s) for s in shapes]) == 0
  assert networks.spread(params) > 0.1


def test_times_and_slopes_of_exact_growth():
  noises = (1e-2, 1e-4, 1e-6)
  growth = np.exp(0.05 * np.arange(400))
  asymmetry = np.array(noises)[:, None, None] * growth * np.ones((1, 2, 1))
  times = show.break_times(asymmetry, 0.03)
  expected = np.log(0.03 / np.array(noises)) / 0.05
  np.testing.assert_allclose(times, np.stack([expected] * 2, 1), rtol=1e-12)
  found = show.slopes(noises, times)
  np.testing.assert_allclose(found, [20.0, 20.0], rtol=1e-12)
  never = show.break_times(asymmetry[..., :10], 0.03)
  assert np.isnan(never).all()


def test_claims_agree_with_theory(config, result):
  """With two hidden layers the symmetry holds for longer than these updates."""
  claims = EXPERIMENT.claims(result)
  assert len(claims) == {1: 5, 2: 4}[config.hidden]
  assert [claim for claim in claims if not claim.agrees] == []
  EXPERIMENT.figure(result).canvas.draw()


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match=r"constants must contain 1.0"):
    symmetry.Config(constants=(0.5,))
  with pytest.raises(ValueError, match="width must be at least 2; got 1"):
    symmetry.Config(width=1)
