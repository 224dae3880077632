"""Names are short and never ambiguous; sizes are said in words or numbers."""

import math

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from initjax.reports import _names, _words
from initjax.typing import Verdict


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("params/Block_3/Dense_0/kernel", "Block_3/Dense_0"),
    ("layers/0/weight", "layers/0"),
    ("mlp/~/linear_0/w", "mlp/~/linear_0/w"),
    ("kernel", "kernel"),
    ("params", "params"),
    ("2", "2"),
    (".", "."),
    ("it's/x", "it's/x"),
    ("params/a/kernel, params/b/kernel", "params/a/kernel, params/b/kernel"),
    ("not a pytree path", "not a pytree path"),
  ],
)
def test_short_paths(path, name):
  assert _names.short_paths([path]) == {path: name}


def test_a_kernel_is_named_where_its_module_is_not_enough():
  paths = ["a/kernel", "a/weight", "b/kernel"]
  names = ["a/kernel", "a/weight", "b"]
  assert list(_names.short_paths(paths).values()) == names


def test_paths_of_one_short_name_keep_their_own():
  paths = ["params/a", "a", "b"]
  assert list(_names.short_paths(paths).values()) == [*paths[:2], "b"]


@given(st.lists(st.text("[]'.\"ab0/\\ \n<", max_size=12), max_size=6))
def test_different_paths_have_different_names(paths):
  names = _names.short_paths(paths)
  assert set(names) == set(paths)
  assert len(set(names.values())) == len(names)


@given(st.text("ab/_0", min_size=1, max_size=60), st.integers(3, 40))
def test_cropped_names_fit(name, width):
  assert len(_names.crop(name, width)) <= width


@pytest.mark.parametrize(
  ("row", "words"),
  [
    ({"signal": -199.375}, "-199.38"),
    ({"signal": -0.001}, "0.00"),
    ({"signal": -math.inf}, "0 (exact)"),
    ({"signal": None}, "not run"),
    ({"signal": math.nan}, "non-finite"),
    ({"signal": math.nan, "forward_nonfinite": 1024.0}, "25% non-finite"),
    ({"signal": math.inf, "forward_nonfinite": 0.0}, "non-finite"),
    (
      {"signal": -math.inf, "forward_zeros": 512.0, "draws": 8},
      "0 (some draws)",
    ),
    ({"forward_log2_second_moment_std": 0.25}, "0.00 ±0.25"),
    ({"forward_log2_second_moment_std": math.nan}, "0.00"),
  ],
)
def test_size(row, words):
  assert _words.size(synthetic.record(**row), "forward") == words


@pytest.mark.parametrize(
  ("signals", "words"),
  [
    ((1.0, -2.0, 0.5), "-2.0 … 1.0"),
    ((0.01, -0.01), "0.0"),
    ((-math.inf, -3.0), "0 (exact) … -3.0"),
    ((-math.inf, -math.inf), "0 (exact)"),
    ((-3.0, math.nan), "-3.0 … non-finite"),
    ((-math.inf, math.nan), "0 (exact) … non-finite"),
    ((None, 2.0, None), "2.0"),
    ((None, None), "not run"),
  ],
)
def test_size_range(signals, words):
  rows = [synthetic.record(signal=signal) for signal in signals]
  assert _words.size_range(rows, "forward") == words


def test_fans_may_be_fractions():
  row = synthetic.record(fan_in=4.5, fan_out=1048576)
  assert _words.fans(row) == "4.5→1048576"


def test_the_worst_severity_marks_a_row():
  rows = [synthetic.record() for _ in range(4)]
  verdicts = [
    Verdict("a", "note", "", "", "", (0, 1, 2)),
    Verdict("b", "error", "", "", "", (1,)),
    Verdict("c", "warning", "", "", "", (1, 2)),
  ]
  assert _words.severities(rows, verdicts) == ["note", "error", "warning", ""]


def test_a_verdict_on_no_row_is_refused():
  verdict = Verdict("dead units", "error", "", "", "", (7,))
  with pytest.raises(
    ValueError, match=r"'dead units' names row 7, but .* 1 row"
  ):
    _words.severities([synthetic.record()], [verdict])
