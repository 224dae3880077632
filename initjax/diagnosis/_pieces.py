"""What of a model is judged together, and what is not judged.

    chain   operations that feed each other, one by one
    blocks  the same operation in one block after another: a residual stream,
            time steps, couplings; each kind of operation is one sequence
    path    other operations, each a term of the sum that the next one reads

Every row is in one piece, or in none: `unjudged` then says why.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

from initjax.diagnosis._chain import Chain, chain_of, paths_of
from initjax.diagnosis._links import Links, links_of
from initjax.graph import Row, SignalGraph, fed_by
from initjax.measurement import Leaves

_SHORTEST = 3  # rows of which a growth can be told from one odd row


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
  blocks = _blocks(graph, links, paths)
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
  roles: dict[Hashable, list[int]] = {}
  for at, row in enumerate(graph.rows):
    roles.setdefault(_role(row), []).append(at)
  groups: list[list[tuple[int, ...]]] = []
  for role in roles.values():
    for sequence in _successions(role, links.leads):
      if len({path_of[at] for at in sequence}) < 2:
        continue
      along = (each for each in groups if _take_turns(links, each[0], sequence))
      group = next(along, None)
      if group is None:
        groups.append([sequence])
      else:
        group.append(sequence)
  return [Piece("blocks", tuple(group)) for group in groups]


def _role(row: Row) -> Hashable:
  """What tells operations of a block from each other, the same in all."""
  numberless = re.sub(r"\d+", "#", row.op.path)
  return row.op.kind, numberless, fed_by(row.feed), len(row.repeat)


def _take_turns(links: Links, one: Sequence[int], other: Sequence[int]) -> bool:
  """Whether the first of each leads to the last of the other."""
  return links.leads(one[0], other[-1]) and links.leads(other[0], one[-1])


def _reason(graph: SignalGraph, links: Links, at: int) -> str:
  if graph.rows[at].feed.from_outside:
    return "what reads it is not followed"
  if not links.before[at]:
    return "what feeds it is not followed"
  return "neither in a chain of operations nor in one of several like blocks"
