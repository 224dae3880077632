"""Exploding and vanishing: who is called sick, why, and what mends it.

A fix is tested by what it does: the model it is applied to is healthy.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import diagnosed, kinds, pasted, verdict
from small_models import KEY, X, drawn, kernels, normal, stack

from initjax.diagnosis import diagnose
from initjax.gains import gain
from initjax.meanfield import Layer, trajectory


def test_xavier_on_relu_vanishes_both_ways_and_he_does_not():
  """ReLU halves: 0.5 per layer lies in the interval that is printed."""
  sick = diagnosed(jax.nn.relu, 1.0, 40)
  assert kinds(sick) == {
    "vanishing signal": "error",
    "vanishing gradient": "error",
  }
  found = verdict(sick, "vanishing signal")
  fix, remark = found.fix.split("\n")
  assert fix == "kernel_init=initjax.initializers.he_normal()"
  assert "batch_axis=0 if all layers are drawn as one array" in remark
  interval = re.search(r"\(([\d.]+) to ([\d.]+)\)", found.message)
  low, high = map(float, interval.groups())
  assert low < 0.5 < high < 0.6
  rows = sick.to_records()  # chance is that of the band, samples and all
  middle = sum(rows[-1]["forward_band"]) / 2
  expected = middle - rows[0]["forward_log2_second_moment"]
  assert f"where chance allows 2^{expected:.1f} ± " in found.message
  assert not diagnosed(jax.nn.relu, 2.0, 40).verdicts


@pytest.mark.parametrize(
  ("depth", "width", "draws"),
  [
    (25, 16, 20),
    pytest.param(100, 64, 20, marks=pytest.mark.slow),
    pytest.param(300, 32, 8, marks=pytest.mark.slow),  # its samples collapse
  ],
)
def test_a_healthy_deep_net_is_not_called_sick(depth, width, draws):
  """Of all draws none leaves three standard deviations by a further 4 bits.

  25 layers of 16 units are as deep for their width as 100 of 64: √(5·25/16) =
  2.8, 4 bits.
  """
  x = normal(8, width)
  for seed in range(draws):
    params, key = kernels(2.0, depth, width, seed), jax.random.key(seed)
    found = kinds(diagnose(stack(jax.nn.relu), params, x, key=key))
    assert not {"exploding", "vanishing"} & {kind.split()[0] for kind in found}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("sigma_w2", "found"), [(1.0, "vanishing"), (4.0, "exploding")]
)
def test_a_factor_of_2_shows_in_nets_deeper_than_wide(sigma_w2, found):
  params, x = kernels(sigma_w2, 150, 16), normal(8, 16)
  seen = kinds(diagnose(stack(jax.nn.relu), params, x))
  assert {f"{found} signal", f"{found} gradient"} <= set(seen)


@pytest.mark.parametrize(
  ("activation", "depth", "name", "kind"),
  [
    (jnp.tanh, 120, "tanh explodes, by a factor of 1.1",
     "exploding gradient"),
    (jax.nn.sigmoid, 40, "sigmoid vanishes, by a factor of 0.15",
     "vanishing gradient"),
  ],
)  # fmt: skip
def test_what_theory_expects_is_said_by_name(activation, depth, name, kind):
  report = diagnosed(activation, gain(activation) ** 2, depth)
  assert name in verdict(report, kind).message


def test_an_unstable_length_map_is_said_to_be_one():
  report = diagnosed(jax.nn.silu, gain(jax.nn.silu) ** 2, 60, x=10 * X)
  found = verdict(report, "exploding signal")
  assert "silu keeps unit variance" in found.message
  assert "normalization" in found.fix


def test_weights_too_large_saturate_and_explode():
  found = kinds(diagnosed(jnp.tanh, 64.0, 40))
  assert found["saturation"] == "warning"
  assert found["exploding gradient"] == "error"


@pytest.mark.parametrize(
  ("activation", "sigma_w2"),
  [
    (jnp.tanh, 0.03),
    (jax.nn.relu, 1.0),
    (jax.nn.relu, 16.0),
    (jax.nn.leaky_relu, 0.2),
    (jax.nn.elu, 0.2),  # by activation_scaling, written as in code
  ],
)
def test_the_line_to_paste_mends_what_grows_or_vanishes(activation, sigma_w2):
  found = diagnosed(activation, sigma_w2, 40).verdicts
  assert found[0].severity == "error"
  init = pasted(found[0].fix)
  draw = jax.jit(jax.vmap(lambda key: init(key, (64, 64), jnp.float32)))
  mended = draw(jax.random.split(KEY, 40))
  assert not diagnose(stack(activation), mended, X).verdicts


def test_several_draws_are_drawn_by_init_or_stacked():
  """Eight, if nobody says how many."""
  init = lambda key: jax.random.normal(key, (12, 64, 64)) / 8
  model = stack(jax.nn.relu)
  stacked = normal(8, 12, 64, 64, variance=1 / 64)
  for report in (
    diagnose(model, None, X, init=init),
    diagnose(model, stacked, X, draws=8),
  ):
    assert kinds(report)["vanishing signal"] == "warning"
    assert report.to_records()[0]["draws"] == 8


def test_the_band_is_the_law_of_finite_width():
  """He-ReLU: log drifts by -5/(2n) per layer, variance 5/n (Hanin 2018).

  An average over samples drifts as `trajectory` says of samples that are as
  alike as these, and is taken to scatter like noise that they share in full.
  """
  layers = [Layer(phi, 2.0, width=64) for phi in [None] + [jax.nn.relu] * 39]
  units = X @ kernels(2.0, 40)[0]
  units /= np.linalg.norm(units, axis=1, keepdims=True)
  pairs = units @ units.T - np.eye(len(X))
  alike = pairs.sum() / (pairs.size - len(X))
  law = trajectory(layers, batch=len(X), correlation=alike).forward_drift
  expected = -39 * 2.5 / 64 / np.log(2), law[-1] - law[0]
  spread = np.sqrt(39 * 5 / 64) / np.log(2)
  for x, drift in zip((X[:1], X), expected, strict=True):
    rows = diagnosed(jax.nn.relu, 2.0, 40, x=x).to_records()
    low, high = rows[-1]["forward_band"]
    found = (low + high) / 2 - rows[0]["forward_log2_second_moment"]
    np.testing.assert_allclose(found, drift, rtol=1e-6)
    np.testing.assert_allclose(high - low, 6 * spread, rtol=1e-6)


def test_a_reversed_scan_is_read_in_the_order_it_runs():
  layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
  model = lambda p, x: jax.lax.scan(layer, x, p, reverse=True)[0]
  report = diagnose(model, kernels(1.0, 30), X)
  assert kinds(report)["vanishing signal"] == "error"


def test_operations_that_share_a_scan_take_turns():
  """Three layers a step: the same verdicts as unrolled, at the same size."""
  params = {k: kernels(16.0, 3, seed=ord(k)) for k in "abc"}

  def step(h, layer):
    for name in "abc":
      h = jax.nn.relu(h @ layer[name])
    return h, None

  def unrolled(params, x):
    for i in range(3):
      x, _ = step(x, {name: params[name][i] for name in "abc"})
    return x

  scanned = diagnose(lambda p, x: jax.lax.scan(step, x, p)[0], params, X)
  apart = diagnose(unrolled, params, X)
  assert [row["path"] for row in scanned.to_records()] == [*"abc"] * 3
  assert kinds(scanned) == kinds(apart)
  total = lambda report: re.search(
    r"2\^(\d+) over 9", verdict(report, "exploding signal").message
  )[1]
  assert total(scanned) == total(apart)


class Pooled(nn.Module):
  """Convolutions, and pooling."""

  pool: str

  @nn.compact
  def __call__(self, x):
    for features in (16, 32, 32, 32):
      x = nn.relu(nn.Conv(features, (3, 3))(x))
      x = getattr(nn, self.pool)(x, (2, 2), (2, 2))
    return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_pooling_shares_out_the_gradient(pool):
  model, images = Pooled(pool), normal(4, 16, 16, 3)
  variables = drawn(jax.eval_shape(model.init, KEY, images), sigma_w2=2.0)
  report = diagnose(model.apply, variables, images)
  if pool == "max_pool":  # an average gives each entry a quarter of it
    assert "vanishing gradient" not in kinds(report)
  assert not any("activation needs" in v.message for v in report.verdicts)
