"""Exploding and vanishing: who is called sick, why, and what mends it.

A cure is tested by what it does: the model it is applied to is healthy.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import (
  KEY,
  X,
  diagnosed,
  kernels,
  kinds,
  pasted,
  stack,
  verdict,
)

from initjax import initializers
from initjax.probes import diagnose


def test_xavier_on_relu_vanishes_both_ways_and_he_mends_it():
  sick = diagnosed(jax.nn.relu, initializers.xavier_normal(), 50)
  assert kinds(sick) == {
    "vanishing signal": "error",
    "vanishing gradient": "error",
  }
  cure, remark = verdict(sick, "vanishing signal").cure.split("\n")
  assert cure == "kernel_init=initjax.initializers.he_normal()"
  assert "batch_axis=0 if all layers are drawn as one array" in remark
  assert not diagnosed(jax.nn.relu, initializers.he_normal(), 50).verdicts


def test_growth_is_the_factor_that_theory_gives():
  """ReLU halves: 0.5 per layer lies in the interval that is printed."""
  sick = diagnosed(jax.nn.relu, initializers.xavier_normal(), 50)
  message = verdict(sick, "vanishing signal").message
  low, high = map(
    float, re.search(r"\(([\d.]+) to ([\d.]+)\)", message).groups()
  )
  assert low < 0.5 < high < 0.6


@pytest.mark.parametrize("width", [64, 128])
def test_a_healthy_hundred_layer_net_is_not_called_sick(width):
  """Of 20 draws none leaves three standard deviations by a further 4 bits."""
  x = jax.random.normal(jax.random.key(3), (8, width))
  draw = jax.jit(lambda key: kernels(initializers.he_normal(), 100, width, key))
  model = stack(jax.nn.relu)
  for key in jax.random.split(KEY, 20):
    found = kinds(diagnose(model, draw(key), x, key=key))
    assert not {"exploding", "vanishing"} & {kind.split()[0] for kind in found}


@pytest.mark.parametrize(
  ("activation", "name", "kind"),
  [
    (jnp.tanh, "tanh explodes, χ₁ = σ_w²E[φ'²] = 1.1", "exploding gradient"),
    (jax.nn.sigmoid, "sigmoid vanishes, χ₁ = σ_w²E[φ'²] = 0.15",
     "vanishing gradient"),
  ],
)  # fmt: skip
def test_what_theory_expects_is_said_by_name(activation, name, kind):
  init = initializers.activation_scaling(activation)
  found = verdict(diagnosed(activation, init, 120), kind)
  assert name in found.message


def test_an_unstable_length_map_is_said_to_be_one():
  init = initializers.activation_scaling(jax.nn.silu)
  report = diagnosed(jax.nn.silu, init, 150, x=3 * X)
  found = verdict(report, "exploding signal")
  assert "silu keeps unit variance" in found.message
  assert "normalization" in found.cure


def test_weights_too_large_saturate_and_explode():
  found = kinds(diagnosed(jnp.tanh, initializers.normal(1.0), 12))
  assert found["saturation"] == "warning"
  assert found["exploding gradient"] == "error"


@pytest.mark.parametrize(
  ("activation", "sick"),
  [
    (jnp.tanh, initializers.normal(0.02)),
    (jax.nn.relu, initializers.normal(0.5)),
    (jax.nn.leaky_relu, initializers.normal(0.05)),
  ],
)
def test_the_line_to_paste_mends_what_grows_or_vanishes(activation, sick):
  found = diagnosed(activation, sick, 40).verdicts
  init = pasted(found[0].cure)
  assert found[0].severity == "error"
  assert not diagnosed(activation, init, 40).verdicts


@pytest.mark.parametrize("how", ["init", "stacked"])
def test_several_draws_narrow_the_interval(how):
  draw = lambda key: kernels(initializers.xavier_normal(), 12, key=key)
  model = stack(jax.nn.relu)
  if how == "init":
    report = diagnose(model, None, X, init=draw, draws=6)
  else:
    params = jax.lax.map(draw, jax.random.split(KEY, 6))
    report = diagnose(model, params, X, draws=6)
  assert kinds(report)["vanishing signal"] == "warning"
  assert report.to_records()[0]["draws"] == 6


def test_the_band_is_the_law_of_finite_width():
  """He-ReLU: log drifts by -5/(2n) per layer, variance 5/n (Hanin 2018)."""
  init = initializers.he_normal()
  report = diagnosed(jax.nn.relu, init, 40, x=X[:1])
  rows = report.to_records()
  low, high = rows[-1]["forward_band"]
  drift, spread = -39 * 2.5 / 64, np.sqrt(39 * 5 / 64)
  start = rows[0]["forward_log2_second_moment"]
  middle = start + drift / np.log(2)
  np.testing.assert_allclose((low + high) / 2, middle, rtol=1e-6)
  np.testing.assert_allclose(high - low, 6 * spread / np.log(2), rtol=1e-6)


def test_samples_that_differ_narrow_the_band():
  """Their average fluctuates less, and no less than fully shared noise."""
  init = initializers.he_normal()
  bands = [
    diagnosed(jax.nn.relu, init, 40, x=x).to_records()[-1]["forward_band"]
    for x in (X[:1], X)
  ]
  one, many = (high - low for low, high in bands)
  assert 0.7 * one < many < one


def test_a_reversed_scan_is_read_in_the_order_it_runs():
  params = kernels(initializers.xavier_normal(), 30)
  layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
  model = lambda p, x: jax.lax.scan(layer, x, p, reverse=True)[0]
  assert kinds(diagnose(model, params, X))["vanishing signal"] == "error"


def test_operations_that_share_a_scan_take_turns():
  """Four layers a step: the same verdicts as unrolled, at the same size."""
  init = initializers.normal(np.sqrt(3.2 / 64))
  params = {k: kernels(init, 6, key=jax.random.key(ord(k))) for k in "abcd"}

  def step(h, layer):
    for name in "abcd":
      h = jax.nn.relu(h @ layer[name])
    return h, None

  def unrolled(params, x):
    for i in range(6):
      x, _ = step(x, {name: params[name][i] for name in "abcd"})
    return x

  scanned = diagnose(lambda p, x: jax.lax.scan(step, x, p)[0], params, X)
  apart = diagnose(unrolled, params, X)
  assert [row["path"][2] for row in scanned.to_records()] == [*"abcd"] * 6
  assert kinds(scanned) == kinds(apart)
  total = lambda report: re.search(
    r"2\^(\d+) over 24", verdict(report, "exploding signal").message
  )[1]
  assert total(scanned) == total(apart)


def he_by_numpy(key, shape, dtype):
  """Threefry takes seconds to compile at rank 4."""
  del key
  draw = np.random.default_rng(len(shape)).normal(size=shape)
  return jnp.asarray(draw * np.sqrt(2 / np.prod(shape[:-1])), dtype)


class Pooled(nn.Module):
  """Convolutions at the He gain, and pooling."""

  pool: str

  @nn.compact
  def __call__(self, x):
    for features in (16, 32, 32, 32):
      x = nn.relu(nn.Conv(features, (3, 3), kernel_init=he_by_numpy)(x))
      x = getattr(nn, self.pool)(x, (2, 2), (2, 2))
    return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_pooling_shares_out_the_gradient(pool):
  images = np.random.default_rng(0).normal(size=(4, 16, 16, 3))
  model = Pooled(pool)
  variables = model.init(KEY, images)
  report = diagnose(model.apply, variables, jnp.asarray(images, jnp.float32))
  if pool == "max_pool":  # an average gives each entry a quarter of it
    assert "vanishing gradient" not in kinds(report)
  assert not any("activation needs" in v.message for v in report.verdicts)
