"""Records linear operations: the uses of parameters that carry signal."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from initjax.graph._compat import Aval, Equation
from initjax.graph._contractions import Contraction
from initjax.graph._geometry import Axes, Fans
from initjax.graph._graph import Feed, LinearOp, Term
from initjax.graph._moves import Shape
from initjax.graph._nonzeros import NonZeros
from initjax.graph._padding import patch_overlap, taps_of, valid_fans
from initjax.graph._place import Place, Site
from initjax.graph._reader import Reader
from initjax.graph._roles import (
  chosen_kernels,
  held_by_rows,
  indices_apart,
  kernel_apart,
  kind_axes_fans,
  terms_of,
  without_zeros,
)
from initjax.graph._splits import gathered
from initjax.graph._values import (
  Choice,
  Value,
  joined,
  merged,
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
    return _no_operation(reader, equation, (first, second), place)
  kernel = 0 if is_data == [False, True] else 1
  weight, signal = operands[kernel], operands[1 - kernel]
  reader.in_kernels |= weight.touched
  if weight.kind == "constant" and weight.array is None:
    # such as the one-hot kernel that extracts patches
    label = "patches" if "window_strides" in equation.params else "mixing"
    return reader.data(label, equation=equation, operands=(signal,))
  if all(is_data):
    return _read_product(reader, equation, (weight, signal), place)
  others = [value for place, value in enumerate(operands) if place != kernel]
  return _read_kernel(reader, equation, (weight, *others), place, kernel)


def _read_kernel(
  reader: Reader,
  equation: Equation,
  sides: Sequence[Value],
  place: Place,
  kernel: int,
) -> Value:
  """A product of a kernel and a signal, in this order, and perhaps sizes."""
  weight, signal, *_ = sides
  kind, axes, fans = kind_axes_fans(equation, kernel)
  axes = indices_apart(equation, axes, weight.view)
  terms = terms_of(equation, 1 - axes.kernel, signal)
  one_hot = terms is not None and terms.value is not None and kind == "dot"
  if terms is not None and one_hot and weight.view is not None:
    pair = (weight, signal)
    return _read_one_hot(reader, equation, pair, place, axes, terms)
  role = kind, axes, fans
  op = _operation(reader, equation, (weight, signal), place, role, terms)
  reader.sites[place.site] = op
  if weight.choice is not None:
    reader.roots[place.site] = weight.choice.roots
  if weight.view is not None and weight.view.mixed:
    reader.mixed[place.site] = weight
  return output_of(reader, op, signal, weight, sides[1:], equation)


def _read_product(
  reader: Reader, equation: Equation, sides: tuple[Value, Value], place: Place
) -> Value:
  """A product of two signals; of two chosen kernels it may be one itself."""
  second, first = sides
  weight = second.as_data
  role = kind_axes_fans(equation, 1)
  every = [terms_of(equation, 0, first), terms_of(equation, 1, second)]
  known = [terms.number for terms in every if terms is not None]
  terms = NonZeros(min(known)) if known else None
  op = _operation(
    reader, equation, (weight, first), place, role, terms, is_row=False
  )
  op = dataclasses.replace(op, kind="data")
  rank = len(equation.outvars[0].aval.shape)
  made: dict[str, Any] = {
    "operands": (second, first),
    "place": place,
    "equation": equation,
    "features": frozenset(range(min(1, rank - 1), rank)),
  }
  both = chosen_kernels(equation, [first, second], strict=True)
  choice = merged([v.choice for v in (first, second) if v.choice is not None])
  if not all(both):
    reader.sites[place.site] = op
    return reader.data("data product", **made)
  reader.look_ups[place.site] = op
  look_ups = choice.look_ups | {place.site}
  views = [value.view for value in (first, second) if value.view is not None]
  return dataclasses.replace(
    reader.data("data product", kept=True, **made),
    view=computed(views, "product"),
    choice=choice._replace(look_ups=look_ups),
  )


def _operation(
  reader: Reader,
  equation: Equation,
  sides: tuple[Value, Value],
  place: Place,
  role: tuple[Any, Axes, Fans],
  terms: NonZeros | None,
  *,
  is_row: bool = True,
) -> LinearOp:
  """A product of the kernel and the signal, in this order."""
  (weight, signal), (kind, axes, (fan_in, fan_out)) = sides, role
  feed = reader.streams.feeding(signal, place.site if is_row else None)
  valid = valid_fans(equation, signal, (fan_in, fan_out))
  if terms is not None:
    fan_in = without_zeros(equation, terms, fan_in)
    valid = valid and (without_zeros(equation, terms, valid[0]), valid[1])
  valid = valid and (_unmasked(weight, valid[0]), _unmasked(weight, valid[1]))
  if feed.stream is None and terms is not None and terms.value is not None:
    ones = Term("ones", factor=terms.value)
    feed = Feed(reason=feed.reason, stream=(ones,))
  fan_out *= _devices_fed(reader, weight, signal, axes, place.site)
  return LinearOp(
    kind=kind,
    fan_in=_unmasked(weight, fan_in),
    fan_out=_unmasked(weight, fan_out * patch_overlap(signal)),
    valid_fans=valid,
    taps=taps_of(equation, signal),
    feed=feed,
    **_window(equation.params),
    **common_fields(
      equation.outvars[0].aval,
      weight,
      place,
      axes,
      equation.invars[axes.kernel].aval.shape,
    ),
  )


def _no_operation(
  reader: Reader, equation: Equation, values: Sequence[Value], place: Place
) -> Value:
  """A product without data, or of what is no data yet in a loop."""
  touched = 0
  for operand, value in enumerate(values):
    own = value.touched
    if value.view is not None and not value.view.computed:
      for path in value.paths:
        own &= ~reader.touch(path)
        own |= reader.touch(path, place.site, operand)
    touched |= own
  touched |= reader.contract(touched) if touched & reader.statistics else 0
  if all(value.view is None for value in values):
    return joined(values, "product", touched)
  return joined(values, "product", touched, equation, place)


def look_up(
  reader: Reader,
  equation: Equation,
  table: Value,
  indices: Sequence[Value],
  place: Place,
  axes: Axes,
  rows: float = 1,
) -> Value:
  """Rows of a table, perhaps summed: an operation, if they are used as data."""
  by_data = any(value.kind == "data" for value in indices)
  shape = equation.invars[axes.kernel].aval.shape
  sizes = equation.params.get("slice_sizes", shape)
  op = LinearOp(
    kind="embedding",
    fan_in=rows,  # one feeds as many outputs as it has features
    fan_out=math.prod(sizes[axis] for axis in axes.free),
    feed=Feed(reason="indices" if by_data else "positions"),
    **common_fields(
      equation.outvars[0].aval,
      table,
      place,
      axes,
      equation.invars[axes.kernel].aval.shape,
    ),
  )
  reader.look_ups[place.site] = op
  reader.summable[place.site] = _rows_on_devices(reader, table, axes)
  return output_of(reader, op, indices[0], table, indices, equation)


def _read_one_hot(
  reader: Reader,
  equation: Equation,
  sides: tuple[Value, Value],
  place: Place,
  axes: Axes,
  terms: NonZeros,
) -> Value:
  """A product with one-hot rows looks up rows; one may be a kernel as well.

  Args:
    reader: notes it.
    equation: the product.
    sides: the table and the one-hot rows, or sums of such.
    place: of the equation.
    axes: of the product.
    terms: how many rows are summed, and by what they are multiplied.
  """
  weight, signal = sides
  view = weight.view
  assert view is not None
  if view.multiplier is not None:
    multiplier = view.multiplier * (terms.value or 0.0)
    view = dataclasses.replace(view, multiplier=multiplier)
  table = dataclasses.replace(weight, view=view)
  axes, count = axes._replace(units=()), terms.number
  data = look_up(reader, equation, table, [signal], place, axes, count)
  if count > 1:
    reader.sites[place.site] = reader.look_ups[place.site]
    return data
  own = Choice(signal.touched, roots=roots_of([signal]))
  choice = merged([own, weight.choice or Choice()])
  choice = choice._replace(look_ups=frozenset([place.site]))
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
  looks_up = found.terms.value is not None
  op = LinearOp(
    kind="embedding" if looks_up else "dot",
    fan_in=_unmasked(kernel, found.terms.number),
    fan_out=_unmasked(kernel, found.fan_out),
    feed=Feed(reason="indices") if looks_up else feed,
    **common_fields(
      equation.outvars[0].aval, kernel, place, found.axes, found.kernel_shape
    ),
  )
  reader.sites[place.site] = op
  if kernel.choice is not None:
    reader.roots[place.site] = kernel.choice.roots
  return output_of(reader, op, found.signal, kernel, [found.signal], equation)


def output_of(
  reader: Reader,
  op: LinearOp,
  signal: Value,
  weight: Value,
  others: Sequence[Value],
  equation: Equation | None = None,
) -> Value:
  """What comes out; whatever went in beside the kernel is entangled."""
  computed = weight.view is not None and weight.view.computed
  touched = touched_by([*others, weight] if computed else others)
  if weight.choice is not None:
    touched |= weight.choice.touched
  reader.touched |= touched
  touched |= weight.touched & reader.devices(reader.mesh)
  given: Any = {"operands": (signal,), "place": op.place, "equation": equation}
  given |= {"operation": op.path, "features": _features(op, equation)}
  return reader.data("linear", touched, **given)


def _features(op: LinearOp, equation: Equation | None) -> frozenset[int]:
  """Axes of the output that the kernel makes."""
  if equation is not None and "window_strides" in equation.params:
    return frozenset((equation.params["dimension_numbers"].out_spec[1],))
  return frozenset(range(len(op.shape))) - {*op.axes.samples}


def _rows_on_devices(reader: Reader, table: Value, axes: Axes) -> int:
  """Bits of the axes of a mesh along which the rows of a table are split."""
  view = table.view
  if view is None or view.axes is None or not view.splits:
    return 0
  rows = {held for axis in axes.summed for held in view.axes[axis]}
  return reader.devices(
    split.axis for split in view.splits if rows.intersection(split.held)
  )


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


def _unmasked(weight: Value, fan: float) -> float:
  """What a fan counts of a kernel that a constant mask leaves."""
  if weight.view is None or weight.view.alive == 1:
    return fan
  found = round(fan * weight.view.alive, 9)
  return int(found) if found == int(found) else found


def _window(params: dict[str, Any]) -> dict[str, Any]:
  """Fields of a convolution alone."""
  if "window_strides" not in params:
    return {}
  return {
    "groups": params["feature_group_count"],
    "strides": tuple(params["window_strides"]),
    "dilation": tuple(params["rhs_dilation"]),
  }


def common_fields(
  output: Aval, weight: Value, place: Place, axes: Axes, shape: Shape
) -> dict[str, Any]:
  """Fields of every LinearOp: its kernel, of this shape, and its output."""
  view = weight.view
  if view is not None and view.splits:
    whole = gathered(view)
    if whole is not None:
      view, shape = whole, whole.shape
  return {
    "paths": weight.paths,
    "shape": tuple(output.shape),
    "dtype": output.dtype,
    "origin": "derived" if weight.derived else weight.kind,
    "axes": axes,
    "place": place,
    "view": view,
    "kernel_shape": tuple(shape),
  }
