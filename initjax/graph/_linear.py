"""Noting linear operations: the uses of parameters that carry signal."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from initjax.graph import _geometry
from initjax.graph._activations import feed_of
from initjax.graph._compat import Equation
from initjax.graph._geometry import Axes, Fans
from initjax.graph._graph import Feed, LinearOp, Place, Site
from initjax.graph._splits import gathered
from initjax.graph._streams import Streams
from initjax.graph._values import (
  CLOSED_OVER,
  Node,
  Touch,
  Value,
  joined,
  touched_by,
)
from initjax.graph._view import leaf


@dataclasses.dataclass
class Reader:
  """What has been noted so far."""

  sites: dict[Site, LinearOp] = dataclasses.field(default_factory=dict)
  elementwise: dict[str, None] = dataclasses.field(default_factory=dict)
  opaque: dict[str, None] = dataclasses.field(default_factory=dict)
  bits: dict[Touch | str, int] = dataclasses.field(default_factory=dict)
  """also of axes of a mesh over whose devices a value differs, by name"""
  touched: int = 0
  """parameters that reach an operation otherwise than as its kernel"""
  mesh: dict[str, int] = dataclasses.field(default_factory=dict)
  """sizes of the axes of the shard_maps that are being read"""
  summable: dict[Site, int] = dataclasses.field(default_factory=dict)
  """bits of the axes along which devices have other terms of an operation"""
  streams: Streams = dataclasses.field(default_factory=Streams)
  nodes: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def data(
    self, label: str, touched: int | None = None, **fields: Any
  ) -> Value:
    """A value that depends on the inputs; touched by its operands."""
    node = Node(next(self.nodes), label, **fields)
    touched = touched_by(node.operands) if touched is None else touched
    return Value("data", node=node, touched=touched)

  def touch(self, *touch: Any) -> int:
    """The bit of a `Touch`."""
    return self.bits.setdefault(Touch(*touch), 1 << len(self.bits))

  def devices(self, axes: Iterable[str]) -> int:
    """The bits of axes of a mesh; none for those that have one device."""
    found = 0
    for axis in axes:
      if self.mesh.get(axis, 1) > 1:
        found |= self.bits.setdefault(axis, 1 << len(self.bits))
    return found

  def parameter(self, path: str, shape: tuple[int, ...]) -> Value:
    """A leaf."""
    return Value("parameter", leaf(path, shape), touched=self.touch(path))

  @property
  def entangled(self) -> frozenset[str]:
    """Paths of those, without products that turned out to be operations."""
    ops = self.sites
    return frozenset(
      touch.path
      for touch, bit in self.bits.items()
      if isinstance(touch, Touch)
      and bit & self.touched
      and (
        touch.product not in ops
        or ops[touch.product].axes.kernel != touch.operand
      )
    )


def read_linear(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> Value:
  """A product: notes it if one side is data, and says what comes out."""
  first, second = operands[:2]
  is_data = [value.kind == "data" for value in (first, second)]
  if not any(is_data):
    return _no_operation(reader, (first, second), place.site)
  kernel = 0 if is_data == [False, True] else 1
  weight, signal = operands[kernel], operands[1 - kernel]
  if weight.kind == "constant" and weight is not CLOSED_OVER:
    # such as the one-hot kernel that extracts patches
    label = "patches" if "window_strides" in equation.params else "mixing"
    return reader.data(label, equation=equation, operands=(signal,))
  kind, axes, (fan_in, fan_out) = _kind_axes_fans(equation, kernel)
  fan_out *= _devices_fed(reader, weight, signal, axes, place.site)
  op = LinearOp(
    kind="data" if all(is_data) else kind,
    fan_in=fan_in,
    fan_out=fan_out * _patch_overlap(signal),
    feed=feed_of(signal)._replace(
      stream=reader.streams.feeding(signal, place.site)
    ),
    **_window(equation.params),
    **_common(equation, weight, place, axes),
  )
  reader.sites[place.site] = op
  if all(is_data):
    return reader.data("data product", operands=(weight, signal), place=place)
  others = [value for place, value in enumerate(operands) if place != kernel]
  return _output(reader, op, signal, weight, others)


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
  return joined(values, "product", touched)


def read_look_up(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> Value:
  """A row of a table for every index: an embedding."""
  table, indices = operands[:2]
  atoms = (equation.invars[0], equation.outvars[0])
  ranks = [len(atom.aval.shape) for atom in atoms]
  axes = _geometry.gather_axes(equation.params, *ranks)
  op = LinearOp(
    kind="embedding",
    fan_in=1,  # a row feeds as many outputs as it has features
    fan_out=math.prod(equation.params["slice_sizes"]),
    feed=Feed(reason="indices"),
    **_common(equation, table, place, axes),
  )
  reader.sites[place.site] = op
  return _output(reader, op, indices, table, [indices])


def _output(
  reader: Reader,
  op: LinearOp,
  signal: Value,
  weight: Value,
  others: Sequence[Value],
) -> Value:
  """What comes out; whatever went in beside the kernel is entangled."""
  computed = weight.view is not None and weight.view.computed
  touched = touched_by([*others, weight] if computed else others)
  reader.touched |= touched
  touched |= weight.touched & reader.devices(reader.mesh)
  return reader.data(
    "linear", touched, operands=(signal,), operation=op.path, place=op.place
  )


def _kind_axes_fans(equation: Equation, kernel: int) -> tuple[Any, Axes, Fans]:
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
  equation: Equation, weight: Value, place: Place, axes: Axes
) -> dict[str, Any]:
  """Fields of every LinearOp: its kernel and its output."""
  output = equation.outvars[0].aval
  view, shape = weight.view, tuple(equation.invars[axes.kernel].aval.shape)
  if view is not None and view.splits:
    whole = gathered(view)
    view, shape = (view, shape) if whole is None else (whole, whole.shape)
  return {
    "paths": weight.paths,
    "shape": tuple(output.shape),
    "dtype": output.dtype,
    "origin": "derived" if weight.derived else weight.kind,
    "axes": axes,
    "place": place,
    "view": view,
    "kernel_shape": shape,
  }


def _patch_overlap(signal: Value) -> float:
  """How many patches hold one element, where patches were extracted before."""
  node = signal.node and signal.node.unmoved
  if node is None or node.label != "patches":
    return 1
  params = node.equation.params
  shape = node.equation.invars[1].aval.shape
  window = [shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
  return math.prod(window) / math.prod(params["window_strides"])
