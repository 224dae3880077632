"""Which parts of a model are judged together, and which are not judged.

    chain   operations that feed each other, one by one
    blocks  the same operation in one block after another: a residual stream,
            time steps, couplings; each kind of operation is one sequence
    path    other operations, each a term of the sum that the next one reads

Every row is in one piece, or in none: `unjudged` then says why.
"""

import collections
import itertools
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from initjax.diagnosis._chain import Chain, chain_of, paths_of
from initjax.diagnosis._links import Links, links_of
from initjax.graph import Row, SignalGraph, fed_by
from initjax.measurement import Leaves

_SHORTEST = 3  # rows of which a growth can be told from one odd row
_NAMES = 3  # of a path, which say what an operation is: attention/query/kernel


class Piece(NamedTuple):
  """Rows whose sizes are compared with each other."""

  kind: Literal["chain", "blocks", "path"]
  sequences: tuple[tuple[int, ...], ...]
  """of rows, in order of execution; one but for blocks"""
  chain: Chain | None = None
  """what theory needs to know of it, where its law is known"""

  @property
  def rows(self) -> tuple[int, ...]:
    """All of them, in order."""
    return tuple(sorted(at for each in self.sequences for at in each))


class Pieces(NamedTuple):
  """A model, in pieces."""

  pieces: tuple[Piece, ...]
  unjudged: dict[int, str]
  """rows whose size nothing is compared with, and why"""


def pieces_of(graph: SignalGraph, leaves: Leaves) -> Pieces:
  """Chains and blocks first, then other paths.

  First and last operations of what is judged are in no need of it: nobody asks
  them to keep a size.
  """
  links = links_of(graph)
  paths = paths_of(links)
  blocks = _with_siblings(_blocks(graph, links, paths), graph, links, paths)
  in_blocks = {at for piece in blocks for at in piece.rows}
  found = [
    Piece("chain", (path,), chain_of(path, graph, links, leaves))
    for path in paths
    if len(path) >= _SHORTEST + (not in_blocks.isdisjoint(path))
  ]
  found += blocks
  rest = _others(len(graph.rows), found)
  successions = _successions(rest, links.adds)
  found += [Piece("path", (p,)) for p in successions if len(p) >= _SHORTEST]
  found += _counterparts(_others(len(graph.rows), found), graph, links)
  rest = [
    at
    for at in _others(len(graph.rows), found)
    if not _is_end(at, graph, links, found)
  ]
  return Pieces(tuple(found), {at: _reason(graph, links, at) for at in rest})


def _others(count: int, found: Iterable[Piece]) -> list[int]:
  taken = {at for piece in found for at in piece.rows}
  return [at for at in range(count) if at not in taken]


def _is_end(
  at: int, graph: SignalGraph, links: Links, found: Iterable[Piece]
) -> bool:
  """Whether it is a first or a last operation, of the model or of a piece.

  Where something is not followed, a last one only seems to be one.
  """
  ends = [(each[0], each[-1]) for piece in found for each in piece.sequences]
  if graph.rows[at].feed.from_outside:
    return links.are_known or any(links.leads(at, last) for _, last in ends)
  if links.readers[at]:
    return False
  return links.are_known or any(links.leads(first, at) for first, _ in ends)


def _successions(
  rows: Iterable[int], leads: Callable[[int, int], bool]
) -> list[tuple[int, ...]]:
  """Rows in sequences: each goes on with the first whose end leads to it."""
  found: list[list[int]] = []
  for at in rows:
    ends = (each for each in found if leads(each[-1], at))
    sequence = next(ends, None)
    if sequence is None:
      found.append([at])
    else:
      sequence.append(at)
  return [tuple(each) for each in found]


def _blocks(
  graph: SignalGraph, links: Links, paths: Sequence[Sequence[int]]
) -> list[Piece]:
  """Of each role the sequences, those that take turns in one piece.

  Those within one path are none: it is judged as a chain.
  """
  path_of = {at: number for number, path in enumerate(paths) for at in path}
  sequences = (
    sequence
    for role in _apart(_roles(graph.rows), path_of)
    for sequence in _successions(role, links.leads)
  )
  return _in_turns(
    (s for s in sequences if len({path_of[at] for at in s}) > 1), links
  )


def _in_turns(
  sequences: Iterable[tuple[int, ...]], links: Links
) -> list[Piece]:
  """Sequences that take turns, as operations of a block do, in one piece."""
  groups: list[list[tuple[int, ...]]] = []
  for sequence in sequences:
    along = (each for each in groups if _take_turns(links, each[0], sequence))
    group = next(along, None)
    if group is None:
      groups.append([sequence])
    else:
      group.append(sequence)
  return [Piece("blocks", tuple(group)) for group in groups]


def _counterparts(
  rows: Sequence[int], graph: SignalGraph, links: Links
) -> list[Piece]:
  """Of what is left, operations that have one name within their module.

  An encoder and a decoder, one after the other, may have one attention each.
  Those that read a stream as it is, which grows, are not compared.
  """
  roles: dict[Hashable, list[int]] = {}
  for at in rows:
    kind, name, repeats = _name(graph.rows[at])
    feed = fed_by(graph.rows[at].feed)
    if feed != "linear":
      own = "/".join(name.split("/")[-_NAMES:])
      roles.setdefault((kind, own, repeats, feed), []).append(at)
  successions = (_successions(role, links.leads) for role in roles.values())
  found = (each for several in successions for each in several)
  return _in_turns((each for each in found if len(each) > 1), links)


def _with_siblings(
  blocks: Sequence[Piece],
  graph: SignalGraph,
  links: Links,
  paths: Sequence[Sequence[int]],
) -> list[Piece]:
  """With rows of these blocks that all read one thing from outside of them.

  The keys and values of cross-attention do; none leads to the next, but what
  follows one in its block follows those of earlier blocks too.
  """
  taken = {at for piece in blocks for at in piece.rows}
  taken |= {at for path in paths if len(path) >= _SHORTEST for at in path}
  rest = [row for at, row in enumerate(graph.rows) if at not in taken]
  places = [at for at in range(len(graph.rows)) if at not in taken]
  added: dict[int, list[tuple[int, ...]]] = {}
  for role in _roles(rest):
    rows = tuple(places[at] for at in role)
    number = next(
      (i for i, of in enumerate(blocks) if _are_beside(rows, of, links)), None
    )
    if number is not None:
      added.setdefault(number, []).append(rows)
  return [
    piece._replace(sequences=(*piece.sequences, *added.get(number, ())))
    for number, piece in enumerate(blocks)
  ]


def _are_beside(rows: Sequence[int], piece: Piece, links: Links) -> bool:
  """Whether these are siblings, each of which feeds a block of this piece."""
  first, last = piece.sequences[0][0], piece.sequences[0][-1]
  if len({links.before[at] for at in rows}) > 1 or len(rows) < 2:
    return False
  if not links.leads(rows[0], last):
    return False
  after = [links.after(at) for at in rows]
  within = [links.after(first), *after]
  nested = all(b and not b & ~a for a, b in itertools.pairwise(within))
  return nested and len(set(after)) == len(after)


def _roles(rows: Sequence[Row]) -> list[list[int]]:
  """Rows by what tells operations of a block from each other.

  What is fed as no other of its name is, as in the first block, is one of them;
  a first time step, whose state is 0, is not.
  """
  kinds: dict[Hashable, collections.Counter[str]] = {}
  for row in rows:
    kinds.setdefault(_name(row), collections.Counter())[fed_by(row.feed)] += 1
  roles: dict[Hashable, list[int]] = {}
  for at, row in enumerate(rows):
    feeds, feed = kinds[_name(row)], fed_by(row.feed)
    usual = feeds.most_common(1)[0][0]
    is_first = feeds[feed] == 1 and len(feeds) == 2 and not row.repeat
    role = _name(row), usual if is_first else feed
    roles.setdefault(role, []).append(at)
  return list(roles.values())


def _apart(
  roles: Iterable[Sequence[int]], path_of: dict[int, int]
) -> Iterator[list[int]]:
  """Operations of one role that feed each other in a block are several."""
  for role in roles:
    places: dict[int, list[int]] = {}
    met: collections.Counter[int] = collections.Counter()
    for at in role:
      places.setdefault(met[path_of[at]], []).append(at)
      met[path_of[at]] += 1
    yield from places.values() if len(met) > 1 else ()


def _name(row: Row) -> tuple[str, str, int]:
  """The same in all blocks."""
  return row.op.kind, re.sub(r"\d+", "#", row.op.path), len(row.repeat)


def _take_turns(links: Links, one: Sequence[int], other: Sequence[int]) -> bool:
  """Whether the first of each leads to the last of the other."""
  return links.leads(one[0], other[-1]) and links.leads(other[0], one[-1])


def _reason(graph: SignalGraph, links: Links, at: int) -> str:
  if graph.rows[at].feed.from_outside:
    return "what reads it is not followed"
  if not links.before[at]:
    return "what feeds it is not followed"
  return "neither in a chain of operations nor in one of several like blocks"
