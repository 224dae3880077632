"""One table and one page for all: agreement, failure, what is written."""

import json
import math

import pytest

from experiments.common import page as pages
from experiments.reproduce import __main__ as reproduce
from experiments.runtime import launch
from experiments.runtime.experiment import Claim, script
from experiments.runtime.job import Job


def section(**changed):
  given = {
    "name": "kaiming", "text": "Why <half>?\n\nBecause.", "seconds": 1.0,
    "claims": [], "tables": [], "figure": reproduce.plots.grid(1, 1)[0],
  }  # fmt: skip
  return pages.Section(**(given | changed))


@pytest.mark.parametrize(
  ("ours", "error", "agrees", "sigmas"),
  [
    (1.0, 0.0, True, 0.0),
    (1.1, 0.2, True, 0.5),
    (1.3, 0.2, False, 1.5),
    (0.0, 0.01, False, -4.0),
    (math.nan, 1.0, False, 4.0),
    (math.inf, 1.0, False, 4.0),
  ],
)
def test_agreement_is_a_difference_within_the_error(
  ours, error, agrees, sigmas
):
  claim = Claim("He et al. 2015", "growth", 1.0, ours, error)
  assert claim.agrees is agrees
  assert reproduce._sigmas(claim) == pytest.approx(sigmas)
  allowed = claim.allowing(0.5, "a half")
  assert (allowed.error, allowed.kind) == (error + 0.5, "allowance")


def test_numbers_have_four_digits_and_errors_two():
  claim = Claim("source", "quantity", 1e-9, 0.055551, 0.0003619)
  assert pages.numbers(claim) == ("1e-09", "0.05555", "0.00036")
  lost = claim._replace(published=1e-11, error=12.34)
  assert pages.numbers(lost) == ("0", "0.05555", "12")


def test_the_page_needs_no_other_file_and_escapes_what_it_shows():
  claim = Claim("A & B 2015", "<growth>", 1.0, 2.0, 0.1)
  html = pages.page("title", "how", [section(claims=[claim])])
  assert "A &amp; B 2015" in html
  assert "&lt;growth&gt;" in html
  assert "Why &lt;half&gt;?" in html
  assert "0 of 1 independent claims agree" in html
  assert "data:image/png;base64," in html
  assert "http" not in html


def test_one_that_fails_is_told_and_stops_no_other(monkeypatch, tmp_path):
  def run(config, job):
    raise FloatingPointError("no number at layer 3")

  rectifiers = script("rectifiers")
  broken = rectifiers.EXPERIMENT._replace(run=run)
  monkeypatch.setattr(rectifiers, "EXPERIMENT", broken)
  config = reproduce.Config(("rectifiers", "broken_fans"), "smoke")
  result = reproduce.run(config, Job())
  assert list(result["failed"]) == ["rectifiers"]
  directory = launch.save(reproduce.EXPERIMENT, config, result, str(tmp_path))
  page = (directory / "reproduce.html").read_text()
  assert "FloatingPointError: no number at layer 3" in page
  content = json.loads((directory / "reproduce.json").read_text())
  assert content["result"]["failed"]["rectifiers"].endswith("layer 3")
  assert [claim["source"] for claim in content["claims"]]
  assert (directory / "reproduce.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="experiments must be among signal_prop"):
    reproduce.Config(experiments=("kaming",))
