"""Inputs that are not data but statistics, which treat all samples alike.

A batch normalization in evaluation scales and shifts features by running means
and variances. Where these are separate inputs, they are read as constants the
function closes over. Every floating-point input is first assumed to be a
statistic; the first use that no statistic has shows that it is data.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp

from initjax.graph._compat import Equation
from initjax.graph._features import features
from initjax.graph._moves import places_after
from initjax.graph._primitives import AFFINE, INDEXED, INLINED, LINEAR, MOVES
from initjax.graph._reader import Reader
from initjax.graph._values import Value

_ENTERED = INLINED | {"scan", "while", "shard_map"}


def may_be_statistic(aval: Any) -> bool:
  """Whether an input may be one: of floating point, or a count."""
  if jnp.issubdtype(aval.dtype, jnp.inexact):
    return True
  counts = (jnp.signedinteger, jnp.bool_)
  return not aval.shape and any(jnp.issubdtype(aval.dtype, c) for c in counts)


def largest(inputs: Collection[int], avals: Sequence[Any]) -> set[int]:
  """Of inputs that were used together, those of the most axes."""
  axes = {at: sum(size > 1 for size in avals[at].shape) for at in inputs}
  return {at for at in inputs if axes[at] == max(axes.values())}


class IsDataError(Exception):
  """Raised where inputs are used as data are."""

  def __init__(self, inputs: int) -> None:
    super().__init__("inputs turned out to be data")
    self.inputs = inputs
    """their bits"""


def check_statistics(
  reader: Reader, equation: Equation, operands: list[Value]
) -> None:
  """Raises an error if an equation uses such inputs as it would use data."""
  statistics, inputs = reader.statistics, 0
  for value in operands:
    inputs |= value.touched & statistics * (value.kind != "data")
  name = equation.primitive.name
  if not inputs or name in _ENTERED:
    return
  if all(value.kind != "data" for value in operands):
    inputs = _used_as_data(reader, equation, operands)
  elif name == "cond":
    chooser = operands[0]
    inputs = chooser.touched & statistics * (chooser.kind != "data")
  elif _has_mixed_kernel(equation, operands) or _is_alike(
    reader, equation, operands
  ):
    return
  if inputs:
    raise IsDataError(inputs)


def _used_as_data(
  reader: Reader, equation: Equation, operands: list[Value]
) -> int:
  """Bits of statistics that are used as data are, where there are no data.

  A kernel may be summed with a vector: a power iteration finds its σ so.
  """
  name, found = equation.primitive.name, 0
  for atom, value in zip(equation.invars, operands, strict=True):
    product = value.kind == "constant" and name in LINEAR | {"mul"}
    if product:
      product = len(_varying(value, atom.aval.shape, reader.statistics)) > 1
    if name == "mul":  # it may be summed later
      product &= any(each.kind == "parameter" for each in operands)
    one_hot = name == "eq" and bool(equation.outvars[0].aval.shape)
    if product or one_hot or name in INDEXED | {"cond"}:
      found |= value.touched & reader.statistics
  return found


def check_contracted(reader: Reader) -> None:
  """Raises an error if statistics were summed, but not to make a kernel of it.

  A power iteration sums its vector with a kernel, and divides that by σ.
  """
  lost = reader.contracted & ~reader.in_kernels
  if lost:
    raise IsDataError(lost)


def _has_mixed_kernel(equation: Equation, operands: list[Value]) -> bool:
  """Whether it is a product with a kernel that statistics have a say in."""
  kinds = {value.kind for value in operands[:2]}
  return equation.primitive.name in LINEAR and kinds == {"data", "parameter"}


def _is_alike(
  reader: Reader, equation: Equation, operands: list[Value]
) -> bool:
  """Whether data are scaled or shifted, all samples in the same way."""
  name = equation.primitive.name
  if name not in AFFINE | {"add_any"} or len(operands) != 2:
    return False
  data, other = (0, 1) if operands[0].kind == "data" else (1, 0)
  if name == "div" and data == 1:
    return False
  shapes = [tuple(atom.aval.shape) for atom in equation.invars]
  summed = operands[other].touched & reader.contracted
  if summed and (name != "div" or math.prod(shapes[other]) > 1):
    return False
  reader.in_kernels |= summed  # x @ W / σ
  node = operands[data].node
  assert node is not None
  held = features(node, len(shapes[data]))
  found = _varying(operands[other], shapes[other], reader.statistics)
  return found <= held


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
    return places_after(made.equation, below[0])
  if all(len(each) in (0, len(shape)) for each in shapes):
    return whole & frozenset().union(*below)
  return whole
