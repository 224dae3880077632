"""Drawing kernels: noise as the operand sees it, put back into the leaf."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import key_of
from initjax.graph import LinearOp, View
from initjax.initializers import initializer, variance_scaling
from initjax.model_init._assign import Given, Kernel

Distribution = Literal["truncated_normal", "normal", "uniform", "orthogonal"]
DISTRIBUTIONS = ("truncated_normal", "normal", "uniform", "orthogonal")


class Draw(NamedTuple):
  """A kernel of a leaf, to be drawn."""

  op: LinearOp
  """that decides"""
  kernel: Kernel
  given: Given
  part: str
  """of the leaf; "" for the whole"""

  def is_matrix(self, distribution: str) -> bool:
    """Whether it is drawn as orthogonal matrices, if those are asked for.

    Rows of an embedding are looked up one by one, not summed.
    """
    known = self.kernel.view is not None and self.op.kind != "embedding"
    return distribution == "orthogonal" and known


def drawn_leaf(
  key: jax.Array,
  path: str,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  draws: Sequence[Draw],
  distribution: Distribution,
  start: Any = None,
) -> jax.Array:
  """A leaf with all its kernels drawn; where they overlap, the first wins.

  Args:
    key: of all leaves.
    path: of the leaf.
    shapes: of all leaves, with their dtypes.
    draws: the kernels of the leaf.
    distribution: of the entries.
    start: its entries where no kernel is; zeros by default.
  """
  leaf = shapes[path]
  blank = jnp.zeros(leaf.shape, leaf.dtype) if start is None else start
  result = jnp.asarray(blank, leaf.dtype)
  for draw in reversed(draws):
    own, view = key_of(key, path, draw.part), draw.kernel.view
    if view is None:
      variance = draw.given.at(())
      return _entries(own, leaf.shape, leaf.dtype, variance, distribution)
    operand = _operand(own, leaf.dtype, draw, view, distribution)
    if _is_bijection(view, operand.size, math.prod(leaf.shape)):
      return _undone(view, path, leaf, operand)
    result = _placed(view, path, result, operand)
  return jnp.asarray(result)


def _is_bijection(view: View, size: int, entries: int) -> bool:
  return not view.part and len(view.paths) == 1 and size == entries


def _operand(
  key: jax.Array,
  dtype: Any,
  draw: Draw,
  view: View,
  distribution: Distribution,
) -> jax.Array:
  """The operand of all repeats [*repeats of the view, *operand]."""
  op, given = draw.op, draw.given
  repeats = tuple(scan.length for scan in view.scans)
  shape = (*repeats, *op.kernel_shape)
  variance = np.array([given.at(at) for at in np.ndindex(*repeats)])
  variance = variance.reshape(*repeats, *(1 for _ in op.kernel_shape))
  if draw.is_matrix(distribution):
    return _orthogonal(key, shape, dtype, variance, op)
  return _entries(key, shape, dtype, variance, distribution)


def _entries(
  key: jax.Array,
  shape: tuple[int, ...],
  dtype: Any,
  variance: Any,
  distribution: Distribution,
) -> jax.Array:
  """Independent entries."""
  name = "normal" if distribution == "orthogonal" else distribution
  return _noise(key, np.sqrt(variance), tuple(shape), jnp.dtype(dtype), name)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _noise(
  key: jax.Array, std: Any, shape: tuple[int, ...], dtype: Any, name: Any
) -> jax.Array:
  """Compiled once for each shape and dtype, whatever the variance."""
  every = tuple(range(len(shape)))
  unit = variance_scaling(1.0, "fan_in", name, (), (), every)

  def sample(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return unit(key, shape, dtype) * _as(std, dtype)

  return initializer(sample)(key, shape, dtype)


def _as(number: Any, dtype: Any) -> jax.Array:
  return jnp.asarray(number, jnp.finfo(dtype).dtype)


def _orthogonal(
  key: jax.Array,
  shape: tuple[int, ...],
  dtype: Any,
  variance: np.ndarray,
  op: LinearOp,
) -> jax.Array:
  """Matrices with orthonormal rows or columns, whichever are fewer, scaled.

  An entry of Q, of `rows` × `columns`, has variance 1/max(rows, columns).
  """
  layout = _layout(shape, len(shape) - len(op.kernel_shape), op)
  larger = max(layout.size(layout.rows), layout.size(layout.columns))
  scale = np.sqrt(variance * larger)
  return _matrices(key, scale, shape, jnp.dtype(dtype), layout)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _matrices(
  key: jax.Array,
  scale: Any,
  shape: tuple[int, ...],
  dtype: Any,
  layout: "Layout",
) -> jax.Array:
  order = (*layout.batch, *layout.rows, *layout.columns)
  arranged = tuple(layout.shape[axis] for axis in order)

  def sample(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    leading = arranged[: len(layout.batch)]
    sizes = layout.size(layout.rows), layout.size(layout.columns)
    q = jax.random.orthogonal(key, sizes[0], leading, dtype, sizes[1])
    q = q.reshape(arranged).transpose(np.argsort(order)).reshape(shape)
    return q * _as(scale, dtype)

  return initializer(sample)(key, shape, dtype)


class Layout(NamedTuple):
  """An operand as matrices: its axes, groups split off, in this order."""

  shape: tuple[int, ...]
  batch: tuple[int, ...]
  rows: tuple[int, ...]
  columns: tuple[int, ...]

  def size(self, axes: tuple[int, ...]) -> int:
    """Entries along some axes."""
    return math.prod(self.shape[axis] for axis in axes)


def _layout(shape: tuple[int, ...], lead: int, op: LinearOp) -> Layout:
  """Groups of a convolution share no matrix: its features hold them in turn."""
  rows = [lead + axis for axis in op.axes.summed]
  columns = [lead + axis for axis in op.axes.free]
  if op.groups > 1:
    (column,) = columns
    features = shape[column] // op.groups
    shape = (*shape[:column], op.groups, features, *shape[column + 1 :])
    rows = [axis + (axis > column) for axis in rows]
    columns = [column + 1]
  used = {*rows, *columns}
  batch = tuple(axis for axis in range(len(shape)) if axis not in used)
  return Layout(shape, batch, tuple(rows), tuple(columns))


def _undone(
  view: View, path: str, leaf: jax.ShapeDtypeStruct, operand: jax.Array
) -> jax.Array:
  """The leaf of which this is the operand."""
  undo = jax.linear_transpose(lambda entries: view.apply({path: entries}), leaf)
  (result,) = undo(operand)
  return jnp.asarray(result)


def _placed(
  view: View, path: str, leaf: jax.Array, operand: jax.Array
) -> jax.Array:
  """The leaf with those entries replaced that the operand sees."""
  beyond = leaf.size  # what comes from other leaves, and zeros
  indices: dict[str, jax.Array] = {
    each: jnp.full(shape, beyond, jnp.int32)
    for each, shape in view.leaves.items()
  }
  indices[path] = jnp.arange(leaf.size, dtype=jnp.int32).reshape(leaf.shape)
  places = jnp.ravel(view.apply(indices, fill=beyond))
  flat = leaf.ravel().at[places].set(operand.ravel(), mode="drop")
  return flat.reshape(leaf.shape)
