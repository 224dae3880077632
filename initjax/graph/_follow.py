"""How an equation transforms views: moves, constant factors, joins."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from initjax.graph._compat import Equation
from initjax.graph._moves import Reshape, moves_of, size_of
from initjax.graph._primitives import JOINS, SCALES, STAYS, STEPS
from initjax.graph._view import View, beside, indexed, stepped


def follow(
  equation: Equation, views: Sequence[View | None], numbers: Sequence[Any]
) -> list[View] | None:
  """Views of an equation's outputs; None if it does more than move and scale.

  Args:
    equation: of a jaxpr.
    views: of its operands; None for constants.
    numbers: of its operands; None for what is no constant, or not one number.
  """
  name = equation.primitive.name
  known = [view for view in views if view is not None]
  view, place = known[0], views.index(known[0])
  if any(view.computed for view in known):
    return None
  if name in JOINS:
    return _concatenated(equation, views, numbers)
  if len(known) > 1 or name not in STEPS:
    return None
  if name == "stop_gradient":
    return [view]
  if name in STAYS | SCALES:
    return _times_constant(equation, view, place, numbers)
  return None if place else _moved(equation, view, numbers)


def _moved(
  equation: Equation, view: View, numbers: Sequence[Any]
) -> list[View] | None:
  moves = moves_of(equation, numbers)
  if moves is None:
    return [indexed(equation, view, fixed=True)]
  return [
    stepped(
      view,
      equation.primitive.name,
      tuple(output.aval.shape),
      move=move,
      axes=None if view.axes is None else move.axes(view.axes),
    )
    for move, output in zip(moves, equation.outvars, strict=True)
  ]


def _times_constant(
  equation: Equation, view: View, place: int, numbers: Sequence[Any]
) -> list[View] | None:
  """Every entry stays, times a constant; that may differ between entries."""
  name, output = equation.primitive.name, equation.outvars[0].aval
  if tuple(output.shape) != view.shape or (name == "div" and place):
    return None
  if name in STAYS or name == "convert_element_type":
    dtypes = (equation.invars[0].aval.dtype, output.dtype)
    floats = [jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes]
    return (
      None if floats == [True, False] else [stepped(view, name, view.shape)]
    )
  number = -1.0 if name == "neg" else numbers[1 - place]
  factor = None if number is None else size_of(number)
  if name == "div" and factor is not None:
    factor = 1 / factor if factor else None
  if factor is None or view.multiplier is None:
    lost = dataclasses.replace(view, multiplier=None, axes=None)
    return [dataclasses.replace(lost, leaf_shape=None)]
  return [dataclasses.replace(view, multiplier=view.multiplier * factor)]


def _concatenated(
  equation: Equation, views: Sequence[View | None], numbers: Sequence[Any]
) -> list[View] | None:
  """Parameters side by side, and zeros among them."""
  name, shape = equation.primitive.name, tuple(equation.outvars[0].aval.shape)
  axis = int(equation.params["axis" if name == "stack" else "dimension"])
  axis %= len(shape)
  below = []
  for view, number, atom in zip(views, numbers, equation.invars, strict=True):
    if view is None and (number is None or number != 0):
      return None
    each = view or View(tuple(atom.aval.shape), name="zeros")
    if name == "stack":
      thin = (*each.shape[:axis], 1, *each.shape[axis:])
      each = stepped(each, "", thin, move=Reshape(each.shape, thin))
    below.append(each)
  alike = len({each.scans for each in below if each.paths}) == 1
  return [beside(below, name, shape, axis)] if alike else None
