"""Look-up tables: which are also read out, and what is added to their rows.

A table may be both looked up and multiplied, as when a language model's logits
come from its token embedding. The look-up may then produce any size, since a
norm follows, but the loss sees the product. Rows of positions that are added to
the tokens must have the size of the tokens, or one drowns out the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from initjax.graph import LinearOp, SignalGraph, Site, Stream


class Beside(NamedTuple):
  """What rows of positions are added to."""

  tokens: Site
  """of the look-up"""
  ratio: float
  """of the constants that multiply them before the sum: tokens / positions"""


def read_out(ops: Sequence[LinearOp]) -> frozenset[str]:
  """Paths of parameters that are looked up by data, and multiplied as well."""
  looked_up = {path for op in ops if _by_data(op) for path in op.paths}
  multiplied = {
    path for op in ops if op.kind != "embedding" for path in op.paths
  }
  return frozenset(looked_up & multiplied)


def _by_data(op: LinearOp) -> bool:
  return op.kind == "embedding" and op.reason != "positions"


def positions_of(graph: SignalGraph) -> Mapping[Site, Beside]:
  """Look-ups of positions that are added to tokens of a table read out."""
  tables = read_out(graph.ops)
  if not tables:
    return {}
  tokens = {
    op.place.site
    for op in graph.ops
    if _by_data(op) and not tables.isdisjoint(op.paths)
  }
  positions = {op.place.site for op in graph.ops if op.reason == "positions"}
  found: dict[Site, Beside] = {}
  for op in graph.ops:
    for sum_ in _sums(op.usual_feed.stream):
      terms = {term.site: term.factor for term in sum_ if term.kind == "output"}
      for site in positions & terms.keys():
        for token in sorted(tokens & terms.keys())[:1]:
          ratio = terms[token] / terms[site]
          found.setdefault(site, Beside(token, ratio))
  return found


def decided_by_readout(graph: SignalGraph) -> frozenset[Site]:
  """Uses of tables that are read out, and of positions added to their rows."""
  tables, beside = read_out(graph.ops), positions_of(graph)
  return frozenset(
    op.place.site
    for op in graph.ops
    if op.place.site in beside or not tables.isdisjoint(op.paths)
  )


def _sums(stream: Stream | None) -> Iterator[Stream]:
  """A stream, and every one that its terms are made of."""
  if stream:
    yield stream
  for term in stream or ():
    yield from _sums(term.inner)
    for image in term.images:
      yield from _sums(image.stream)
