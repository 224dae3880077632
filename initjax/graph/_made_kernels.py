"""Kernels that depend on data: hypernetworks, W + Δ(x), scaled kernels.

One of two multiplied signals is a kernel if parameters alone make it vary along
all axes that are summed and all that become features; in attention, the samples
make tokens differ. Weights of the parts of a sum, as of a softmax, are not
signals. The product may be written by hand, `(kernel * x).sum(-1)`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from initjax.graph._activations import is_score
from initjax.graph._compat import Equation
from initjax.graph._mixing import softmax
from initjax.graph._moves import places_after
from initjax.graph._place import Site
from initjax.graph._primitives import (
  ELEMENTWISE,
  JOINS,
  LAYOUT,
  MOVES,
  REDUCTIONS,
  SUMS,
)
from initjax.graph._reader import Reader
from initjax.graph._values import Node, Value
from initjax.graph._variation import (
  KEPT,
  axes_of,
  long_axes,
  varying_axes,
)

_FOLLOWED = ELEMENTWISE | LAYOUT | JOINS | REDUCTIONS | {"data product"}
_Axes = frozenset[int]
_EVERY: _Axes = frozenset(range(16))
"""Of what is not followed: more axes than it has."""


class _Side(NamedTuple):
  """An operand of a product of two signals, as a matrix."""

  node: Node
  summed: _Axes
  """of more than one entry"""
  free: _Axes
  """that the other one has not"""

  @property
  def is_matrix(self) -> bool:
    """Whether it can be a kernel of several features."""
    return bool(self.summed and self.free)


def note_made_kernels(
  reader: Reader, equation: Equation, operands: Sequence[Value]
) -> None:
  """Notes parameters of which, with data, a kernel is made."""
  name, sides = equation.primitive.name, []
  made: list[Node] = []
  if name == "conv_general_dilated" and operands[1].choice is None:
    made = [operands[1].node] if operands[1].node is not None else []
  elif name == "dot_general":
    sides = _of_product(equation, operands)
  elif name == "reduce_sum" and operands[0].node is not None:
    name, sides = "mul", _by_hand(equation, operands[0].node)
  for side in sides:
    _note_query(reader, side.node)
  if len(sides) == 2:
    made = [side.node for side in _kernels(reader, sides)]
  for path in {path: None for node in made for path in _makers(reader, node)}:
    reader.met.not_followed.setdefault(path, name)


def _note_query(reader: Reader, node: Node) -> None:
  """Of softmax(k·q) the kernels of queries that no data make, as of a probe."""
  op = reader.sites.get(query_site(node))
  for path in op.view.mixed if op and op.view is not None else ():
    reader.met.not_followed.setdefault(path, "dot_general")


def query_site(node: Node) -> Site:
  """Of softmax(k·q) where k·q is an operation; () of what is no such."""
  found = softmax(node)
  below = None if found is None else found[0]
  while below is not None and below.operation is None:
    through = below.label in ELEMENTWISE | LAYOUT and below.below
    below = below.below[0] if through else None
  return () if below is None or below.place is None else below.place.site


def _of_product(equation: Equation, operands: Sequence[Value]) -> list[_Side]:
  contract, batch = equation.params["dimension_numbers"]
  found = []
  for side, value in enumerate(operands):
    every = long_axes(equation.invars[side].aval.shape)
    free = every - {*contract[side], *batch[side]}
    if value.node is not None and value.choice is None:
      found.append(_Side(value.node, every & {*contract[side]}, free))
  return found


def _by_hand(equation: Equation, node: Node) -> list[_Side]:
  """The sides of a product that is summed next."""
  while node.label in KEPT and node.operands[0].node is not None:
    node = node.operands[0].node
  if node.label != "mul" or len(node.below) < 2 or node.equation is None:
    return []
  pairs = zip(node.operands, node.equation.invars, strict=True)
  varies = [varying_axes(value, atom.aval) for value, atom in pairs]
  axes = varies[0] & varies[1] & {*axes_of(equation)}
  return [
    _Side(node.below[side], axes, varies[side] - varies[1 - side])
    for side in (0, 1)
    if node.operands[side].choice is None
  ]


def _kernels(reader: Reader, sides: Sequence[_Side]) -> list[_Side]:
  """Which sides of a product are kernels."""
  found = [side for side in sides if side.is_matrix]
  found = [side for side in found if _is_kernel(reader, side)]
  others = [side.node for side in sides if side not in found]
  return found if len(found) == 1 and not _weighs(others[0]) else []


@dataclasses.dataclass
class _Samples:
  """Axes along which nodes differ, and not for their parameters alone."""

  reader: Reader

  def of(self, node: Node) -> _Axes:
    """Each node is read once, after all that is below."""
    known, open_nodes = self.reader.samples, [node]
    while open_nodes:
      missing = [n for n in open_nodes[-1].below if n not in known]
      if not missing:
        here = open_nodes.pop()
        known[here] = self._read(here)
      open_nodes += missing
    return known[node]

  def _read(self, node: Node) -> _Axes:
    if node.noise or node.equation is None:
      return frozenset() if node.noise else _EVERY
    equation, name = node.equation, node.equation.primitive.name
    every = long_axes(node.shape)
    if name == "dot_general":
      return every & self._product(node)
    if node.operation is not None or name not in _FOLLOWED:
      return every - (node.features or frozenset())
    below = [
      self.reader.samples[value.node] & long_axes(atom.aval.shape)
      for value, atom in zip(node.operands, equation.invars, strict=True)
      if value.node is not None
    ]
    if name in MOVES:
      return every & places_after(equation, below[0], node.output)
    if name == "stack":
      new = equation.params["axis"] % len(equation.outvars[0].aval.shape)
      own = frozenset().union(*below)
      return every & frozenset(axis + (axis >= new) for axis in own)
    if name in REDUCTIONS:
      ranks = range(len(equation.invars[0].aval.shape))
      kept = [axis for axis in ranks if axis not in equation.params["axes"]]
      return frozenset(at for at, axis in enumerate(kept) if axis in below[0])
    return every & frozenset().union(*below)

  def _product(self, node: Node) -> _Axes:
    """All where samples are summed, as in linear attention or to mix tokens.

    What an operation sums of an input are features.
    """
    contract, batch = node.equation.params["dimension_numbers"]
    place, found = len(batch[0]), set()
    for side, own in enumerate(self._sides(node)):
      shape = node.equation.invars[side].aval.shape
      is_input = node.operation is not None and own >= long_axes(shape)
      if not is_input and not own.isdisjoint(contract[side]):
        return _EVERY
      found |= {at for at, axis in enumerate(batch[side]) if axis in own}
      for axis in range(len(shape)):
        if axis not in (*contract[side], *batch[side]):
          found |= {place} if axis in own else set()
          place += 1
    return frozenset(found)

  def _sides(self, node: Node) -> list[_Axes]:
    """Of both operands of a product; a kernel has no samples."""
    nodes = [value.node for value in node.operands]
    known = self.reader.samples
    own = [_EVERY if each is None else known[each] for each in nodes]
    if node.operation is None or node.place is None:
      return own[::-1]  # they stand with the kernel's side first
    op = self.reader.sites.get(node.place.site)
    signal = own[:1] if op is not None else [_EVERY]
    kernel = op.axes.kernel if op is not None else 0
    return [frozenset(), *signal] if kernel == 0 else [*signal, frozenset()]


def _is_kernel(reader: Reader, side: _Side) -> bool:
  axes = side.summed | side.free
  samples = _Samples(reader)
  made = axes.isdisjoint(samples.of(side.node))
  return made or _holds_parameter(side.node, axes, samples)


def _holds_parameter(node: Node, axes: _Axes, samples: _Samples) -> bool:
  """Whether it is data and a parameter of all these axes, added or scaled.

  Scores of pairs of tokens stay scores, whatever multiplies them.
  """
  while node.label in KEPT and node.operands[0].node is not None:
    node = node.operands[0].node
  if any(is_score(each) and axes <= samples.of(each) for each in node.below):
    return False
  pairs = zip(node.operands, getattr(node.equation, "invars", ()), strict=False)
  return node.label in SUMS | {"mul"} and any(
    value.view is not None
    and not value.view.computed
    and varying_axes(value, atom.aval) >= axes
    for value, atom in pairs
  )


def _weighs(node: Node) -> bool:
  """Whether it is a softmax, a gate or one-hot: what parts of a sum count."""
  if node.label in ("exp", "logistic") or node.has_zeros:
    return True
  if node.operation is not None or not node.below:
    return False
  if node.label == "div":
    return node.operands[0].node is not None and _weighs(node.below[0])
  followed = LAYOUT | {"mul", "top_k", "gather", "sort"}
  return node.label in followed and all(map(_weighs, node.below[:2]))


def _makers(reader: Reader, node: Node) -> dict[str, None]:
  """Kernels and other parameters that a node is computed of."""
  open_nodes, seen = [node], {node}
  found: dict[str, None] = {}
  while open_nodes:
    node = open_nodes.pop()
    below: set[Node] = set()
    if node.operation is not None and node.place is not None:
      op = reader.sites.get(node.place.site)
      found.update(dict.fromkeys(op.paths if op else ()))
      below = {*node.below} if _passes_kernel_on(reader, node) else below
    elif node.label in _FOLLOWED:
      for value in node.operands:
        found.update(dict.fromkeys(value.paths if value.node is None else ()))
      below = {*node.below}
    open_nodes += below - seen
    seen |= below
  return found


def _passes_kernel_on(reader: Reader, node: Node) -> bool:
  """Whether the signal of an operation was a kernel, as U(c) in U(c) @ V."""
  if node.equation is None or node.equation.primitive.name != "dot_general":
    return False
  every = long_axes(node.equation.outvars[0].aval.shape)
  return not every <= (node.features or frozenset()) | _Samples(reader).of(node)
