"""Measuring signals inside any JAX model.

>>> import jax.numpy as jnp
>>> report = measure(jnp.dot, jnp.ones((3, 8)), jnp.ones((8, 2)))
>>> report.to_records()[0]["fan_in"]
8
"""

from initjax.measurement._cotangent import gradient_of
from initjax.measurement._duplicates import Duplicates, find_duplicates
from initjax.measurement._jacobian import JacobianSpectrum, jacobian_spectrum
from initjax.measurement._lanczos import largest_eigenvalue
from initjax.measurement._leaves import (
  KernelLeaf,
  Known,
  Leaves,
  arrays_of,
  check_arrays,
  is_random,
  kernel_leaves,
  kernel_variance,
  known_of,
  leaves_of,
  matrices,
  mean_square_at,
  shared_by_positions,
)
from initjax.measurement._measure import (
  Measured,
  measure,
  measure_and_grad,
  measure_detail,
  measure_traced,
)
from initjax.measurement._reductions import (
  Array,
  has_equal_rows,
  in_double,
  is_finite,
  is_zero,
  mean_and_std,
  mean_square,
)
from initjax.measurement._report import SignalReport
from initjax.measurement._row_statistics import RowStatistics, row_statistics
from initjax.measurement._sizes import correlation, log2_second_moment
from initjax.measurement._slices import EqualSlices, find_equal_slices

__all__ = [
  "JacobianSpectrum",
  "Leaves",
  "Measured",
  "SignalReport",
  "correlation",
  "jacobian_spectrum",
  "largest_eigenvalue",
  "log2_second_moment",
  "measure",
  "measure_and_grad",
]
