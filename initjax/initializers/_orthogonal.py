"""Orthogonal kernels: all singular values are equal."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from initjax._checks import (
  Axes,
  axes_tuple,
  check_choice,
  check_disjoint,
  check_numbers,
  one_axis,
  positive_axes,
)
from initjax.initializers._sampling import Shape, factory, initializer
from initjax.typing import DType, Initializer

Rectangular = Literal["isometry", "variance"]


@factory
def orthogonal(
  scale: Any = 1.0,
  column_axis: int = -1,
  dtype: DType = None,
  *,
  batch_axis: Axes = (),
  rectangular: Rectangular = "isometry",
) -> Initializer:
  """W = scale·Q, with Q uniform among matrices with QᵀQ = I or QQᵀ = I.

  The kernel is read as a matrix with `out` columns (`column_axis`) and `in`
  rows (all other axes). A square matrix preserves the length of every vector.
  So does a wider one (out > in), but it spreads it over more units, and their
  variance shrinks by in/out. `rectangular="variance"` multiplies by
  max(√(out/in), 1) (scaled uniform orthogonal), which preserves the variance of
  each unit; a narrower matrix preserves it by itself, on average.

  Args:
    scale: multiplies the matrix, >= 0; a gain such as √2 for ReLU.
    column_axis: the output axis.
    dtype: the default dtype.
    batch_axis: axes of independent matrices, such as a stack of layers.
    rectangular: "isometry" (JAX's) or "variance".

  Raises:
    ValueError: for a negative scale, an unknown `rectangular`, overlapping
      axes, or (when called) fewer than two axes besides the batch.

  >>> w = orthogonal()(jax.random.key(0), (4, 4))
  >>> bool(jnp.allclose(w.T @ w, jnp.eye(4), atol=1e-6))
  True

  Reference: Saxe et al. 2014, §3; Martens et al. 2021, §5 (variance).
  """
  check_numbers("scale", scale, low=0)
  check_choice("rectangular", rectangular, ("isometry", "variance"))
  batch_axes = axes_tuple("batch_axis", batch_axis)
  column_axis = one_axis("column_axis", column_axis)
  check_disjoint(column_axis=(column_axis,), batch_axis=batch_axes)

  def layout(shape: Shape) -> tuple[int, tuple[int, ...]]:
    return _matrix_layout("orthogonal", shape, column_axis, batch_axes)

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    column, batch = layout(shape)
    rows = [i for i in range(len(shape)) if i != column and i not in batch]
    order = (*batch, *rows, column)
    arranged = tuple(shape[i] for i in order)
    batch_shape, out_size = arranged[: len(batch)], shape[column]
    in_size = math.prod(shape[i] for i in rows)
    q = jax.random.orthogonal(key, in_size, batch_shape, dtype, out_size)
    q = jnp.reshape(q, arranged)
    if list(order) != sorted(order):
      q = q.transpose(_inverse(order))
    if rectangular == "isometry":
      return jnp.array(scale, dtype) * q
    stretch = max(math.sqrt(out_size / in_size), 1.0)
    return jnp.array(scale * stretch, dtype) * q

  return initializer(sample, dtype, layout)


@factory
def delta_orthogonal(
  scale: Any = 1.0,
  column_axis: int = -1,
  dtype: DType = None,
  *,
  batch_axis: Axes = (),
  rectangular: Rectangular = "isometry",
) -> Initializer:
  """An orthogonal matrix at the centre of the window, zeros around it.

  For kernels `[*window, in, out]` of one to three window axes. With circular
  padding and stride 1 the convolution preserves the length of its input. The
  centre is (k - 1)//2, the tap that SAME padding aligns with the output. For
  in > out, which JAX refuses, the columns of the matrix are orthonormal.

  Args:
    scale: multiplies the matrix, >= 0; a gain such as √2 for ReLU.
    column_axis: which of the last two axes holds the columns: -1 or 1, -2 or 0.
    dtype: the default dtype.
    batch_axis: axes of independent kernels, before the window.
    rectangular: as in `orthogonal`.

  Raises:
    ValueError: as for `orthogonal`; when called, unless one to three window
      axes are left besides batch, in and out.

  >>> w = delta_orthogonal()(jax.random.key(0), (3, 3, 4, 4))
  >>> bool(jnp.allclose(w[1, 1].T @ w[1, 1], jnp.eye(4), atol=1e-6))
  True

  Reference: Xiao et al. 2018, §2.4, Algorithm 1.
  """
  column_axis = one_axis("column_axis", column_axis)
  if not -2 <= column_axis < 2:
    raise ValueError(
      "column_axis counts the last two axes, [in, out]: -1 or 1 for out, -2 or "
      f"0 for in; got {column_axis}."
    )
  column_axis = column_axis % 2 - 2
  batch_axes = axes_tuple("batch_axis", batch_axis)
  check_disjoint(column_axis=(column_axis,), batch_axis=batch_axes)

  def batch_of(shape: Shape) -> tuple[int, ...]:
    batch = positive_axes("batch_axis", batch_axes, shape)
    windows = len(shape) - 2 - len(batch)
    if sorted(batch) != list(range(len(batch))) or windows not in (1, 2, 3):
      raise ValueError(
        "delta_orthogonal needs a shape [*batch, *window, in, out] with one to "
        f"three window axes; got {shape} with batch_axis={batch_axis}; use "
        "orthogonal for a dense kernel."
      )
    return batch

  matrix_init = orthogonal(
    scale,
    column_axis,
    batch_axis=tuple(range(len(batch_axes))),
    rectangular=rectangular,
  )

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    batches = len(batch_of(shape))
    matrix = matrix_init(key, shape[:batches] + shape[-2:], dtype)
    centre = tuple((size - 1) // 2 for size in shape[batches:-2])
    index = (slice(None),) * batches + centre
    return jnp.zeros(shape, dtype).at[index].set(matrix)

  return initializer(sample, dtype, batch_of)


def _matrix_layout(
  name: str, shape: Shape, column_axis: int, batch_axes: tuple[int, ...]
) -> tuple[int, tuple[int, ...]]:
  """The column axis and the batch axes of `shape`, counted from the front."""
  if len(shape) < 2 + len(batch_axes):
    raise ValueError(
      f"{name} needs a shape of rank >= 2 besides its batch axes, got {shape} "
      f"with batch_axis={batch_axes}; use zeros for a bias."
    )
  (column,) = positive_axes("column_axis", (column_axis,), shape)
  batch = positive_axes("batch_axis", batch_axes, shape)
  if column in batch or len(set(batch)) < len(batch):
    raise ValueError(
      f"column_axis={column_axis} and batch_axis={batch_axes} overlap in the "
      f"shape {shape}."
    )
  return column, batch


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
  """The permutation that undoes `order`."""
  return tuple(order.index(axis) for axis in range(len(order)))
