"""Which entries of a leaf or kernel end up in a signal that is sliced.

They are boolean masks that broadcast against a leaf: axes that are complete
have size 1, so nothing of a leaf's size is allocated.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from initjax.graph._follow import follow
from initjax.graph._graph import LinearOp
from initjax.graph._moves import Broadcast
from initjax.graph._primitives import JOINS, LAYOUT, PARTS
from initjax.graph._values import Node
from initjax.graph._view import View, stepped


def entries_above(view: View, above: tuple[Node, ...]) -> np.ndarray | None:
  """Which entries of a view's leaf reach the top; None if it cannot be told.

  Args:
    view: of one leaf.
    above: the nodes that are made of it, the latest first.
  """
  if not any(map(takes_part, above)):
    return _every(view)
  if any(node.equation is None for node in above):
    return None  # a scan's slices, of which each has its own
  for place, node in enumerate(reversed(above), 1):
    if node.label in JOINS:
      chosen = any(map(takes_part, above[:-place]))
      return None if chosen else _mask(view)
    if node.label not in LAYOUT | PARTS:
      view = _spread(view, tuple(node.equation.outvars[0].aval.shape))
    else:
      if tuple(node.equation.invars[0].aval.shape) != view.shape:
        return None
      numbers = [value.scalar for value in node.operands]
      views = [view, *[None] * (len(numbers) - 1)]
      after = follow(node.equation, views, numbers)
      if after is None:
        return None
      view = after[node.output]
  return _mask(view)


def takes_part(node: Node) -> bool:
  """Whether it leaves entries out; a scan over slices takes all of them."""
  return node.label in PARTS and node.equation is not None


def _spread(view: View, shape: tuple[int, ...]) -> View:
  """As wide as what it is added to."""
  if view.shape == shape or len(view.shape) != len(shape):
    return view
  move = Broadcast(tuple(range(len(shape))), shape)
  axes = None if view.axes is None else move.axes(view.axes)
  return stepped(view, "broadcast_in_dim", shape, move=move, axes=axes)


def entries_of_kernel(
  op: LinearOp, view: View, features: np.ndarray, made: Sequence[int]
) -> np.ndarray | None:
  """Entries of the leaf that make some features of an operation's output.

  Args:
    op: the operation.
    view: of its kernel, of one leaf.
    features: which, of booleans that broadcast against the output.
    made: axes of the output that the kernel makes, in the kernel's order.
  """
  ((path, shape),) = view.leaves.items()
  if features.all():
    whole = view.distinct and view.size == math.prod(shape)
    return _every(view) if whole else _mask(view)
  wanted = _kernel_part(op, features, made)
  memory = np.empty(shape, np.int8)  # never read or written
  try:
    part = np.asarray(view.apply({path: memory}))
  except ValueError:
    return None
  lead = (slice(None),) * len(view.scans)
  masks = [_of_strides(memory, part[(*lead, *pick)]) for pick in wanted]
  known = [mask for mask in masks if mask is not None]
  if not known or len(known) < len(masks):
    return None
  return np.logical_or.reduce(np.broadcast_arrays(*known))


def _kernel_part(
  op: LinearOp, features: np.ndarray, made: Sequence[int]
) -> list[tuple[slice, ...]]:
  """Runs of features, as slices of the kernel; none if they cannot be told."""
  varying = [a for a in range(features.ndim) if features.shape[a] > 1]
  known = len(made) == len(op.axes.free) and len(varying) == 1
  if not known or varying[0] not in made:
    return []
  axis = op.axes.free[made.index(varying[0])]
  rank = len(op.kernel_shape)
  return [
    tuple(run if a == axis else slice(None) for a in range(rank))
    for run in _runs(features.ravel())
  ]


def _runs(mask: np.ndarray) -> Iterator[slice]:
  """Where a mask is true, in stretches."""
  edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(int), [0]))))
  for start, stop in zip(edges[::2], edges[1::2], strict=True):
    yield slice(int(start), int(stop))


def _every(view: View) -> np.ndarray:
  (shape,) = view.leaves.values()
  return np.ones((1,) * len(shape), bool)


def _mask(view: View) -> np.ndarray | None:
  """The entries of the leaf that a view holds."""
  ((path, shape),) = view.leaves.items()
  memory = np.empty(shape, np.int8)  # never read or written
  try:
    return _of_strides(memory, np.asarray(view.apply({path: memory})))
  except ValueError:
    return None


def _of_strides(memory: np.ndarray, part: np.ndarray) -> np.ndarray | None:
  """Where a part of memory lies, axis by axis; None if that cannot be said."""
  start = _address(part) - _address(memory)
  pairs = zip(part.shape, part.strides, strict=True)
  steps = [(n, s) for n, s in pairs if n > 1 and s]
  shape, inner = memory.shape, 1
  found = np.ones((1,) * len(shape), bool)
  for axis in reversed(range(len(shape))):
    outer = inner * shape[axis]
    steps = [step for each in steps for step in _split(*each, outer)]
    places = np.array([start % outer // inner])
    for n, s in steps:
      if inner <= abs(s) < outer:
        places = (places[:, None] + np.arange(n) * (s // inner)).ravel()
    if places.min() < 0 or places.max() >= shape[axis]:
      return None
    mask = np.zeros(shape[axis], bool)
    mask[places] = True
    if not mask.all():
      sizes = [-1 if i == axis else 1 for i in range(len(shape))]
      found = found & mask.reshape(sizes)
    inner = outer
  return found


def _split(n: int, step: int, outer: int) -> list[tuple[int, int]]:
  """Steps along two axes of the memory at once, apart."""
  within = outer // abs(step)
  if not 1 < within < n or outer % abs(step) or n % within:
    return [(n, step)]
  return [(within, step), (n // within, outer if step > 0 else -outer)]


def _address(array: np.ndarray) -> int:
  return int(array.__array_interface__["data"][0])
