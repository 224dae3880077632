"""Residual branches: what is added to the signal it is computed from."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from initjax.graph._dataflow import Dataflow, is_operation
from initjax.graph._graph import LinearOp
from initjax.graph._normalizations import normalization
from initjax.graph._place import Site
from initjax.graph._primitives import LAYOUT, SUMS
from initjax.graph._values import Node, Value

_SUMMANDS = 4
"""Sums in a row that are one: x + f(x) + g(x)."""


class Branch(NamedTuple):
  """x + f(x), for one f."""

  sum: Node
  end: Value
  """f(x)"""
  leaves: frozenset[str]
  """parameters of f, those of its normalization included"""
  repeats: int
  """of the scans around it"""
  after_norm: bool
  """whether x is a normalized sum of branches: a post-norm block"""


def branches(flow: Dataflow, ops: dict[Site, LinearOp]) -> list[Branch]:
  """All branches that lie in no other, in order."""
  found: dict[Site, tuple[Branch, frozenset[Node]]] = {}
  sums: set[Site] = set()
  for node in flow.nodes:
    if node.label not in SUMS or len(node.below) != 2 or node.place is None:
      continue
    for skip, end in (node.operands, node.operands[::-1]):
      inside = _between(end.node, skip.node)
      if inside:
        repeats = math.prod(node.place.repeats)
        norm = _normalized_sum(skip.node, sums)
        leaves = _leaves(inside, ops)
        branch = Branch(node, end, leaves, repeats, norm)
        found[node.place.site] = branch, inside
        sums.add(node.place.site)
        break
  nested = {n for _, inside in found.values() for n in inside}
  return [each for each, _ in found.values() if each.sum not in nested]


def _between(end: Node | None, skip: Node | None) -> frozenset[Node] | None:
  """The nodes from a branch's end down to the stream that it is made of.

  None if it is not made of it, or by no operation.
  """
  if end is None or skip is None:
    return None
  stream = _summands(skip)
  low = min(node.index for node in stream)
  seen, reached = {end}, end in stream
  open_nodes = [end]
  while open_nodes:
    for below in open_nodes.pop().below:
      reached |= below in stream
      if below not in seen and below not in stream and below.index > low:
        seen.add(below)
        open_nodes.append(below)
  if end in stream or not reached or not any(map(is_operation, seen)):
    return None
  return frozenset(_with_sides(seen, stream))


def _summands(node: Node) -> set[Node]:
  """A stream, and what it is a sum of, for a few sums."""
  found, open_nodes = {node}, [node]
  for _ in range(_SUMMANDS):
    open_nodes = [
      below
      for each in open_nodes
      if each.label in SUMS | LAYOUT and each.operation is None
      for below in each.below
    ]
    found |= set(open_nodes)
  return found


def _with_sides(inside: set[Node], stream: set[Node]) -> set[Node]:
  """Also the operations on other signals that go into it, as cross-attention's.

  Of these, only those that are followed by no other before the branch.
  """
  made: set[Node] = set()
  for node in sorted(inside, key=lambda node: node.index):
    if any(below in stream or below in made for below in node.below):
      made.add(node)
  open_nodes = [b for n in made for b in n.below if b in inside - made]
  sides = set(open_nodes)
  while open_nodes:
    node = open_nodes.pop()
    if not is_operation(node):
      fresh = {b for b in node.below if b in inside - made} - sides
      sides |= fresh
      open_nodes += fresh
  return made | sides


def _leaves(nodes: Iterable[Node], ops: dict[Site, LinearOp]) -> frozenset[str]:
  found: set[str] = set()
  for node in nodes:
    if node.operation is not None and node.place is not None:
      op = ops.get(node.place.site)
      found |= set() if op is None else {*op.paths}
    for value in node.operands:
      found |= {*value.paths} if value.node is None else set()
  return frozenset(found)


def _normalized_sum(node: Node | None, sums: set[Site]) -> bool:
  """Whether it normalizes a sum of branches, behind its scale and offset."""
  while node is not None:
    found = normalization(node)
    if found is not None:
      inner = found.inner.unmoved
      return inner.place is not None and inner.place.site in sums
    node = node.only_below({"mul"} | SUMS | LAYOUT)
  return False
