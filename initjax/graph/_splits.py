"""What a device of a shard_map sees of a kernel, and what all see together."""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from initjax.graph._moves import Held, Index, Reshape, Shape, Transpose
from initjax.graph._primitives import STAYS
from initjax.graph._view import View, part

_KEEPS = STAYS | {"convert_element_type", "shard_map"}


class Split(NamedTuple):
  """What sets the devices along an axis of a mesh apart."""

  axis: str
  """of the mesh"""
  size: int
  """devices along it"""
  held: tuple[int, ...]
  """axes of the leaf of which each device has a part"""


def split(view: View, place: int, axis: str, size: int) -> View:
  """The part that each of `size` devices has, of the axis at `place`."""
  if size == 1:
    return view
  held = () if view.axes is None else view.axes[place]
  shape = [n // size if i == place else n for i, n in enumerate(view.shape)]
  splits = (*view.splits, Split(axis, size, held))
  after = part(view, "shard_map", tuple(shape), view.axes)
  return dataclasses.replace(after, splits=splits)


def gathered(view: View, axes: Collection[str] | None = None) -> View | None:
  """What devices along these axes of the mesh, or along all, see together.

  None if it is not the same steps on a larger array.
  """
  left = tuple(
    one for one in view.splits if axes is not None and one.axis not in axes
  )
  if left == view.splits:
    return view
  before = gathered(view.below[0], axes) if len(view.below) == 1 else None
  if before is None:
    return None
  if view.name == "shard_map" and view.splits[-1] not in left:
    return dataclasses.replace(before, multiplier=view.multiplier)
  local = view.below[0].shape
  ratios = [n // m for n, m in zip(before.shape, local, strict=True)]
  shape = _wider(view, local, ratios)
  if shape is None:
    return None
  move = view.move
  if isinstance(move, Reshape):
    move = Reshape(before.shape, shape)
  if isinstance(move, Index):
    picks = zip(move.picks, before.shape, ratios, strict=True)
    move = Index(tuple((0, n, 1) if r > 1 else p for p, n, r in picks))
  return dataclasses.replace(
    view,
    below=(before,),
    move=move,
    shape=shape,
    exact=before.exact and not left,
    splits=left,
  )


def _wider(view: View, local: Shape, ratios: Sequence[int]) -> Shape | None:
  """The shape after a view's last step, on axes so many times as long."""
  came = _came_from(view, local, ratios)
  places = [i for held in came or () for i in held if ratios[i] > 1]
  if came is None or len(set(places)) < len(places):
    return None  # which of the new axes is split cannot be told
  return tuple(
    n * math.prod(ratios[i] for i in held)
    for n, held in zip(view.shape, came, strict=True)
  )


def _came_from(view: View, local: Shape, ratios: Sequence[int]) -> Held | None:
  """For each axis after a view's last step, the axes before that it holds."""
  axes, move = tuple((i,) for i in range(len(local))), view.move
  if view.name == "scan":
    return axes[1:] if ratios[0] == 1 else None
  if move is None:
    return axes if view.name in _KEEPS else None
  if isinstance(move, Index):
    picks = zip(move.picks, local, ratios, strict=True)
    if any(pick != (0, n, 1) and ratio > 1 for pick, n, ratio in picks):
      return None
  if isinstance(move, Transpose | Reshape | Index):
    return move.axes(axes)
  return None
