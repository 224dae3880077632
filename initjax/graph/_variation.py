"""Axes of an equation along which parameters and data vary, or are summed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from initjax.graph._compat import Equation
from initjax.graph._moves import Broadcast, Shape
from initjax.graph._primitives import STAYS
from initjax.graph._values import Value
from initjax.graph._view import View

KEPT = STAYS | {"convert_element_type"}
"""Every entry stays in its place."""


def axes_of(equation: Equation) -> tuple[int, ...]:
  """Axes of the last operand that a sum adds up; none if it is no sum."""
  params, rank = equation.params, len(equation.invars[-1].aval.shape)
  match equation.primitive.name:
    case "reduce_sum":
      return tuple(params["axes"])
    case "cumsum":
      return (params["axis"],)
    case "fft":
      return tuple(range(rank - len(params["fft_lengths"]), rank))
    case "scatter-add":
      window = params["dimension_numbers"].update_window_dims
      return tuple(axis for axis in range(rank) if axis not in window)
  return ()


def summed_axes(equation: Equation) -> frozenset[int] | None:
  """Those of `axes_of` that have terms to add; None if it is no sum."""
  axes = axes_of(equation)
  return long_axes(equation.invars[-1].aval.shape) & {*axes} if axes else None


def long_axes(shape: Sequence[int]) -> frozenset[int]:
  """Axes of more than one entry."""
  return frozenset(axis for axis, size in enumerate(shape) if size > 1)


def varying_axes(value: Value, aval: Any) -> frozenset[int]:
  """Axes along which an operand's entries may differ."""
  node, kept = value.node or value.made, long_axes(aval.shape)
  if node is None or (value.view is not None and not value.view.computed):
    _, shape, places = unrepeated(value, aval)
    return frozenset(places[axis] for axis in long_axes(shape))
  while node.label in KEPT:
    below = node.operands[0].node or node.operands[0].made
    if below is None:
      break
    node = below
  if node.label != "broadcast_in_dim" or node.equation is None:
    return kept
  places = node.equation.params["broadcast_dimensions"]
  before = node.equation.invars[0].aval.shape
  return kept & {places[axis] for axis in long_axes(before)}


def unrepeated(
  value: Value, aval: Any
) -> tuple[View | None, Shape, tuple[int, ...]]:
  """A parameter before it was repeated, and the axes to which its axes went."""
  view, shape = value.view, tuple(aval.shape)
  places = tuple(range(len(shape)))
  found = view, shape, places
  while view is not None and not view.computed and view.below:
    if isinstance(view.move, Broadcast):
      places = tuple(places[axis] for axis in view.move.places)
      below = view.below[0]
      view = dataclasses.replace(
        below,
        multiplier=view.multiplier,
        leaf_shape=view.leaf_shape,
        axes=None if view.axes is None else below.axes,
      )
      found = view, view.shape, places
    elif view.name in KEPT:
      view = view.below[0]
    else:
      break
  return found
