"""Products of two signals, and the constant factors on both sides of them."""

from typing import NamedTuple

import numpy as np

from initjax.graph._constants import entries_in_place
from initjax.graph._dataflow import Dataflow
from initjax.graph._moves import places_after
from initjax.graph._normalizations import normalization
from initjax.graph._place import Site
from initjax.graph._primitives import JOINS, LAYOUT, MOVES, PARTS, SUMS
from initjax.graph._values import Node, Value

_EXPONENTIALS = ("exp", "exp2", "logistic")
_SLOPE_1 = frozenset(("tanh", "max", "min", "clamp", "select_n", "asinh"))
"""Whose slope at 0 is 1, or that leave most entries."""
_DEEP = 40


class Product(NamedTuple):
  """A product of two signals, such as attention's scores."""

  node: Node
  sides: tuple[Value, Value]
  """the queries first, where it is known which they are"""
  factor: float
  """all constants: of both signals, since an operation or a normalization made
  them, and of the product, until the softmax"""
  has_softmax: bool


def products(flow: Dataflow) -> dict[Site, Product]:
  """All products of data, by their sites."""
  after = {}
  for node in flow.nodes:
    if node.label in _EXPONENTIALS and node.below:
      found = _down_to_product(node.below[0], (node,))
      if found is not None:
        after[found[0]] = found
  every = {}
  for site, node in flow.sites.items():
    if node.label == "data product":
      _, factor, above = after.get(node, (node, 1.0, ()))
      second, first = node.operands
      sides = (second, first) if _softmax_over_first(above) else (first, second)
      factor *= _factor(first) * _factor(second)
      every[site] = Product(node, sides, factor, node in after)
  return every


def _down_to_product(
  node: Node, above: tuple[Node, ...]
) -> tuple[Node, float, tuple[Node, ...]] | None:
  """The product that an exponential is taken of, and constants between."""
  if node.label == "data product":
    return node, 1.0, above
  if node.operation is not None or len(above) > _DEEP:
    return None
  through = LAYOUT | SUMS | _SLOPE_1 | {"mul", "div", "neg", "stop_gradient"}
  if node.label not in through:
    return None
  for below in node.below:
    found = _down_to_product(below, (*above, node))
    if found is not None:
      product, factor, chain = found
      return product, factor * _constant_of(node), chain
  return None


def _constant_of(node: Node) -> float:
  """What a node multiplies its one signal by."""
  if node.label not in ("mul", "div") or len(node.operands) != 2:
    return 1.0
  for place, value in enumerate(node.operands):
    number = None if value.node is not None else number_of(value)
    if number:
      return 1 / number if node.label == "div" and place else number
  return 1.0


def number_of(value: Value) -> float | None:
  """The one number that a constant is; None if entries differ."""
  entries = entries_in_place(value)
  if entries is None or not entries.size or np.iscomplexobj(entries):
    return None
  first = entries.ravel()[0]
  return abs(float(first)) if (entries == first).all() else None


def _factor(value: Value) -> float:
  """Of constants since an operation, a normalization or an input made it."""
  factor = 1.0
  for _ in range(_DEEP):
    node = value.node
    if node is None or node.operation is not None or not node.operands:
      return factor
    found = normalization(node)
    if found is not None:
      return factor * found.factor
    through = LAYOUT | PARTS | JOINS | SUMS | {"mul", "div", "neg", "select_n"}
    if node.label not in through:
      return factor
    factor *= _constant_of(node)
    data = [each for each in node.operands if each.node is not None]
    value = data[0]
  return factor


def factor_after(flow: Dataflow, site: Site) -> float:
  """Constants that an operation's output is multiplied by before all else.

  1 for what is multiplied by data: its factor counts there.
  """
  node, factor = flow.sites.get(site), 1.0
  while node is not None:
    readers = flow.readers[node]
    if any(reader.label == "data product" for reader in readers):
      return 1.0
    node = readers[0] if len(readers) == 1 else None
    if node is None or node.operation is not None:
      break
    if node.label not in LAYOUT | {"mul", "div", "neg"} or len(node.below) > 1:
      break
    factor *= _constant_of(node)
  return factor


def constant_of(flow: Dataflow, value: Value) -> float:
  """Constants that multiply a signal after what `factor_after` counts."""
  node = value.node
  while node is not None and node.operation is None and node.below:
    node = node.below[0]
  site = () if node is None or node.place is None else node.place.site
  return _factor(value) / factor_after(flow, site)


def _softmax_over_first(above: tuple[Node, ...]) -> bool:
  """Whether the softmax is over positions of the product's first operand.

  Args:
    above: from the exponential down to what reads the product.
  """
  if not above:
    return False
  product = above[-1].below[0]
  for below in above[-1].below:
    product = below if below.label == "data product" else product
  if product.equation is None or product.label != "data product":
    return False
  contract, batch = product.equation.params["dimension_numbers"]
  rank = len(product.equation.invars[0].aval.shape)
  free = rank - len(contract[0]) - len(batch[0])
  places = frozenset(range(len(batch[0]), len(batch[0]) + free))
  for node in reversed(above):
    if node.label in MOVES and node.equation is not None:
      places = places_after(node.equation, places, node.output)
  top = above[0]
  rank = len(top.equation.invars[0].aval.shape)
  return rank - 1 in places
