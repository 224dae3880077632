"""Copies are found, also by a factor; what chance or a rule makes is not."""

import jax.numpy as jnp
import numpy as np
import pytest
from drawn_by_numpy import normal

from initjax.measurement import find_duplicates

ONE, TWO = normal(1, 2, 64, 64)


def test_equal_leaves_and_leaves_equal_up_to_a_factor():
  leaves = {"a": ONE, "b": -ONE, "c": TWO, "d": ONE.copy(), "e": 1e-30 * ONE}
  (found,) = find_duplicates(leaves)
  assert found.paths == ("a", "b", "d", "e")
  assert found.equal == ("d",)
  assert found.scaled == ("b", "e")


def test_groups_stand_in_the_order_of_the_leaves():
  found = find_duplicates(
    {"v": ONE[0], "a": ONE, "w": -ONE[0], "b": 2 * ONE, "x": TWO[0]}
  )
  assert [group.paths for group in found] == [("v", "w"), ("a", "b")]


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
