"""Residual networks: how they start, laws of growth, and a small run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import training
from experiments.residual import __main__ as residual
from experiments.residual import networks, theory

EXPERIMENT = residual.EXPERIMENT
BLOCKS, WIDTH = 4, 16
draw = jax.jit(networks.draw, static_argnames=("features", "width", "blocks"))
stream = jax.jit(networks.stream)  # schemes are numbers: one program for all


def test_all_that_was_measured_agrees(result):
  claims = residual.claims(result)
  assert len(claims) == 11
  assert [c for c in claims if not c.agrees] == []


def test_branches_of_nothing_learn_where_he_fails(result):
  """16 blocks multiply the second moment by 2^16, logits by 256."""
  (kinds,) = result["digits"].values()
  final = {n: x["test_accuracy"][..., -1].mean() for n, x in kinds.items()}
  assert final["residual, He"] < 0.2
  for name in ("zero branch", "Fixup", "SkipInit", "ReZero"):
    assert final[name] > final["plain"]
    assert final[name] > 0.3


def test_the_identity_is_easier_with_skips(result):
  (kinds,) = result["identity"].values()
  assert kinds["residual"][..., -1].max() < kinds["plain"][..., -1].min() / 2


def test_all_is_shown(result):
  assert np.shape(result["signal"]["residual, He"]) == (8, 11)
  assert [table.row_count for table in residual.tables(result)] == [4, 7, 2]
  residual.figure(result).canvas.draw()


def test_theory_of_chains():
  """Doubling, l + 1, and gradients likewise; He keeps, Xavier halves."""
  found = theory.theory(9, (9,), 64)
  blocks = np.arange(10)
  laws = {
    "plain, He": 0 * blocks,
    "plain, Xavier": -blocks,
    "residual, He": blocks,
    "residual, pre-norm": np.log2(blocks + 1),
  }
  for name, law in laws.items():
    np.testing.assert_allclose(found["signal"][name], law, atol=1e-9)
    np.testing.assert_allclose(found["gradient"][name], law[8:9], atol=1e-9)


def params_of(name):
  scheme = networks.schemes(BLOCKS)[name]
  sizes = {"features": 5, "width": WIDTH, "blocks": BLOCKS}
  return scheme, draw(jax.random.key(0), scheme, **sizes)


@pytest.mark.parametrize("name", ["zero branch", "Fixup", "SkipInit", "ReZero"])
def test_these_start_as_the_identity(name):
  scheme, params = params_of(name)
  h = jax.random.normal(jax.random.key(1), (4, WIDTH))
  np.testing.assert_array_equal(stream(scheme, params, h), h)


def test_fixup_starts_as_published():
  """First kernels He's times blocks^(-1/2), and no output at all.

  The mean square of N normal numbers varies by √(2/N); four times that.
  """
  _, params = params_of("Fixup")
  first = params.kernels[:, 0]
  np.testing.assert_allclose(
    (first**2).mean(), 2 / WIDTH / BLOCKS, rtol=4 * math.sqrt(2 / first.size)
  )
  assert not params.readout.any()


@pytest.mark.parametrize("name", ["plain", "residual, He", "pre-norm"])
def test_blocks_are_those_of_numpy(name):
  scheme, params = params_of(name)
  x = jax.random.normal(jax.random.key(1), (4, WIDTH))
  h = np.float64(x)
  for first, second in np.float64(params.kernels):
    seen = h
    if scheme.normalized:
      seen = h - h.mean(1, keepdims=True)
      seen = seen / seen.std(1, keepdims=True)
    added = np.maximum(np.maximum(seen, 0) @ first, 0) @ second
    h = scheme.skip * h + added
  # four blocks of two sums of 16 terms, float32, of numbers up to 2^4
  np.testing.assert_allclose(
    stream(scheme, params, x), h, atol=4 * 2 * 16 * 2.0**-19
  )


def test_a_multiplier_is_learnt_only_where_it_should_be():
  """With W₂ = 0 it has no gradient yet."""
  x = jax.random.normal(jax.random.key(1), (4, WIDTH))
  slope = jax.jit(
    jax.grad(lambda params, s: (networks.stream(s, params, x) ** 2).sum())
  )
  for name in networks.schemes(BLOCKS):
    scheme, params = params_of(name)
    learns = scheme.learn_alpha and scheme.second > 0
    assert bool(jnp.any(slope(params, scheme).alpha != 0)) == learns


def test_the_best_rate_is_one_that_converged():
  loss = np.array([[[1.0, np.nan]], [[1.0, 0.7]], [[1.0, 0.9]]])
  assert training.best_rate(loss) == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"gradient_depths": (1,)}, "gradient_depths must be at least 2"),
    ({"blocks": ()}, "blocks must not be empty"),
    ({"rates": (-1.0,)}, "rates must be at least 0"),
  ],
)
def test_options_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    residual.Config(**changes)
