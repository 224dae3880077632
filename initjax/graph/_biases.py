"""Tells which parameters that meet data entry by entry are biases or scales.

A parameter that is not a kernel or table meets data in elementwise operations.
It is a bias or a scale if it shifts or scales each signal entry separately:

- it varies only along axes along which the signal varies; otherwise each entry
  of the signal meets several of its entries, as with a kernel (unless such a
  product scales another signal, or such a sum is not folded again);
- it does not multiply scores, one pair of tokens at a time, as decays do;
- it does not multiply again, once data are added, what it multiplied before, as
  in an average over time: there, its power is what counts.

Anything else is not followed, and is reported with the primitive.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from initjax._paths import is_float
from initjax.graph._activations import is_score
from initjax.graph._dataflow import Dataflow
from initjax.graph._moves import places_after
from initjax.graph._primitives import (
  ELEMENTWISE,
  JOINS,
  LAYOUT,
  MOVES,
  PLACES,
  REDUCTIONS,
  SUMS,
)
from initjax.graph._reader import Reader
from initjax.graph._recurrences import parameters_of, passes
from initjax.graph._values import Node, Value
from initjax.graph._variation import long_axes, varying_axes
from initjax.graph._view import View, overlap

_KINKS = frozenset(("clamp", "max", "min", "select_n"))
"""Of which slopes are parameters, that multiply a part of a stream alone."""
_THROUGH = (ELEMENTWISE - _KINKS) | LAYOUT | JOINS
_MULTIPLIES = ("mul", "div")
_POWERS = ("exp", "exp2")


def not_biases(reader: Reader, flow: Dataflow) -> dict[str, str]:
  """Parameters that are neither, and the primitive in which they meet data."""
  known = _Known(reader, flow)
  found: dict[str, str] = {}
  scaled: dict[str, list[tuple[Node, Any]]] = {}
  for node in flow.nodes:
    for value, atom in _parameters(node):
      view = value.view
      assert view is not None
      if node in reader.met.followed or not is_float(atom.aval):
        continue
      if _is_spread(known, node, value, atom) or _weighs_pairs(node, atom):
        found.update(dict.fromkeys(value.paths, node.label))
    for value in _factors(reader, node):
      for path in value.paths:
        scaled.setdefault(path, []).append((node, value.view))
  for path in scaled.keys() - reader.met.not_followed.keys() - found.keys():
    uses = scaled[path]
    if len(uses) > 1 and _is_power(reader, uses):
      found[path] = uses[0][0].label
  return found


def _factors(reader: Reader, node: Node) -> Iterator[Value]:
  """Parameters that multiply data, or of which a factor of it is a power."""
  for value in node.operands if node.label in _MULTIPLIES else ():
    below = None if value.node is None else value.node.unmoved.label
    if below is None or (below in _POWERS and node.label == "mul"):
      yield from parameters_of(reader, value)


def _parameters(node: Node) -> Iterator[tuple[Value, Any]]:
  """Those that an elementwise operation takes beside data."""
  if node.equation is None or node.label not in ELEMENTWISE:
    return
  for value, atom in zip(node.operands, node.equation.invars, strict=True):
    if value.node is None and value.view is not None:
      yield value, atom


@dataclasses.dataclass(frozen=True)
class _Known:
  """What has been read, and what reads each node."""

  reader: Reader
  flow: Dataflow

  @functools.cached_property
  def norms(self) -> frozenset[Node]:
    """Nodes that normalizations are made of."""
    found: set[Node] = set()
    for node in self.flow.nodes:
      norm = self.reader.streams.normalization(node)
      open_nodes = [] if norm is None else [node]
      while norm is not None and open_nodes:
        found.add(here := open_nodes.pop())
        fresh = [n for n in here.below if n.index > norm.inner.index]
        open_nodes += [each for each in fresh if each not in found]
    return frozenset(found)


def _is_spread(known: _Known, node: Node, value: Value, atom: Any) -> bool:
  """Whether it varies along axes along which no data does, and that matters."""
  own = varying_axes(value, atom.aval)
  if own <= _varying(node):
    return False
  is_sum = node.label in SUMS
  if is_sum and all(map(known.reader.is_zero, value.paths)):
    return False
  if is_sum and all(map(is_score, node.below)):
    return False
  folds = _folds_sum if is_sum else _uses_product
  open_nodes, seen = [(node, True)], {node}
  while open_nodes:
    here, plain = open_nodes.pop()
    readers = known.flow.readers[here]
    if not readers and not is_sum:
      return True
    for each in readers:
      if folds(known, each, plain):
        return True
      if each not in seen and _is_simple(each) and not _is_whole(each, node):
        seen.add(each)
        open_nodes.append((each, plain and each.label in SUMS | LAYOUT))
  return False


def _uses_product(known: _Known, node: Node, plain: bool) -> bool:
  return not _is_simple(node)


def _folds_sum(known: _Known, node: Node, plain: bool) -> bool:
  """Whether it is a sum, or the largest, of a function; of all it is a loss."""
  if _is_simple(node) or node.equation is None or node in known.norms:
    return False
  is_sum = node.label == "reduce_sum"
  shape = node.equation.outvars[0].aval.shape
  return node.label in REDUCTIONS and bool(shape) and not (is_sum and plain)


def _is_simple(node: Node) -> bool:
  """Whether entries stay what they are, or a function of themselves."""
  return node.operation is None and (
    node.label in ELEMENTWISE | LAYOUT | JOINS | PLACES or node.equation is None
  )


def _is_whole(node: Node, spread: Node) -> bool:
  """Whether other data varies along all axes, too: it is scaled or shifted."""
  if node.label not in ELEMENTWISE or node.equation is None:
    return False
  shape = node.equation.outvars[0].aval.shape
  pairs = zip(node.operands, node.equation.invars, strict=True)
  return any(
    value.node is not None
    and varying_axes(value, atom.aval) >= long_axes(shape)
    and not value.node.made_of(spread)
    for value, atom in pairs
  )


def _varying(node: Node) -> frozenset[int]:
  """Axes along which data that a node takes may differ."""
  pairs = zip(node.operands, node.equation.invars, strict=True)
  data = [varying_axes(v, a.aval) for v, a in pairs if v.node is not None]
  return frozenset().union(*data)


def _weighs_pairs(node: Node, atom: Any) -> bool:
  """Whether scores are multiplied, by a number for each pair of tokens."""
  if node.label not in _MULTIPLIES:
    return False
  between: list[Node] = []
  below = node.below[0]
  while below.label != "data product":
    found = below.only_below(LAYOUT | {"mul", "div", "neg"})
    if found is None:
      return False
    between.append(below)
    below = found
  if below.equation is None or below.equation.primitive.name != "dot_general":
    return False
  tokens = _pairs(below.equation)
  for moved in reversed(between):
    if moved.label in MOVES:
      tokens = places_after(moved.equation, tokens, moved.output)
  (value,) = (v for v, a in _parameters(node) if a is atom)
  return len(tokens & varying_axes(value, atom.aval)) > 1


def _pairs(equation: Any) -> frozenset[int]:
  """Axes of a product that tell pairs of tokens apart."""
  rank = len(equation.outvars[0].aval.shape)
  first = len(equation.params["dimension_numbers"][1][0])
  return long_axes(equation.outvars[0].aval.shape) & {*range(first, rank)}


def _is_power(reader: Reader, uses: Sequence[tuple[Node, View]]) -> bool:
  """Whether one use multiplies what another did, and data that were added."""
  views = dict(uses)
  for node, _ in uses:
    seen, open_nodes = set(), [(below, False) for below in node.below]
    while open_nodes:
      here = open_nodes.pop()
      if here in seen:
        continue
      seen.add(here)
      below, added = here
      if added and below in views and _are_same(below, node, views):
        return True
      if passes(reader, below, _THROUGH):
        added = added or (below.label in SUMS and len(below.below) > 1)
        open_nodes += [(each, added) for each in below.below]
  return False


def _are_same(one: Node, other: Node, views: Mapping[Node, View]) -> bool:
  """Whether two uses share entries; those of other repeats are read apart."""
  if one.place is None or other.place is None or views[one].scans:
    return False
  return one.place.site != other.place.site and overlap(
    views[one], views[other]
  )
