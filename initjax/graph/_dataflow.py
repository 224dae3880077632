"""The data flow of a model: all nodes, their readers, added parameters.

A `SignalGraph` lists operations; this module follows what lies between them, so
that a constant factor can be moved to where a parameter can absorb it.
"""

import dataclasses
import functools
from collections.abc import Sequence

from initjax.graph._place import Site
from initjax.graph._values import Node, Value
from initjax.graph._view import View


@dataclasses.dataclass(frozen=True)
class Dataflow:
  """All nodes that have a say in what a function returns, in order."""

  nodes: tuple[Node, ...]

  @functools.cached_property
  def sites(self) -> dict[Site, Node]:
    """Outputs of operations and products by their sites; of loops, the last."""
    found = (n for n in self.nodes if is_operation(n) and n.place is not None)
    return {node.place.site: node for node in found if node.place is not None}

  @functools.cached_property
  def readers(self) -> dict[Node, list[Node]]:
    """The nodes that are computed of each."""
    found: dict[Node, list[Node]] = {node: [] for node in self.nodes}
    for node in self.nodes:
      for below in node.below:
        found[below].append(node)
    return found

  @functools.cached_property
  def inner(self) -> frozenset[Site]:
    """Operations whose output has a say in what another one is given."""
    open_nodes = [n for n in self.nodes if is_operation(n)]
    seen = {below for node in open_nodes for below in node.below}
    open_nodes = list(seen)
    while open_nodes:
      fresh = set(open_nodes.pop().below) - seen
      seen |= fresh
      open_nodes += fresh
    found = (n.place for n in seen if is_operation(n))
    return frozenset(place.site for place in found if place is not None)

  @functools.cached_property
  def parameters(self) -> dict[str, list[View]]:
    """How parameters that meet data entry by entry are seen there."""
    found: dict[str, list[View]] = {}
    for node in self.nodes:
      for value in node.operands:
        if value.node is None and value.view is not None:
          for path in value.paths:
            found.setdefault(path, []).append(value.view)
    return found

  @functools.cached_property
  def places(self) -> dict[str, set[Site]]:
    """Where they do."""
    found: dict[str, set[Site]] = {}
    for node in self.nodes:
      for value in node.operands:
        if value.node is None and value.view is not None and node.place:
          for path in value.paths:
            found.setdefault(path, set()).add(node.place.site)
    return found


def dataflow(outputs: Sequence[Value]) -> Dataflow:
  """The nodes below some outputs."""
  open_nodes = [value.node for value in outputs if value.node is not None]
  seen = set(open_nodes)
  while open_nodes:
    fresh = set(open_nodes.pop().below) - seen
    seen |= fresh
    open_nodes += fresh
  return Dataflow(tuple(sorted(seen, key=lambda node: node.index)))


def is_operation(node: Node) -> bool:
  """Whether it is the output of an operation, or of a product of data."""
  return node.operation is not None or node.label == "data product"
