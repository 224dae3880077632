"""Normalized networks: laws of scale and of gradients, and a small run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.normalization import __main__ as normalization
from experiments.normalization import networks, theory

EXPERIMENT = normalization.EXPERIMENT
KINDS = networks.KINDS


def test_all_that_was_measured_agrees(result):
  """Claims state their own errors; there are scale, size and growth."""
  claims = normalization.claims(result)
  assert len(claims) == 10
  assert [c for c in claims if not c.agrees] == []


def test_nothing_is_claimed_of_batches_near_the_width(result):
  """Batches of 16 and a width of 24, where theory's limit does not hold."""
  narrow = {**result, "config": {**result["config"], "gradient_width": 24}}
  claims = normalization.claims(narrow)
  assert len(claims) == 6
  assert not any("growth per layer" in claim.quantity for claim in claims)


def test_normalized_signals_do_not_know_the_scale(config, result):
  """Over three decades; without normalization each gives two per layer."""
  scales = list(config.scales)
  first, last = scales.index(0.1), scales.index(100.0)
  for kind in ("batch", "layer"):
    forward = result["scales"][kind]["forward"]
    assert np.abs(forward[last] - forward[first]).max() < 0.01
  forward = result["scales"]["none"]["forward"]
  growth = (forward[last] - forward[first]) / math.log2(10)
  # rounding: one part in 10^7 for each of six layers
  np.testing.assert_allclose(growth, 3 * 2 * config.depths[0], rtol=1e-5)


def test_epsilon_matters_where_theory_says(config, result):
  """At a hundredth of He's scale ε takes a tenth of the signal. Networks vary
  by 0.1 in log₂, but the same ones at other scales by the same."""
  first, he = 0, config.scales.index(1.0)
  for kind in ("batch", "layer"):
    forward = result["scales"][kind]["forward"]
    law = result["theory"]["forward"][kind]
    lost = (forward[he] - forward[first]).mean()
    np.testing.assert_allclose(lost, law[he] - law[first], rtol=0.35)


def test_small_weights_learn_only_with_normalization(result):
  found = {
    kind: result["courses"][kind]["6"]["test_accuracy"][1, :, -1].mean()
    for kind in KINDS
  }
  assert found["none"] < 0.3 < 0.5 < min(found["batch"], found["layer"])


def test_all_is_shown(config, result):
  shape = (len(config.scales), config.seeds, 21)
  assert np.shape(result["courses"]["batch"]["6"]["loss"]) == shape
  rows = [table.row_count for table in normalization.tables(result)]
  assert rows == [4, 4, 4]
  normalization.figure(result).canvas.draw()


def unrolled(kind, params, x, epsilon):
  """In float64 numpy, layer by layer."""
  z = np.float64(x) @ np.float64(params.first)
  for kernel in [*np.float64(params.others), None]:
    if kind != "none":
      axis = 0 if kind == "batch" else 1
      z = z - z.mean(axis, keepdims=True)
      z = z / np.sqrt(z.var(axis, keepdims=True) + epsilon)
    z = np.maximum(z, 0)
    z = z if kernel is None else z @ kernel
  return z


@pytest.mark.parametrize("index", [0, 1, 2])
def test_networks_are_those_of_numpy(index):
  params = networks.draw(
    jax.random.key(1), features=5, depth=4, width=16, sigma_w=jnp.float32(1.4)
  )
  x = jax.random.normal(jax.random.key(2), (8, 5))
  found = networks.hidden(jnp.int32(index), params, x, 1e-3)
  expected = unrolled(KINDS[index], params, x, 1e-3)
  # four layers of sums of 16 terms, float32
  np.testing.assert_allclose(found, expected, atol=4 * 16 * 2.0**-23)


@pytest.mark.parametrize("index", [0, 1])
def test_without_epsilon_the_scale_is_gone_exactly(index):
  """Powers of two round to nothing."""
  params = networks.draw(
    jax.random.key(1), features=5, depth=4, width=16, sigma_w=jnp.float32(1)
  )
  x = jax.random.normal(jax.random.key(2), (8, 5))
  larger = params._replace(first=8 * params.first, others=4 * params.others)
  found = [
    networks.hidden(jnp.int32(index), p, x, 0.0) for p in (params, larger)
  ]
  np.testing.assert_array_equal(*found)


def test_growth_is_read_from_the_middle():
  layers = np.arange(40.0)
  noisy = np.where((layers < 8) | (layers >= 32), 99.0, -layers)
  np.testing.assert_allclose(theory.measured_growth(noisy[None]), [2.0])


def test_growth_in_theory():
  """Yang et al. 2019: π/(π - 1) for many inputs; 1 without a batch."""
  assert theory.gradient_growth("batch", None) == pytest.approx(
    math.pi / (math.pi - 1), abs=1e-9
  )
  for kind in ("layer", "none"):
    assert theory.gradient_growth(kind, 8) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"scales": (0.5, 2.0)}, "scales must hold 1"),
    ({"kinds": ("group",)}, "kinds must be among batch, layer, none"),
    ({"batches": (3,)}, "batches must be at least 4"),
    ({"gradient_depth": 10}, "gradient_depth must be at least 24"),
  ],
)
def test_options_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    normalization.Config(**changes)
