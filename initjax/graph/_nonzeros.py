"""Counts the entries of a signal that can be nonzero, as in one-hot rows.

A row of ids compared with constants has one such entry, a bag of rows one for
each look-up; joined signals each keep their own. Products with kernels have
exactly that many terms.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax.graph._factors import values_of
from initjax.graph._moves import Shape, axes_after, size_of
from initjax.graph._primitives import (
  ELEMENTWISE,
  JOINS,
  KEEPS_ZERO,
  LAYOUT,
  REDUCTIONS,
  UNIONS,
)
from initjax.graph._recovered import dropout
from initjax.graph._values import CONSTANT, Node, Value

_FOLDS = REDUCTIONS | {"reduce_and", "reduce_or"}
_FOLLOWED = (
  KEEPS_ZERO
  | UNIONS
  | _FOLDS
  | LAYOUT
  | JOINS
  | {"data product", "gather", "pad", "select_n"}
)


class NonZeros(NamedTuple):
  """Entries along some axes, of any one place along the others."""

  number: float
  """at most so many are not 0"""
  value: float | None = None
  """what these are; None if they differ, or if that is not known"""


def has_zeros(label: str, operands: Sequence[Value]) -> bool:
  """Whether it is worth counting, in what comes out of an equation."""
  first = operands[0] if operands else CONSTANT
  if label == "eq":
    return True
  if label in ("gather", "scatter", "scatter-add") and first.kind == "constant":
    return first.array is None or _has_few(first.array)
  if label not in _FOLLOWED:
    return False
  dense = label in UNIONS
  for value in operands:
    if value.node is not None and value.node.has_zeros != dense:
      return not dense
  return dense and any(value.node is not None for value in operands)


def nonzeros(
  value: Value, shape: Shape, axes: Collection[int], own: bool = False
) -> NonZeros:
  """Of an array of this shape, along these axes.

  Args:
    value: the array.
    shape: its own.
    axes: along which entries are counted.
    own: whether single numbers have a value, too, as factors do.
  """
  every = math.prod(shape[axis] for axis in axes)
  if value.scalar is not None:
    size = size_of(value.scalar)
    return NonZeros(every if size else 0, size if own else None)
  found = _counted(value, shape, frozenset(axes))
  if found is None or (found.number >= every and every != 1):
    return NonZeros(every)
  return found


def _counted(
  value: Value, shape: Shape, axes: frozenset[int]
) -> NonZeros | None:
  """The same; None if nothing is known."""
  if value.array is not None:
    return _in_array(value.array, axes)
  node = value.node or value.made
  if node is None or (value.node is not None and not node.has_zeros):
    return None
  if node.equation is None:  # what one repeat of a scan sees
    below = frozenset(axis + 1 for axis in axes)
    known = node.label == "slice"
    return nonzeros(node.operands[0], (1, *shape), below) if known else None
  rule = _RULES.get(node.label)
  return None if rule is None else rule(node, axes)


def _in_array(array: Any, axes: frozenset[int]) -> NonZeros | None:
  entries = values_of(array)
  if entries is None:
    return None
  count = np.max(np.count_nonzero(entries, axis=tuple(axes)), initial=0)
  first = entries.flat[np.argmax(entries != 0)]
  alike = np.all((entries == first) | (entries == 0))
  return NonZeros(int(count), size_of(first) if alike else None)


def _has_few(array: Any) -> bool:
  entries = values_of(array)
  if entries is None:
    return False
  return bool(2 * np.count_nonzero(entries) < entries.size)


def _shapes(node: Node) -> list[Shape]:
  return [tuple(atom.aval.shape) for atom in node.equation.invars]


def _each(node: Node, axes: frozenset[int]) -> list[NonZeros]:
  """Of all operands, which may be repeated along axes of size 1."""
  found, whole = [], node.shape
  for value, shape in zip(node.operands, _shapes(node), strict=False):
    if not shape:
      shape = (1,) * len(whole)
    repeated = [a for a in axes if shape[a] < whole[a]]
    one = nonzeros(value, shape, axes, own=True)
    times = math.prod(whole[axis] for axis in repeated)
    found.append(one._replace(number=one.number * times))
  return found


def _compared(node: Node, axes: frozenset[int]) -> NonZeros | None:
  """Ids that are the same along an axis, and constants that differ there.

  That these differ from one another is taken for granted.
  """
  shape = node.shape
  pairs = list(zip(node.operands, _shapes(node), strict=True))
  for ids, others in (pairs, pairs[::-1]):
    along = [
      axis
      for axis in axes
      if others[0].kind == "constant"
      and _is_repeated(*ids, axis)
      and not _is_repeated(*others, axis)
    ]
    if along:
      longest = max(shape[axis] for axis in along)
      return NonZeros(math.prod(shape[a] for a in axes) // longest, 1.0)
  return None


def _is_repeated(value: Value, shape: Shape, axis: int) -> bool:
  """Whether entries are the same along an axis."""
  if value.scalar is not None or not shape or shape[axis] == 1:
    return True
  node = value.node or value.made
  if node is None or node.operation is not None:
    return False
  if node.equation is None:
    known = node.label == "slice"
    return known and _is_repeated(node.operands[0], (1, *shape), axis + 1)
  if node.label == "iota":
    return axis != node.equation.params["dimension"]
  if node.label in LAYOUT:
    held = _held(node)[axis]
    below = node.operands[0], _shapes(node)[0]
    return all(_is_repeated(*below, own) for own in held)
  pairs = zip(node.operands, _shapes(node), strict=False)
  return node.label in ELEMENTWISE and all(
    _is_repeated(*pair, axis) for pair in pairs
  )


def _held(node: Node) -> tuple[tuple[int, ...], ...]:
  """Which axes of what is below the axes of a moved array hold."""
  own = tuple((axis,) for axis in range(len(_shapes(node)[0])))
  return axes_after(node.equation, own, node.output) or ((),) * len(node.shape)


def _moved(node: Node, axes: frozenset[int]) -> NonZeros:
  held, shape, before = _held(node), node.shape, _shapes(node)[0]
  below = {own for axis in axes for own in held[axis]}
  found = nonzeros(node.operands[0], before, below, own=True)
  repeats = [a for a in axes if all(before[own] == 1 for own in held[a])]
  count = found.number * math.prod(shape[axis] for axis in repeats)
  return found._replace(number=count)


def _multiplied(node: Node, axes: frozenset[int]) -> NonZeros | None:
  each = _each(node, axes)
  values = [one.value for one in each]
  product = None if None in values else math.prod(values)  # type: ignore
  return NonZeros(min(one.number for one in each), product)


def _divided(node: Node, axes: frozenset[int]) -> NonZeros:
  first, second = _each(node, axes)
  if first.value is None or not second.value:
    return first._replace(value=None)
  return first._replace(value=first.value / second.value)


def _first(node: Node, axes: frozenset[int]) -> NonZeros | None:
  """A function that is 0 at 0; against a number, if that is 0."""
  first, *others = _each(node, axes)
  if any(one.number for one in others):
    return None
  value = 1.0 if node.label in ("gt", "ne") else None
  if node.label == "neg" and first.value is not None:
    value = -first.value
  return first._replace(value=value)


def _of_union(node: Node, axes: frozenset[int]) -> NonZeros | None:
  """A sum, or a bound that leaves 0 as it is, as that of relu."""
  bounds = [value.scalar for value in node.operands]
  for number, at in ((bounds[1], 0), (bounds[0], 1)):
    keeps = {"max": lambda c: c <= 0, "min": lambda c: c >= 0}.get(node.label)
    if number is not None and keeps is not None and keeps(size_of(number)):
      return _each(node, axes)[at]
  each = [one for one in _each(node, axes) if one.number]
  values = {one.value for one in each}
  alike = len(values) == 1 and (node.label != "sub" or len(each) == 1)
  return NonZeros(
    sum(one.number for one in each), values.pop() if alike else None
  )


def _selected(node: Node, axes: frozenset[int]) -> NonZeros | None:
  which, *cases = each = _each(node, axes)
  dropped = dropout(node)
  if dropped is not None:
    kept = each[node.operands.index(dropped.kept)]
    if kept.value is None:
      return kept
    return kept._replace(value=kept.value * dropped.rate**0.5)
  if len(cases) == 2 and not cases[0].number:
    return cases[1]._replace(number=min(which.number, cases[1].number))
  return NonZeros(sum(one.number for one in cases))


def _folded(node: Node, axes: frozenset[int]) -> NonZeros:
  """Along axes that are summed, too; a look-up counts for each of its terms."""
  before, gone = _shapes(node)[0], node.equation.params["axes"]
  kept = [axis for axis in range(len(before)) if axis not in gone]
  below = {*gone, *(kept[axis] for axis in axes)}
  return nonzeros(node.operands[0], before, below)


def _padded(node: Node, axes: frozenset[int]) -> NonZeros | None:
  inside, around = node.operands
  found = nonzeros(inside, _shapes(node)[0], axes, own=True)
  return found if around.scalar is not None and around.scalar == 0 else None


def _joined(node: Node, axes: frozenset[int]) -> NonZeros | None:
  along = node.equation.params.get("dimension")
  pairs = zip(node.operands, _shapes(node), strict=True)
  each = [nonzeros(*pair, axes, own=True) for pair in pairs]
  if along is None:
    return None
  count = (sum if along in axes else max)(one.number for one in each)
  values = {one.value for one in each if one.number}
  return NonZeros(count, values.pop() if len(values) == 1 else None)


def _gathered(node: Node, axes: frozenset[int]) -> NonZeros:
  """Rows of an array, such as those of an identity."""
  numbers = node.equation.params["dimension_numbers"]
  before, shape = _shapes(node)[0], node.shape
  gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
  kept = (axis for axis in range(len(before)) if axis not in gone)
  came = dict(zip(numbers.offset_dims, kept, strict=True))
  below = {came[axis] for axis in axes if axis in came}
  found = nonzeros(node.operands[0], before, below)
  rows = math.prod(shape[axis] for axis in axes if axis not in came)
  return found._replace(number=found.number * rows)


def _scattered(node: Node, axes: frozenset[int]) -> NonZeros | None:
  """Entries put into zeros: as many as there are, for each of a vmap."""
  zeros, _, updates = node.operands
  if zeros.scalar is None or zeros.scalar != 0:
    return None
  numbers, shape = node.equation.params["dimension_numbers"], _shapes(node)[2]
  apart = dict(
    zip(
      numbers.scatter_indices_batching_dims,
      numbers.operand_batching_dims,
      strict=True,
    )
  )
  gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
  windows = iter(a for a in range(len(node.shape)) if a not in gone)
  count, places = 1, 0
  for axis, size in enumerate(shape):
    window = axis in numbers.update_window_dims
    own = next(windows) if window else apart.get(places)
    places += not window
    count *= size if own is None or own in axes else 1
  value = updates.scalar
  return NonZeros(count, None if value is None else size_of(value))


def _contracted(node: Node, axes: frozenset[int]) -> NonZeros:
  """A product of two signals: a sum of as many of one as the other lets in."""
  contract, batch = node.equation.params["dimension_numbers"]
  sides = node.operands[::-1]  # they stand with the kernel's side first
  shapes, found = _shapes(node), []
  free = [
    [
      a
      for a in range(len(shapes[side]))
      if a not in (*contract[side], *batch[side])
    ]
    for side in (0, 1)
  ]
  start = (len(batch[0]), len(batch[0]) + len(free[0]))
  for side, value in enumerate(sides):
    own = {a for i, a in enumerate(batch[side]) if i in axes}
    own |= {a for i, a in enumerate(free[side]) if start[side] + i in axes}
    count = nonzeros(value, shapes[side], {*own, *contract[side]}).number
    other = 1 - side
    wide = [a for i, a in enumerate(free[other]) if start[other] + i in axes]
    found.append(count * math.prod(shapes[other][a] for a in wide))
  return NonZeros(min(found))


_RULES = {
  **dict.fromkeys(KEEPS_ZERO, _first),
  **dict.fromkeys(UNIONS, _of_union),
  **dict.fromkeys(_FOLDS, _folded),
  **dict.fromkeys(LAYOUT, _moved),
  "and": _multiplied,
  "concatenate": _joined,
  "data product": _contracted,
  "div": _divided,
  "eq": _compared,
  "gather": _gathered,
  "mul": _multiplied,
  "scatter": _scattered,
  "scatter-add": _scattered,
  "pad": _padded,
  "select_n": _selected,
}
