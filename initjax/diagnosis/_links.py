"""Which rows feed which: a model's rows as a directed graph.

A row has a `Link` if its only input is a function of one other row's output,
entry by entry or pooled. A sum of rows, a product, streams side by side,
attention, and a normalization are not such functions.
"""

import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from initjax.graph import Feed, SignalGraph, Site, Stream, Term, terms_within

_POINTERS = ("output", "stream", "inner")
_KEPT = ("output", "stream", "product", "average", "maximum")


class Link(NamedTuple):
  """The one row that feeds another."""

  row: int
  stream: Stream
  """its output and biases"""
  is_plain: bool
  """whether only biases and an activation lie between"""


class Links(NamedTuple):
  """What feeds each row."""

  before: tuple[int, ...]
  """[rows]: as bits of a number, all rows that have a say in it"""
  terms: tuple[int, ...]
  """[rows]: likewise, those whose outputs are added to make what feeds it"""
  links: tuple[Link | None, ...]
  """[rows]: the only row that feeds it, if there is one"""
  readers: tuple[int, ...]
  """[rows]: how many read it"""
  are_known: bool
  """whether nothing else can read any of them"""

  def leads(self, first: int, second: int) -> bool:
    """Whether one row has a say in another."""
    return bool(self.before[second] >> first & 1)

  def after(self, first: int) -> int:
    """As bits of a number, all rows in which a row has a say."""
    return sum(
      1 << at for at in range(first, len(self.before)) if self.leads(first, at)
    )

  def adds(self, first: int, second: int) -> bool:
    """Whether one row's output is a term of the sum that another reads."""
    return bool(self.terms[second] >> first & 1)


def links_of(graph: SignalGraph) -> Links:
  """Reads the streams of a graph once, in the order of execution."""
  latest = _Latest(graph)
  before: list[int] = []
  terms: list[int] = []
  links: list[Link | None] = []
  readers = [0] * len(graph.rows)
  known = not graph.opaque and not graph.not_followed
  for at, row in enumerate(graph.rows):
    feed = row.feed
    bits = 0
    for term, of in latest.named(feed, at):
      bits |= before[of] | (term.kind == "output") << of
    before.append(bits)
    added = (t for t in feed.stream or () if t.kind == "output")
    sources = (latest.row(term.site, at) for term in added)
    terms.append(sum(1 << of for of in {*sources} if of is not None))
    links.append(_link(feed.stream or (), at, links, latest))
    known &= feed.stream is not None or feed.from_outside
    for read in _read(latest.named(feed, at), links):
      readers[read] += 1
  end = len(graph.rows)
  others = [op.usual_feed for op in graph.products]
  others.append(Feed(stream=graph.output))
  for feed in others:
    for read in _read(latest.named(feed, end), links):
      readers[read] += feed.stream is not graph.output or read < end - 1
  return Links(tuple(before), tuple(terms), tuple(links), tuple(readers), known)


class _Latest:
  """The latest row of a site before another row."""

  def __init__(self, graph: SignalGraph) -> None:
    self._places: dict[Site, list[int]] = {}
    for at, row in enumerate(graph.rows):
      self._places.setdefault(row.op.place.site, []).append(at)

  def row(self, site: Site, before: int) -> int | None:
    places = self._places.get(site, [])
    found = bisect.bisect_left(places, before)
    return places[found - 1] if found else None

  def named(self, feed: Feed, before: int) -> list[tuple[Term, int]]:
    """Every row that a feed names: its output, or what feeds it."""
    found: dict[tuple[str, int], tuple[Term, int]] = {}
    for term in terms_within(feed.stream or feed.reached):
      of = self.row(term.site, before) if _points(term) else None
      if of is not None:
        found[term.kind, of] = term, of
    return list(found.values())


def _points(term: Term) -> bool:
  return term.kind in _POINTERS


def _read(
  named: Iterable[tuple[Term, int]], links: list[Link | None]
) -> Iterator[int]:
  """Rows whose output is read: what is named as a stream, by its own row."""
  for term, of in named:
    link = links[of]
    if term.kind == "output":
      yield of
    elif link is not None:
      yield link.row


def _link(
  stream: Stream, at: int, links: list[Link | None], latest: _Latest
) -> Link | None:
  signals = [term for term in stream if not _is_shift(term)]
  if len(signals) != 1 or any(t.kind == "constant" for t in stream):
    return None
  inside = list(terms_within(tuple(signals)))
  if any(not _is_shift(t) and t.kind not in _KEPT for t in inside):
    return None
  pointers = {(t.kind, latest.row(t.site, at)) for t in inside if _points(t)}
  if len(pointers) != 1:
    return None
  ((kind, of),) = pointers
  if of is None:
    return None
  plain = all(map(_is_plain, stream))
  if kind == "output":
    return Link(of, stream, plain)
  same = links[of]  # the stream that feeds that row feeds this one too
  return same and same._replace(is_plain=same.is_plain and len(stream) == 1)


def _is_shift(term: Term) -> bool:
  return term.kind in ("bias", "constant", "ones")


def _is_plain(term: Term) -> bool:
  if term.kind == "bias":
    return bool(term.path) and not term.scales
  whole = term.kind in ("output", "stream") and term.share == 1
  return whole and term.factor**2 == 1 and not term.scales
