"""The roles of a product's operands, kernel or signal, and their axes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from initjax.graph import _geometry
from initjax.graph._compat import Equation
from initjax.graph._geometry import Axes, Fans
from initjax.graph._moves import Held
from initjax.graph._nonzeros import NonZeros, nonzeros
from initjax.graph._values import Value
from initjax.graph._view import View


def kernel_apart(equation: Equation, operands: list[Value]) -> list[Value]:
  """Operands, where a kernel that data choose is told from rows looked up.

  It is contracted along axes of the parameter, with a signal; where both are
  chosen, or it is computed, the one that has features of an output.
  """
  if any(value.kind != "data" for value in operands[:2]):
    return operands
  fits = chosen_kernels(equation, operands)
  if sum(fits) != 1:
    return operands
  kernels = [
    dataclasses.replace(value, kind="parameter", node=None) if own else value
    for value, own in zip(operands, fits, strict=False)
  ]
  return [*kernels, *operands[2:]]


def chosen_kernels(
  equation: Equation, operands: Sequence[Value], *, strict: bool = False
) -> list[bool]:
  """Which sides of a product of data can be kernels that data choose."""
  chosen = [value.choice is not None for value in operands[:2]]
  found = []
  for side, value in enumerate(operands[:2]):
    _, axes, _ = kind_axes_fans(equation, side)
    held = None if value.view is None else value.view.axes
    own = chosen[side] and axes.kernel == side and not (strict and held is None)
    several = all(chosen) or (value.view is not None and value.view.computed)
    for wanted in (axes.summed, axes.free)[: 1 + several]:
      own = own and (held is None or any(held[axis] for axis in wanted))
    found.append(own)
  return found


def indices_apart(equation: Equation, axes: Axes, view: View | None) -> Axes:
  """The axes; batch axes of a kernel that hold none of a leaf are samples."""
  held = None if view is None else view.axes
  if held is None or equation.primitive.name != "dot_general":
    return axes
  batch = equation.params["dimension_numbers"][1]
  pairs = zip(batch[axes.kernel], batch[1 - axes.kernel], strict=True)
  apart = {
    place: own for place, (axis, own) in enumerate(pairs) if not held[axis]
  }
  units = tuple(axis for axis in axes.units if axis not in apart.values())
  return axes._replace(units=units, samples=(*apart, *axes.samples))


def kind_axes_fans(equation: Equation, kernel: int) -> tuple[Any, Axes, Fans]:
  """Kind, axes and fans of a product whose operand `kernel` is the kernel."""
  name, params = equation.primitive.name, equation.params
  shapes = [tuple(atom.aval.shape) for atom in equation.invars[:2]]
  if name == "conv_general_dilated":
    axes = _geometry.convolution_axes(params)
    return "convolution", axes, _geometry.convolution_fans(params, shapes[1])
  ranks = (len(shapes[0]), len(shapes[1]))
  axes = _geometry.product_axes(params, ranks, kernel)
  fans = _geometry.product_fans(axes, shapes[axes.kernel])
  return name.removesuffix("_general"), axes, fans


def terms_of(equation: Equation, side: int, signal: Value) -> NonZeros | None:
  """How many terms of a sum over a signal, operand `side`, are not 0.

  None if all of them may be.
  """
  if signal.node is None or not signal.node.has_zeros:
    return None
  params, shape = equation.params, tuple(equation.invars[side].aval.shape)
  if "window_strides" in params:
    return nonzeros(signal, shape, params["dimension_numbers"].lhs_spec[1:2])
  numbers = params.get("dimension_numbers")
  if numbers is None:
    numbers = params["ragged_dot_dimension_numbers"].dot_dimension_numbers
  return nonzeros(signal, shape, numbers[0][side])


def without_zeros(equation: Equation, terms: NonZeros, fan_in: float) -> float:
  """What `fan_in` counts of terms of which only so many are not 0."""
  params, kernel = equation.params, equation.invars[1].aval.shape
  if "window_strides" in params:
    every = kernel[params["dimension_numbers"].rhs_spec[1]]
  else:
    _, _, (every, _) = kind_axes_fans(equation, 1)
  if terms.number >= every:
    return fan_in
  found = fan_in * terms.number / every
  return int(found) if found == int(found) else found


def held_by_rows(equation: Equation, axes: Axes, view: View) -> Held | None:
  """Axes of the leaf in a product with one-hot rows."""
  if view.axes is None:
    return None
  _, batch = equation.params["dimension_numbers"]
  own = [view.axes[axis] for axis in batch[axes.kernel]]
  free = [view.axes[axis] for axis in axes.free]
  rank = len(equation.outvars[0].aval.shape)
  indices: list[tuple[int, ...]] = [()] * (rank - len(own) - len(free))
  sides = (free, indices) if axes.kernel == 0 else (indices, free)
  return (*own, *sides[0], *sides[1])
