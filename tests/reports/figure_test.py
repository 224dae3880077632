"""The figure shows every row, and what has no number at its border."""

import io
import itertools
import math
import sys

import numpy as np
import pytest
import synthetic

from initjax import reports
from initjax.typing import Verdict

pytest.importorskip("matplotlib")
MODELS = [
  pytest.param(*model, id=name)
  for name, model in synthetic.MODELS.items()
  if model[0]
]


def measured(axes):
  """The line of all rows."""
  lines = {line.get_label(): line for line in axes.lines}
  return np.ma.getdata(lines["measured"].get_ydata())


@pytest.mark.parametrize(("rows", "verdicts"), MODELS)
def test_every_size_is_drawn(rows, verdicts):
  figure = reports.figure(rows, verdicts)
  for axes, direction in zip(figure.axes, ("forward", "backward"), strict=True):
    wanted = [
      row[f"{direction}_log2_second_moment"]
      if row[f"{direction}_size"]
      else math.nan
      for row in rows
    ]
    wanted = np.where(np.isfinite(wanted), wanted, math.nan)
    np.testing.assert_array_equal(measured(axes), wanted)
  figure.savefig(io.BytesIO(), format="png", dpi=30)


def legend(figure):
  return {text.get_text() for text in figure.legends[0].get_texts()}


def test_the_legend_names_what_is_there():
  assert legend(reports.figure([synthetic.record()])) == {"measured"}
  exploding = reports.figure(*synthetic.exploding_mlp())
  assert legend(exploding) == {"measured", "healthy range", "error"}
  dying = reports.figure(*synthetic.dying_scan())
  assert legend(dying) == {"measured", "exactly zero", "non-finite", "error"}
  several = reports.figure(*synthetic.transformer())
  assert legend(several) == {"measured", "± std over draws", "warning"}


def test_zeros_lie_below_and_what_is_not_finite_above():
  rows = [
    synthetic.record(signal=bits) for bits in (0.0, -math.inf, math.nan, None)
  ]
  signal = reports.figure(rows).axes[0]
  places = {mark.get_label(): mark.get_offsets() for mark in signal.collections}
  np.testing.assert_array_equal(places["exactly zero"], [[2, 0]])
  np.testing.assert_array_equal(places["non-finite"], [[3, 1]])


def test_rows_of_verdicts_are_coloured_and_numbered():
  rows, verdicts = synthetic.exploding_mlp()
  signal = reports.figure(rows, verdicts).axes[0]
  (sick,) = (line for line in signal.lines if line.get_label() == "error")
  np.testing.assert_array_equal(sick.get_xdata(), np.arange(4, 100) + 1)
  ((text, x),) = (
    (each.get_text(), each.get_position()[0]) for each in signal.texts
  )
  assert (text, x) == ("1", 5)


def test_numbers_of_verdicts_that_begin_together_share_a_place():
  rows, _ = synthetic.exploding_mlp()
  verdicts = [Verdict("a", "error", "", "", "", (50,))] * 4
  signal = reports.figure(rows, verdicts).axes[0]
  assert [each.get_text() for each in signal.texts] == ["1…"]
  signal = reports.figure(rows, verdicts[:2]).axes[0]
  assert [each.get_text() for each in signal.texts] == ["1,2"]


def test_chance_does_not_fill_the_axis():
  low, high = reports.figure([synthetic.record()]).axes[0].get_ylim()
  assert high - low >= 4


def test_names_stand_below_the_axis_as_many_as_have_room():
  rows, _ = synthetic.transformer()
  labels = reports.figure(rows).axes[1].get_xticklabels()
  names = [label.get_text() for label in labels]
  assert names[0] == "Embed_0/embedding"
  places = [label.get_position()[0] for label in labels]
  assert len({b - a for a, b in itertools.pairwise(places)}) == 1
  assert len(names) <= 15


def test_an_unknown_band_is_not_drawn():
  unknown = {"forward_band": None, "backward_band": (-math.inf, math.inf)}
  figure = reports.figure([synthetic.record(**unknown)])
  assert legend(figure) == {"measured"}


def test_pyplot_is_left_alone():
  reports.figure([synthetic.record()])
  pyplot = sys.modules.get("matplotlib.pyplot")
  assert pyplot is None or not pyplot.get_fignums()


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  with pytest.raises(ImportError, match=r"pip install 'initjax\[plot\]'"):
    reports.figure([synthetic.record()])


def test_nothing_cannot_be_drawn():
  with pytest.raises(ValueError, match=r"nothing to draw: .* no records"):
    reports.figure([])
