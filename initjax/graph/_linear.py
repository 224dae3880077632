"""Noting linear operations: the uses of parameters that carry signal."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from initjax.graph._compat import Equation
from initjax.graph._contractions import Contraction
from initjax.graph._geometry import Axes, Fans
from initjax.graph._graph import Feed, LinearOp, Place, Site
from initjax.graph._padding import patch_overlap, taps_of, valid_fans
from initjax.graph._reader import Reader
from initjax.graph._roles import (
  chosen_kernels,
  held_by_rows,
  indices_apart,
  kernel_apart,
  kind_axes_fans,
  scale_of_rows,
)
from initjax.graph._splits import gathered
from initjax.graph._values import (
  Choice,
  Value,
  joined,
  roots_of,
  touched_by,
)
from initjax.graph._view import computed, part


def read_linear(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> Value:
  """A product: notes it if one side is data, and says what comes out."""
  operands = kernel_apart(equation, operands)
  first, second = operands[:2]
  is_data = [value.kind == "data" for value in (first, second)]
  if not any(is_data):
    return _no_operation(reader, (first, second), place.site)
  kernel = 0 if is_data == [False, True] else 1
  weight, signal = operands[kernel], operands[1 - kernel]
  reader.in_kernels |= weight.touched
  if weight.kind == "constant" and weight.array is None:
    # such as the one-hot kernel that extracts patches
    label = "patches" if "window_strides" in equation.params else "mixing"
    return reader.data(label, equation=equation, operands=(signal,))
  if all(is_data):
    return _read_product(reader, equation, (weight, signal), place)
  kind, axes, fans = kind_axes_fans(equation, kernel)
  axes = indices_apart(equation, axes, weight.view)
  scale = scale_of_rows(equation, axes, weight, signal)
  if scale is not None:
    sides = (weight, signal)
    return _read_one_hot(reader, equation, sides, place, axes, scale)
  role = kind, axes, fans
  op = _operation(reader, equation, (weight, signal), place, role)
  reader.sites[place.site] = op
  if weight.choice is not None:
    reader.roots[place.site] = weight.choice.roots
  others = [value for place, value in enumerate(operands) if place != kernel]
  made = _features(equation, axes)
  return _output(reader, op, signal, weight, others, made)


def _read_product(
  reader: Reader, equation: Equation, sides: tuple[Value, Value], place: Place
) -> Value:
  """A product of two signals; of two chosen kernels it may be one itself."""
  second, first = sides
  weight = second.as_data
  role = kind_axes_fans(equation, 1)
  op = _operation(reader, equation, (weight, first), place, role, is_row=False)
  op = dataclasses.replace(op, kind="data")
  both = chosen_kernels(equation, [first, second], strict=True)
  rank = len(equation.outvars[0].aval.shape)
  made: dict[str, Any] = {
    "operands": (second, first),
    "place": place,
    "equation": equation,
    "features": frozenset(range(min(1, rank - 1), rank)),
  }
  if not all(both) or first.choice is None or second.choice is None:
    reader.sites[place.site] = op
    return reader.data("data product", **made)
  reader.look_ups[place.site] = op
  choice = Choice(
    first.choice.touched | second.choice.touched,
    first.choice.look_ups | second.choice.look_ups | {place.site},
    first.choice.roots | second.choice.roots,
  )
  views = [value.view for value in (first, second) if value.view is not None]
  data = reader.data("data product", kept=True, **made)
  view = computed(views, "product")
  return dataclasses.replace(data, view=view, choice=choice)


def _operation(
  reader: Reader,
  equation: Equation,
  sides: tuple[Value, Value],
  place: Place,
  role: tuple[Any, Axes, Fans],
  is_row: bool = True,
) -> LinearOp:
  """A product of the kernel and the signal, in this order."""
  (weight, signal), (kind, axes, (fan_in, fan_out)) = sides, role
  feed = reader.streams.feeding(signal, place.site if is_row else None)
  fan_out *= _devices_fed(reader, weight, signal, axes, place.site)
  return LinearOp(
    kind=kind,
    fan_in=fan_in,
    fan_out=fan_out * patch_overlap(signal),
    valid_fans=valid_fans(equation, signal, (fan_in, fan_out)),
    taps=taps_of(equation, signal),
    feed=feed,
    **_window(equation.params),
    **_common(equation, weight, place, axes),
  )


def _no_operation(reader: Reader, values: Sequence[Value], site: Site) -> Value:
  """A product without data, or of what is no data yet in a loop."""
  touched = 0
  for operand, value in enumerate(values):
    own = value.touched
    if value.view is not None and not value.view.computed:
      for path in value.paths:
        own &= ~reader.touch(path)
        own |= reader.touch(path, site, operand)
    touched |= own
  touched |= reader.contract(touched) if touched & reader.statistics else 0
  return joined(values, "product", touched)


def look_up(
  reader: Reader,
  equation: Equation,
  table: Value,
  indices: Sequence[Value],
  place: Place,
  axes: Axes,
) -> Value:
  """Rows of a table: an operation, if they are used as data."""
  by_data = any(value.kind == "data" for value in indices)
  shape = equation.invars[axes.kernel].aval.shape
  sizes = equation.params.get("slice_sizes", shape)
  op = LinearOp(
    kind="embedding",
    fan_in=1,  # a row feeds as many outputs as it has features
    fan_out=math.prod(sizes[axis] for axis in axes.free),
    feed=Feed(reason="indices" if by_data else "positions"),
    **_common(equation, table, place, axes),
  )
  reader.look_ups[place.site] = op
  made = _features(equation, axes)
  return _output(reader, op, indices[0], table, indices, made)


def _read_one_hot(
  reader: Reader,
  equation: Equation,
  sides: tuple[Value, Value],
  place: Place,
  axes: Axes,
  scale: float,
) -> Value:
  """A product with one-hot rows looks up rows, which may be a kernel as well.

  Args:
    reader: notes it.
    equation: the product.
    sides: the table and the one-hot rows.
    place: of the equation.
    axes: of the product.
    scale: what the rows are multiplied by.
  """
  weight, signal = sides
  view = weight.view
  assert view is not None
  if view.multiplier is not None:
    view = dataclasses.replace(view, multiplier=view.multiplier * scale)
  table = dataclasses.replace(weight, view=view)
  axes = axes._replace(units=())
  data = look_up(reader, equation, table, [signal], place, axes)
  choice = weight.choice or Choice()
  choice = Choice(
    choice.touched | signal.touched,
    frozenset([place.site]),
    choice.roots | roots_of([signal]),
  )
  reader.rows[place.site] = choice.roots
  shape = tuple(equation.outvars[0].aval.shape)
  held = held_by_rows(equation, axes, view)
  rows = view if view.computed else part(view, "gather", shape, held)
  return dataclasses.replace(data, view=rows, choice=choice)


def read_contraction(
  reader: Reader, equation: Equation, found: Contraction, place: Place
) -> Value:
  """A sum of products that is written by hand."""
  feed, kernel = reader.streams.feeding(found.signal, place.site), found.kernel
  op = LinearOp(
    kind="dot",
    fan_in=found.fan_in,
    fan_out=found.fan_out,
    feed=feed,
    **_common(equation, kernel, place, found.axes, found.kernel_shape),
  )
  reader.sites[place.site] = op
  made = _features(equation, found.axes)
  return _output(reader, op, found.signal, kernel, [found.signal], made)


def _output(
  reader: Reader,
  op: LinearOp,
  signal: Value,
  weight: Value,
  others: Sequence[Value],
  features: frozenset[int],
) -> Value:
  """What comes out; whatever went in beside the kernel is entangled."""
  computed = weight.view is not None and weight.view.computed
  touched = touched_by([*others, weight] if computed else others)
  if weight.choice is not None:
    touched |= weight.choice.touched
  reader.touched |= touched
  touched |= weight.touched & reader.devices(reader.mesh)
  given: Any = {"operands": (signal,), "place": op.place, "features": features}
  return reader.data("linear", touched, operation=op.path, **given)


def _features(equation: Equation, axes: Axes) -> frozenset[int]:
  """Axes of the output that the kernel makes."""
  if "window_strides" in equation.params:
    return frozenset((equation.params["dimension_numbers"].out_spec[1],))
  rank = len(equation.outvars[0].aval.shape)
  return frozenset(range(rank)) - {*axes.samples}


def _devices_fed(
  reader: Reader, weight: Value, signal: Value, axes: Axes, site: Site
) -> int:
  """On how many devices one entry of the signal meets the kernel.

  There the kernel is split along features of the output, and the signal is not.
  Along other axes of the mesh it holds other terms of a sum.
  """
  view, differs = weight.view, weight.touched & reader.devices(reader.mesh)
  whole = (view and gathered(view)) or view
  held = () if whole is None or whole.axes is None else whole.axes
  free = {axis for place in axes.free if held for axis in held[place]}
  fed = 1
  for split in () if view is None else view.splits:
    if free.intersection(split.held):
      bit = reader.devices([split.axis])
      differs &= ~bit
      fed *= 1 if signal.touched & bit else split.size
  reader.summable[site] = differs
  return fed


def _window(params: dict[str, Any]) -> dict[str, Any]:
  """Fields of a convolution alone."""
  if "window_strides" not in params:
    return {}
  return {
    "groups": params["feature_group_count"],
    "strides": tuple(params["window_strides"]),
    "dilation": tuple(params["rhs_dilation"]),
  }


def _common(
  equation: Equation,
  weight: Value,
  place: Place,
  axes: Axes,
  kernel_shape: tuple[int, ...] | None = None,
) -> dict[str, Any]:
  """Fields of every LinearOp: its kernel and its output."""
  output = equation.outvars[0].aval
  view = weight.view
  if kernel_shape is None:
    kernel_shape = tuple(equation.invars[axes.kernel].aval.shape)
  if view is not None and view.splits:
    whole = gathered(view)
    if whole is not None:
      view, kernel_shape = whole, whole.shape
  return {
    "paths": weight.paths,
    "shape": tuple(output.shape),
    "dtype": output.dtype,
    "origin": "derived" if weight.derived else weight.kind,
    "axes": axes,
    "place": place,
    "view": view,
    "kernel_shape": kernel_shape,
  }
