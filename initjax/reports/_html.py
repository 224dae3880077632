"""The report as a page: verdicts, figure, table; no script, no other file."""

import functools
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple

from initjax.reports import _figure, _words
from initjax.reports._fold import one_by_one
from initjax.reports._glossary import CATALOGUE, GLOSSARY
from initjax.reports._style import STYLE
from initjax.reports._table import table
from initjax.reports._text_table import (
  Column,
  Line,
  TextTable,
  filled,
  line_of,
)
from initjax.typing import Record, Verdict

_SIZES = {"wide": (9.6, 6.4), "narrow": (4.4, 6.0)}  # of the figure, in inches
_WRAP = 24  # characters of a cell before it wraps


class Content(NamedTuple):
  """What a page shows, from top to bottom."""

  said: str
  """the conclusion, if there is more to say than the verdicts do"""
  is_healthy: bool
  verdicts: Sequence[Verdict]
  table: TextTable
  draw: Callable[[float, float], Any] | None = None
  """the figure of a width and a height in inches"""
  remarks: Sequence[str] = ()


def html(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None = None,
  title: str = "initjax report",
  *,
  missed: Mapping[str, str] = MappingProxyType({}),
  about: Mapping[str, str] = MappingProxyType({}),
) -> str:
  """Returns a standalone page with the verdicts, the figure and the table.

  It needs no other file and no script, is light or dark like the reader's
  system, and fits on a phone. A click on a fix selects all of it.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`. Pass None
      if nothing was judged; the page then says so.
    title: the title of the page.
    missed: parameters that were not followed, as in `graph.not_followed`.
    about: further facts below the title, such as the model and the date.

  Raises:
    ValueError: if a verdict names a row that does not exist.

  >>> html([], title="mlp").startswith("<!DOCTYPE html>")
  True
  """
  return page(_content(records, verdicts, missed), title, about)


def page(content: Content, title: str, about: Mapping[str, str]) -> str:
  """The same of any content.

  Args:
    content: what is shown.
    title: of the page.
    about: what stands below it.
  """
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>body {{ margin: 0 }}</style>
</head>
<body>
{fragment(content, _heading(title, about))}
{_words_explained(content.verdicts)}
</body>
</html>
"""


def _words_explained(verdicts: Sequence[Verdict]) -> str:
  """The kinds of verdicts that are on the page, and the glossary."""
  kinds = {verdict.kind for verdict in verdicts}
  met = {
    names: said
    for names, said in CATALOGUE.items()
    if any(name in kind for name in names.split(", ") for kind in kinds)
  }
  lines = (
    f"<dt>{escape(word)}</dt><dd>{escape(said)}</dd>"
    for word, said in (met | GLOSSARY).items()
  )
  summary = "<summary><span>What the words mean</span></summary>"
  return (
    f'<div class="initjax"><details>{summary}<dl>{"".join(lines)}</dl>'
    "</details></div>"
  )


def _heading(title: str, about: Mapping[str, str]) -> str:
  said = (f"{name}: {value}" for name, value in about.items())
  below = f'<p class="hint">{escape("; ".join(said))}</p>' if about else ""
  return f"<h1>{escape(title)}</h1>{below}"


def html_fragment(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None = None,
  *,
  missed: Mapping[str, str] = MappingProxyType({}),
) -> str:
  """Returns the same as a piece of a page, for `_repr_html_` in a notebook.

  Args:
    records: rows in order of execution, such as `report.to_records()`.
    verdicts: what was found; their `rows` are positions in `records`. Pass None
      if nothing was judged.
    missed: parameters that were not followed, as in `graph.not_followed`.

  Raises:
    ValueError: if a verdict names a row that does not exist.

  >>> html_fragment([])[:21]
  '<div class="initjax">'
  """
  return fragment(_content(records, verdicts, missed))


def _content(
  records: Sequence[Record],
  verdicts: Sequence[Verdict] | None,
  missed: Mapping[str, str],
) -> Content:
  found = _words.ordered(verdicts or ())
  draw = functools.partial(_figure.draw, records, found)
  return Content(
    _words.conclusion(records, verdicts, missed),
    _words.is_healthy(records, verdicts, missed),
    found,
    table(records, found),
    draw if records else None,
    _words.remarks(records),
  )


def fragment(content: Content, heading: str = "") -> str:
  """A piece of a page of any content, for notebooks."""
  cards = map(_card, itertools.count(1), _words.each_fix_once(content.verdicts))
  kind = "healthy" if content.is_healthy else "unjudged"
  said = content.said
  parts = (
    heading,
    f'<p class="{kind}">{escape(said)}</p>' if said else "",
    "".join(cards),
    *(f'<p class="hint">{escape(s)}</p>' for s in content.remarks),
    "" if content.draw is None else _drawing(content.draw),
  )
  return (
    f'<div class="initjax">\n<style>{STYLE}</style>\n'
    + "\n".join(part for part in parts if part)
    + f"\n{_operations(content.table)}\n</div>"
  )


def _card(number: int, verdict: Verdict) -> str:
  """One verdict: what it is, where, why, and what mends it."""
  where = f" <code>{escape(verdict.path)}</code>" if verdict.path else ""
  message = escape(verdict.message)
  fix = f"\n<pre>{escape(verdict.fix)}</pre>" if verdict.fix else ""
  return f"""<section class="{verdict.severity}">
<h2><span class="number">{number}</span> {escape(verdict.kind)}
<span class="severity">{verdict.severity}</span>{where}</h2>
<p>{message}</p>{fix}
</section>
"""


def _drawing(draw: Callable[[float, float], Any]) -> str:
  """The figure twice, for wide and narrow windows; or why there is none."""
  try:
    drawings = [
      f'<div class="{name}">{_svg(draw(*size), name)}</div>'
      for name, size in _SIZES.items()
    ]
  except ImportError as error:
    return f'<p class="hint">{escape(str(error))}</p>'
  return f"<figure>\n{''.join(drawings)}\n</figure>"


def _svg(drawn: Any, name: str) -> str:
  """Text stays text, and what is black takes the colour of the page."""
  from matplotlib import rc_context

  file = io.StringIO()
  with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"initjax-{name}"}):
    drawn.savefig(file, format="svg", transparent=True, metadata={"Date": None})
  drawing = file.getvalue()
  drawing = drawing[drawing.index("<svg") :]
  drawing = drawing.replace(_figure.INK, "currentColor")
  drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
  return re.sub(r"font-family: [^;\"]*", "font-family: inherit", drawing)


def _operations(text: TextTable) -> str:
  if not text.records:
    return f'<p class="hint">{escape(text.empty)}</p>'
  shown, lines = filled(text)
  lengths = _column_lengths(shown, lines)
  widths = [f"{100 * each / sum(lengths):.2f}%" for each in lengths]
  tags = "".join(f'<col style="width:{width}">' for width in widths)
  style = f"min-width:{sum(lengths)}ch"
  start = f'<table style="{style}"><colgroup>{tags}</colgroup>'
  head = "".join(
    f"<th{_side(column)}>{column.title}<small>{column.unit}</small></th>"
    for column in shown
  )
  rows = []
  for each in lines:
    if not each.piece.folded:
      rows.append(_row(each, shown))
      continue
    pieces = one_by_one(each.piece)
    inner = "".join(_row(line_of(text, shown, p), shown) for p in pieces)
    rows.append(_fold(each, shown, widths, f"{start}{inner}</table>"))
  return f"""<div class="scroll">{start}
<thead><tr>{head}</tr></thead>
<tbody>
{"".join(rows)}</tbody>
</table></div>"""


def _column_lengths(
  shown: Sequence[Column], lines: Sequence[Line]
) -> list[int]:
  """Of the columns, in characters; long paths wrap."""
  longest = []
  for place, column in enumerate(shown):
    cells = (row.cells[place] for row in lines)
    words = (column.title, column.unit, *cells)
    longest.append(3 + min(max(map(len, words)), _WRAP))
  return longest


def _row(row: Line, shown: Sequence[Column]) -> str:
  cells = "".join(
    f"<td{_side(column)}>{_cell(cell)}</td>"
    for column, cell in zip(shown, _marked(row), strict=True)
  )
  return f'<tr class="{row.severity}">{cells}</tr>\n'


def _fold(
  row: Line, shown: Sequence[Column], widths: Sequence[str], inner: str
) -> str:
  """Folded rows: one line that opens into a table with the same columns."""
  cells = "".join(
    f'<span{_side(column)} style="width:{width}">{_cell(cell)}</span>'
    for column, width, cell in zip(shown, widths, _marked(row), strict=True)
  )
  return (
    f'<tr class="fold {row.severity}"><td colspan="{len(shown)}"><details>'
    f"<summary>{cells}</summary>\n{inner}</details></td></tr>\n"
  )


def _marked(row: Line) -> tuple[str, ...]:
  """The cells, the first one with the mark of the row before it."""
  return f"{_words.MARKS[row.severity]} {row.cells[0]}".strip(), *row.cells[1:]


def _cell(words: str) -> str:
  """Escaped; a long path may break at its slashes."""
  return escape(words).replace("/", "/<wbr>")


def _side(column: Column) -> str:
  return ' class="number"' if column.is_number else ""
