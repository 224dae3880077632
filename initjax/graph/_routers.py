"""Routers: operations whose features give the weights of experts.

    y = Σ_e softmax(x·W)_e · f_e(x)

The sum may be a product of two signals, one over a kernel's axis of experts, a
sum of products entry by entry, or one that is written out.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from initjax.graph._dataflow import Dataflow
from initjax.graph._features import features
from initjax.graph._primitives import LAYOUT, PARTS, REDUCTIONS
from initjax.graph._values import Node

_RANKS = frozenset(("top_k", "argmax", "argmin", "sort", "approx_top_k"))
_FEW_STEPS = 12
"""Down to what made the other factor of a product."""


class _State(NamedTuple):
  node: Node
  shared: bool = False
  """whether features have become shares, or were ranked"""
  weighs: bool = False
  """whether they multiply what others make"""


def is_router(flow: Dataflow, node: Node) -> bool:
  """Whether shares of an operation's features weight a sum over experts.

  Axes are told by their size, which one-hot rows keep where a rank does not.

  Args:
    flow: of the model.
    node: the operation's output.
  """
  made = node.features or frozenset()
  if len(made) != 1 or node.equation is None:
    return False
  experts = node.shape[next(iter(made))]
  open_states, seen = [_State(node)], {_State(node)}
  while open_states:
    state = open_states.pop()
    for reader in flow.readers[state.node]:
      if state.shared and _sums(state, reader, experts):
        return True
      if _goes_on(state, reader, experts):
        fresh = _after(state, reader)
        open_states += [fresh] if fresh not in seen else []
        seen.add(fresh)
  return False


def _goes_on(state: _State, reader: Node, experts: int) -> bool:
  """Whether what reads it has one entry, or more, for each expert."""
  if reader.operation is not None or _is_residual_sum(reader):
    return False
  summed = _contracted(reader)
  return not summed or (state.shared and experts not in summed)


def _is_residual_sum(node: Node) -> bool:
  """Of two signals, neither of them noise."""
  signals = [below for below in node.below if not below.noise]
  return node.label in ("add", "add_any") and len(signals) > 1


def _after(state: _State, reader: Node) -> _State:
  others = (each for each in reader.below if each is not state.node)
  weighs = reader.label in ("mul", "data product") and any(map(_made, others))
  return _State(
    reader,
    state.shared or reader.label in _RANKS or _is_shares(reader),
    state.weighs or weighs,
  )


def _is_shares(node: Node) -> bool:
  """x/Σx, as of a softmax."""
  if node.label != "div" or len(node.below) != 2:
    return False
  top, total = (each.unmoved for each in node.below)
  if total.label in ("add", "max") and len(total.below) == 1:  # Σx + ε
    total = total.below[0].unmoved
  return total.label == "reduce_sum" and total.below[0].unmoved is top


def _sums(state: _State, reader: Node, experts: int) -> bool:
  """Whether a reader sums over experts, or takes the share of one."""
  if reader.operation is not None:  # over its features as well
    sizes = _contracted(reader)
    return len(sizes) > 1 and experts in sizes
  if reader.label == "data product":
    return experts in _contracted(reader) and _keeps_features(
      reader, state.node
    )
  if reader.equation is None or state.node.equation is None:
    return False  # a scan's slices
  shape = state.node.shape
  if reader.label in REDUCTIONS and state.weighs:
    axes = reader.equation.params["axes"]
    return any(shape[axis] == experts for axis in axes)
  one = math.prod(reader.shape) * experts == math.prod(shape)
  return reader.label in PARTS and one and experts in shape


def _contracted(node: Node) -> list[int]:
  """Sizes of the axes that a matrix product sums over."""
  equation = node.equation
  if equation is None or equation.primitive.name != "dot_general":
    return []
  (summed, _), _ = equation.params["dimension_numbers"]
  shape = equation.invars[0].aval.shape
  return [shape[axis] for axis in summed]


def _keeps_features(product: Node, weights: Node) -> bool:
  """Whether what is weighted was made by an operation, and has features left.

  Scores of attention have none.
  """
  numbers = product.equation.params["dimension_numbers"]
  for place, value in enumerate(reversed(product.operands)):
    other = value.node
    if other is None or other is weights or not _made(other):
      continue
    gone = {*numbers[0][place], *numbers[1][place]}
    rank = len(product.equation.invars[place].aval.shape)
    if features(other, rank) - gone:
      return True
  return False


def _made(node: Node) -> bool:
  """Whether an operation makes a signal, entry by entry."""
  return any(below.operation is not None for below in _down(node))


def _down(node: Node) -> Iterator[Node]:
  for _ in range(_FEW_STEPS):
    yield node
    below = node.below
    if node.operation is not None or not below:
      return
    if len(below) > 1 and node.label == "data product":
      return
    node = below[-1] if node.label not in LAYOUT else below[0]
