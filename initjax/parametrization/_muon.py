"""Muon: which shape-dependent factor it applies itself, and its dimensions.

Updates are orthogonal, so their singular values are 1 at any width; they should
grow as √(r_out/r_in). optax multiplies them by √max(1, fan_out/fan_in), or by
√max(fan_in, fan_out) if `consistent_rms` is given. The growth of this factor is
divided out. A test of the optimizer itself shows which of the two it uses.

Reference: Bernstein & Newhouse 2024, "Modular duality"; Jordan et al. 2024.
"""

import math
from typing import Any, Literal

import numpy as np

from initjax.parametrization._scaling import Scaling, Steps

Law = Literal["none", "out/in", "in/out", "larger"]
LONG = 16
"""Of a small kernel's longer side; the other has 2."""


def law_of(square: float, tall: float, wide: float) -> Law:
  """From singular values of updates of 2 × 2, 16 × 2 and 2 × 16 kernels.

  A factor is 1 or √8; Newton–Schulz gives singular values of 0.7 to 1.2.
  """
  grows = tall > 1.8 * square, wide > 1.8 * square
  laws: dict[tuple[bool, bool], Law] = {
    (False, True): "out/in", (True, False): "in/out", (True, True): "larger"
  }  # fmt: skip
  return laws.get(grows, "none")


def matrix_axes(row: Scaling) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Axes that are summed, and those of features: as used, or the last two."""
  if row.in_axes and row.out_axes:
    return row.in_axes, row.out_axes
  rank = len(row.shape)
  return (rank - 2,), (rank - 1,)


def muon_steps(row: Scaling, law: Law) -> Steps:
  """What Muon is given of one leaf, and what its updates become."""
  c = row.absorbed
  rate = row.muon * c
  if len(row.shape) > 1:
    rate = rate / (
      _factor(row, row.shape, law) / _factor(row, row.base_shape, law)
    )
  return Steps(c, rate, rate, row.shift)


def _factor(row: Scaling, shape: tuple[int, ...], law: Law) -> float:
  """That optax multiplies updates by."""
  fan_in, fan_out = (
    math.prod(shape[axis] for axis in axes) for axes in matrix_axes(row)
  )
  match law:
    case "out/in":
      return math.sqrt(max(1.0, fan_out / fan_in))
    case "in/out":
      return math.sqrt(max(1.0, fan_in / fan_out))
    case "larger":
      return math.sqrt(max(fan_in, fan_out))
  return 1.0


def small_shape(row: Scaling, sizes: tuple[int, int]) -> tuple[int, ...]:
  """A small kernel of so many inputs and outputs, alone in its stack."""
  found = [1] * len(row.shape)
  for axes, size in zip(matrix_axes(row), sizes, strict=True):
    found[axes[0]] = size
  return tuple(found)


def singular_values(row: Scaling, update: np.ndarray) -> np.ndarray:
  """Of the update of such a kernel, the largest first."""
  (first, *_), (last, *_) = matrix_axes(row)
  matrix = np.moveaxis(update, (first, last), (0, 1))
  return np.linalg.svd(matrix.reshape(*matrix.shape[:2]), compute_uv=False)


def is_orthogonal(row: Scaling, update: np.ndarray) -> bool:
  """Whether singular values are alike.

  Of positive gradients: their signs alone have rank 1.
  """
  values = singular_values(row, update)
  return bool(values[-1] > 0.4 * values[0])


def dimension_numbers(row: Scaling) -> Any:
  """Of optax, for kernels that Muon is made for; None for all others."""
  from optax.contrib import MuonDimensionNumbers

  if row.role != "hidden" or not row.in_axes or not row.out_axes:
    return None
  return MuonDimensionNumbers(row.in_axes, row.out_axes)
