"""One layout for all tables: it fits, drops, lists, tells what folds hide."""

import dataclasses

import pytest

from initjax.reports import Column, Note, TextTable, leaf_table, number_column

RECORDS = [
  {
    "path": f"params/Block_{block}/SelfAttention_0/query/kernel",
    "repeat": (),
    "shape": (64, 4, 16),
    "dtype": "bfloat16",
    "size": None if block == 3 else 1.5 + block,
    "why": "a reason" if block == 2 else "",
  }
  for block in range(30)
]
COLUMNS = (
  number_column("size", "size", spans=True),
  Column("", lambda row: row["why"]),
  Column("silent", lambda row: ""),
)
TABLE = dataclasses.replace(
  leaf_table([], COLUMNS),
  records=RECORDS,
  crop=(("leaf", 20),),
  drops_first=False,
  notes=[Note("σ below the table, long enough for two lines", "dim", 2)],
  folds=True,
)


@pytest.mark.parametrize("folds", [True, False])
def test_it_fits_any_width_and_encoding(folds):
  table = dataclasses.replace(TABLE, folds=folds)
  for width in (1, 9, 24, 40, 52, 80, 120):
    for encoding in ("utf-8", "ascii", "latin-1"):
      text = table.to_text(width, encoding)
      assert max(map(len, text.splitlines())) <= width
      assert text.encode(encoding)


def test_a_column_that_says_nothing_is_left_out():
  assert "silent" not in TABLE.to_text(120)


def test_a_fold_says_what_it_spans():
  line = next(x for x in TABLE.to_text(120).splitlines() if "⋮" in x)
  assert line.split() == [
    "⋮",
    "28",
    "more",
    "like",
    "these",
    "2.5",
    "…",
    "29.5",
  ]


def test_names_are_cropped_first_or_last():
  """At 60 columns dtype and shape have room beside 20 characters."""
  cropped = TABLE.to_text(60).splitlines()
  assert "bfloat16" in cropped[1]
  assert "…" in cropped[1]
  whole = dataclasses.replace(TABLE, drops_first=True).to_text(60).splitlines()
  assert "bfloat16" not in whole[1]
  assert RECORDS[0]["path"] in whole[1]


def test_a_list_has_a_line_for_each_name_and_number():
  name, rest, number, *lines = TABLE.to_text(24).splitlines()
  assert (name + rest, number) == (RECORDS[0]["path"], " size 1.5")
  assert " size 2.5 … 29.5" in lines


def test_without_records_it_says_so():
  assert TextTable([], ()).to_text() == "nothing to show"


def test_more_columns_than_a_hundred_are_used(monkeypatch):
  """Names and numbers get the room of a wide terminal, prose keeps to 100."""
  name = "encoder/" + "block/" * 16 + "attention/kernel"
  records = [{"path": name + str(i), "number": float(i)} for i in range(3)]
  columns = (Column("leaf", lambda r: r["path"]), number_column("x", "number"))
  notes = (Note("word " * 60),)
  made = TextTable(records, columns, crop=(("leaf", 20),), notes=notes)
  for width, whole in ((160, True), (100, False), (80, False)):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = str(made).splitlines()
    assert max(map(len, lines)) <= width
    assert (name + "0" in lines[1]) is whole
    assert max(len(line) for line in lines if "word" in line) <= 100
