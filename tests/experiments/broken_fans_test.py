"""Broken fans: what each layer's wrong fan costs, and that both fixes work."""

import numpy as np

from experiments.broken_fans.__main__ import EXPERIMENT


def chance(result):
  """Layers of width 16: std of log₂ at most √(5/16) a layer, for 2 draws."""
  layers = result["log2_second_moment"]["he_normal"].shape[1] - 1
  return 3 * np.sqrt(5 / 16 * layers / 2) / np.log(2)


def test_flax_divides_by_fans_that_are_not_there(result):
  """Per block: three kernels for 8 heads, 1/8 each, and the convolution's 1/2.

  Its inputs are of unit size, so the first of all layers comes out at 2.
  """
  lost = result["log2_second_moment"]["he_normal"][:, -2].mean()
  assert abs(lost - (1 - 10 * result["blocks"])) < chance(result)


def test_auto_init_keeps_the_size_but_for_chance(result):
  sizes = result["log2_second_moment"]["auto_init"][:, -2]
  assert abs(sizes.mean()) < chance(result)


def test_calibrated_it_is_one_to_rounding(result):
  """Some 16 roundings of float32 an operation."""
  sizes = result["log2_second_moment"]["calibrate"]
  np.testing.assert_allclose(sizes, 0, atol=sizes.shape[1] * 2.0**-19)


def test_claims_know_which_fans_were_read():
  """Of 4 models that differ by a bit: 2 blocks of 8 heads lose 20 bits."""
  kept = np.zeros((4, 10)) + np.arange(4)[:, None] / 4
  lost = kept - np.linspace(0, 20, 9).repeat([1] * 8 + [2])
  found = {"he_normal": lost, "auto_init": kept}
  result = {"blocks": 2, "width": 64, "heads": 8, "log2_second_moment": found}
  assert all(claim.agrees for claim in EXPERIMENT.claims(result))
  found["auto_init"], found["he_normal"] = lost, kept
  assert not any(claim.agrees for claim in EXPERIMENT.claims(result))


def test_every_way_is_shown(result):
  (table,) = EXPERIMENT.tables(result)
  assert table.row_count == 3
  EXPERIMENT.figure(result).canvas.draw()
