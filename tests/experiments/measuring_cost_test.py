"""The script of ratios: what it compares, on a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.costs import measuring_cost, torch_hooks
from experiments.runtime.job import Job

SMALL = measuring_cost.Config(depth=3, width=8, batch=4, runs=1, graph_depth=3)


def test_ratios_of_both_forms():
  result = measuring_cost.run(SMALL, Job())
  ratios = result["columns"]
  assert set(ratios) == {"scan", "unrolled"}
  assert all(x > 0 for form in ratios.values() for x in form.values())
  assert "signal_graph / make_jaxpr" in ratios["unrolled"]
  (table,) = measuring_cost.EXPERIMENT.tables(result)
  assert table.row_count == len(ratios["unrolled"])


def test_both_forms_are_one_network():
  kernels = jax.random.normal(jax.random.key(0), (3, 8, 8))
  x = jnp.ones((4, 8))
  np.testing.assert_allclose(
    measuring_cost.scanned(kernels, x),
    measuring_cost.unrolled(tuple(kernels), x),
    rtol=1e-5,
  )


def test_torch_hooks_see_what_measure_sees():
  torch = pytest.importorskip("torch", reason="an optional peer")
  x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
  found = torch_hooks._statistics(torch.tensor(x))
  expected = (x.mean(), np.log2((x**2).mean()), abs(x).max(), 0, 0)
  np.testing.assert_allclose(
    [float(one) for one in found], expected, rtol=1e-5, atol=1e-6
  )


def test_a_size_of_zero_is_refused():
  with pytest.raises(ValueError, match="width must be at least 1"):
    measuring_cost.Config(width=0)
