"""Copies are found, also by a factor; what chance or a rule makes is not."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from drawn_by_numpy import normal
from scipy.special import ndtri

from initjax.measurement import find_duplicates, find_equal_slices

ONE, TWO = normal(1, 2, 64, 64)


def test_equal_leaves_and_leaves_equal_up_to_a_factor():
  leaves = {"a": ONE, "b": -ONE, "c": TWO, "d": ONE.copy(), "e": 1e-30 * ONE}
  (found,) = find_duplicates(leaves)
  assert found.paths == ("a", "b", "d", "e")
  assert found.equal == ("d",)
  assert found.scaled == ("b", "e")


def test_groups_stand_in_the_order_of_the_leaves():
  found = find_duplicates(
    {"v": TWO[0], "a": ONE, "w": -TWO[0], "b": 2 * ONE, "x": ONE[1]}
  )
  assert [group.paths for group in found] == [("v", "w"), ("a", "b")]


def test_one_key_for_other_shapes_scales_and_laws():
  """The first uniform numbers of a key are the same whatever is made of them.

  Of 700,000 pairs of independent leaves none has such ranks, also where they
  have 16 entries each.
  """
  uniform = np.random.default_rng(3).random(64 * 64)
  shapes = {"normal": (64, 64), "cubic": (3, 3, 7, 9), "bias": (16,)}
  laws = {"normal": ndtri, "cubic": lambda u: (u - 0.5) ** 3, "bias": np.log}
  leaves = {
    name: laws[name](uniform[: math.prod(shape)]).reshape(shape)
    for name, shape in shapes.items()
  }
  found = find_duplicates({"other": TWO, **leaves})
  assert [each.paths for each in found] == [tuple(shapes)]
  assert found[0].correlated == ("cubic", "bias")
  assert found[0].correlation > 0.999
  leaves = dict(enumerate(normal(4, 600, 8, 32))) | {"a": normal(5, 16)}
  few = dict(enumerate(normal(6, 600, 16), 600))
  assert (
    find_duplicates({str(k): x for k, x in {**leaves, **few}.items()}) == []
  )


def test_a_draw_that_was_trained_a_little_is_still_found():
  leaves = {"a": ONE, "b": ONE[:32] + 0.5 * TWO[:32]}
  (found,) = find_duplicates(leaves)
  assert abs(found.correlation - 1 / np.hypot(1, 0.5)) < 4 / 16  # 4σ of 256


def test_what_is_made_by_a_rule_is_in_every_layer():
  ramp = np.log(np.arange(1, 257, dtype=np.float32))
  wave = np.sin(np.arange(4096.0) / 9).reshape(64, 64)
  tiled = np.tile(np.log(np.arange(1.0, 17)), (64, 1))
  given = {"a": ramp, "b": ramp, "c": wave, "d": wave, "e": tiled, "f": tiled}
  assert find_duplicates(given) == []
  assert list(find_equal_slices(given)) == []


SLICES = normal(7, 4, 6, 8, 5)


@pytest.mark.parametrize("axis", range(4))
def test_equal_slices_are_found_along_every_axis(axis):
  leaf = SLICES.copy()
  moved = np.moveaxis(leaf, axis, 0)
  moved[3] = moved[1]
  count = leaf.shape[axis]
  assert list(find_equal_slices({"sick": leaf, "well": SLICES})) == [
    ("sick", axis, count, count - 1)
  ]


def test_slices_that_differ_in_one_entry_and_those_of_zeros():
  leaf = np.repeat(normal(8, 1, 32, 32), 4, axis=0)
  leaf[:, 7, 7] = range(4)  # not among the 64 that are looked at first
  zeros = normal(9, 64, 32)
  zeros[[3, 5, 9]] = 0  # padding
  assert list(find_equal_slices({"leaf": leaf, "zeros": zeros})) == []


@pytest.mark.parametrize("dtype", [np.float32, jnp.float8_e4m3])
def test_coarse_numbers_are_equal_by_chance(dtype):
  """4096 members of four entries: in 8 bits some agree, in 32 none do."""
  leaf = normal(10, 4096, 4).astype(dtype)
  assert not list(find_equal_slices({"leaf": leaf}))
  leaf[1000:2000] = leaf[:1000]
  assert len(list(find_equal_slices({"leaf": leaf}))) == (dtype == np.float32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3])
def test_copies_of_two_scales_in_few_bits(dtype):
  cast = lambda x: np.asarray(jnp.asarray(x, dtype))
  leaves = {"a": cast(ONE), "b": cast(-0.3 * ONE), "c": cast(TWO)}
  assert [f.paths for f in find_duplicates(leaves)] == [("a", "b")]


def test_a_copy_in_other_bits_is_one_up_to_rounding():
  leaves = {"a": ONE, "b": np.asarray(jnp.asarray(ONE, jnp.bfloat16))}
  assert find_duplicates(leaves)[0].scaled == ("b",)


@pytest.mark.parametrize(
  "make",
  [
    lambda seed: np.full((8, 8), 1.0 + seed, np.float32),
    lambda seed: (1 + seed) * np.eye(8, dtype=np.float32),
    lambda seed: 1 + 1e-3 * normal(seed, 64),  # scales after some training
    lambda seed: np.asarray(
      jnp.asarray(1 + 0.05 * normal(seed, 64), "bfloat16")
    ),
    lambda seed: normal(seed, 2),
    lambda seed: (1 + seed) * np.array([1.0, 0.5, -1.0]),
    lambda seed: np.asarray(jnp.asarray(normal(seed, 4), jnp.bfloat16)),
    lambda seed: np.full(64, np.nan, np.float32),
  ],
)
def test_no_false_alarm(make):
  assert find_duplicates({str(seed): make(seed) for seed in range(200)}) == []


def test_complex_leaves_may_differ_by_a_phase():
  z = ONE + 1j * TWO
  (found,) = find_duplicates({"a": z, "b": np.exp(1j).astype(z.dtype) * z})
  assert found.scaled == ("b",)
