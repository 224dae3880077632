"""A file is whole or absent, and none is written over."""

import json
import math
import os
import threading

import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
import synthetic
from etils import epath

from initjax import reports
from initjax.typing import Verdict


def names(directory):
  return sorted(path.name for path in directory.iterdir())


def test_json_is_standard_and_says_infinity_in_words(tmp_path):
  path = tmp_path / "report.json"
  verdict = Verdict("underflow", "error", "", "", "", (0,))
  content = {
    "records": [synthetic.record(signal=-math.inf, gradient=math.nan)],
    "verdicts": [verdict],
    "array": np.array([1.0, math.inf]),
    "scalar": jnp.float32(0.5),
  }
  reports.write_json(path, content)

  def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")

  read = json.loads(path.read_text(), parse_constant=refuse)
  assert read["records"][0]["forward_log2_second_moment"] == "-inf"
  assert read["records"][0]["backward_log2_second_moment"] == "nan"
  assert read["verdicts"][0]["kind"] == "underflow"
  assert read["array"] == [1.0, "inf"]
  assert read["scalar"] == 0.5


def test_what_json_cannot_hold_leaves_no_file(tmp_path):
  with pytest.raises(TypeError, match="not JSON serializable"):
    reports.write_json(tmp_path / "report.json", {"x": object()})
  assert names(tmp_path) == []


@pytest.mark.parametrize("write", [reports.write_text, reports.write_json])
def test_nothing_is_written_over(tmp_path, write):
  path = tmp_path / "report"
  path.write_text("mine")
  with pytest.raises(FileExistsError, match=r"already exists.*choose another"):
    write(path, "theirs")
  assert path.read_text() == "mine"
  assert names(tmp_path) == ["report"]


def test_directories_are_not_written_over_and_missing_ones_named(tmp_path):
  with pytest.raises(FileExistsError, match="exists"):
    reports.write_text(tmp_path, "text")
  path = tmp_path / "absent" / "report.txt"
  with pytest.raises(FileNotFoundError, match=r"no directory .*absent; create"):
    reports.write_text(path, "text")


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
  whole = type(epath.Path(tmp_path)).write_bytes

  def half(partial, content):
    whole(partial, content[:4])
    assert names(tmp_path) == [partial.name]  # beside, not at the path
    raise OSError("disk full")

  monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", half)
  with pytest.raises(OSError, match="disk full"):
    reports.write_text(tmp_path / "report.txt", "the whole")
  assert names(tmp_path) == []


@pytest.mark.parametrize(
  ("name", "start"),
  [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF"),
   ("a", b"\x89PNG")],
)  # fmt: skip
def test_figures_are_written_by_their_ending(tmp_path, name, start):
  reports.write_figure(tmp_path / name, matplotlib.figure.Figure())
  assert (tmp_path / name).read_bytes().startswith(start)


def test_an_unknown_ending_is_refused(tmp_path):
  with pytest.raises(ValueError, match="tiger"):
    reports.write_figure(tmp_path / "a.tiger", matplotlib.figure.Figure())
  assert names(tmp_path) == []


def test_text_is_utf8(tmp_path):
  reports.write_text(tmp_path / "report.txt", "φ′ → ✗")
  assert (tmp_path / "report.txt").read_bytes().decode("utf-8") == "φ′ → ✗"


def test_of_many_writers_one_wins(tmp_path):
  path, outcomes = tmp_path / "report.txt", []

  def write(text):
    try:
      reports.write_text(path, text)
      outcomes.append(text)
    except FileExistsError:
      pass

  threads = [threading.Thread(target=write, args=(f"{i}",)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert outcomes == [path.read_text()]
  assert names(tmp_path) == ["report.txt"]


def test_where_there_are_no_hard_links_it_is_renamed(tmp_path, monkeypatch):
  def refuse(*paths):
    raise OSError("no hard links here")

  monkeypatch.setattr(os, "link", refuse)
  path = tmp_path / "report.txt"
  reports.write_text(path, "first")
  with pytest.raises(FileExistsError, match="exists"):
    reports.write_text(path, "second")
  assert path.read_text() == "first"
  assert names(tmp_path) == ["report.txt"]
