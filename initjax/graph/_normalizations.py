"""Reading normalizations: x, centred or not, times 1/√(a mean over entries)."""

from typing import NamedTuple

from initjax.graph._primitives import LAYOUT, SUMS
from initjax.graph._values import Node


class Normalization(NamedTuple):
  """A node that is a normalized signal."""

  inner: Node
  """what is normalized"""
  over: str
  """"units" of each sample, or "samples" """
  scales: tuple[str, ...]
  """parameters that multiply it"""


def normalization(node: Node) -> Normalization | None:
  """Reads (x - mean(x)) · rsqrt(variance + ε) · scale; None if it is not."""
  if node.label not in ("mul", "div") or len(node.operands) != 2:
    return None
  first, second = (value.node for value in node.operands)
  if first is None or second is None:
    return None
  pairs = [(first, second)] + [(second, first)] * (node.label == "mul")
  root = "sqrt" if node.label == "div" else "rsqrt"
  for numerator, size in pairs:
    found = _deviation(size, root)
    if found is not None:
      reduction, scales = found
      axes = reduction.equation.params["axes"]
      last = reduction.equation.invars[0].aval.ndim - 1
      over = "units" if last in axes else "samples"
      inner = _without_mean(numerator)
      if _is_size_of(reduction, inner):
        return Normalization(inner, over, scales)
  return None


def _is_size_of(reduction: Node, inner: Node) -> bool:
  """Whether what is summed is made of `inner`, entry by entry, and no other."""
  wanted = inner.unmoved
  return any(node is wanted for node in reduction.descend())


def _deviation(node: Node, root: str) -> tuple[Node, tuple[str, ...]] | None:
  """The reduction below a (reciprocal) root, and the scales on the way."""
  scales: tuple[str, ...] = ()
  while node.label != root:
    below = node.only_below({"mul", "add", "max"} | LAYOUT)
    if below is None:
      return None
    if node.label == "mul":
      scales += tuple(p for value in node.operands for p in value.paths)
    node = below
  reduction = _reduction(node, 12)
  return None if reduction is None else (reduction, scales)


def _reduction(node: Node, depth: int) -> Node | None:
  """The first sum over entries below a node, at most `depth` nodes down."""
  if node.label.startswith("reduce_"):
    return node if node.equation is not None else None
  if depth == 0 or node.operation is not None:
    return None
  found = (_reduction(each, depth - 1) for each in node.below)
  return next((each for each in found if each is not None), None)


def _without_mean(node: Node) -> Node:
  """x, where the node is x - mean(x), or x - 0."""
  if node.label != "sub":
    return node
  first, second = (value.node for value in node.operands)
  if first is None or (second is not None and not _is_mean(second)):
    return node
  return first


def _is_mean(node: Node) -> bool:
  """Whether it is a sum over entries, spread out and divided."""
  while (below := node.only_below({"div", "mul"} | LAYOUT)) is not None:
    node = below
  return node.label.startswith("reduce_")


def find_normalized(node: Node) -> Node | None:
  """What a source normalizes, behind its shift and views."""
  while (found := normalization(node)) is None:
    below = node.only_below({"mul"} | SUMS | LAYOUT)
    if below is None:
      return None
    node = below
  return found.inner
