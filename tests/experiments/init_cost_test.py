"""The script of initialization costs, on a small transformer."""

import pytest

from experiments import init_cost

SMALL = init_cost.Config(depth=2, width=8, heads=2, runs=1, side=2048)


def test_all_ways():
  numbers = init_cost.run(SMALL)
  assert set(numbers) == {"eager", "jit", "ours"}
  assert all(x > 0 for way in numbers.values() for x in way.values())
  assert numbers["ours"]["compilations"] < numbers["eager"]["compilations"]
  init_cost.print_table(numbers, SMALL)


def test_a_size_of_zero_is_refused():
  with pytest.raises(ValueError, match="depth must be at least 1"):
    init_cost.Config(depth=0)
