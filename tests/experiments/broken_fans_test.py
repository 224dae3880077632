"""Broken fans: what each layer's wrong fan costs, and that both cures work."""

import numpy as np
import pytest

from experiments._job import Job
from experiments.broken_fans import EXPERIMENT, Config, run


@pytest.fixture(scope="module")
def result():
  return run(EXPERIMENT.at_scale("smoke"), Job())


def test_flax_divides_by_fans_that_are_not_there(result):
  """Per block: three kernels for 8 heads, 1/8 each, and the convolution's 1/2.

  8 features only: each layer's second moment scatters by √(5/8) a draw at most,
  so 9 layers and 2 draws by √(9·5/8/2) = 1.7 in the logarithm, 2.4 bits.
  """
  sizes = result["log2_second_moment"]["he_normal"]
  lost = sizes[:, -2].mean()
  expected = -10.0 * result["blocks"] + 1  # the first layer is fed by no ReLU
  assert abs(lost - expected) < 3 * 2.4 + 2.4  # and drifts by as much down


def test_auto_init_keeps_the_size_but_for_chance(result):
  sizes = result["log2_second_moment"]["auto_init"][:, :-1]
  assert abs(sizes.mean()) < 3 * 2.4


def test_calibrated_it_is_one_to_rounding(result):
  (claim,) = EXPERIMENT.claims(result)
  assert claim.agrees
  np.testing.assert_allclose(
    result["log2_second_moment"]["calibrate"], 0, atol=claim.error * 2
  )


def test_it_is_shown(result, tmp_path):
  (table,) = EXPERIMENT.tables(result)
  assert table.row_count == 3
  EXPERIMENT.figure(result).savefig(tmp_path / "figure.png")


def test_heads_must_divide_the_features():
  with pytest.raises(ValueError, match="heads must divide 64; got 7"):
    Config(heads=7)
