"""Products of two signals, and the constant factors on both sides of them."""

from typing import NamedTuple

import numpy as np

from initjax.graph._constants import entries_in_place
from initjax.graph._dataflow import Dataflow
from initjax.graph._mixing import softmax_of
from initjax.graph._moves import places_after
from initjax.graph._normalizations import normalization
from initjax.graph._place import Site
from initjax.graph._primitives import JOINS, LAYOUT, MOVES, PARTS, SUMS
from initjax.graph._values import Node, Value

_EXPONENTIALS = ("exp", "exp2", "logistic")
_SLOPE_1 = frozenset(("tanh", "max", "min", "clamp", "select_n", "asinh"))
"""Whose slope at 0 is 1, or that leave most entries."""
_THROUGH = LAYOUT | SUMS | _SLOPE_1 | {"mul", "div", "neg", "stop_gradient"}
_DEEP = 40


class Product(NamedTuple):
  """A product of two signals, such as attention's scores."""

  node: Node
  sides: tuple[Value, Value]
  """the queries first, where it is known which they are"""
  factor: float
  """all constants: those of both signals, since an operation or a normalization
  made them, and those of the product, until the softmax"""
  has_softmax: bool
  ends: tuple[Site, ...]
  """operations that made the signals"""


class _Below(NamedTuple):
  """A product, and what lies between it and an exponential of it."""

  product: Node
  factor: float = 1.0
  above: tuple[Node, ...] = ()
  """from the exponential down"""


def products(flow: Dataflow) -> dict[Site, Product]:
  """All products of data, but means by softmax weights, by their sites."""
  after = {}
  for node in flow.nodes:
    if node.label in _EXPONENTIALS:
      found = _down_to_product(node)
      if found is not None:
        after[found.product] = found
  every = {}
  for site, node in flow.sites.items():
    is_product = node.label == "data product"
    if is_product and not any(map(softmax_of, node.below)):
      _, factor, above = after.get(node, _Below(node))
      every[site] = _product(node, factor, above)
  return every


def _product(node: Node, factor: float, above: tuple[Node, ...]) -> Product:
  second, first = node.operands
  sides = (second, first) if _softmax_over_first(above) else (first, second)
  made = [_since_made(side) for side in sides]
  factor *= made[0][0] * made[1][0]
  return Product(
    node, sides, factor, bool(above), tuple(site for _, site in made if site)
  )


def _down_to_product(top: Node) -> _Below | None:
  """The product that an exponential is taken of, and what lies between."""
  open_nodes: list[tuple[Node, float, tuple[Node, ...]]]
  open_nodes = [(below, 1.0, (top,)) for below in top.below]
  seen: set[Node] = set()
  while open_nodes:
    node, factor, above = open_nodes.pop()
    if node.label == "data product":
      return _Below(node, factor, above)
    if node in seen or node.operation is not None or len(above) > _DEEP:
      continue
    seen.add(node)
    if node.label in _THROUGH:
      factor *= _constant_of(node)
      later = (*above, node)
      open_nodes += [(below, factor, later) for below in node.below[::-1]]
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


def constant_of(flow: Dataflow, value: Value) -> float:
  """Constants that multiply a signal since what made it.

  That is an operation, without what `factor_after` counts of it already, or a
  normalization, with its own factor.
  """
  factor, site = _since_made(value)
  counted = factor_after(flow, site) if site else 1.0
  return factor / (counted or 1.0)


def _since_made(value: Value) -> tuple[float, Site]:
  """All constants since an operation, at a site, or since a normalization."""
  factor = 1.0
  through = LAYOUT | PARTS | JOINS | SUMS | {"mul", "div", "neg", "select_n"}
  for _ in range(_DEEP):
    node = value.node
    if node is None or not node.operands:
      break
    if node.operation is not None:
      return factor, () if node.place is None else node.place.site
    found = normalization(node)
    if found is not None:
      return factor * found.factor, ()
    if node.label not in through:
      break
    factor *= _constant_of(node)
    value = next(each for each in node.operands if each.node is not None)
  return factor, ()


def factor_after(flow: Dataflow, site: Site) -> float:
  """Constants that an operation's output is multiplied by before all else."""
  node, factor = flow.sites.get(site), 1.0
  while node is not None:
    readers = flow.readers[node]
    node = readers[0] if len(readers) == 1 else None
    if node is None or node.operation is not None or len(node.below) > 1:
      break
    if node.label not in LAYOUT | {"mul", "div", "neg"}:
      break
    factor *= _constant_of(node)
  return factor


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
