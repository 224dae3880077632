"""The terms of a source: outputs of operations, biases, other streams.

Theory follows the size of a signal from one operation to the next. Between an
operation and the activation it feeds are sums (residual branches, biases),
products (gated units), factors and normalizations; they are read here as terms.
In a loop, the stream that enters the body is named after the operation that it
feeds, so a residual stream over many repeats appears as one more term of
itself.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from initjax._activations import identity
from initjax.graph._activations import (
  chooses,
  feed_of,
  has_complex,
  share_of,
  source_of,
)
from initjax.graph._factors import Factor, divisor_of, factor_of, shift_of
from initjax.graph._graph import Feed, Image, Stream, Term, terms_within
from initjax.graph._mixing import attention, pooled
from initjax.graph._noise import dropout, is_erf_inv_of_uniform
from initjax.graph._nonzeros import NonZeros, nonzeros
from initjax.graph._normalizations import Normalization, normalization
from initjax.graph._place import Site
from initjax.graph._primitives import JOINS, LAYOUT, SUMS
from initjax.graph._recovered import recovered
from initjax.graph._values import Node, Value

_CENTRED = frozenset(
  ("output", "bias", "constant", "input", "noise", "normalized")
)


@dataclasses.dataclass
class Streams:
  """Streams read so far: which operation each of these nodes feeds."""

  names: dict[Node, Term] = dataclasses.field(default_factory=dict)
  found: dict[Node, Normalization | None] = dataclasses.field(
    default_factory=dict
  )

  def feeding(self, operand: Value, site: Site | None) -> Feed:
    """What feeds the operation at `site`, its stream None if unknown.

    Later the same node, and what it normalizes, go by the name of `site`, if
    there is one.
    """
    if operand.node is None:
      return Feed()
    feed, source = feed_of(operand.node)
    stream = self.of(source)
    reached = self.reached(source) if stream is None else None
    if site is not None:
      self._name(source, Term("stream", site))
    inner = self._normalized(source)
    if inner is not None and stream is not None and site is not None:
      self._name(inner, Term("inner", site))
    linear = feed.reason == "linear" or inner is None
    reason = feed.reason if linear else "normalization"
    return feed._replace(reason=reason, stream=stream, reached=reached)

  def normalization(self, node: Node) -> Normalization | None:
    """Each node is read once."""
    if node not in self.found:
      self.found[node] = normalization(node)
    return self.found[node]

  def _normalized(self, node: Node) -> Node | None:
    """What a source normalizes, behind its shift and views."""
    while (found := self.normalization(node)) is None:
      below = node.only_below({"mul"} | SUMS | LAYOUT)
      if below is None:
        return None
      node = below
    return found.inner

  def _name(self, node: Node, term: Term) -> None:
    if node.operation is None and node.label not in ("input", "loop"):
      self.names.setdefault(node, term)

  def of(self, node: Node) -> Stream | None:
    """The terms of a node; names of earlier streams end the descent."""
    return _Descent(self).of(node)

  def reached(self, node: Node) -> Stream | None:
    """All known signals that have a say in a node; None if some are not."""
    open_nodes, seen = [node], {node}
    found: dict[Term, None] = {}
    while open_nodes:
      here = open_nodes.pop()
      term = self.named(here)
      if here.label == "loop" or (term is None and not here.operands):
        if not here.noise:
          return None
      elif term is not None:
        found[term] = None
      else:
        below = set(here.below) - seen
        seen |= below
        open_nodes += below
    return tuple(found)

  def named(self, node: Node) -> Term | None:
    """The signal that a node is, by the name of what makes or reads it."""
    if node.operation is not None and node.place is not None:
      return Term("output", node.place.site)
    if node in self.names:
      return self.names[node]
    if node.label in ("input", "loop"):
      return Term("input", (node.index,))
    return None


@dataclasses.dataclass
class _Descent:
  """From one node down to what is known."""

  known: Streams
  seen: dict[Node, Stream | None] = dataclasses.field(default_factory=dict)

  def of(self, node: Node) -> Stream | None:
    """The terms of a node, each node read once."""
    if node not in self.seen:
      self.seen[node] = self._read(node)
    return self.seen[node]

  def _read(self, node: Node) -> Stream | None:
    term = self.known.named(node)
    if term is not None:
      return (term,)
    if is_erf_inv_of_uniform(node):
      return (Term("noise", (node.index,), factor=math.sqrt(0.5)),)
    found = self.known.normalization(node)
    if found is not None:
      return self._normalized(found)
    mixed = self._mixed(node)
    if mixed is not None:
      return (mixed,)
    if node.label in SUMS:
      return self._sum(node)
    if node.label in JOINS:
      return self._parts(node)
    below = _factor_below(node)
    if below is None:
      return self._product(node)
    stream, factor = self.of(below[0]), below[1]
    return None if stream is None else _taken(factor.on(stream), node)

  def _unknown(self, node: Node) -> Term:
    return Term("unknown", inner=self.known.reached(node) or ())

  def _normalized(self, found: Normalization) -> Stream | None:
    inner = self.of(found.inner) or (self._unknown(found.inner),)
    fields: Any = {"inner": inner, "over": found.over, "centred": found.centred}
    fields |= {"factor": found.factor, "channels": found.channels}
    fields["counts"] = found.counts
    stream: Stream = (Term("normalized", **fields),)
    for value in found.scales:
      factor = factor_of(value)
      if factor is None:
        return None
      stream = factor.on(stream)
    return stream

  def _sum(self, node: Node) -> Stream | None:
    found: Stream = ()
    for place, value in enumerate(node.operands):
      below = value.node
      terms = shift_of(value) if below is None else self.of(below)
      if terms is None:
        return None
      sign = -1.0 if place and node.label == "sub" else 1.0
      found += Factor(sign).on(terms)
    if has_complex(node) and any(term.kind not in _CENTRED for term in found):
      return None  # the phases of their means are not known
    return found if _are_distinct(found) or _are_apart(node) else None

  def _mixed(self, node: Node) -> Term | None:
    """Positions of signals, pooled or attended to."""
    pool = pooled(node)
    if pool is not None:
      kind, below, mixing = pool
      image = self._image(*source_of(below))
      factor = mixing.counts[0] if kind == "average" else 1.0
      given: Any = {"factor": factor, "mixing": mixing}
      return None if image is None else Term(kind, images=(image,), **given)
    found = attention(node)
    if found is None:
      return None
    sides = (found.values, found.queries, found.keys)
    images = [self._operand(side) for side in sides]
    product, between = source_of(found.scores)
    known = tuple(image for image in images if image is not None)
    if len(known) < len(images) or product.label != "data product":
      return None
    mixing = found.mixing._replace(scores=recovered(product, between))
    return Term("attention", images=known, mixing=mixing)

  def _operand(self, node: Node) -> Image | None:
    """Of an attention: a stream, or an image of one."""
    stream = self.of(node)
    if stream is not None:
      return Image(identity, stream)
    return self._image(*source_of(node))

  def _parts(self, node: Node) -> Stream | None:
    """Streams side by side, and what else is joined to them."""
    shapes = [tuple(atom.aval.shape) for atom in node.equation.invars]
    params = node.equation.params
    along = [params["dimension"]] if "dimension" in params else []
    if node.has_zeros:
      every = [
        nonzeros(value, shape, along)
        for value, shape in zip(node.operands, shapes, strict=True)
      ]
    else:
      every = [NonZeros(math.prod(shape)) for shape in shapes]
    total, images = max(1, sum(terms.number for terms in every)), []
    for value, terms in zip(node.operands, every, strict=True):
      image = self._part(value)
      if image is None:
        below = value.node
        unknown = Term("unknown") if below is None else self._unknown(below)
        image = Image(identity, (unknown,))
      if terms.value is not None:
        image = Image(identity, (Term("ones", factor=terms.value),))
      images.append(image._replace(weight=terms.number / total))
    within = terms_within((Term("parts", images=tuple(images)),))
    known = any(term.kind not in ("parts", "unknown") for term in within)
    if not known or has_complex(node):
      return None
    return (Term("parts", images=tuple(images)),)

  def _part(self, value: Value) -> Image | None:
    """What is joined to others: a stream, or a slice of one."""
    if value.node is None:
      stream = shift_of(value)
    else:
      source, between = source_of(value.node)
      if any(map(chooses, between)):
        return self._image(source, between)
      stream = self.of(value.node)
    return None if stream is None else Image(identity, stream)

  def _product(self, node: Node) -> Stream | None:
    """A function of one stream, or a product of two such."""
    source, between = source_of(node)
    if source is not node:
      parts = [(source, between)]
    else:
      parts = [source_of(each) for each in node.below]
      if node.label != "mul" or len(parts) != len(node.operands):
        return None
    images = [self._image(*part) for part in parts]
    known = tuple(image for image in images if image is not None)
    if len(known) < len(parts):
      return None
    alone = tuple(Term("product", images=(image,)) for image in known)
    if not (_are_distinct(alone) or _choose_apart(parts, known[0].stream)):
      return None
    return (Term("product", images=known),)

  def _image(self, source: Node, between: Sequence[Node]) -> Image | None:
    stream = self.of(source)
    if stream is None:
      return None
    moved = all(each.label in LAYOUT for each in between)
    activation = identity if moved else recovered(source, between)
    return Image(activation, stream, share_of(between))


def _are_distinct(stream: Stream) -> bool:
  """Whether no signal is there twice, so that the terms are independent.

  In a loop whose carry has no name the outputs of two repeats look the same.
  """
  signals = ("output", "stream", "inner", "input", "noise")
  named = [
    [(t.kind, t.site) for t in terms_within((term,)) if t.kind in signals]
    for term in stream
  ]
  together = [name for names in named for name in set(names)]
  return len(set(together)) == len(together)


def _choose_apart(
  parts: Sequence[tuple[Node, Sequence[Node]]], stream: Stream
) -> bool:
  """Whether they take different entries of one stream, as gated units do.

  Entries of a product may share a factor.
  """
  (first, first_between), *rest = parts
  return all(term.kind != "product" for term in stream) and all(
    node is first and _choices(between) != _choices(first_between)
    for node, between in rest
  )


def _choices(between: Sequence[Node]) -> list[str]:
  nodes = sorted(between, key=lambda node: node.index)
  return [node.text for node in nodes if chooses(node)]


def _taken(stream: Stream, node: Node) -> Stream:
  """What a node leaves of entries, where it moves them."""
  share = share_of([node])
  if share == 1:
    return stream
  return tuple(term._replace(share=term.share * share) for term in stream)


def _are_apart(node: Node) -> bool:
  """Whether all operands are entries of one signal, each at other places.

  A rotation of pairs of features adds such: x·cos + (-x₂, x₁)·sin.
  """
  routes = [_route(below) for below in node.below]
  if len(routes) < len(node.operands) or None in routes:
    return False
  sources = {source for source, _ in filter(None, routes)}
  moves = {moved for _, moved in filter(None, routes)}
  return len(sources) == 1 and len(moves) == len(routes)


def _route(node: Node) -> tuple[Node, tuple[str, ...]] | None:
  """The one signal that is moved and scaled, and how it is moved."""
  moved: tuple[str, ...] = ()
  while node.operation is None:
    if node.label in JOINS:
      below = [_route(each) for each in node.below]
      found = [each for each in below if each is not None]
      one = len({source for source, _ in found}) == 1
      if not one or len(found) < len(node.operands):
        return None
      return found[0][0], (*itertools.chain(*(m for _, m in found)), *moved)
    below_node = node.only_below({"mul", "neg"} | LAYOUT)
    if below_node is None:
      break
    moved = (node.text, *moved) if chooses(node) else moved
    node = below_node
  return node, moved


def _factor_below(node: Node) -> tuple[Node, Factor] | None:
  """The one signal of a node, and its factor; None if there is no such."""
  dropped = dropout(node)
  if dropped is not None and dropped.kept.node is not None:
    return dropped.kept.node, Factor(dropped.rate**0.5)  # root mean square
  signals = node.below
  others = [value for value in node.operands if value.node is None]
  if len(signals) != 1 or len(others) > 1:
    return None
  if node.label in LAYOUT | {"neg"} and not others:
    return signals[0], Factor(-1.0 if node.label == "neg" else 1.0)
  factor = None
  if others and node.label == "mul":
    factor = factor_of(others[0])
  elif node.label == "div" and others == [node.operands[1]]:
    factor = divisor_of(others[0])
  return None if factor is None else (signals[0], factor)
