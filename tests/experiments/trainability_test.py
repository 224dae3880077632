"""Which depths train: the fit, the networks, and a small run."""

import jax
import numpy as np
import pytest

from experiments.trainability import __main__ as trainability
from experiments.trainability import fit

EXPERIMENT = trainability.EXPERIMENT
SMOKE = EXPERIMENT.at_scale("smoke")


def test_what_theory_forbids_does_not_train(result):
  """ξ_c is 1.0 and 4912 layers: 16 are beyond 6 ξ_c, or far within."""
  accuracy = result["accuracy"].mean(-1)
  assert accuracy.shape == (2, 2)
  assert accuracy[0].min() > 0.55  # 4 layers: both
  assert accuracy[1, 0] < 0.3  # chance is 0.1
  assert accuracy[1, 1] > 0.55


def test_the_depth_scale_is_that_of_theory(result):
  """In the ordered phase ξ_c = -1/log χ₁; Gauss-Hermite integrals by NumPy."""
  z, weights = np.polynomial.hermite_e.hermegauss(100)
  weights = weights / weights.sum()
  q = 1.0
  for _ in range(200):
    q = 0.4 * weights @ np.tanh(np.sqrt(q) * z) ** 2 + 0.05
  chi_1 = 0.4 * weights @ np.cosh(np.sqrt(q) * z) ** -4.0
  np.testing.assert_allclose(result["xi_c"][0], -1 / np.log(chi_1), rtol=1e-6)


def test_all_is_shown(result):
  (table,) = trainability.tables(result)
  assert table.row_count == 2
  assert trainability.claims(result) == []  # two points make no line
  trainability.figure(result).canvas.draw()


def test_kernels_have_the_variance_that_was_asked_for():
  """Mean squares of N numbers vary by √(2/N) at most (a truncated normal's
  by less); four times that."""
  runs = trainability._runs(SMOKE)
  stack, _ = trainability.draw(runs, config=SMOKE, features=64)
  count = np.prod(stack.kernels.shape[1:])
  found = SMOKE.width * (stack.kernels**2).mean((1, 2, 3))
  np.testing.assert_allclose(
    found, np.repeat(SMOKE.sigma_w2, SMOKE.seeds), rtol=4 * np.sqrt(2 / count)
  )
  np.testing.assert_allclose(
    (stack.biases**2).mean(), SMOKE.sigma_b2, rtol=4 * np.sqrt(2 / 4e3)
  )


def test_a_shallow_network_is_the_start_of_a_deep_one():
  """Its readout included, it has as many linear layers as its depth says."""
  runs = trainability._runs(SMOKE)
  deep = jax.eval_shape(
    lambda runs: trainability.draw(runs, config=SMOKE, features=64), runs
  )
  for depth in (3, 16):
    shape = jax.eval_shape(
      lambda deep, depth=depth: trainability.first_layers(deep, depth), deep
    )
    assert shape[0].kernels.shape == (4, depth - 2, 64, 64)
    assert shape[1].shape == (4, 64, 10)


def test_a_frontier_is_where_accuracy_crosses_half_way():
  depths = (2, 4, 8)
  columns = [
    [1.0, 0.55, 0.1],  # at 4
    [0.9, 0.2, 0.1],  # half of the way in log depth: √8
    [1.0, 1.0, 0.9],  # never
    [0.2, 0.9, 0.9],  # nothing trains
  ]
  accuracy = np.array(columns).T[..., None]
  found = fit.frontiers(accuracy, depths)[:, 0]
  np.testing.assert_allclose(found[:2], [4.0, np.sqrt(8)])
  assert np.isnan(found[2:]).all()


def test_the_fit_finds_the_law_and_ignores_what_is_out_of_reach():
  xi_c = np.array([1.0, 2.0, 5.0, 1000.0])
  frontier = 6 * np.tile(xi_c[:, None], 3)
  frontier[-1] = 80.0  # the budget's, not theory's
  line = fit.fit_line(xi_c, frontier, 80)
  assert line.points == 3
  found = line.factor, line.exponent, line.correlation
  np.testing.assert_allclose(found, [6, 1, 1], rtol=1e-12)
  assert max(line.exponent_error, line.log_factor_error) < 1e-7


def test_a_power_law_is_told_from_a_line():
  xi_c = np.geomspace(1, 10, 6)
  line = fit.fit_line(xi_c, 6 * xi_c[:, None] ** 0.5, 80)
  np.testing.assert_allclose(line.exponent, 0.5, rtol=1e-12)
  published = {"line": line._asdict(), "depths": (4, 6, 9)}
  factor, exponent = trainability.claims(published)
  assert not factor.agrees
  assert not exponent.agrees


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"depths": (8, 4)}, "depths must increase"),
    ({"depths": (2, 4)}, "depths must be at least 3; got 2"),
    ({"sigma_w2": (1.0, 1.0)}, "sigma_w2 must increase"),
    ({"seeds": 1}, "seeds must be at least 2"),
    ({"dataset": "imagenet"}, "dataset must be among"),
  ],
)
def test_options_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    trainability.Config(**changes)
