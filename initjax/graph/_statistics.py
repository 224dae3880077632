"""Inputs that are no data, but statistics: they treat all samples alike.

A batch normalization in evaluation scales and shifts features by running means
and variances. Where these are inputs of their own, they are read as constants
that the function closes over. Every input of floating point is first taken to
be one; the first use that no statistic has shows which is data.
"""

from typing import Any

import jax.numpy as jnp

from initjax.graph._compat import Equation
from initjax.graph._features import features
from initjax.graph._moves import moves_of
from initjax.graph._primitives import AFFINE, INDEXED, INLINED, LINEAR, MOVES
from initjax.graph._values import Value

_ENTERED = INLINED | {"scan", "while", "shard_map"}


def may_be_statistic(aval: Any) -> bool:
  """Whether an input may be one: of floating point, or a count."""
  if jnp.issubdtype(aval.dtype, jnp.inexact):
    return True
  counts = (jnp.signedinteger, jnp.bool_)
  return not aval.shape and any(jnp.issubdtype(aval.dtype, c) for c in counts)


class IsDataError(Exception):
  """Raised where inputs are used as data are."""

  def __init__(self, inputs: int) -> None:
    super().__init__("inputs turned out to be data")
    self.inputs = inputs
    """their bits"""


def check_statistics(
  equation: Equation, operands: list[Value], statistics: int
) -> None:
  """Raises `IsDataError` if an equation uses such inputs as it would use data.

  Args:
    equation: of a jaxpr.
    operands: of the equation.
    statistics: bits of the inputs that are taken for statistics.
  """
  own = [v.touched & statistics * (v.kind != "data") for v in operands]
  name, inputs = equation.primitive.name, 0
  for bits in own:
    inputs |= bits
  if not inputs or name in _ENTERED or (name == "cond" and not own[0]):
    return
  mixed = any(value.kind == "data" for value in operands)
  if mixed and not _is_alike(equation, operands, statistics):
    raise IsDataError(inputs)
  if not mixed and name in LINEAR | INDEXED | {"cond"}:
    raise IsDataError(inputs)


def _is_alike(
  equation: Equation, operands: list[Value], statistics: int
) -> bool:
  """Whether data are scaled or shifted, all samples in the same way."""
  name = equation.primitive.name
  if name not in AFFINE | {"add_any"} or len(operands) != 2:
    return False
  data, other = (0, 1) if operands[0].kind == "data" else (1, 0)
  if name == "div" and data == 1:
    return False
  shapes = [tuple(atom.aval.shape) for atom in equation.invars]
  node = operands[data].node
  assert node is not None
  held = features(node, len(shapes[data]))
  return _varying(operands[other], shapes[other], statistics) <= held


def _varying(value: Value, shape: Any, statistics: int) -> frozenset[int]:
  """Axes along which statistics make a constant of this shape vary."""
  if not value.touched & statistics:
    return frozenset()
  whole = frozenset(axis for axis, size in enumerate(shape) if size > 1)
  made = value.made
  if made is None or made.equation is None:
    return whole
  shapes = [tuple(atom.aval.shape) for atom in made.equation.invars]
  pairs = list(zip(made.operands, shapes, strict=True))
  below = [_varying(*pair, statistics) for pair in pairs]
  if made.label in MOVES:
    move = moves_of(made.equation, [None])
    held = tuple((1,) * (axis in below[0]) for axis in range(len(shapes[0])))
    axes = held if move is None else move[0].axes(held)
    return frozenset(axis for axis, own in enumerate(axes) if own)
  if all(len(each) in (0, len(shape)) for each in shapes):
    return whole & frozenset().union(*below)
  return whole
