"""The axes of a linear equation, and the true fans that follow from them.

fan_in is the number of terms summed into one output element, fan_out the
number of output elements that one input element feeds; both away from borders,
and averaged over phases where strides or dilation make them vary. They are
counted from how a kernel is used, not from its shape.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax.graph._compat import Equation


class Axes(NamedTuple):
  """Which axes of a linear equation's operands do what."""

  kernel: int
  """which operand is the kernel; the other is the signal"""
  summed: tuple[int, ...]
  """axes of the kernel that are summed over, a window included"""
  free: tuple[int, ...]
  """axes of the kernel that become features of the output"""
  units: tuple[int, ...]
  """axes of the signal that hold its units: what each sample is made of"""
  samples: tuple[int, ...]
  """axes of the output that tell samples apart"""


Fans = tuple[float, float]
"""fan_in and fan_out"""
Shapes = Sequence[tuple[int, ...]]
Pads = Sequence[tuple[int, int]]


def product_axes(
  params: dict[str, Any], ranks: tuple[int, int], kernel: int
) -> Axes:
  """Axes of a (ragged) product whose operand `kernel` is the kernel.

  Its output is [batch, free of the first, free of the second]; the group axis
  of a ragged product's kernel, its second operand, is neither summed nor free.
  """
  numbers, groups = params.get("dimension_numbers"), ()
  if numbers is None:
    ragged = params["ragged_dot_dimension_numbers"]
    numbers, groups = ragged.dot_dimension_numbers, ragged.rhs_group_dimensions
    kernel = 1
  contract, batch = numbers
  signal = 1 - kernel
  taken = [{*contract[side], *batch[side]} for side in (0, 1)]
  taken[1] |= {*groups}
  free = [
    tuple(axis for axis in range(ranks[side]) if axis not in taken[side])
    for side in (0, 1)
  ]
  start = len(batch[0]) + (len(free[0]) if signal == 1 else 0)
  return Axes(
    kernel,
    summed=tuple(contract[kernel]),
    free=free[kernel],
    units=(*batch[signal], *contract[signal]),
    samples=tuple(range(start, start + len(free[signal]))),
  )


def convolution_axes(params: dict[str, Any]) -> Axes:
  """A channel is a unit, an image is a sample; the window is summed over."""
  numbers = params["dimension_numbers"]
  out_features, in_features, *window = numbers.rhs_spec
  return Axes(
    kernel=1,
    summed=(*window, in_features),
    free=(out_features,),
    units=(numbers.lhs_spec[1],),
    samples=(numbers.out_spec[0],),
  )


def gather_axes(
  params: dict[str, Any], shape: tuple[int, ...], out_rank: int
) -> Axes:
  """A row of the table is looked up for every index, and an index a sample.

  Under vmap features are indexed as well, by 0: those that are taken whole.
  """
  numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
  rows = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
  indexed = numbers.start_index_map
  rows |= {axis for axis in indexed if sizes[axis] < shape[axis]}
  every = range(len(shape))
  return Axes(
    kernel=0,
    summed=tuple(axis for axis in every if axis in rows),
    free=tuple(axis for axis in every if axis not in rows),
    units=(),
    samples=tuple(
      axis for axis in range(out_rank) if axis not in numbers.offset_dims
    ),
  )


def product_fans(axes: Axes, shape: tuple[int, ...]) -> Fans:
  """Summed size and free size of the kernel; batch axes count for neither.

  >>> numbers = (((1,), (0,)), ((), ()))
  >>> axes = product_axes({"dimension_numbers": numbers}, (2, 2), kernel=1)
  >>> product_fans(axes, (3, 5))
  (3, 5)
  """
  return (
    math.prod(shape[axis] for axis in axes.summed),
    math.prod(shape[axis] for axis in axes.free),
  )


def convolution_fans(params: dict[str, Any], kernel_shape: Any) -> Fans:
  """Window × features per group, thinned by dilation of the input or stride.

  A transposed convolution inserts zeros (`lhs_dilation`), so only one in so
  many taps of the window meets data; a strided one skips outputs, so an input
  feeds only one in so many of them.
  """
  out_axis, in_axis, *space = params["dimension_numbers"].rhs_spec
  window = math.prod(kernel_shape[axis] for axis in space)
  groups = params["feature_group_count"] * params["batch_group_count"]
  in_features = kernel_shape[in_axis]  # of one group
  out_features = kernel_shape[out_axis] // groups
  fan_in = window * in_features / math.prod(params["lhs_dilation"])
  fan_out = window * out_features / math.prod(params["window_strides"])
  return (_integer(fan_in), _integer(fan_out))


def valid_fans(
  params: dict[str, Any], shapes: Shapes, pads: Pads, own: Sequence[int]
) -> Fans:
  """Those of a convolution without taps on padding: means, with all borders.

  Args:
    params: of the equation.
    shapes: of the signal, the kernel and the output.
    pads: zeros at both ends of each of the signal's axes.
    own: shape of the signal without what was put around it.
  """
  _, kernel, output = shapes
  numbers = params["dimension_numbers"]
  fan_in = float(kernel[numbers.rhs_spec[1]])
  groups = params["feature_group_count"] * params["batch_group_count"]
  fan_out = kernel[numbers.rhs_spec[0]] / groups
  specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
  places = zip(*(spec[2:] for spec in specs), strict=True)
  for (lhs, _, out), entries in zip(
    places, tap_entries(params, shapes, pads), strict=True
  ):
    taps = int((entries >= 0).sum())
    fan_in *= taps / max(output[out], 1)
    fan_out *= taps / max(own[lhs], 1)
  return _integer(fan_in), _integer(fan_out)


def tap_entries(
  params: dict[str, Any], shapes: Shapes, pads: Pads
) -> tuple[np.ndarray, ...]:
  """For each axis of the window [outputs, taps]: the entry that a tap meets.

  It is -1 where that is a zero around the signal, or one put between entries.
  """
  signal, kernel, output = shapes
  numbers = params["dimension_numbers"]
  specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
  found = []
  for axis, (lhs, rhs, out) in enumerate(
    zip(*(spec[2:] for spec in specs), strict=True)
  ):
    start = np.arange(output[out])[:, None] * params["window_strides"][axis]
    step = np.arange(kernel[rhs]) * params["rhs_dilation"][axis]
    spread, low = params["lhs_dilation"][axis], params["padding"][axis][0]
    place, between = np.divmod(start + step - low, spread)
    entry, size = place - pads[lhs][0], signal[lhs] - sum(pads[lhs])
    inside = (between == 0) & (entry >= 0) & (entry < size)
    found.append(np.where(inside, entry, -1))
  return tuple(found)


def _integer(number: float) -> float:
  """An integer where it is one: fans may be fractional, but rarely are."""
  return int(number) if number == int(number) else number


def _tiled(equation: Equation) -> Any:
  """Repeats an array along new axes, and merges these with its own."""
  (operand,), reps = equation.invars, equation.params["reps"]
  shape, output = operand.aval.shape, equation.outvars[0].aval.shape
  kept = [i for i, n in enumerate(shape) if n > 1 and reps[i] > 1]
  wide = [
    (reps[i], n) if i in kept else (output[i],) for i, n in enumerate(shape)
  ]
  ends = list(itertools.accumulate(map(len, wide)))
  whole = [n for each in wide for n in each]

  def tiled(x: jax.Array) -> jax.Array:
    x = jax.lax.broadcast_in_dim(x, whole, [end - 1 for end in ends])
    return jax.lax.reshape(x, output) if kept else x

  return jax.make_jaxpr(tiled)(jax.ShapeDtypeStruct(shape, operand.aval.dtype))


def _product_by_entry(equation: Equation) -> Any | None:
  """Of `mul`, a product without a sum that only scales one side."""
  (summed, _), batches = equation.params["dimension_numbers"]
  avals, output = [a.aval for a in equation.invars], equation.outvars[0].aval
  if summed or all(len(a.shape) > len(batches[0]) for a in avals):
    return None

  def spread(side: jax.Array, batch: Sequence[int]) -> jax.Array:
    free = (axis for axis in range(side.ndim) if axis not in batch)
    side = jax.lax.transpose(side, (*batch, *free)).astype(output.dtype)
    return jax.lax.broadcast_in_dim(side, output.shape, range(side.ndim))

  shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
  return jax.make_jaxpr(
    lambda *sides: jax.lax.mul(*map(spread, sides, batches))
  )(*shapes)


def rewritten(equation: Equation) -> Any | None:
  """As a jaxpr of simpler equations, one that is the same as these."""
  rule = _REWRITTEN.get(equation.primitive.name)
  return None if rule is None else rule(equation)


_REWRITTEN = {"dot_general": _product_by_entry, "tile": _tiled}
