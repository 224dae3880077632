"""Parameters with entries set to 0 by constant masks, as in MADE.

The remaining entries are used as they are: a sum counts the mean number of
remaining terms over all outputs.
"""

import dataclasses

import numpy as np

from initjax.graph._compat import Equation
from initjax.graph._constants import entries_in_place
from initjax.graph._moves import size_of
from initjax.graph._values import Value, touched_by


def masked(equation: Equation, operands: list[Value]) -> Value | None:
  """A parameter times a constant of 0 and one number; None if it is no such."""
  views = [value.view for value in operands]
  places = [place for place, view in enumerate(views) if view is not None]
  if len(places) != 1 or any(value.kind == "data" for value in operands):
    return None
  value, view = operands[places[0]], views[places[0]]
  if view is None or view.multiplier is None or value.choice is not None:
    return None
  factors = _factors(equation, operands, places[0])
  kept = None if factors is None else factors != 0
  if factors is None or kept is None or not kept.any():
    return None
  number = factors[kept].flat[0]
  if (factors[kept] != number).any():
    return None
  view = dataclasses.replace(
    view,
    multiplier=view.multiplier * size_of(number),
    alive=view.alive * float(kept.mean()),
  )
  return Value("parameter", view, touched=touched_by(operands))


def _factors(
  equation: Equation, operands: list[Value], place: int
) -> np.ndarray | None:
  """What multiplies the entries of the operand at this place."""
  first, *others = operands
  if equation.primitive.name == "mul" and first.scalar is None:
    return _known(operands[1 - place])
  if equation.primitive.name != "select_n" or len(others) != 2:
    return None
  other, which = operands[3 - place], _known(first)
  is_zero = other.scalar is not None and other.scalar == 0
  if which is None or not is_zero:
    return None
  return which if place == 2 else ~which


def _known(value: Value) -> np.ndarray | None:
  here = getattr(value.array, "is_fully_addressable", True)
  return entries_in_place(value) if here and value.scalar is None else None
