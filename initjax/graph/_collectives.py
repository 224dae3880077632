"""What the devices of a shard_map do together: split and sum arrays.

Inside a shard_map an array is a shard, but the graph describes the whole model:
a sum over devices, each with its part of a kernel, is one longer sum. So each
value records the mesh axes over which it differs, each view those by which it
was split, and a collective is read as a sum or as a move of entries.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from initjax.graph._compat import Atom, Equation, manual_axes
from initjax.graph._place import BY_DEVICE, Place, Site
from initjax.graph._primitives import LAYOUT, SCALES, SUMS
from initjax.graph._reader import Reader
from initjax.graph._splits import gathered, split
from initjax.graph._values import Node, Value, joined
from initjax.graph._view import View, part


def _names(text: str) -> frozenset[str]:
  return frozenset(text.split())


_EQUAL_AFTER = _names("""
all_gather all_gather_invariant all_gather_reduced pmax pmin psum psum_invariant
""")
"""After these, an array is the same on all devices along the axes."""
_SUMS = _names("psum psum_invariant reduce_scatter")
_MOVES = _names("""
all_gather all_gather_invariant all_gather_reduced all_to_all pbroadcast
ppermute ragged_all_to_all
""")
_COLLECTIVES = _SUMS | _MOVES | _names("axis_index pmax pmin")


def is_collective(equation: Equation) -> bool:
  """Whether devices exchange something; a sum over axes of an array is none."""
  if equation.primitive.name not in _COLLECTIVES:
    return False
  return any(isinstance(axis, str) for axis in _mesh_axes(equation))


def _mesh_axes(equation: Equation) -> Sequence[str]:
  """The axes of the mesh that a collective is over."""
  params = equation.params
  axes = params.get("axes", params.get("axis_name", ()))
  return axes if isinstance(axes, tuple | list) else (axes,)


def into_shards(
  reader: Reader, equation: Equation, values: Sequence[Value]
) -> list[Value]:
  """What one device sees of the operands of a shard_map."""
  params, found = equation.params, []
  mesh = params["mesh"]
  reader.mesh.update({a: mesh.shape[a] for a in manual_axes(params)})
  for value, spec in zip(values, params["in_specs"], strict=True):
    for place, axis in _splits(spec):
      value = value.more_touched(reader.devices([axis]))
      if value.view is not None and not value.view.computed:
        view = split(value.view, place, axis, mesh.shape[axis])
        value = dataclasses.replace(value, view=view)
    found.append(value)
  return found


def _splits(spec: Any) -> Iterator[tuple[int, str]]:
  """Each axis of an array that is split, and the axis of the mesh."""
  for place, axes in enumerate(spec):
    for axis in axes if isinstance(axes, tuple) else (axes,):
      if isinstance(axis, str):
        yield place, axis


def out_of_shards(
  reader: Reader, equation: Equation, values: Sequence[Value]
) -> list[Value]:
  """What the outputs of all devices are together."""
  axes, found = manual_axes(equation.params), []
  for value, variable in zip(values, equation.outvars, strict=True):
    shape, view = tuple(variable.aval.shape), value.view
    if view is not None and not view.computed:
      view = _as_whole(view, axes, "shard_map", shape)
    touched = value.touched & ~reader.devices(axes)
    found.append(dataclasses.replace(value, view=view, touched=touched))
  return found


def _as_whole(
  view: View, axes: Collection[str], name: str, shape: tuple[int, ...]
) -> View:
  """The view of several devices, as the whole that it was split from."""
  whole = gathered(view, axes)
  if whole is not None and whole.shape == shape:
    return whole
  held = view.axes if len(shape) == len(view.shape) else None
  left = tuple(one for one in view.splits if one.axis not in axes)
  return dataclasses.replace(part(view, name, shape, held), splits=left)


def read_collective(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  """The outputs of an equation in which devices exchange what they hold."""
  if equation.primitive.name == "axis_index":
    devices = reader.devices(_mesh_axes(equation))
    return [Value("constant", touched=devices)]
  return [
    _exchanged(reader, equation, value, place, output)
    for output, value in enumerate(operands[: len(equation.outvars)])
  ]


def _exchanged(
  reader: Reader, equation: Equation, value: Value, place: Place, output: int
) -> Value:
  name, axes = equation.primitive.name, _mesh_axes(equation)
  grouped = equation.params.get("axis_index_groups") is not None
  devices, after = reader.devices(axes), value.touched
  if name in _EQUAL_AFTER and not grouped:
    after &= ~devices
  if value.kind != "data":
    return _not_data(value, name, axes, equation.outvars[output], after)
  node: Any = {"noise": value.node and value.node.noise, "touched": after}
  rows = None if grouped else _rows_apart(reader, name, value, devices)
  if rows is not None:
    return reader.data("reshape", operands=(rows,), **node)
  moved = not grouped and _as_move(reader, name, value, axes)
  if isinstance(moved, Value):
    return reader.data("mul", operands=(value, moved), **node)
  if moved:
    return reader.data("reshape", operands=(value,), **node)
  node |= {"equation": equation, "place": place, "output": output}
  return reader.data(name, operands=(value,), **node)


def _not_data(
  value: Value, name: str, axes: Collection[str], variable: Atom, after: int
) -> Value:
  """A parameter or a constant that devices exchange."""
  view = value.view
  if name not in _MOVES or view is None or view.computed:
    return joined((value,), name, after)
  view = _as_whole(view, axes, name, tuple(variable.aval.shape))
  return Value("parameter", view, touched=after)


def _as_move(
  reader: Reader, name: str, value: Value, axes: Sequence[str]
) -> bool | Value:
  """Whether entries stay what they are; or a number that multiplies them."""
  if name not in _SUMS:
    return name in _MOVES
  devices = reader.devices(axes)
  if not devices:
    return True
  if not value.touched & devices:
    size = math.prod(reader.mesh[axis] for axis in axes)
    return Value("constant", scalar=float(size))
  reader.use_as_data(value)
  terms = [node.place for node in _summands(value, devices)]
  parts = [reader.summable.get(at.site, 0) & devices == devices for at in terms]
  if not parts or not all(parts):
    return False
  for place in terms:
    if BY_DEVICE in place.whole:  # of a sum of which each does another part
      paths = reader.sites[place.site].paths
      reader.met.not_followed |= dict.fromkeys(paths, name)
    else:
      _sum_longer(reader, place.site, axes)
  return True


def _rows_apart(
  reader: Reader, name: str, value: Value, devices: int
) -> Value | None:
  """Rows of a table that is split, where each device masks what others have."""
  masked, node = False, value.node
  while name in _SUMS and node is not None and node.operation is None:
    places = [i for i, one in enumerate(node.operands) if not _masks(one)]
    zero = node.label == "select_n" and node.operands[places[0]].scalar == 0
    if zero or (node.label == "mul" and len(places) == 1):
      masked = True
    elif node.label not in LAYOUT:
      return None
    value = node.operands[places[-1]]
    node = value.node
  if not masked or node is None or node.place is None:
    return None
  site = node.place.site
  op = reader.look_ups.get(site)
  apart = devices and reader.summable.get(site, 0) & devices == devices
  return value if op is not None and apart else None


def _masks(value: Value) -> bool:
  """Whether it is a comparison, perhaps as numbers."""
  node = value.node and value.node.unmoved
  if not node or node.equation is None:
    return False
  return node.equation.outvars[node.output].aval.dtype == bool


def _summands(value: Value, devices: int) -> list[Any]:
  """The operations whose outputs it is a sum of; none if it is more."""
  found: dict[Node, None] = {}
  left, seen = [value.node], set()
  while left:
    node = left.pop()
    if node is None:
      return []
    if node in seen:
      continue
    seen.add(node)
    if node.operation is not None:
      found[node] = None
      continue
    terms = node.operands[node.label == "cond" :]
    others = [one for one in terms if one.node is None]
    is_sum = node.label in SUMS | {"cond"} and not others
    is_same = node.label in LAYOUT | SCALES and len(node.below) == 1
    equal = not any(one.touched & devices for one in others)
    is_same &= node.label != "div" or terms[0].node is not None
    if not (is_sum or (is_same and equal)):
      return []
    left += [one.node for one in terms if one.node is not None]
  return list(found)


def _sum_longer(reader: Reader, site: Site, axes: Sequence[str]) -> None:
  """The sum of an operation goes on over the devices along these axes."""
  op = reader.sites[site]
  known = dict(op.summed_over)
  new = {axis: reader.mesh[axis] for axis in axes if axis not in known}
  alone = op.kind == "embedding"  # a row is looked up on one device
  longer = dataclasses.replace(
    op,
    fan_in=op.fan_in * (1 if alone else math.prod(new.values())),
    summed_over=tuple((known | new).items()),
  )
  reader.sites[site] = longer
  if alone:
    reader.look_ups[site] = longer
