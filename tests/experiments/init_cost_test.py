"""The script of initialization costs, on a small transformer."""

import pytest

import initjax
from experiments.costs import init_cost
from experiments.runtime.job import Job

SMALL = init_cost.EXPERIMENT.at_scale("smoke")


def test_all_ways():
  result = init_cost.run(SMALL, Job())
  numbers = result["columns"]
  assert set(numbers) == {"eager", "jit", "ours"}
  assert all(x > 0 for way in numbers.values() for x in way.values())
  assert numbers["ours"]["compilations"] < numbers["eager"]["compilations"]
  tables = init_cost.EXPERIMENT.tables(result)
  for table, part in zip(tables, (result, result["draws"]), strict=True):
    headers = [column.header for column in table.columns]
    assert headers == ["", *part["columns"]]


def test_every_initializer_that_jax_has_is_drawn(monkeypatch):
  """Ours takes 19 µs and JAX's 18; but `normal` 30, and `ones` 16 for 12."""
  names = init_cost.shared_names()
  assert {"he_normal", "xavier_uniform", "delta_orthogonal", "zeros"} < {*names}
  assert not {"dirac", "Initializer"} & {*names}
  special = {"normal": (30e-6, 18e-6), "ones": (16e-6, 12e-6)}

  def seconds(module, name):
    ours, other = special.get(name, (19e-6, 18e-6))
    is_ours = module is initjax.initializers
    return lambda: 10 * (ours if is_ours else other)  # of ten draws

  monkeypatch.setattr(init_cost, "_draws", seconds)
  found = init_cost.draw_costs(rounds=3, draws=2)
  assert found["note"] == "more than 1.1 times and 5 µs more: normal"
  for column, expected in (
    ("ours", 30), ("JAX", 18), ("ours / JAX", 5 / 3), ("ours - JAX", 12),
  ):  # fmt: skip
    assert list(found["columns"][column]) == names
    assert found["columns"][column]["normal"] == pytest.approx(expected)


def test_a_size_of_zero_is_refused():
  with pytest.raises(ValueError, match="depth must be at least 1"):
    init_cost.Config(depth=0)
