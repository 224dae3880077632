"""The script of theory by row, on one block and few draws."""

import numpy as np
import pytest

from experiments.runtime.job import Job
from experiments.theory_rows import __main__ as theory_rows

SMALL = theory_rows.Config(draws=8, depth=1, only="Llama")


@pytest.mark.slow
def test_rows_of_a_llama_are_known_and_met():
  """Of 8 draws the standard error is itself uncertain: six of them."""
  result = theory_rows.run(SMALL, Job())
  (fields,) = result["networks"].values()
  rows = theory_rows.Rows(**fields)
  assert np.isfinite(rows.predicted).mean() > 0.75
  known = np.isfinite(rows.predicted)
  assert rows.z[known].max() < 6
  assert np.nanmedian(rows.stated) <= 0.25
  *tables, summary = theory_rows.EXPERIMENT.tables(result)
  assert (len(tables), summary.row_count) == (2, 1)


def test_kernels_have_the_fan_of_their_use():
  assert abs(theory_rows.deviation("out/kernel", (4, 8, 16)) - 32**-0.5) < 1e-9
  assert theory_rows.deviation("q/kernel", (16, 4, 8)) == 1 / 4
  assert theory_rows.deviation("q/bias", (4, 8)) == 0
  signs = theory_rows.certain("kernel", (4, 6))
  np.testing.assert_array_equal(np.square(signs), 1)
