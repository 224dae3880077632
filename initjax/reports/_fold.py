"""Selects the rows of a long report that are shown: repeated blocks fold.

Blocks are alike if their paths differ only in a number, as in Block_0 …
Block_23 or the repeats of a scan. In a run of alike blocks, the first and the
last are shown; those in between become one line.
"""

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from initjax._checks import check_integer
from initjax.typing import Record

_SHORT = 12  # so few rows are read faster than a fold
_WORTHWHILE = 3  # rows that a fold must save
_LONGEST_BLOCK = 64  # rows
_NUMBER = re.compile(r"\d+")
_OF_OPERATIONS = ("kind", "fan_in", "fan_out", "fed_by")
_OF_LEAVES = ("shape", "dtype", "action", "rule", "shadowed")
_FEATURES = (*_OF_OPERATIONS, *_OF_LEAVES)


class Piece(NamedTuple):
  """Consecutive rows of a report, shown one by one or folded into a line."""

  rows: range
  """positions in the list of records"""
  folded: bool = False
  """whether they share one line"""
  period: int = 0
  """rows in each of the folded blocks; 0 if what is folded is not alike"""


class _Run(NamedTuple):
  """Alike blocks, one after the other."""

  start: int
  period: int
  blocks: int
  score: int


def fold(
  records: Sequence[Record],
  pinned: Collection[int] = (),
  *,
  lines: int = 40,
  only_alike: bool = False,
) -> list[Piece]:
  """Cuts `records` into pieces that fill about `lines` lines.

  The finest likeness that fits is taken: first the same kind, fans and feeding
  activation beside the same path up to numbers; then the path alone. If no
  likeness is enough, the middle of the report folds, whatever it holds. Leaves
  are alike if shape, dtype and what is done with them are.

  Args:
    records: the rows, in order of execution.
    pinned: positions that are shown in any case, beyond `lines` if need be.
    lines: how many rows and folds there may be, at least 3.
    only_alike: whether the finest likeness alone folds, beyond `lines` too.

  Raises:
    ValueError: if `lines` is less.

  >>> rows = [{"path": f"Dense_{i}", "repeat": ()} for i in range(50)]
  >>> [piece.rows for piece in fold(rows)]
  [range(0, 1), range(1, 49), range(49, 50)]
  """
  check_integer("lines", lines, low=3)
  folds: list[Piece] = []
  if len(records) > _SHORT:
    for likeness in (_same_but_for_numbers, _same_path_but_for_numbers):
      folds = _alike(records, likeness)
      shown = len(records) - sum(len(piece.rows) - 1 for piece in folds)
      if only_alike or shown <= lines:
        break
    else:
      folds = _without_the_middle(len(records), folds, lines)
  return _pieces(len(records), folds, pinned)


def _same_but_for_numbers(record: Record) -> Hashable:
  return _same_path_but_for_numbers(record), *map(record.get, _FEATURES)


def _same_path_but_for_numbers(record: Record) -> Hashable:
  return _NUMBER.sub("#", record["path"]), len(record.get("repeat", ()))


def _counters(record: Record) -> tuple[int, ...]:
  """The numbers in which alike rows may differ."""
  return *map(int, _NUMBER.findall(record["path"])), *record.get("repeat", ())


def _alike(
  records: Sequence[Record], likeness: Callable[[Record], Hashable]
) -> list[Piece]:
  """The folds, in order: the best run first, then what it leaves."""
  names: dict[Hashable, int] = {}
  likes = np.array(
    [names.setdefault(likeness(row), len(names)) for row in records], int
  )
  counters = [_counters(row) for row in records]
  folds = []
  todo = [(0, len(records))]
  while todo:
    start, stop = todo.pop()
    run = _best_run(likes[start:stop], counters[start:stop])
    if run is None:
      continue
    first = start + run.start
    last = first + run.period * (run.blocks - 1)
    folds.append(Piece(range(first + run.period, last), True, run.period))
    todo += [(start, first), (first, first + run.period)]
    todo += [(last, last + run.period), (last + run.period, stop)]
  return sorted(folds, key=lambda piece: piece.rows.start)


def _best_run(
  likes: np.ndarray, counters: Sequence[tuple[int, ...]]
) -> _Run | None:
  """The run with the highest score; of equal ones that of shorter blocks."""
  best = None
  for period in range(1, min(_LONGEST_BLOCK, len(likes) // 3) + 1):
    for start, stop in _stretches(likes[:-period] == likes[period:]):
      if best and stop - start + period <= best.score:
        continue  # not even with all its rows
      steps = [
        _changed_number(counters[row], counters[row + period])
        for row in range(start, stop)
      ]
      for run in _runs(steps, start, period):
        if best is None or run.score > best.score:
          best = run
  return best


def _runs(
  steps: Sequence[Hashable | None], offset: int, period: int
) -> Iterator[_Run]:
  """Blocks whose rows differ from the next block's in one number each.

  A run's score is the number of rows that it hides. Blocks that begin where
  the model's own blocks do, so that all rows take the same step, score with
  all their rows: better a block less than blocks that begin in the middle.
  """
  for start, stop in _stretches(np.array([step is not None for step in steps])):
    for first in range(start, start + period):
      blocks = (stop - first) // period + 1
      hidden = (blocks - 2) * period
      if hidden < _WORTHWHILE:
        break
      aligned = len(set(steps[first : first + period])) == 1
      score = hidden + 2 * period * aligned
      yield _Run(offset + first, period, blocks, score)


def _changed_number(
  one: tuple[int, ...], other: tuple[int, ...]
) -> tuple[tuple[int, int], ...] | None:
  """From which number to which, if there is one such step at most."""
  pairs = zip(one, other, strict=True)
  different = {pair for pair in pairs if pair[0] != pair[1]}
  return tuple(different) if len(different) <= 1 else None


def _stretches(marks: np.ndarray) -> list[tuple[int, int]]:
  """Start and stop of each stretch of True."""
  edges = np.flatnonzero(np.diff(marks, prepend=False, append=False))
  return [(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def _without_the_middle(
  rows: int, folds: Sequence[Piece], lines: int
) -> list[Piece]:
  """The folds in the first and the last half of the lines, and one between."""
  pieces = _pieces(rows, folds, ())
  each = [line for p in pieces for line in ([p] if p.folded else one_by_one(p))]
  half = (lines - 1) // 2
  middle = range(each[half].rows.start, each[-half].rows.start)
  kept = (*each[:half], Piece(middle, folded=True), *each[-half:])
  return [line for line in kept if line.folded]


def one_by_one(piece: Piece) -> list[Piece]:
  """A piece for each row."""
  return [Piece(range(row, row + 1)) for row in piece.rows]


def _pieces(
  rows: int, folds: Sequence[Piece], pinned: Collection[int]
) -> list[Piece]:
  """All rows: the folds without what is pinned, and what is shown between."""
  pieces, start = [], 0
  for piece in (part for each in folds for part in _unpin(each, pinned)):
    pieces += [Piece(range(start, piece.rows.start)), piece]
    start = piece.rows.stop
  pieces.append(Piece(range(start, rows)))
  return [piece for piece in pieces if piece.rows]


def _unpin(piece: Piece, pinned: Collection[int]) -> list[Piece]:
  """What stays folded between pinned rows; one row alone is shown instead."""
  pins = sorted(set(pinned).intersection(piece.rows))
  if not pins:
    return [piece]
  starts = [piece.rows.start, *(pin + 1 for pin in pins)]
  stops = [*pins, piece.rows.stop]
  period = min(piece.period, 1)  # what is left need not be whole blocks
  return [
    Piece(range(start, stop), True, period)
    for start, stop in zip(starts, stops, strict=True)
    if stop - start > 1
  ]
