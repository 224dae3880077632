"""How a primitive moves the entries of an array, as a value.

A move takes an array whose leading axes are those of scans, and their number.
It also says which axes of the leaf the axes of its output hold. NumPy arrays
become views: a move that would have to copy them raises a ValueError.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax.graph._compat import Equation
from initjax.graph._primitives import MOVES

Array = np.ndarray | jax.Array
Shape = tuple[int, ...]
Held = tuple[tuple[int, ...], ...]
"""For each axis of an array, the axes of the leaf it holds."""
Pick = int | tuple[int, int | None, int]
"""Of one axis: an entry, or start, stop and step."""


@dataclasses.dataclass(frozen=True)
class Transpose:
  """Axes in another order."""

  order: Shape

  def __call__(self, x: Array, lead: int) -> Array:
    return x.transpose((*range(lead), *(lead + axis for axis in self.order)))

  def axes(self, held: Held) -> Held:
    return tuple(held[axis] for axis in self.order)


@dataclasses.dataclass(frozen=True)
class Index:
  """A part that is known beforehand, or entries in reversed order."""

  picks: tuple[Pick, ...]

  def __call__(self, x: Array, lead: int) -> Array:
    own = (p if isinstance(p, int) else slice(*p) for p in self.picks)
    # The ellipsis makes one entry of a NumPy array a view of it, too.
    return x[(*[slice(None)] * lead, *own, ...)]

  def axes(self, held: Held) -> Held:
    kept = zip(self.picks, held, strict=True)
    return tuple(own for pick, own in kept if not isinstance(pick, int))


@dataclasses.dataclass(frozen=True)
class Reshape:
  """Axes split or merged."""

  before: Shape
  shape: Shape

  def __call__(self, x: Array, lead: int) -> Array:
    return _reshaped(x, (*x.shape[:lead], *self.shape))

  def axes(self, held: Held) -> Held:
    """A new axis holds every old one that it shares strides with.

    >>> Reshape((4, 6), (4, 3, 2)).axes(((0,), (1,)))
    ((0,), (1,), (1,))
    >>> Reshape((4, 6, 5), (24, 5)).axes(((0,), (1,), (2,)))
    ((0, 1), (2,))
    """
    result = []
    for low, high in _strides(self.shape):
      own = (
        axes
        for (start, end), axes in zip(_strides(self.before), held, strict=True)
        if max(low, start) < min(high, end)
      )
      result.append(tuple(dict.fromkeys(axis for axes in own for axis in axes)))
    return tuple(result)


@dataclasses.dataclass(frozen=True)
class Broadcast:
  """Entries repeated along new axes, and those of size 1."""

  places: Shape
  """of the axes of the input"""
  shape: Shape

  def __call__(self, x: Array, lead: int) -> Array:
    own = dict(zip(self.places, x.shape[lead:], strict=True))
    ones = (own.get(axis, 1) for axis in range(len(self.shape)))
    x = _reshaped(x, (*x.shape[:lead], *ones))
    shape = (*x.shape[:lead], *self.shape)
    if isinstance(x, np.ndarray):
      return np.broadcast_to(x, shape)
    return jnp.broadcast_to(x, shape)

  def axes(self, held: Held) -> Held:
    came = dict(zip(self.places, held, strict=True))
    return tuple(came.get(axis, ()) for axis in range(len(self.shape)))


Move = Transpose | Index | Reshape | Broadcast


def _reshaped(x: Array, shape: Shape) -> Array:
  found = x.reshape(shape)
  copied = isinstance(found, np.ndarray) and not np.may_share_memory(x, found)
  if copied and found.size:
    raise ValueError(f"{x.shape} as {shape} is no view of memory")
  return found


def _strides(shape: Shape) -> list[tuple[int, int]]:
  """For each axis, its stride in a flat array, and that of the axis before."""
  outer = [math.prod(shape[axis:]) for axis in range(len(shape) + 1)]
  return list(zip(outer[1:], outer[:-1], strict=True))


# Of an equation


def moves_of(equation: Equation, numbers: Sequence[Any]) -> list[Move] | None:
  """A move for each output of an equation that moves its first operand.

  Args:
    equation: whose primitive is one of `MOVES` or `PARTS`.
    numbers: of all operands, where they are numbers; None if not known.

  Returns:
    None where a part is taken that cannot be told beforehand.
  """
  params, before = equation.params, tuple(equation.invars[0].aval.shape)
  shape = tuple(equation.outvars[0].aval.shape)
  match equation.primitive.name:
    case "transpose":
      return [Transpose(tuple(params["permutation"]))]
    case "broadcast_in_dim":
      return [Broadcast(tuple(params["broadcast_dimensions"]), shape)]
    case "squeeze":
      return [_along(before, dict.fromkeys(params["dimensions"], 0))]
    case "rev":
      backward = (-1, None, -1)
      return [_along(before, dict.fromkeys(params["dimensions"], backward))]
    case "slice" | "split" | "unstack" as name:
      return _known_parts(name, params, before)
    case "dynamic_slice" | "gather" as name:
      if any(number is None for number in numbers[1:]):
        return None
      known = _dynamic_slice if name == "dynamic_slice" else _gather
      move = known(equation, [int(number) for number in numbers[1:]])
      return None if move is None else [move]
  return [Reshape(before, shape)]


def _known_parts(name: str, params: dict[str, Any], shape: Shape) -> list[Move]:
  """Parts that the equation's own parameters tell."""
  if name == "slice":
    steps = params["strides"] or (1,) * len(shape)
    starts, ends = params["start_indices"], params["limit_indices"]
    return [Index(tuple(zip(starts, ends, steps, strict=True)))]
  axis = params["axis"] % len(shape)
  if name == "unstack":  # of jax 0.12
    return [_along(shape, {axis: place}) for place in range(shape[axis])]
  sizes = params["sizes"]
  bounds = zip(sizes, itertools.accumulate(sizes), strict=True)
  return [_along(shape, {axis: (end - n, end, 1)}) for n, end in bounds]


def _along(shape: Shape, picks: dict[int, Pick]) -> Index:
  whole = ((0, size, 1) for size in shape)
  return Index(tuple(picks.get(axis, own) for axis, own in enumerate(whole)))


def _dynamic_slice(equation: Equation, starts: Sequence[int]) -> Index:
  """Starts are moved so that the slice lies inside."""
  shape, sizes = equation.invars[0].aval.shape, equation.params["slice_sizes"]
  picks = []
  for start, size, whole in zip(starts, sizes, shape, strict=True):
    first = min(max(start, 0), whole - size)
    picks.append((first, first + size, 1))
  return Index(tuple(picks))


def _gather(equation: Equation, numbers: Sequence[int]) -> Index | None:
  """At one index that lies inside, such as `jnp.take(x, 2)`."""
  shape, indices = (atom.aval.shape for atom in equation.invars)
  places = equation.params["dimension_numbers"]
  (start,) = numbers
  picks: list[Pick] = []
  for axis, size in enumerate(equation.params["slice_sizes"]):
    first = start if axis in places.start_index_map else 0
    if len(indices) != 1 or not 0 <= first <= shape[axis] - size:
      return None
    collapsed = axis in places.collapsed_slice_dims
    picks.append(first if collapsed else (first, first + size, 1))
  return Index(tuple(picks))


def axes_after(equation: Equation, held: Held, output: int = 0) -> Held | None:
  """The axes of an equation's output; those of its operand if it moves none."""
  if equation.primitive.name not in MOVES:
    return held
  moves = moves_of(equation, ())
  return None if moves is None else moves[output].axes(held)


def places_after(
  equation: Equation, places: frozenset[int], output: int = 0
) -> frozenset[int]:
  """Where axes of the first operand are in an equation's output."""
  rank = len(equation.invars[0].aval.shape)
  held = tuple((1,) * (axis in places) for axis in range(rank))
  after = axes_after(equation, held, output)
  return frozenset(axis for axis, own in enumerate(after or ()) if own)


def part_axes(equation: Equation, held: Held, *, fixed: bool) -> Held | None:
  """Axes of the leaf in a part at indices that are not known.

  An axis that counts indices holds those that are indexed, if these are fixed
  (a permutation), and none if data choose.
  """
  if equation.primitive.name != "gather":
    ranks = [len(v.aval.shape) for v in (equation.invars[0], *equation.outvars)]
    return held if len(set(ranks)) == 1 else None
  numbers = equation.params["dimension_numbers"]
  gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
  paired = zip(
    numbers.start_indices_batching_dims,
    numbers.operand_batching_dims,
    strict=True,
  )
  along = {count: held[axis] for count, axis in paired}
  shape, sizes = equation.invars[0].aval.shape, equation.params["slice_sizes"]
  rows = (axis for axis in numbers.start_index_map if sizes[axis] < shape[axis])
  indexed = tuple(own for axis in rows if fixed for own in held[axis])
  offsets = iter(axis for axis in range(len(held)) if axis not in gone)
  counts = itertools.count()
  return tuple(
    held[next(offsets)]
    if axis in numbers.offset_dims
    else along.get(next(counts), indexed)
    for axis in range(len(equation.outvars[0].aval.shape))
  )


def size_of(scalar: Any) -> float:
  """A number as a factor of sizes: a complex one by its modulus.

  >>> size_of(-2.0), size_of(3 + 4j)
  (-2.0, 5.0)
  """
  return float(abs(scalar) if np.iscomplexobj(scalar) else scalar)
