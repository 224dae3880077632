"""Draws kernels as their operations see them, and puts them into leaves."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import key_of
from initjax._sharding import unsplit
from initjax.graph import LinearOp, View
from initjax.initializers import initializer, variance_scaling
from initjax.model_init._assign import Given
from initjax.typing import DType, Numbers

Noise = Literal["truncated_normal", "normal", "uniform"]
Distribution = Noise | Literal["orthogonal"]
Shape = tuple[int, ...]
DISTRIBUTIONS = ("truncated_normal", "normal", "uniform", "orthogonal")


class Draw(NamedTuple):
  """A kernel of a leaf, to be drawn."""

  op: LinearOp
  """that decides"""
  view: View | None
  """of that operation's kernel; None if it is more than a view"""
  given: Given
  part: str
  """of the leaf; "" for the whole"""


def has_matrices(op: LinearOp, view: View | None) -> bool:
  """Whether a kernel may be drawn as orthogonal matrices.

  Rows of an embedding are looked up one by one, not summed.
  """
  return view is not None and op.kind != "embedding" and bool(_sides(op, view))


def _sides(op: LinearOp, view: View) -> tuple[Shape, Shape] | None:
  """Axes of a view that are summed and that become features; None if lost.

  Data may choose the kernel from a larger view.
  """
  if view == op.view:
    return op.axes.summed, op.axes.free
  if None in (view.axes, op.in_axes, op.out_axes) or op.groups > 1:
    return None
  rows, columns = (
    tuple(
      place
      for place, held in enumerate(view.axes or ())
      if held and {*held} <= {*(axes or ())}
    )
    for axes in (op.in_axes, op.out_axes)
  )
  return (rows, columns) if rows and columns else None


def drawn_leaf(
  key: jax.Array,
  path: str,
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  draws: Sequence[Draw],
  distribution: Distribution,
  start: jax.Array | np.ndarray | None = None,
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
    own, view = key_of(key, path, draw.part), draw.view
    if view is None:
      variance = draw.given.at(())
      return _noise(own, leaf.shape, leaf.dtype, variance, distribution)
    operand = _operand(own, leaf.dtype, draw, view, distribution)
    every_entry = not view.part and operand.size == math.prod(leaf.shape)
    if every_entry and len(view.paths) == 1:
      return _undone(view, path, leaf, operand)
    result = _placed(view, path, result, operand)
  return jnp.asarray(result)


def _operand(
  key: jax.Array,
  dtype: DType,
  draw: Draw,
  view: View,
  distribution: Distribution,
) -> jax.Array:
  """The operand of all repeats [*repeats of the view, *operand]."""
  op, given = draw.op, draw.given
  repeats = tuple(scan.length for scan in view.scans)
  shape = (*repeats, *view.shape)
  variance = np.array([given.at(at) for at in np.ndindex(*repeats)])
  variance = variance.reshape(*repeats, *(1 for _ in view.shape))
  if distribution != "orthogonal" or not has_matrices(op, view):
    return _noise(key, shape, dtype, variance, distribution)
  layout = _layout(shape, len(repeats), op, view)
  # An entry of Q, of rows × columns, has variance 1/max(rows, columns).
  larger = max(layout.size(layout.rows), layout.size(layout.columns))
  scale = np.sqrt(variance * larger)
  return _with_deviation(key, scale, shape, jnp.dtype(dtype), layout)


def _noise(
  key: jax.Array,
  shape: Shape,
  dtype: DType,
  variance: Numbers,
  distribution: Distribution,
) -> jax.Array:
  """Independent entries."""
  name: Noise = "normal" if distribution == "orthogonal" else distribution
  return _with_deviation(
    key, np.sqrt(variance), tuple(shape), jnp.dtype(dtype), name
  )


class Layout(NamedTuple):
  """An operand as matrices: its axes, groups split off, in this order."""

  shape: Shape
  batch: Shape
  rows: Shape
  columns: Shape

  def size(self, axes: Shape) -> int:
    """Entries along some axes."""
    return math.prod(self.shape[axis] for axis in axes)

  def draw(self, key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    """Orthonormal rows or columns, whichever are fewer."""
    order = (*self.batch, *self.rows, *self.columns)
    sizes = tuple(self.shape[axis] for axis in order)
    leading, rows = sizes[: len(self.batch)], self.size(self.rows)
    columns = self.size(self.columns)
    q = jax.random.orthogonal(key, rows, leading, dtype, columns)
    return q.reshape(sizes).transpose(np.argsort(order)).reshape(shape)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _with_deviation(
  key: jax.Array, std: Numbers, shape: Shape, dtype: DType, unit: Noise | Layout
) -> jax.Array:
  """Compiled once for each shape and dtype, whatever the variance."""
  every = tuple(range(len(shape)))
  draw = (
    unit.draw
    if isinstance(unit, Layout)
    else variance_scaling(1.0, "fan_in", unit, (), (), every)
  )

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    scale = jnp.asarray(std, jnp.finfo(dtype).dtype)
    return draw(key, shape, dtype) * scale

  return initializer(sample)(key, shape, dtype)


def _layout(shape: Shape, lead: int, op: LinearOp, view: View) -> Layout:
  """Groups of a convolution share no matrix: its features hold them in turn."""
  summed, free = _sides(op, view) or ((), ())
  rows = [lead + axis for axis in summed]
  columns = [lead + axis for axis in free]
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
  # It holds every entry once: a permutation, whose transpose is its inverse.
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
  flat = unsplit(leaf).ravel().at[places].set(operand.ravel(), mode="drop")
  return flat.reshape(leaf.shape)
