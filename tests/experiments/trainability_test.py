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
  accuracy = result["accuracy"][-1].mean(-1)
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
  by_variance, by_choice, by_kind = trainability.tables(result)
  assert by_kind.row_count == 3
  assert by_variance.row_count == 2
  assert by_choice.row_count == 6  # three budgets, three accuracies
  (saxe,) = trainability.claims(result)  # two points make no line
  assert saxe.agrees
  assert np.isinf(result["linear"]["Gaussian"][-1]).any()
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


def test_depths_far_out_of_reach_are_not_trained():
  """ξ_c of 1 and 10: up to 4 and 40 layers, and the next depth of the grid."""
  config = trainability.Config(reach=4.0, depths=(3, 6, 12, 24, 48, 96))
  xi_c = np.array([1.0, 10.0])
  found = [trainability.trained(config, xi_c, d) for d in config.depths]
  expected = [[True, True]] * 2 + [[False, True]] * 3 + [[False, False]]
  np.testing.assert_array_equal(found, expected)
  near = np.array([True, True, False, False])  # two seeds of one variance
  placed = trainability._placed(np.arange(6.0).reshape(2, 3), near, 2)
  assert placed.shape == (3, 2, 2)
  np.testing.assert_array_equal(placed[:, 0], [[0, 3], [1, 4], [2, 5]])
  assert np.isnan(placed[:, 1]).all()
  accuracy = np.array([[0.9, 0.2, np.nan], [0.9, 0.8, np.nan]]).T[..., None]
  frontier = fit.frontiers(accuracy, (2, 4, 8))[:, 0]
  assert 2 < frontier[0] < 4
  assert np.isnan(frontier[1])


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_the_fit_finds_one_exponent_and_two_prefactors(exponent):
  """7·ξ_c^k in the ordered phase, 5 in the chaotic; and no more than half of
  where the critical network ends, which the budget sets."""
  xi_c = np.array([1.0, 2.0, 5.0, 11.0, 1000.0, 7.0, 4.0, 2.0])
  ordered = np.arange(8) < 5
  frontier = np.where(ordered, 7, 5) * xi_c**exponent
  frontier[3:5] = 70, 80  # the budget's, not theory's
  line = fit.fit_line(xi_c, np.tile(frontier[:, None], 3), ordered)
  assert line.used.tolist() == [True] * 3 + [False] * 2 + [True] * 3
  found = *line.prefactors, line.exponent
  np.testing.assert_allclose(found, [7, 5, exponent], rtol=1e-12)
  assert line.exponent_error < 1e-7
  published = {"line": line._asdict(), "by_threshold": [line.factor] * 2}
  published["linear"] = {"orthogonal": np.full((3, 2), 40.0)}
  factor, slope, saxe = trainability.claims(published)
  assert saxe.ours == 0
  assert factor.agrees == (exponent == 1)
  np.testing.assert_allclose(slope.ours, exponent)


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
