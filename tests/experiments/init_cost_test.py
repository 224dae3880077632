"""The script of initialization costs, on a small transformer."""

import pytest

from experiments import init_cost
from experiments._job import Job

SMALL = init_cost.Config(depth=2, width=8, heads=2, runs=1, side=2048)


def test_all_ways():
  result = init_cost.run(SMALL, Job())
  numbers = result["columns"]
  assert set(numbers) == {"eager", "jit", "ours"}
  assert all(x > 0 for way in numbers.values() for x in way.values())
  assert numbers["ours"]["compilations"] < numbers["eager"]["compilations"]
  (table,) = init_cost.EXPERIMENT.tables(result)
  assert [column.header for column in table.columns][1:] == list(numbers)


def test_a_size_of_zero_is_refused():
  with pytest.raises(ValueError, match="depth must be at least 1"):
    init_cost.Config(depth=0)
