"""Noting linear operations: the uses of parameters that carry signal."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from initjax.graph import _geometry
from initjax.graph._activations import feed_of
from initjax.graph._geometry import Axes, Fans
from initjax.graph._graph import Feed, LinearOp, Place, Site
from initjax.graph._primitives import LAYOUT
from initjax.graph._streams import Streams
from initjax.graph._values import Node, Value, data, joined


@dataclasses.dataclass
class Reader:
  """What has been noted so far."""

  sites: dict[Site, LinearOp] = dataclasses.field(default_factory=dict)
  elementwise: dict[str, None] = dataclasses.field(default_factory=dict)
  opaque: dict[str, None] = dataclasses.field(default_factory=dict)
  streams: Streams = dataclasses.field(default_factory=Streams)
  nodes: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def node(self, label: str, **fields: Any) -> Node:
    """A new node; later ones have higher indices."""
    return Node(next(self.nodes), label, **fields)


def read_linear(
  reader: Reader, equation: Any, operands: list[Value], place: Place
) -> Value:
  """A product: notes it if one side is data, and says what comes out."""
  first, second = operands[:2]
  is_data = [first.kind == "data", second.kind == "data"]
  if not any(is_data):
    return joined((first, second), "product")
  kernel = 0 if is_data == [False, True] else 1
  weight, signal = operands[kernel], operands[1 - kernel]
  computed = weight.kind == "constant" and "closed over" not in weight.view
  if computed:  # such as the one-hot kernel that extracts patches
    label = "patches" if "window_strides" in equation.params else "mixing"
    return data(reader.node(label, equation=equation, operands=(signal,)))
  kind, axes, fans = _measures(equation, kernel)
  op = LinearOp(
    kind="data" if all(is_data) else kind,
    fan_in=fans.fan_in,
    fan_out=fans.fan_out * _patch_overlap(signal),
    feed=feed_of(signal)._replace(
      stream=reader.streams.feeding(signal, place.site)
    ),
    **_window(equation.params),
    **_common(equation, weight, place, axes),
  )
  reader.sites[place.site] = op
  if all(is_data):
    return data(
      reader.node("data product", operands=(weight, signal), place=place)
    )
  return _output(reader, op, signal)


def read_look_up(
  reader: Reader, equation: Any, operands: list[Value], place: Place
) -> Value:
  """A row of a table for every index: an embedding."""
  table, indices = operands[:2]
  ranks = (equation.invars[0].aval.ndim, equation.outvars[0].aval.ndim)
  axes = _geometry.gather_axes(equation.params, *ranks)
  fans = _geometry.gather_fans(equation.params)
  op = LinearOp(
    kind="embedding",
    fan_in=fans.fan_in,
    fan_out=fans.fan_out,
    feed=Feed(reason="indices"),
    **_common(equation, table, place, axes),
  )
  reader.sites[place.site] = op
  return _output(reader, op, indices)


def _output(reader: Reader, op: LinearOp, signal: Value) -> Value:
  return data(
    reader.node("linear", operands=(signal,), operation=op.path, place=op.place)
  )


def _measures(equation: Any, kernel: int) -> tuple[Any, Axes, Fans]:
  """Kind, axes and fans of a product whose operand `kernel` is the kernel."""
  name, params = equation.primitive.name, equation.params
  shapes = [tuple(atom.aval.shape) for atom in equation.invars[:2]]
  ranks = (len(shapes[0]), len(shapes[1]))
  if name == "conv_general_dilated":
    axes = _geometry.convolution_axes(params)
    return "convolution", axes, _geometry.convolution_fans(params, shapes[1])
  if name == "ragged_dot_general":
    axes = _geometry.ragged_dot_axes(params, ranks)
    return "ragged_dot", axes, _geometry.product_fans(axes, shapes[1])
  axes = _geometry.dot_axes(params, ranks, kernel)
  return "dot", axes, _geometry.product_fans(axes, shapes[kernel])


def _window(params: dict[str, Any]) -> dict[str, Any]:
  """What only a convolution has."""
  if "window_strides" not in params:
    return {}
  return {
    "groups": params["feature_group_count"],
    "strides": tuple(params["window_strides"]),
    "dilation": tuple(params["rhs_dilation"]),
  }


def _common(
  equation: Any, weight: Value, place: Place, axes: Axes
) -> dict[str, Any]:
  """What every LinearOp says of its kernel and its output."""
  output = equation.outvars[0].aval
  derived = weight.kind == "parameter" and weight.derived
  in_axes, out_axes = _leaf_axes(weight, axes)
  return {
    "paths": weight.paths,
    "shape": tuple(output.shape),
    "dtype": output.dtype,
    "origin": "derived" if derived else weight.kind,
    "axes": axes,
    "place": place,
    "view": weight.view,
    "multiplier": weight.multiplier,
    "leaf_shape": weight.leaf_shape,
    "in_axes": in_axes,
    "out_axes": out_axes,
    "kernel": weight,
    "kernel_shape": tuple(equation.invars[axes.kernel].aval.shape),
  }


def _leaf_axes(weight: Value, axes: Axes) -> tuple[Any, Any]:
  """Axes of the parameter that are summed, and that become features."""
  if weight.origins is None:
    return None, None
  summed, free = (
    {leaf for axis in group for leaf in weight.origins[axis]}
    for group in (axes.summed, axes.free)
  )
  if summed & free:
    return None, None
  return tuple(sorted(summed)), tuple(sorted(free))


def _patch_overlap(signal: Value) -> float:
  """How many patches hold one element, where patches were extracted before."""
  node = signal.node
  while node is not None and node.label in LAYOUT and node.operands:
    node = node.operands[0].node
  if node is None or node.label != "patches":
    return 1
  params = node.equation.params
  shape = node.equation.invars[1].aval.shape
  window = [shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
  return math.prod(window) / math.prod(params["window_strides"])
