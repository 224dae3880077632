"""Noting linear operations: the uses of parameters that carry signal."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from initjax.graph import _geometry
from initjax.graph._activations import feed_of, unpadded
from initjax.graph._compat import Equation
from initjax.graph._contractions import Contraction, Met
from initjax.graph._geometry import Axes, Fans
from initjax.graph._graph import Feed, LinearOp, Place, Site
from initjax.graph._primitives import LAYOUT
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
  bits: dict[Touch, int] = dataclasses.field(default_factory=dict)
  touched: int = 0
  """parameters that reach an operation otherwise than as its kernel"""
  streams: Streams = dataclasses.field(default_factory=Streams)
  met: Met = dataclasses.field(default_factory=Met)
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

  def parameter(self, path: str, shape: tuple[int, ...]) -> Value:
    """A leaf."""
    return Value("parameter", leaf(path, shape), touched=self.touch(path))

  @property
  def entangled(self) -> frozenset[str]:
    """Paths of those, without products that turned out to be operations."""
    ops = self.sites
    return frozenset(
      path
      for (path, product, operand), bit in self.bits.items()
      if bit & self.touched
      and (product not in ops or ops[product].axes.kernel != operand)
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
  op = LinearOp(
    kind="data" if all(is_data) else kind,
    fan_in=fan_in,
    fan_out=fan_out * _patch_overlap(signal),
    valid_fans=_valid_fans(equation, signal, (fan_in, fan_out)),
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


def read_contraction(
  reader: Reader, equation: Equation, found: Contraction, place: Place
) -> Value:
  """A sum of products that is written by hand."""
  feed, kernel = feed_of(found.signal), found.kernel
  stream = reader.streams.feeding(found.signal, place.site)
  op = LinearOp(
    kind="dot",
    fan_in=found.fan_in,
    fan_out=found.fan_out,
    feed=feed._replace(stream=stream),
    **_common(equation, kernel, place, found.axes, found.kernel_shape),
  )
  reader.sites[place.site] = op
  return _output(reader, op, found.signal, kernel, [found.signal])


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
  if kernel_shape is None:
    kernel_shape = tuple(equation.invars[axes.kernel].aval.shape)
  return {
    "paths": weight.paths,
    "shape": tuple(output.shape),
    "dtype": output.dtype,
    "origin": "derived" if weight.derived else weight.kind,
    "axes": axes,
    "place": place,
    "view": weight.view,
    "kernel_shape": kernel_shape,
  }


def _valid_fans(equation: Equation, signal: Value, fans: Fans) -> Fans | None:
  """Fans without padding, of a convolution or of a product of patches."""
  node = signal.node and signal.node.unmoved
  if "window_strides" in equation.params:
    shapes = _shapes(equation)
    around = _around(signal, shapes[0])
    return _geometry.valid_fans(equation.params, shapes, *around)
  if node is None or node.label != "patches":
    return None
  shapes = _shapes(node.equation)
  around = _around(node.operands[0], shapes[0])
  taps, feeds = _geometry.valid_fans(node.equation.params, shapes, *around)
  spec = node.equation.params["dimension_numbers"].rhs_spec
  window = math.prod(shapes[1][axis] for axis in spec[1:])
  features = shapes[1][spec[0]] / node.equation.params["feature_group_count"]
  return fans[0] * taps / window, fans[1] * feeds / features


def _shapes(equation: Equation) -> list[tuple[int, ...]]:
  atoms = (*equation.invars[:2], equation.outvars[0])
  return [tuple(atom.aval.shape) for atom in atoms]


def _around(
  signal: Value, shape: tuple[int, ...]
) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
  """Zeros around a signal along each axis, and its shape without a border.

  A border may be more of its own entries, as in circular padding.
  """
  node, zeros = signal.node, [(0, 0)] * len(shape)
  if node is not None and node.label == "pad" and unpadded(node) is not node:
    config = node.equation.params["padding_config"]
    if all(low >= 0 and high >= 0 and not gap for low, high, gap in config):
      zeros = [(low, high) for low, high, _ in config]
      shape = tuple(node.equation.invars[0].aval.shape)
    return zeros, shape
  while node is not None and unpadded(node) is not node:
    shape = tuple(node.equation.invars[0].aval.shape)
    node = node.below[0]
    while node.label in LAYOUT and node.operands[0].node is not None:
      shape = tuple(node.equation.invars[0].aval.shape)
      node = node.operands[0].node
  return zeros, shape


def _patch_overlap(signal: Value) -> float:
  """How many patches hold one element, where patches were extracted before."""
  node = signal.node and signal.node.unmoved
  if node is None or node.label != "patches":
    return 1
  params = node.equation.params
  shape = node.equation.invars[1].aval.shape
  window = [shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
  return math.prod(window) / math.prod(params["window_strides"])
