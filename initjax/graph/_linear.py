"""Noting linear operations: the uses of parameters that carry signal."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from initjax.graph import _geometry
from initjax.graph._activations import feed_of, unpadded
from initjax.graph._compat import Equation
from initjax.graph._contractions import Contraction, Met
from initjax.graph._geometry import Axes, Fans
from initjax.graph._graph import Feed, LinearOp, Place, Site
from initjax.graph._moves import Held
from initjax.graph._one_hot import one_hot_scale
from initjax.graph._primitives import LAYOUT
from initjax.graph._splits import gathered
from initjax.graph._streams import Streams
from initjax.graph._values import (
  Choice,
  Node,
  Touch,
  Value,
  joined,
  roots_of,
  touched_by,
)
from initjax.graph._view import View, leaf, part


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
  look_ups: dict[Site, LinearOp] = dataclasses.field(default_factory=dict)
  """what data choose: operations, if the result is used as data"""
  roots: dict[Site, frozenset[Node]] = dataclasses.field(default_factory=dict)
  """of operations whose kernel is chosen, what chooses it"""
  mesh: dict[str, int] = dataclasses.field(default_factory=dict)
  """sizes of the axes of the shard_maps that are being read"""
  summable: dict[Site, int] = dataclasses.field(default_factory=dict)
  """bits of the axes along which devices have other terms of an operation"""
  statistics: int = 0
  """inputs that are taken for constants: their bits"""
  contracted: int = 0
  """bits of those that were summed with parameters, as a power iteration does,
  in what came out"""
  in_kernels: int = 0
  """bits of those that reached an operation as a part of its kernel"""
  streams: Streams = dataclasses.field(default_factory=Streams)
  met: Met = dataclasses.field(default_factory=Met)
  nodes: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def data(
    self,
    label: str,
    touched: int | None = None,
    *,
    kept: bool = False,
    **fields: Any,
  ) -> Value:
    """A value that depends on the inputs; touched by its operands.

    These are used as data, unless the choice is `kept` what else they are.
    """
    node = Node(next(self.nodes), label, **fields)
    for value in () if kept else node.operands:
      self.use_as_data(value)
    touched = touched_by(node.operands) if touched is None else touched
    return Value("data", node=node, touched=touched)

  def use_as_data(self, value: Value) -> None:
    """Notes what is no kernel, where there was a choice: look-ups, or terms."""
    if value.choice is None or value.kind != "data":
      return
    looked_up = {site: self.look_ups[site] for site in value.choice.look_ups}
    self.sites.update(looked_up)
    listed = {path for op in looked_up.values() for path in op.paths}
    others = (path for path in value.paths if path not in listed)
    self.elementwise.update(dict.fromkeys(others))

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

  def statistic(self, number: int) -> Value:
    """An input that is taken for a constant."""
    bit = self.touch("", None, number)
    self.statistics |= bit
    return Value("constant", input=number, touched=bit)

  def contract(self, touched: int) -> int:
    """Bits for what is summed, if statistics have a say in it."""
    found = 0
    for touch, bit in [*self.bits.items()]:
      is_input = isinstance(touch, Touch) and touch[:2] == ("", None)
      if is_input and bit & touched & self.statistics:
        found |= self.touch("", (), touch[2])
    self.contracted |= found
    return found

  def inputs_of(self, bits: int) -> set[int]:
    """Numbers of the inputs whose bits are among these."""
    return {
      touch.operand
      for touch, bit in self.bits.items()
      if isinstance(touch, Touch) and not touch.path and bit & bits
    }

  @property
  def entangled(self) -> frozenset[str]:
    """Paths of those, without products that turned out to be operations."""
    ops = self.sites
    return frozenset(
      touch.path
      for touch, bit in self.bits.items()
      if isinstance(touch, Touch)
      and touch.path
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
  operands = _kernel_apart(equation, operands)
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
    reader.use_as_data(weight)
    weight = weight.as_data
  axes = _indices_apart(equation, kernel, weight.view)
  scale = _one_hot_scale(equation, axes, weight, signal)
  if scale is not None:
    sides = (weight, signal)
    return _read_one_hot(reader, equation, sides, place, axes, scale)
  stream = reader.streams.feeding(signal, place.site)
  kind, _, (fan_in, fan_out) = _kind_axes_fans(equation, kernel)
  fan_out *= _devices_fed(reader, weight, signal, axes, place.site)
  op = reader.sites[place.site] = LinearOp(
    kind="data" if all(is_data) else kind,
    fan_in=fan_in,
    fan_out=fan_out * _patch_overlap(signal),
    valid_fans=_valid_fans(equation, signal, (fan_in, fan_out)),
    feed=feed_of(signal)._replace(stream=stream),
    **_window(equation.params),
    **_common(equation, weight, place, axes),
  )
  if all(is_data):
    return reader.data("data product", operands=(weight, signal), place=place)
  if weight.choice is not None:
    reader.roots[place.site] = weight.choice.roots
  others = [value for place, value in enumerate(operands) if place != kernel]
  made = _features(equation, axes)
  return _output(reader, op, signal, weight, others, made)


def _kernel_apart(equation: Equation, operands: list[Value]) -> list[Value]:
  """Operands, where a kernel that data choose is told from rows looked up.

  It is contracted along axes of the parameter, with a signal; where both are
  chosen, the one that has features of an output.
  """
  chosen = [v.kind == "data" and v.choice is not None for v in operands[:2]]
  if not any(chosen) or any(value.kind != "data" for value in operands[:2]):
    return operands
  found = []
  for side, value in enumerate(operands[:2]):
    _, axes, _ = _kind_axes_fans(equation, side)
    held = None if value.view is None else value.view.axes
    fits = chosen[side] and axes.kernel == side
    for wanted in (axes.summed, axes.free)[: 1 + all(chosen)]:
      fits = fits and (held is None or any(held[axis] for axis in wanted))
    kernel = dataclasses.replace(value, kind="parameter", node=None)
    found.append(kernel if fits else value)
  one = sum(value.kind == "parameter" for value in found) == 1
  return [*found, *operands[2:]] if one else operands


def _indices_apart(equation: Equation, kernel: int, view: View | None) -> Axes:
  """The axes; batch axes of a kernel that hold none of a leaf are samples."""
  _, axes, _ = _kind_axes_fans(equation, kernel)
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


def _one_hot_scale(
  equation: Equation, axes: Axes, weight: Value, signal: Value
) -> float | None:
  """What rows of a table are multiplied by; None if none are looked up."""
  if equation.primitive.name != "dot_general" or weight.view is None:
    return None
  contract, _ = equation.params["dimension_numbers"]
  places = contract[1 - axes.kernel]
  if signal.node is None or len(places) != 1:
    return None
  return one_hot_scale(signal.node, places[0])


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
  shape = tuple(equation.outvars[0].aval.shape)
  held = _held_by_rows(equation, axes, view)
  rows = view if view.computed else part(view, "gather", shape, held)
  return dataclasses.replace(data, view=rows, choice=choice)


def _held_by_rows(equation: Equation, axes: Axes, view: View) -> Held | None:
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
  held = () if view is None or view.axes is None else view.axes
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
