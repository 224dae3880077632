"""The axes of a linear equation, and the true fans that follow from them.

fan_in is the number of terms summed into one output element, fan_out the
number of output elements that one input element feeds; both away from borders,
and averaged over phases where strides or dilation make them vary. They are
counted from how a kernel is used, not from its shape.
"""

import math
from typing import Any, NamedTuple


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


class Fans(NamedTuple):
  """Fans of one linear operation."""

  fan_in: float
  fan_out: float


def _product_axes(
  contract: Any, batch: Any, ranks: tuple[int, int], kernel: int, groups: Any
) -> Axes:
  """Of a product: its output is [batch, free of the first, of the second]."""
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


def dot_axes(
  params: dict[str, Any], ranks: tuple[int, int], kernel: int
) -> Axes:
  """Axes of a `dot_general` whose operand `kernel` is the kernel."""
  contract, batch = params["dimension_numbers"]
  return _product_axes(contract, batch, ranks, kernel, ())


def ragged_dot_axes(params: dict[str, Any], ranks: tuple[int, int]) -> Axes:
  """As `dot_axes`; the group axis of the kernel is neither summed nor free."""
  numbers = params["ragged_dot_dimension_numbers"]
  contract, batch = numbers.dot_dimension_numbers
  groups = numbers.rhs_group_dimensions
  return _product_axes(contract, batch, ranks, 1, groups)


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


def gather_axes(params: dict[str, Any], rank: int, out_rank: int) -> Axes:
  """A row of the table is looked up for every index, and an index a sample."""
  numbers = params["dimension_numbers"]
  rows = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
  return Axes(
    kernel=0,
    summed=tuple(rows),
    free=tuple(axis for axis in range(rank) if axis not in rows),
    units=(),
    samples=tuple(
      axis for axis in range(out_rank) if axis not in numbers.offset_dims
    ),
  )


def product_fans(axes: Axes, shape: tuple[int, ...]) -> Fans:
  """Summed size and free size of the kernel; batch axes count for neither.

  >>> numbers = (((1,), (0,)), ((), ()))
  >>> axes = dot_axes({"dimension_numbers": numbers}, (2, 2), kernel=1)
  >>> product_fans(axes, (3, 5))
  Fans(fan_in=3, fan_out=5)
  """
  return Fans(
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
  return Fans(_whole(fan_in), _whole(fan_out))


def gather_fans(params: dict[str, Any]) -> Fans:
  """A look-up sums one term; a row feeds as many outputs as it has features."""
  return Fans(1, math.prod(params["slice_sizes"]))


def _whole(number: float) -> float:
  """An integer where it is one: fans may be fractional, but rarely are."""
  return int(number) if number == int(number) else number


# Following the axes of a parameter through views

Origins = tuple[tuple[int, ...], ...] | None
"""For each axis of an array, the axes of the leaf it holds; None if lost."""


def leaf_origins(rank: int) -> Origins:
  """The axes of a leaf are its own.

  >>> leaf_origins(2)
  ((0,), (1,))
  """
  return tuple((axis,) for axis in range(rank))


def follow(equation: Any, origins: Origins) -> Origins:
  """Origins of the axes of an equation's output, for those of its input."""
  if origins is None:
    return None
  name, params = equation.primitive.name, equation.params
  shape = tuple(equation.outvars[0].aval.shape)
  if name == "transpose":
    return tuple(origins[axis] for axis in params["permutation"])
  if name == "squeeze":
    gone = params["dimensions"]
    return tuple(o for axis, o in enumerate(origins) if axis not in gone)
  if name == "unstack":  # of jax 0.12: a slice and a squeeze
    gone = params["axis"] % len(origins)
    return tuple(o for axis, o in enumerate(origins) if axis != gone)
  if name == "broadcast_in_dim":
    came = dict(zip(params["broadcast_dimensions"], origins, strict=True))
    return tuple(came.get(axis, ()) for axis in range(len(shape)))
  if name == "reshape":
    return _through_reshape(origins, equation.invars[0].aval.shape, shape)
  return origins if len(origins) == len(shape) and name != "gather" else None


def _through_reshape(
  origins: tuple[tuple[int, ...], ...], old: Any, new: Any
) -> Origins:
  """A new axis holds every old one that it shares strides with.

  >>> _through_reshape(((0,), (1,)), (4, 6), (4, 3, 2))
  ((0,), (1,), (1,))
  >>> _through_reshape(((0,), (1,), (2,)), (4, 6, 5), (24, 5))
  ((0, 1), (2,))
  """
  before = _strides(old)
  result = []
  for low, high in _strides(new):
    held = (
      own
      for (start, end), own in zip(before, origins, strict=True)
      if max(low, start) < min(high, end)
    )
    result.append(tuple(dict.fromkeys(axis for own in held for axis in own)))
  return tuple(result)


def _strides(shape: Any) -> list[tuple[int, int]]:
  """For each axis, its stride in a flat array, and that of the axis before."""
  outer = [math.prod(shape[axis:]) for axis in range(len(shape) + 1)]
  return list(zip(outer[1:], outer[:-1], strict=True))
