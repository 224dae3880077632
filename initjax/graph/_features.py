"""Which axes of a signal hold its features, and which distinguish samples."""

import math

from initjax.graph._moves import places_after
from initjax.graph._primitives import ELEMENTWISE, JOINS, MOVES
from initjax.graph._values import Node


def features(node: Node, rank: int) -> frozenset[int]:
  """Axes of a node's output, of `rank` axes, that hold features.

  Where an operation is below, those that its kernel makes; of an input, all
  but the first.
  """
  source, moved, rank = _source(node, rank)
  found = source.features
  if found is None:
    found = frozenset(range(min(1, rank - 1), rank))
  return _after(moved, found)


def made_features(node: Node, rank: int) -> frozenset[int] | None:
  """Those that a kernel makes; None of raw inputs, whose are not known."""
  source, moved, rank = _source(node, rank)
  if source.features is None:
    return None if source.label == "input" else frozenset(range(rank))
  return _after(moved, source.features)


def _source(node: Node, rank: int) -> tuple[Node, list[Node], int]:
  """What knows its features, the moves from there on, and how many axes."""
  moved: list[Node] = []
  while node.features is None:
    below = _whole_below(node)
    if below is None or (node.label not in MOVES and below[1] != rank):
      break
    moved += [node] * (node.label in MOVES)
    node, rank = below
  return node, moved, rank


def _after(moved: list[Node], found: frozenset[int]) -> frozenset[int]:
  for move in reversed(moved):
    found = places_after(move.equation, found, move.output)
  return found


def _whole_below(node: Node) -> tuple[Node, int] | None:
  """The latest operand that is not spread out, as a mean is, and its rank."""
  if node.equation is None or node.label == "data product":
    return None
  if len(node.operands) > len(node.equation.invars):
    return None
  size = math.prod(node.shape)
  found = None
  for value, atom in zip(node.operands, node.equation.invars, strict=False):
    below, shape = value.node, atom.aval.shape
    is_part = node.label in JOINS | {"slice", "pad"}
    if below is None or (not is_part and math.prod(shape) < size):
      continue
    spread = _is_spread(below, math.prod(shape))
    if not spread and (found is None or found[0].index < below.index):
      found = below, len(shape)
  return found


def _is_spread(node: Node, size: int) -> bool:
  """Whether it is made of fewer entries: broadcast, or with parameters."""
  if node.equation is None or node.features is not None or not node.below:
    return False
  if node.label != "broadcast_in_dim" and node.label not in ELEMENTWISE:
    return False
  pairs = zip(node.operands, node.equation.invars, strict=True)
  sizes = [math.prod(atom.aval.shape) for v, atom in pairs if v.node]
  return max(sizes) < size
