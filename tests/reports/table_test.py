"""The table fits, folds, marks, and says what is wrong."""

import io

import pytest
import rich.console
import synthetic

from initjax import reports
from initjax.typing import Verdict

MODELS = [pytest.param(*model, id=n) for n, model in synthetic.MODELS.items()]


@pytest.mark.parametrize(("rows", "verdicts"), MODELS)
def test_no_line_is_wider_than_asked_for(rows, verdicts):
  for width in (1, 7, 20, 44, 60, 80, 160):
    for encoding in ("utf-8", "ascii", "cp1252"):
      options = {"width": width, "encoding": encoding}
      text = reports.to_text(rows, verdicts, **options)
      assert max(map(len, text.splitlines())) <= width
      assert text.encode(encoding)


def test_a_list_stands_for_a_table_without_room():
  text = reports.to_text(*synthetic.exploding_mlp(), width=20)
  assert "x Dense_4\n signal 3.60\n gradient 85.50\n" in text.replace("✗", "x")


def test_ascii_stands_in_for_what_an_encoding_lacks():
  verdict = Verdict("a", "error", "", "σ_w² → ½", "φ", (0,))
  text = reports.to_text([synthetic.record("é")], [verdict], encoding="ascii")
  for words in ("512->512", "log2 E[x^2]", "x 1.", "sigma_w^2 -> 1/2", "\\xe9"):
    assert words in text


class Terminal(io.StringIO):
  encoding = "ascii"


def test_rich_prints_on_an_ascii_terminal():
  file = Terminal()
  rich.console.Console(file=file, width=60).print(
    reports.table(*synthetic.transformer())
  )
  assert file.getvalue().isascii()
  assert "Block_0/SelfA~_0/query" in file.getvalue()


@pytest.mark.parametrize(("rows", "verdicts"), MODELS)
def test_a_model_of_any_depth_fits_a_screen(rows, verdicts):
  table = reports.to_text(rows, verdicts).split("\n\n")[0]
  assert len(table.splitlines()) <= 2 + 40  # two lines of heading


def cells(text, name):
  """The words of the first line that holds `name`."""
  return next(line.split() for line in text.splitlines() if name in line)


def test_a_row_says_what_was_measured():
  text = reports.to_text(*synthetic.exploding_mlp())
  wanted = ["✗", "Dense_4", "512→512", "relu", "3.60", "85.50"]
  assert cells(text, "Dense_4 ") == wanted


def test_columns_that_say_nothing_are_left_out():
  text = reports.to_text([synthetic.record(dead_units=0.0, units=512.0)])
  for title in ("dead", "corr.", "slope", "repeat"):
    assert title not in text


def test_detail_has_a_column_where_it_is_worth_a_look():
  text = reports.to_text(*synthetic.transformer(), width=120)
  for title in ("dead", "corr.", "slope"):
    assert title in text
  wanted = ["-10.00", "±0.30", "10%", "0.05", "0.95"]
  assert cells(text, "Block_0/SelfAttention_0/query")[-5:] == wanted


def test_what_could_not_be_measured_has_an_empty_cell():
  rows = [
    synthetic.record("a", correlation=0.99, dead_units=float("nan")),
    synthetic.record("b", correlation=float("nan")),
  ]
  text = reports.to_text(rows)
  assert cells(text, " a ")[-1] == "0.99"
  assert cells(text, " b ")[-1] == "0.00"  # the gradient


def test_a_narrow_table_drops_and_crops_but_keeps_the_sizes():
  text = reports.to_text(*synthetic.transformer(), width=60)
  assert "fed by" not in text
  row = cells(text, "Block_0/SelfAtt…_0/query")
  assert row[1:5] == ["0.00", "±0.05", "-10.00", "±0.30"]


def test_folded_blocks_are_counted_and_ranged():
  text = reports.to_text(synthetic.transformer()[0])
  line = next(line for line in text.splitlines() if "⋮" in line)
  assert "⋮ 22 more blocks of 6" in line
  assert "-9.8 … -5.6" in line


def test_a_fold_bears_the_mark_of_its_rows():
  text = reports.to_text(*synthetic.exploding_mlp())
  assert cells(text, "⋮ 94 more like these")[0] == "✗"


def test_the_first_row_of_a_verdict_is_never_folded():
  text = reports.to_text(*synthetic.transformer())
  assert cells(text, "Block_3/SelfAttention_0/key")[0] == "!"
  assert "Block_4" not in text


def test_verdicts_come_errors_first_with_their_cure():
  verdicts = [
    Verdict("unused", "note", "b/bias", "Nobody reads it.", ""),
    Verdict("wrong fan", "error", "a", "Off by 4.", "a = 1\nb = 2", (0,)),
  ]
  text = reports.to_text([synthetic.record("a")], verdicts)
  assert text.split("\n\n", 1)[1] == (
    "✗ 1. wrong fan (error), a\n"
    "  Off by 4.\n"
    "      a = 1\n"
    "      b = 2\n"
    "\n"
    "· 2. unused (note), b/bias\n"
    "  Nobody reads it."
  )


def test_a_healthy_model_is_told_so():
  text = reports.to_text([synthetic.record()], [])
  assert text.endswith("\n\nno problems found in 1 operation")


def test_a_model_that_nobody_judged_is_not_called_healthy():
  for rows, words in (
    ([synthetic.record()], "not judged: use initjax.diagnose"),
    ([], "nothing to judge: no linear operation"),
    ([synthetic.record(signal=None)], "nothing to judge: no sample"),
  ):
    text = reports.to_text(rows)
    assert words in text
    assert "healthy" not in text


def test_names_are_no_markup():
  text = reports.to_text([synthetic.record("['[red]x[/red]']")])
  assert "[red]x[/red]" in text


def test_the_renderable_is_as_wide_as_its_console_and_coloured():
  file = io.StringIO()
  console = rich.console.Console(
    file=file, width=72, force_terminal=True, color_system="standard"
  )
  console.print(reports.table(*synthetic.exploding_mlp()))
  assert "\x1b[31m✗" in file.getvalue()
  console = rich.console.Console(file=io.StringIO(), width=72)
  with console.capture() as printed:
    console.print(reports.table(*synthetic.transformer()))
  assert max(map(len, printed.get().splitlines())) <= 72


def test_plain_text_has_no_colour_whatever_the_environment(monkeypatch):
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "30")
  assert "\x1b" not in reports.to_text(*synthetic.exploding_mlp())


def test_errors_are_raised_before_anything_is_printed():
  verdict = Verdict("dead units", "error", "", "", "", (1,))
  with pytest.raises(ValueError, match="names row 1"):
    reports.table([synthetic.record()], [verdict])
  with pytest.raises(ValueError, match="width must be an integer >= 1; got 0"):
    reports.to_text([], width=0)
