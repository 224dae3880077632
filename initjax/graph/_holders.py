"""Which leaves can absorb a constant factor of a signal.

A factor c on a signal is a factor c on what it is linear in: the kernels and
biases of the operations that it sums, or the scale and offset of a
normalization. The signal is followed back to them; if it passes through slices,
as of a fused kernel, only the entries that it is made of absorb c.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from initjax.graph._constants import entries_in_place
from initjax.graph._dataflow import Dataflow
from initjax.graph._entries import (
  entries_above,
  entries_of_kernel,
  takes_part,
)
from initjax.graph._graph import LinearOp
from initjax.graph._normalizations import normalization
from initjax.graph._place import Site
from initjax.graph._primitives import JOINS, LAYOUT, PARTS, SUMS
from initjax.graph._values import Node, Value
from initjax.graph._view import leaf

_DEEP = 128
"""Nodes on a way down: a stream of many layers, without a normalization."""
_MOST = 4096
"""Nodes on all ways: sums of sums of one signal have very many."""
_FIRST_ALONE = LAYOUT | PARTS | {"neg", "stop_gradient", "div"}


class Holder(NamedTuple):
  """Entries of a leaf that a signal is linear in."""

  path: str
  entries: np.ndarray
  """which: of booleans, broadcasts against the leaf"""
  site: Site = ()
  """of the operation, or of what adds or multiplies the leaf"""
  offset: float = 0.0
  """o, where the signal is linear in o + the leaf, as in 1 + scale"""


class _Taken(NamedTuple):
  nodes: frozenset[Node] = frozenset()
  holders: tuple[Holder, ...] = ()


@dataclasses.dataclass(frozen=True)
class Holders:
  """Looks for what can take factors over, in one model."""

  flow: Dataflow
  ops: dict[Site, LinearOp]

  def of(
    self, value: Value, readers: Collection[Node], *, scales_first: bool = False
  ) -> tuple[Holder, ...] | None:
    """Leaves that together take a factor of a signal; None if there are none.

    Args:
      value: the signal.
      readers: all that want it multiplied; it must be read by no others.
      scales_first: whether a parameter that multiplies a signal takes it,
        rather than what makes the signal.
    """
    taken = _Walk(self, scales_first).take(value, ())
    if taken is None or not taken.holders:
      return None
    inside = taken.nodes | set(readers)
    if not all(self._is_read_within(node, inside) for node in taken.nodes):
      return None
    return _merged(taken.holders)

  def _is_read_within(self, node: Node, inside: Collection[Node]) -> bool:
    """Whether all that read it are inside, or take other entries of it."""
    sites = {each.place.site for each in inside if each.place is not None}

    def is_inside(reader: Node) -> bool:  # a loop's body was read repeatedly
      place = reader.place
      return reader in inside or (place is not None and place.site in sites)

    readers = self.flow.readers[node]
    own = {reader.text for reader in readers if is_inside(reader)}
    return all(
      is_inside(reader) or (takes_part(reader) and reader.text not in own)
      for reader in readers
    )


def _merged(holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
  """One of each leaf and place: entries of any."""
  found: dict[tuple[str, Site], Holder] = {}
  for holder in holders:
    key = holder.path, holder.site
    entries = holder.entries
    if key in found:
      entries = np.logical_or(found[key].entries, entries)
    found[key] = holder._replace(entries=entries)
  return tuple(found.values())


@dataclasses.dataclass(frozen=True)
class _Walk:
  """From a signal down; `above` are the nodes on the way, the latest last."""

  known: Holders
  scales_first: bool
  turns: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def take(self, value: Value, above: tuple[Node, ...]) -> _Taken | None:
    if value.node is None:
      return self._constant(value, above)
    if len(above) > _DEEP or next(self.turns) > _MOST:
      return None
    node = value.node
    if node.operation is not None:
      return self._kernel(node, above)
    found = normalization(node)
    if found is not None:
      return self._one(found.scales, (*above, node))
    if node.label == "mul" or _is_rectifier(node):
      return self._one(node.operands, (*above, node))
    if node.label in _FIRST_ALONE:
      return self._all(node.operands[:1], (*above, node))
    if node.label in JOINS | SUMS:
      return self._all(node.operands, (*above, node))
    if node.label == "select_n":
      return self._all(node.operands[1:], (*above, node))
    return None

  def _all(
    self, values: Collection[Value], above: tuple[Node, ...]
  ) -> _Taken | None:
    parts = [self.take(value, above) for value in values]
    nodes: frozenset[Node] = frozenset(above[-1:])
    holders: tuple[Holder, ...] = ()
    for part in parts:
      if part is None:
        return None
      nodes, holders = nodes | part.nodes, holders + part.holders
    return _Taken(nodes, holders)

  def _one(
    self, values: Collection[Value], above: tuple[Node, ...]
  ) -> _Taken | None:
    """One factor of a product takes all; data before parameters, or after."""
    is_late = lambda value: (value.node is None) != self.scales_first
    for value in sorted(values, key=is_late):
      part = self.take(value, above)
      if part is not None and part.holders:
        return part._replace(nodes=part.nodes | {above[-1]})
    return None

  def _constant(self, value: Value, above: tuple[Node, ...]) -> _Taken | None:
    """A parameter, or zeros."""
    if value.kind == "constant":
      known = entries_in_place(value)
      return _Taken() if known is not None and not known.any() else None
    value, offset = _without_offset(value)
    view = value.view
    if offset and any(map(takes_part, above)):
      return None
    if view is None or len(view.paths) != 1 or view.leaf_shape is None:
      return None
    place = above[-1].place if above else None
    entries = entries_above(view, above)
    if entries is None:
      return None
    site = () if place is None else place.site
    holder = Holder(view.paths[0], entries, site, offset)
    return _Taken(holders=(holder,))

  def _kernel(self, node: Node, above: tuple[Node, ...]) -> _Taken | None:
    """The kernel that makes a signal, or the columns that do."""
    op = None if node.place is None else self.known.ops.get(node.place.site)
    if op is None or op.view is None or len(op.paths) != 1:
      return None
    features = entries_above(leaf("", op.shape), above)
    if op.view.computed or not op.view.exact or features is None:
      return None
    made = sorted(node.features or ())
    entries = entries_of_kernel(op, op.view, features, made)
    if entries is None:
      return None
    holder = Holder(op.paths[0], entries, op.place.site)
    return _Taken(frozenset((node,)), (holder,))


def _without_offset(value: Value) -> tuple[Value, float]:
  """A leaf that a number is added to, moved or not, and the number."""
  inner = value
  while inner.made is not None and inner.made.label in LAYOUT:
    inner = inner.made.operands[0]
  if inner.made is None or inner.made.label != "add":
    return value, 0.0
  first, second = inner.made.operands
  number, added = (first, second) if first.view is None else (second, first)
  if number.scalar is None or added.view is None or added.view.computed:
    return value, 0.0
  return added, float(number.scalar)


def _is_rectifier(node: Node) -> bool:
  """max(x, 0): what multiplies x multiplies it, too."""
  numbers = [value.scalar for value in node.operands if value.node is None]
  return node.label == "max" and len(numbers) == 1 and not numbers[0]
