"""Tables recognized only by later operations; the model is then read again.

A parameter added or joined to raw inputs is a table if the reader of the sum
contracts its features and keeps the axis of its rows; so is a parameter whose
rows are repeated for all samples, such as queries of a decoder. The same holds
for learned queries: in softmax(k·(P·W)), the rows of P, which no data makes.

Tables are read as data at the start of the model: each of them is copied there,
and the copy is an operation, as a look-up is.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from initjax._executables import fresh_jaxpr
from initjax.graph._compat import Equation
from initjax.graph._dataflow import Dataflow
from initjax.graph._features import made_features
from initjax.graph._geometry import Axes
from initjax.graph._graph import Feed, LinearOp
from initjax.graph._linear import common_fields, output_of
from initjax.graph._made_kernels import query_site
from initjax.graph._mixing import softmax
from initjax.graph._moves import axes_after
from initjax.graph._place import Place
from initjax.graph._primitives import (
  ELEMENTWISE,
  JOINS,
  LAYOUT,
  REDUCTIONS,
  SUMS,
)
from initjax.graph._reader import Reader
from initjax.graph._values import CONSTANT, Node, Value
from initjax.graph._variation import unrepeated, varying_axes
from initjax.graph._view import View

_Axes = frozenset[int]
Tables = Mapping[str, _Axes]
"""By path, the axes of a parameter along which features lie."""


def with_copies(
  jaxpr: Any, tables: Sequence[int], params: Any, *inputs: Any
) -> Any:
  """A model that copies some of its parameters before all else."""
  call = jaxpr_as_fun(jaxpr)

  def fn(params: Any, *inputs: Any) -> Any:
    leaves = jax.tree.leaves((params, *inputs))
    for number in tables:
      leaves[number] = jnp.copy(leaves[number])
    return call(*leaves)

  return fresh_jaxpr(fn, params, *inputs)[0]


def read_copy(
  reader: Reader, equation: Equation, value: Value, place: Place
) -> Value:
  """A table as data, and the operation that hands it out."""
  aval, view = equation.outvars[0].aval, value.view
  assert view is not None
  held = reader.tables[view.paths[0]]
  rows = tuple(i for i in range(len(aval.shape)) if i not in held)
  op = LinearOp(
    kind="embedding",
    fan_in=1,
    fan_out=math.prod(aval.shape[axis] for axis in held),
    feed=Feed(reason="positions"),
    **common_fields(
      aval, value, place, Axes(0, rows, tuple(held), (), rows), aval.shape
    ),
  )
  reader.sites[place.site] = op
  return output_of(reader, op, CONSTANT, value, [], equation)


def late_tables(reader: Reader, flow: Dataflow) -> Tables:
  """Parameters that are such tables, in a model that was read."""
  found: dict[str, _Axes] = {}
  for site, op in reader.sites.items():
    node = flow.sites.get(site)
    if op.view is not None and op.kind != "embedding" and node is not None:
      found |= _below(reader, node, op)
  for node in flow.nodes:
    found |= _of_queries(reader, node)
  kernels = {
    path
    for op in reader.sites.values()
    if op.view is not None and op.reason != "positions"
    for path in op.view.paths
    if path not in op.view.mixed
  }
  return {path: found[path] for path in found if path not in kernels}


# What is added to what an operation contracts


def _below(reader: Reader, node: Node, op: LinearOp) -> Tables:
  """Tables on the way down to what feeds an operation."""
  held, signal = _contracted(node.equation, op), node.operands[0].node
  found: dict[str, _Axes] = {}
  open_nodes = [] if signal is None or not held else [(signal, held)]
  seen = set(open_nodes)
  while open_nodes:
    here, held = open_nodes.pop()
    for value, atom, joined in _added(here):
      found |= _table(reader, here, value, atom.aval, held, joined=joined)
    fresh = set(_next(reader, here, held)) - seen
    seen |= fresh
    open_nodes += fresh
  return found


def _contracted(equation: Equation | None, op: LinearOp) -> _Axes:
  """Axes of the signal that an operation sums."""
  name = "" if equation is None else equation.primitive.name
  if equation is None or op.axes.kernel > 1:
    return frozenset()
  if name == "conv_general_dilated":
    return frozenset([equation.params["dimension_numbers"].lhs_spec[1]])
  if name == "dot_general":
    contract, _ = equation.params["dimension_numbers"]
    return frozenset(contract[1 - op.axes.kernel])
  return frozenset()


def _next(
  reader: Reader, node: Node, held: _Axes
) -> Iterator[tuple[Node, _Axes]]:
  """Data below, entry by entry, and where they hold those axes."""
  norm = reader.streams.normalization(node)
  if norm is not None:
    yield norm.inner, held
  elif node.operation is not None or node.equation is None or softmax(node):
    return
  elif node.label in LAYOUT:
    for below in node.below:
      yield below, _before(node.equation, held)
  elif node.label in ELEMENTWISE | {"concatenate"}:
    for below in node.below:
      yield below, held


def _before(equation: Equation, held: _Axes, output: int = 0) -> _Axes:
  """Axes of an operand that its output holds along these."""
  every = tuple((i,) for i in range(len(equation.invars[0].aval.shape)))
  came = axes_after(equation, every, output) or ()
  return frozenset(
    axis for place, own in enumerate(came) if place in held for axis in own
  )


def _added(node: Node) -> Iterator[tuple[Value, Any, bool]]:
  """Parameters that are added to a node's data, or joined to them."""
  joined = node.label == "concatenate"
  if node.equation is None or not (joined or node.label in SUMS):
    return
  for value, atom in zip(node.operands, node.equation.invars, strict=True):
    if value.kind == "parameter" and value.choice is None:
      yield value, atom, joined


def _table(
  reader: Reader,
  node: Node,
  value: Value,
  aval: Any,
  held: _Axes,
  *,
  joined: bool,
) -> Tables:
  """The parameter, if it differs along features, and between what has them."""
  varies, (view, _, places) = varying_axes(value, aval), unrepeated(value, aval)
  rank = len(aval.shape)
  known = [made_features(below, rank) for below in node.below]
  made = frozenset().union(*(own for own in known if own is not None))
  if joined:
    is_table = node.equation.params["dimension"] not in held | made
  else:
    is_table = bool(varies - held - made)
  if view is None or view.axes is None or not (is_table and varies & held):
    return {}
  if all(map(reader.is_zero, value.paths)) or len(view.leaves) > 1:
    return {}
  pairs = zip(places, view.axes, strict=True)
  return {view.paths[0]: frozenset(a for p, o in pairs if p in held for a in o)}


# Learned queries


def _of_queries(reader: Reader, node: Node) -> Tables:
  """Rows of softmax(k·q), where q is computed of parameters alone."""
  site = query_site(node)
  kernel, op = reader.mixed.get(site), reader.sites.get(site)
  if kernel is None or op is None:
    return {}
  return _Rows().of(kernel, frozenset(op.axes.free)) or {}


def _across(equation: Equation, axes: _Axes) -> _Axes:
  """Axes before some were reduced, or one was made by stacking."""
  params = equation.params
  if equation.primitive.name == "stack":
    new = params["axis"] % len(equation.outvars[0].aval.shape)
    return frozenset(axis - (axis > new) for axis in axes if axis != new)
  rank = len(equation.invars[0].aval.shape)
  kept = [axis for axis in range(rank) if axis not in params["axes"]]
  return frozenset(kept[axis] for axis in axes)


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Looks for the parameter that holds rows along some axes."""

  seen: set[tuple[Value, _Axes]] = dataclasses.field(default_factory=set)
  """where there is none"""

  def of(self, value: Value, axes: _Axes) -> Tables | None:
    """The one whose rows lie along the axes of what is computed of it."""
    view, made = value.view, value.made
    if view is None or view.scans or (value, axes) in self.seen:
      return None
    self.seen.add((value, axes))
    if view.axes is not None:
      return self._leaf(view, axes)
    if made is None or made.equation is None:
      return None
    name = made.equation.primitive.name
    if name == "dot_general":
      return self._product(made, axes)
    if name in LAYOUT:
      return self.of(made.operands[0], _before(made.equation, axes))
    if name in REDUCTIONS | {"stack"}:
      return self.of(made.operands[0], _across(made.equation, axes))
    if name not in ELEMENTWISE | JOINS:
      return None
    every = (self.of(each, axes) for each in self._widest_first(made))
    return next((found for found in every if found), None)

  def _widest_first(self, made: Node) -> Iterator[Value]:
    """Operands, those that differ along the most axes first."""
    pairs = zip(made.operands, made.equation.invars, strict=True)
    width = lambda pair: -len(varying_axes(pair[0], pair[1].aval))
    return (value for value, _ in sorted(pairs, key=width))

  def _leaf(self, view: View, axes: _Axes) -> Tables | None:
    if view.computed or view.axes is None or len(view.leaves) > 1:
      return None
    ((path, shape),) = view.leaves.items()
    rows = {axis for place in axes for axis in view.axes[place]}
    held = frozenset(range(len(shape))) - rows
    return {path: held} if held else None

  def _product(self, made: Node, axes: _Axes) -> Tables | None:
    """Of P·W the side that has rows; a vector, where there are none."""
    contract, batch = made.equation.params["dimension_numbers"]
    place, sides = len(batch[0]), []
    for side, (value, atom) in enumerate(
      zip(made.operands, made.equation.invars, strict=True)
    ):
      own = {b for at, b in enumerate(batch[side]) if at in axes}
      taken = {*contract[side], *batch[side]}
      free = [a for a in range(len(atom.aval.shape)) if a not in taken]
      rows = {a for at, a in enumerate(free, place) if at in axes}
      place += len(free)
      sides.append((not rows, len(free), value, frozenset(own | rows)))
    _, _, value, axes = min(sides, key=lambda each: each[:2])
    return self.of(value, axes)
