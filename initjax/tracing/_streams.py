"""What a source is a sum of: outputs of operations, biases, other streams.

Theory follows the size of a signal from one operation to the next. Between an
operation and the activation that it feeds lie sums (residual branches, biases),
factors and normalizations; they are read here as terms. In a loop the stream
that the body was given goes by the name of the operation that it feeds, so that
a residual stream over many repeats is one more term of itself.
"""

import dataclasses
from typing import NamedTuple

from initjax.tracing._activations import LAYOUT, dropout, source_of
from initjax.tracing._graph import Site, Stream, Term
from initjax.tracing._values import Node, Value

_SUMS = frozenset(("add", "add_any", "sub"))


class _Factor(NamedTuple):
  """What multiplies all terms below a node."""

  number: float = 1.0
  paths: tuple[str, ...] = ()
  """of parameters that multiply them, such as the scale of a branch"""

  def times(self, value: Value) -> "_Factor | None":
    """With one more factor; None if its size is not known."""
    if value.scalar is not None:
      return self._replace(number=self.number * float(value.scalar))
    if len(value.paths) != 1 or value.derived:
      return None
    number = self.number * value.multiplier
    return _Factor(number, (*self.paths, value.paths[0]))

  def on(self, term: Term) -> Term:
    """The term, multiplied."""
    scales = (*term.scales, *self.paths)
    return term._replace(factor=term.factor * self.number, scales=scales)


@dataclasses.dataclass
class Streams:
  """Streams read so far: which operation each of these nodes feeds."""

  names: dict[int, tuple[Node, Term]] = dataclasses.field(default_factory=dict)
  """by `id`; the node is kept, so that its id stays its own"""

  def feeding(self, operand: Value, site: Site) -> Stream | None:
    """The source of what feeds the operation at `site`; None if unknown.

    Later the same node, and what it normalizes, go by the name of `site`.
    """
    if operand.node is None:
      return None
    source, _ = source_of(operand.node)
    stream = self.of(source)
    self._name(source, Term("stream", site))
    inner = _find_normalized(source)
    if inner is not None and stream is not None:
      self._name(inner, Term("inner", site))
    return stream

  def _name(self, node: Node, term: Term) -> None:
    if node.operation is None and node.label not in ("input", "loop"):
      self.names.setdefault(id(node), (node, term))

  def of(self, node: Node, factor: _Factor | None = None) -> Stream | None:
    """The terms of a node; names of earlier streams end the descent."""
    factor = _Factor() if factor is None else factor
    if node.operation is not None and node.place is not None:
      return (factor.on(Term("output", node.place.site)),)
    if id(node) in self.names:
      return (factor.on(self.names[id(node)][1]),)
    if node.label in ("input", "loop"):
      return (factor.on(Term("input")),)
    found = normalization(node)
    if found is not None:
      return self._normalized(found, factor)
    if node.label in _SUMS:
      return self._sum(node.operands, factor)
    below = _factor_below(node, factor)
    return None if below is None else self.of(*below)

  def _normalized(self, found: "Normalization", factor: _Factor) -> Stream:
    inner = self.of(found.inner) or (Term("unknown"),)
    term = Term("normalized", inner=inner, over=found.over, scales=found.scales)
    return (factor.on(term),)

  def _sum(self, operands: tuple[Value, ...], factor: _Factor) -> Stream | None:
    found: Stream = ()
    for value in operands:
      terms: Stream | None = None
      if value.node is not None:
        terms = self.of(value.node, factor)
      elif value.scalar is not None and value.scalar == 0:
        terms = ()
      elif len(value.paths) == 1 and not value.derived:
        bias = Term("bias", path=value.paths[0], factor=value.multiplier)
        terms = (factor.on(bias),)
      if terms is None:
        return None
      found += terms
    return found if _are_distinct(found) else None


def _are_distinct(stream: Stream) -> bool:
  """Whether no signal is there twice, so that the terms are independent.

  In a loop whose carry has no name the outputs of two repeats look the same.
  """
  signals = ("output", "stream", "inner")
  named = [(term.kind, term.site) for term in stream if term.kind in signals]
  return len(set(named)) == len(named)


def _factor_below(node: Node, factor: _Factor) -> tuple[Node, _Factor] | None:
  """The one signal of a node, and its factor; None if there is no such."""
  dropped = dropout(node)
  if dropped is not None and dropped.kept.node is not None:
    root = dropped.rate**0.5  # of its mean square over masks
    return dropped.kept.node, factor._replace(number=factor.number * root)
  signals = [value.node for value in node.operands if value.node is not None]
  others = [value for value in node.operands if value.node is None]
  if len(signals) != 1:
    return None
  if node.label == "neg" or (node.label in LAYOUT and not others):
    return signals[0], factor
  times = factor.times(others[0]) if len(others) == 1 else None
  if times is None:
    return None
  if node.label == "mul":
    return signals[0], times
  if node.label == "div" and not times.paths and node.operands[1] is others[0]:
    inverse = factor.number**2 / times.number if times.number else 0.0
    return signals[0], factor._replace(number=inverse)
  return None


# Normalizations: x, centred or not, times 1/√(a mean over entries)


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
      return Normalization(_without_mean(numerator), over, scales)
  return None


def _deviation(node: Node, root: str) -> tuple[Node, tuple[str, ...]] | None:
  """The reduction below a (reciprocal) root, and the scales on the way."""
  scales: tuple[str, ...] = ()
  while node.label != root:
    signals = [value.node for value in node.operands if value.node is not None]
    if len(signals) != 1 or node.label not in {"mul", "add", "max"} | LAYOUT:
      return None
    if node.label == "mul":
      scales += tuple(p for value in node.operands for p in value.paths)
    (node,) = signals
  reduction = _reduction(node, 12)
  return None if reduction is None else (reduction, scales)


def _reduction(node: Node, depth: int) -> Node | None:
  """The first sum over entries below a node, at most `depth` nodes down."""
  if node.label.startswith("reduce_"):
    return node if node.equation is not None else None
  if depth == 0 or node.operation is not None:
    return None
  below = (value.node for value in node.operands if value.node is not None)
  found = (_reduction(each, depth - 1) for each in below)
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
  while node.label in {"div", "mul"} | LAYOUT:
    signals = [value.node for value in node.operands if value.node is not None]
    if len(signals) != 1:
      return False
    (node,) = signals
  return node.label.startswith("reduce_")


def _find_normalized(node: Node) -> Node | None:
  """What a source normalizes, behind its shift and views."""
  found = normalization(node)
  while found is None:
    signals = [value.node for value in node.operands if value.node is not None]
    if len(signals) != 1 or node.label not in {"mul"} | _SUMS | LAYOUT:
      return None
    (node,) = signals
    found = normalization(node)
  return found.inner
