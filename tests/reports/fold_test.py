"""Folding shows every row or counts it, once, in order."""

import re

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from initjax.reports._fold import fold

NAMES = st.sampled_from(["Dense", "Conv", "attention/out"])
FANS = st.sampled_from([64, 128])
BLOCKS = st.lists(st.tuples(NAMES, FANS), min_size=1, max_size=4)


@st.composite
def models(draw):
  """Stages of repeated blocks, unrolled or scanned, of any length."""
  rows = []
  for stage in range(draw(st.integers(0, 4))):
    block = draw(BLOCKS)
    scanned = draw(st.booleans())
    for index in range(draw(st.integers(1, 30))):
      for name, fan_in in block:
        number = "" if scanned else f"_{index}"
        path = f"stage{stage}/Block{number}/{name}/kernel"
        repeat = (index,) if scanned else ()
        rows.append(synthetic.record(path, repeat, fan_in=fan_in))
  return rows


def lines(pieces):
  return sum(1 if piece.folded else len(piece.rows) for piece in pieces)


PINNED = st.sets(st.integers(0, 400), max_size=5)


def likeness(row):
  return re.sub(r"\d+", "#", row["path"])


@settings(deadline=None)
@given(models(), PINNED, st.integers(3, 60))
def test_every_row_is_shown_or_folded_once_in_order(rows, pinned, most):
  pieces = fold(rows, pinned)
  assert [row for piece in pieces for row in piece.rows] == [*range(len(rows))]
  assert all(piece.rows for piece in pieces)
  hidden = {row for piece in pieces if piece.folded for row in piece.rows}
  assert not hidden & pinned
  if len(rows) > 12:  # fewer are not worth a fold
    assert lines(fold(rows, lines=most)) <= max(most, 12)


@settings(deadline=None)
@given(models())
def test_what_folds_is_like_a_row_shown_before_it(rows):
  for piece in fold(rows):
    if piece.period:
      first, period = piece.rows.start, piece.period
      for row in piece.rows:
        shown = first - period + (row - first) % period
        assert likeness(rows[row]) == likeness(rows[shown])


def folds(rows, pinned=()):
  return [(p.rows, p.period) for p in fold(rows, pinned) if p.folded]


def test_repeats_within_a_block_do_not_hide_that_blocks_repeat():
  """Six equal layers and another, six times: a fold of whole blocks."""
  names = [f"a_{i}" for i in range(6)] + ["b"]
  rows = [
    synthetic.record(f"Block_{block}/{name}/kernel")
    for block in range(6)
    for name in names
  ]
  inner = [(range(1, 5), 1), (range(36, 40), 1)]
  assert folds(rows) == [inner[0], (range(7, 35), 7), inner[1]]


def test_blocks_fold_between_the_first_and_the_last():
  rows, _ = synthetic.transformer(blocks=24)
  assert folds(rows) == [(range(7, 1 + 23 * 6), 6)]


def test_a_scan_folds_by_repeats():
  rows, _ = synthetic.dying_scan(repeats=50)
  assert folds(rows) == [(range(2, 98), 2)]


def test_rows_ordered_by_operation_fold_operation_by_operation():
  rows, _ = synthetic.dying_scan(repeats=50)
  by_operation = sorted(rows[:100], key=lambda row: row["path"])
  assert folds(by_operation) == [(range(1, 49), 1), (range(51, 99), 1)]


def test_a_first_block_fed_otherwise_does_not_shift_the_blocks():
  rows, _ = synthetic.transformer(blocks=24)
  rows[1]["fed_by"] = "residual sum"
  assert folds(rows) == [(range(13, 1 + 23 * 6), 6)]


def test_stages_of_other_widths_fold_apart():
  rows = [
    synthetic.record(f"Dense_{i}", fan_in=64 if i < 10 else 128)
    for i in range(20)
  ]
  assert folds(rows) == [(range(1, 9), 1), (range(11, 19), 1)]


def test_a_funnel_of_ever_other_widths_folds_by_its_path():
  rows = [synthetic.record(f"Dense_{i}", fan_in=i) for i in range(300)]
  assert folds(rows) == [(range(1, 299), 1)]


def test_a_long_report_of_unlike_rows_folds_its_middle():
  rows = [synthetic.record(f"['{'x' * i}']") for i in range(1, 301)]
  assert folds(rows) == [(range(19, 281), 0)]


def test_few_rows_stay_as_they_are():
  rows = [synthetic.record(f"Dense_{i}") for i in range(12)]
  assert folds(rows) == []


def test_a_pinned_row_divides_a_fold():
  rows = [synthetic.record(f"Dense_{i}") for i in range(50)]
  assert folds(rows, {20}) == [(range(1, 20), 1), (range(21, 49), 1)]
  assert folds(rows, {2}) == [(range(3, 49), 1)]  # one row is shown instead


def test_thousands_of_rows_fold_at_once():
  rows = [
    synthetic.record(f"Block_{i}/{name}")
    for i in range(1000)
    for name in "abcdef"
  ]
  assert folds(rows) == [(range(6, 5994), 6)]


def test_too_few_lines_are_refused():
  with pytest.raises(ValueError, match="lines must be an integer >= 3; got 2"):
    fold([], lines=2)
