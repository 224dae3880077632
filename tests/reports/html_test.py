"""The page is whole, safe, and holds every row."""

import functools
import html.parser
import re
import sys

import pytest
import synthetic

from initjax import reports
from initjax.reports import _names
from initjax.reports._style import STYLE
from initjax.typing import Verdict

VOID = {"meta", "col", "wbr", "br"}
HOSTILE = "<script>alert(1)</script>"
every_model = pytest.mark.parametrize("name", synthetic.MODELS)


@functools.cache
def page_of(name):
  return reports.html(*synthetic.MODELS[name])


class Page(html.parser.HTMLParser):
  """Collects tags and text; raises if a tag is not closed in its turn."""

  def __init__(self, page):
    super().__init__(convert_charrefs=True)
    self.open, self.tags, self.cells, self.text = [], [], [], []
    self.feed(page)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)
    if tag in ("td", "span"):
      self.cells.append("")

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)
    if {"td", "span"} & set(self.open):
      self.cells[-1] += data

  def count(self, wanted):
    return sum(tag == wanted for tag, _ in self.tags)


@every_model
def test_the_page_holds_every_row_once(name):
  rows, _ = synthetic.MODELS[name]
  names = _names.short_paths(row["path"] for row in rows)
  cells = [re.sub("^[✗!·] ", "", cell) for cell in Page(page_of(name)).cells]
  for path, short in names.items():
    repeats = sum(row["path"] == path for row in rows)
    assert cells.count(short) == repeats, path


@every_model
def test_the_page_needs_nothing_else(name):
  page = Page(page_of(name))
  assert not {"script", "link", "img", "iframe"} & {t for t, _ in page.tags}
  for _, attributes in page.tags:
    for target in ("src", "href", "xlink:href"):
      assert attributes.get(target, "#").startswith("#")


def test_repeats_fold_away_and_verdicts_come_first():
  page = page_of("transformer")
  assert Page(page).count("details") == 3  # the last explains words
  places = [page.index(word) for word in ("<section", "<figure", "<table")]
  assert places == sorted(places)


def test_the_page_explains_the_verdicts_that_it_shows():
  found = Verdict("dead units", "error", "", "Off.", "fix")
  text = "".join(Page(reports.html([], [found])).text)
  assert reports.CATALOGUE["dead units"] in text
  assert reports.CATALOGUE["rank collapse"] not in text


def test_cures_can_be_copied_as_they_are():
  _, verdicts = synthetic.MODELS["transformer"]
  assert f"<pre>{verdicts[0].fix}</pre>" in page_of("transformer")
  assert "user-select: all" in page_of("transformer")


def test_whatever_others_wrote_is_escaped():
  rows = [synthetic.record(f"{HOSTILE}", fed_by=HOSTILE)]
  verdict = Verdict(HOSTILE, "error", HOSTILE, HOSTILE, HOSTILE, (0,))
  page = reports.html(rows, [verdict], title=HOSTILE)
  assert "<script" not in page
  said = "".join(Page(page).text)
  # title, heading; kind, path, message, fix; the row's path and feed
  assert said.count("alert(1)") >= 8


def test_light_and_dark_follow_the_system():
  page = page_of("exploding_mlp")
  assert "prefers-color-scheme: dark" in page
  assert 'name="viewport"' in page
  drawing = page[page.index("<svg") : page.rindex("</svg>")]
  assert "currentColor" in drawing
  assert "#000000" not in drawing


def test_a_fragment_is_the_page_without_its_frame():
  rows, verdicts = synthetic.exploding_mlp()
  fragment = reports.html_fragment(rows, verdicts)
  Page(fragment)
  assert "<body" not in fragment
  assert "<title>" not in fragment


def test_no_rule_of_style_reaches_beyond_the_report():
  page = ":root:has(> body > .initjax)"
  for selectors in re.findall(r"([^{}]+)\{", STYLE):
    assert selectors.strip().startswith((".initjax", page, "@media"))


def test_the_same_report_is_the_same_page():
  model = synthetic.MODELS["exploding_mlp"]
  assert reports.html(*model) == page_of("exploding_mlp")


def test_without_matplotlib_the_page_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  page = reports.html(*synthetic.exploding_mlp())
  Page(page)
  assert "<svg" not in page
  assert "pip install &#x27;initjax[plot]&#x27;" in page
  assert "Dense_99" in page


def test_a_healthy_model_is_told_so():
  assert "no problems found in 1 operation" in page_of("one_row")
  assert "no linear operation was found" in page_of("nothing")
