"""Which exact zeros are intended: those that a kernel of zeros produces.

Residual branches and readouts often start at zero. Such a kernel excuses what
it feeds, and the gradient of what feeds it, but nothing outside its path.
"""

from initjax.graph import SignalGraph, Site, Stream, terms_within
from initjax.measurement import Leaves, RowStatistics, is_zero

Sources = list[set[int] | None]
"""The rows that feed each row, and last the output; None if it is not known."""

_INPUT = -1  # among the rows that feed another: inputs and noise


def meant_zeros(
  found: RowStatistics, leaves: Leaves, direction: str
) -> set[int]:
  """Rows that are 0 because of kernels of zeros that learn, and of no other."""
  sources = _feeding_rows(found.graph)
  zeros = {
    path for path, leaf in leaves.items() if leaf.ndim > 1 and is_zero(leaf)
  }
  causes = {
    at
    for at, row in enumerate(found.rows)
    if zeros.intersection(row.op.paths) and _learns(found, at, sources[at])
  }
  fed = _downstream if direction == "forward" else _upstream
  return fed(causes, sources)


def _downstream(causes: set[int], sources: Sources) -> set[int]:
  """The causes, and rows that nothing else feeds."""
  meant: set[int] = set()
  for row, fed_by in enumerate(sources[:-1]):
    by_zeros = bool(meant) if fed_by is None else fed_by and fed_by <= meant
    if row in causes or by_zeros:
      meant.add(row)
  return meant


def _upstream(causes: set[int], sources: Sources) -> set[int]:
  """Rows that feed nothing but the causes, and such rows."""
  feeds: dict[int, set[int]] = {}
  for later, fed_by in enumerate(sources):
    for row in fed_by or ():
      feeds.setdefault(row, set()).add(later)
  excused = set(causes)
  meant: set[int] = set()
  unknown: set[int] = set()  # any row before them may feed them
  for row in reversed(range(len(sources) - 1)):
    fed = feeds.get(row) or unknown
    if fed and fed <= excused:
      meant.add(row)
      excused.add(row)
    if sources[row] is None:
      unknown.add(row)
  return meant


def _learns(found: RowStatistics, row: int, fed_by: set[int] | None) -> bool:
  """Whether a kernel has a gradient: something goes in, and comes back."""
  inputs = (range(row) if fed_by is None else fed_by) or (_INPUT,)
  alive = (i == _INPUT or found.forward.largest[i] != 0 for i in inputs)
  return bool(found.backward.largest[row] != 0) and any(alive)


def _feeding_rows(graph: SignalGraph) -> Sources:
  latest: dict[Site, int] = {}
  found: Sources = []
  for at, row in enumerate(graph.rows):
    outside = row.feed.from_outside
    fed_by = {_INPUT} if outside else _rows_of(row.feed.stream, latest, found)
    found.append(fed_by)
    latest[row.op.place.site] = at
  return [*found, _rows_of(graph.output, latest, found)]


def _rows_of(
  stream: Stream | None, latest: dict[Site, int], found: Sources
) -> set[int] | None:
  """Operations, and what feeds the streams of those that came before."""
  terms = list(terms_within(stream))
  if not terms or any(term.kind == "unknown" for term in terms):
    return None
  rows: set[int] = set()
  for term in terms:
    row = latest.get(term.site)
    if term.kind in ("input", "noise"):
      rows.add(_INPUT)
    elif row is not None and term.kind == "output":
      rows.add(row)
    elif row is not None and term.kind in ("stream", "inner"):
      before = found[row]
      if before is None:
        return None
      rows |= before
  return rows
