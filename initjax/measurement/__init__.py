"""Measuring signals inside any JAX model.

>>> import jax.numpy as jnp
>>> report = measure(jnp.dot, jnp.ones((3, 8)), jnp.ones((8, 2)))
>>> report.to_records()[0]["fan_in"]
8
"""

from initjax.measurement._duplicates import find_duplicates as find_duplicates
from initjax.measurement._jacobian import JacobianSpectrum, jacobian_spectrum
from initjax.measurement._leaves import KernelLeaf as KernelLeaf
from initjax.measurement._leaves import Leaves as Leaves
from initjax.measurement._leaves import arrays_of as arrays_of
from initjax.measurement._leaves import check_arrays as check_arrays
from initjax.measurement._leaves import is_random as is_random
from initjax.measurement._leaves import kernel_leaves as kernel_leaves
from initjax.measurement._leaves import kernel_variance as kernel_variance
from initjax.measurement._leaves import mean_square as mean_square
from initjax.measurement._leaves import mean_square_at as mean_square_at
from initjax.measurement._measure import Measured, measure, measure_and_grad
from initjax.measurement._report import SignalReport
from initjax.measurement._row_statistics import RowStatistics as RowStatistics
from initjax.measurement._row_statistics import row_statistics as row_statistics

__all__ = [
  "JacobianSpectrum",
  "Measured",
  "SignalReport",
  "jacobian_spectrum",
  "measure",
  "measure_and_grad",
]
