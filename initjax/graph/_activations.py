"""Recovers the activation that feeds a linear operation.

From the operand, the reader walks back through elementwise equations to the
last value that all paths pass through: the source. What lies between is a
function of one scalar that can be called.
"""

import heapq
import math
from collections.abc import Iterable
from typing import Any

from initjax._activations import identity
from initjax.graph._graph import Feed
from initjax.graph._noise import dropout, is_erf_inv_of_uniform
from initjax.graph._primitives import (
  AFFINE,
  CHOICES,
  ELEMENTWISE,
  LAYOUT,
  MOVES,
)
from initjax.graph._recovered import recovered
from initjax.graph._values import Node, Value

_REASONS = {
  "select_n": "mask or dropout",
  "add": "residual sum",
  "add_any": "residual sum",
  "sub": "residual sum",
  "mul": "product of two branches",
  "div": "product of two branches",
}


def feed_of(operand: Node) -> tuple[Feed, Node]:
  """The activation between `operand` and its source, and that source."""
  source, between = source_of(operand)
  reason, operation = _describe(source)
  activation: Any = identity if reason == "linear" else None
  if any(node.label not in LAYOUT for node in between):
    activation = recovered(source, between)
  place, share = source.place, share_of(between)
  feed = Feed(activation, reason, operation, place, source.output, share=share)
  return feed, source


def share_of(between: Iterable[Node]) -> float:
  """How many entries leave these nodes for each that enters."""
  share = 1.0
  for node in between:
    if chooses(node) or (node.label == "broadcast_in_dim" and node.equation):
      before = node.equation.invars[0].aval.shape
      share *= math.prod(node.shape) / max(1, math.prod(before))
  return share


def chooses(node: Node) -> bool:
  """Whether it takes some entries, by its parameters alone."""
  return node.label in CHOICES and node.equation is not None


def source_of(operand: Node) -> tuple[Node, list[Node]]:
  """The farthest node on all paths to `operand`, and what lies between.

  Nodes are numbered in order of execution: when the highest open one is taken
  and none is left, every path leads through it. Paths that move entries apart
  (the two halves of a gated unit) do not meet in a function of one scalar.
  """
  operand = unpadded(operand)
  # what moved entries, from there to the operand
  moves: dict[Node, tuple[str, ...]] = {operand: ()}
  open_nodes = [(-operand.index, operand)]
  visited: list[Node] = []
  source, count = operand, 0
  while open_nodes:
    _, node = heapq.heappop(open_nodes)
    if not open_nodes:
      source, count = node, len(visited)
    visited.append(node)
    if not _passes_through(node):
      break
    moves_here = node.label in MOVES and node.equation is not None
    moved = (*[node.text] * moves_here, *moves[node])
    for below in [v.node for v in _signals(node) if v.node is not None]:
      if moves.setdefault(below, moved) != moved:
        return source, visited[:count]
      entry = (-below.index, below)
      if entry not in open_nodes:
        heapq.heappush(open_nodes, entry)
  return source, visited[:count]


def unpadded(node: Node) -> Node:
  """The node without its borders: zeros, or more of the same entries."""
  if node.label == "pad" and node.operands[1].scalar == 0:
    return node if node.operands[0].node is None else node.operands[0].node
  if node.label != "concatenate":
    return node
  parts = [without_layout(below) for below in node.below]
  same = len(parts) == len(node.operands) and len(set(parts)) == 1
  return parts[0] if same else node


def without_layout(node: Node) -> Node:
  """The node below moves and paddings."""
  inside = unpadded(node.unmoved)
  return inside if inside is node else without_layout(inside)


def _passes_through(node: Node) -> bool:
  """Whether the node's output at one place depends on one place of data."""
  if node.operation is not None or node.label not in ELEMENTWISE | LAYOUT:
    return False
  if has_complex(node) or is_erf_inv_of_uniform(node):
    return False
  for value in _signals(node):
    is_number = value.kind == "constant" and value.scalar is not None
    if value.node is None and not is_number:
      return False
  return True


def has_complex(node: Node) -> bool:
  """Whether complex numbers go in or come out: no function of one real."""
  if node.equation is None:
    return False
  for variable in (*node.equation.invars, *node.equation.outvars):
    dtype = getattr(variable.aval, "dtype", None)
    if getattr(dtype, "kind", "") == "c":
      return True
  return False


def _signals(node: Node) -> tuple[Value, ...]:
  """The operands of an elementwise equation, without a mask of dropout."""
  dropped = dropout(node)
  return node.operands if dropped is None else (dropped.kept,)


def _describe(source: Node) -> tuple[str, str | None]:
  """Names the source in the words of the report."""
  node = source
  while node.operation is None:  # a bias or a scale may be on the way
    below = node.only_below(AFFINE | LAYOUT)
    if below is None:
      break
    node = below
  if node.operation is not None:
    return "linear", node.operation
  if node.label in ("input", "loop"):
    return "input", None
  if node.label in _REASONS:
    return "softmax" if _is_softmax(node) else _REASONS[node.label], None
  return node.label.replace("_", " "), None


def _is_softmax(node: Node) -> bool:
  if node.label != "div" or len(node.below) != 2:
    return False
  first, second = (each.unmoved for each in node.below)
  return (first.label, second.label) == ("exp", "reduce_sum")


def is_score(node: Node) -> bool:
  """Whether it is a product of two signals, perhaps scaled."""
  while (below := node.only_below(AFFINE | LAYOUT)) is not None:
    node = below
  return node.label == "data product"
