"""Kernels that data have a say in: hypernetworks, W + Δ(x), scaled kernels.

A product of two signals has a kernel among them if all that is summed, and all
that becomes features, was made by a kernel before: in attention, one of both
tells tokens apart. What weighs parts of a sum, as a softmax does, is no signal.
"""

from collections.abc import Sequence

from initjax.graph._compat import Equation
from initjax.graph._features import made_features
from initjax.graph._primitives import (
  ELEMENTWISE,
  JOINS,
  LAYOUT,
  REDUCTIONS,
)
from initjax.graph._reader import Reader
from initjax.graph._values import Node, Value
from initjax.graph._variation import long_axes

_FOLLOWED = ELEMENTWISE | LAYOUT | JOINS | REDUCTIONS


def note_made_kernels(
  reader: Reader, equation: Equation, operands: Sequence[Value]
) -> None:
  """Notes parameters of which, with data, a kernel is made."""
  reader.met.as_kernel(operands)
  name = equation.primitive.name
  nodes = [v.node for v in operands[:2] if v.choice is None and v.node]
  made: list[Node] = []
  if name == "conv_general_dilated" and operands[1].choice is None:
    made = [operands[1].node] if operands[1].node is not None else []
  elif name == "dot_general" and len(nodes) == 2:
    made = [nodes[side] for side in _made_sides(reader, equation, nodes)]
  for path in {path: None for node in made for path in _makers(reader, node)}:
    reader.met.not_followed.setdefault(path, name)


def _made_sides(
  reader: Reader, equation: Equation, nodes: Sequence[Node]
) -> list[int]:
  """Which operands of a product of two signals are kernels."""
  contract, batch = equation.params["dimension_numbers"]
  found, sums = [], []
  for side, node in enumerate(nodes):
    shape = equation.invars[side].aval.shape
    summed = long_axes(shape) & {*contract[side]}
    free = long_axes(shape) - {*contract[side], *batch[side]}
    matrix = bool(summed and free)
    held = made_features(node, len(shape)) if matrix else None
    found += [side] * (held is not None and summed | free <= held)
    sums += [side] * (matrix and node in reader.met.spread)
  one = len(found) == 1 and not _weighs(nodes[1 - found[0]])
  return found if one else sums


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
    if node.operation is not None and node.place is not None:
      op = reader.sites.get(node.place.site)
      found.update(dict.fromkeys(op.paths if op else ()))
    elif node.label in _FOLLOWED:
      for value in node.operands:
        found.update(dict.fromkeys(value.paths if value.node is None else ()))
      fresh = {*node.below} - seen
      seen |= fresh
      open_nodes += fresh
  return found
