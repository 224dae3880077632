"""Telling one-hot rows: ids compared with constants that lie along an axis."""

from initjax.graph._moves import Held, axes_after
from initjax.graph._primitives import LAYOUT
from initjax.graph._values import Node
from initjax.graph._view import size_of


def one_hot_scale(node: Node, axis: int) -> float | None:
  """s, if along `axis` one entry at most is s and all others are 0.

  They are where ids, the same along the axis, equal constants that differ
  along it, as those of an iota do; None for anything else.
  """
  moves: list[Node] = []
  scale = 1.0
  while node.label != "eq":
    below = _below(node)
    if below is None:
      return None
    moves += [node] * (node.label in LAYOUT)
    node, factor = below
    scale *= factor
  held: Held | None = tuple((own,) for own in range(_rank(node)))
  for move in reversed(moves):
    held = None if held is None else _held_after(move, held)
  places = () if held is None else held[axis]
  if len(places) != 1 or not _compares_along(node, places[0]):
    return None
  return scale


def _below(node: Node) -> tuple[Node, float] | None:
  """The node that this one moves, casts or scales, and by what."""
  numbers = [value.scalar for value in node.operands]
  if node.label == "select_n" and len(numbers) == 3:
    (mask, *_), (_, off, on) = node.operands, numbers
    known = on is not None and off is not None and off == 0
    return (mask.node, size_of(on)) if known and mask.node else None
  below = node.only_below({"mul", "div"} | LAYOUT)
  if below is None or node.label in LAYOUT:
    return None if below is None else (below, 1.0)
  (factor,) = numbers[node.operands[0].node is below :][:1]
  if factor is None or (node.label == "div" and node.operands[1].node):
    return None
  size = size_of(factor)
  return below, size if node.label == "mul" else 1 / size if size else 0.0


def _rank(node: Node) -> int:
  return len(node.equation.outvars[0].aval.shape)


def _held_after(node: Node, held: Held) -> Held | None:
  """Which axes of what is below the axes of a moved array hold."""
  if node.equation is None:  # what one repeat of a scan sees
    return held[1:] if node.label == "slice" else None
  return axes_after(node.equation, held, node.output)


def _compares_along(node: Node, axis: int) -> bool:
  """Whether data that are the same along the axis meet an array of constants.

  That the constants differ is taken for granted.
  """
  pairs = list(zip(node.operands, node.equation.invars, strict=True))
  data = [(v.node, atom) for v, atom in pairs if v.node is not None]
  others = [(v, atom) for v, atom in pairs if v.kind == "constant"]
  if len(data) != 1 or len(others) != 1:
    return False
  (constant, atom), (ids, own) = others[0], data[0]
  varies = constant.scalar is None and atom.aval.shape[axis] > 1
  return varies and (own.aval.shape[axis] == 1 or _is_repeated(ids, axis))


def _is_repeated(node: Node | None, axis: int) -> bool:
  """Whether entries are the same along an axis."""
  while node is not None and node.label in LAYOUT and node.equation is not None:
    before = node.equation.invars[0].aval.shape
    held = _held_after(node, tuple((own,) for own in range(len(before))))
    places = None if held is None else held[axis]
    if places is None or len(places) > 1:
      return False
    if not places or before[places[0]] == 1:
      return True
    node, axis = node.operands[0].node, places[0]
  return False
