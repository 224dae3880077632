"""The script of passes: what it compares, on a small network."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.costs import one_pass, torch_lsuv
from experiments.runtime.job import Job

SMALL = one_pass.Config(depth=4, width=16, batch=32, runs=1)
UNIT = float(jnp.finfo(jnp.float32).eps) / 2


def test_one_pass_is_exact_and_lsuv_within_its_tolerance():
  """Rounding: 2·depth·(n + 8)·u of the second moment (64 inputs), of which the
  variance is at least a quarter where the mean is over 16 units or more.
  """
  result = one_pass.run(SMALL, Job())
  rounding = 4 * 2 * SMALL.depth * (64 + 8) * UNIT
  for name, ratios in result["columns"].items():
    exact = name.startswith("calibrate")
    assert (ratios["passes"] == 1) == exact
    bound = rounding if exact else SMALL.tolerance
    assert ratios["largest |variance - 1|"] < bound
  (table,) = one_pass.EXPERIMENT.tables(result)
  assert table.row_count == 3


def test_both_forms_are_one_network():
  params = one_pass.draw(SMALL, 5)
  x = jnp.ones((3, 5))
  written = {**params, "others": tuple(params["others"])}
  np.testing.assert_allclose(
    one_pass.scanned(params, x), one_pass.unrolled(written, x), rtol=1e-5
  )


def test_products_are_counted():
  """A written-out network has one for each layer, a loop's body counts once."""
  params = one_pass.draw(SMALL, 5)
  x = jnp.ones((3, 5))
  assert one_pass.products(one_pass.scanned, params, x) == 2
  written = {**params, "others": tuple(params["others"])}
  assert one_pass.products(one_pass.unrolled, written, x) == SMALL.depth
  twice = lambda p, x: one_pass.scanned(p, x) + one_pass.scanned(p, 2 * x)
  assert one_pass.products(twice, params, x) == 4


def test_lsuv_is_the_published_algorithm():
  """At least one pass per layer, at most `tries`; kernels stay orthogonal.

  Each layer is divided by a standard deviation, so it is a multiple of an
  orthonormal matrix.
  """
  torch = pytest.importorskip("torch", reason="an optional peer")
  model, layers = torch_lsuv.network([8, 8, 8, 8], seed=0)
  x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
  passes = torch_lsuv.lsuv(model, layers, x, tolerance=1e-3, tries=10)
  assert len(layers) <= passes <= 10 * len(layers)
  assert np.allclose(torch_lsuv.variances(model, layers, x), 1, atol=1e-3)
  for linear in layers:
    gram = (linear.weight @ linear.weight.T).detach().numpy()
    np.testing.assert_allclose(gram / gram[0, 0], np.eye(8), atol=1e-5)


def test_a_size_of_zero_is_refused():
  with pytest.raises(ValueError, match="width must be at least 1"):
    one_pass.Config(width=0)
