"""One standalone page: what was found, with every figure, beside the papers."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.runtime.experiment import KINDS, Claim

_STYLE = """
body { max-width: 72rem; margin: 0 auto; padding: 1rem 1.25rem 3rem;
  font: 1rem/1.5 system-ui, sans-serif; color: #1c2127; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .9rem; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #d8dde3; vertical-align: top }
th.number, td.number { text-align: right; white-space: nowrap }
tr.no td { background: #fdeceb } td:last-child { font-weight: 600 }
.yes td:last-child { color: #2e7d32 } .no td:last-child { color: #c62828 }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0 }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.25;
  background: #f5f7f9; padding: .75rem }
.faint { color: #5d6773 }
"""


class Section(NamedTuple):
  """One experiment on the page."""

  name: str
  text: str
  """docstring of its module"""
  seconds: float
  claims: Sequence[Claim]
  tables: Sequence[Any]
  """as `rich.table.Table`s"""
  figure: Any
  """as a `matplotlib.figure.Figure`; None if there is none"""
  failure: str = ""
  """why there is nothing, if there is nothing"""


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
  """The page, as HTML that needs no other file."""
  claims = [(s.name, claim) for s in sections for claim in s.claims]
  body = [
    f"<h1>{html.escape(title)}</h1>",
    f"<p class='faint'>{html.escape(subtitle)}</p>",
    f"<p>{html.escape(summary([claim for _, claim in claims]))}.</p>",
    f"<ul>{_kinds()}</ul>",
    _claims_table(claims),
    *map(_section, sections),
  ]
  return (
    "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
    "<meta name='viewport' content='width=device-width'>"
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
    + "\n".join(body)
    + "</body></html>\n"
  )


def summary(claims: Sequence[Claim]) -> str:
  """How many agree, of those that are independent of each other."""
  counted = [claim for claim in claims if not claim.shares]
  agree = sum(claim.agrees for claim in counted)
  more = len(claims) - len(counted)
  text = (
    f"{agree} of {len(counted)} independent claims agree within their error"
  )
  return text + (f"; {more} more share their draws" if more else "")


def _kinds() -> str:
  return "".join(
    f"<li><b>{kind}</b>: {html.escape(text)}.</li>"
    for kind, text in KINDS.items()
  )


def numbers(claim: Claim) -> tuple[str, str, str]:
  """Published and ours to four digits, 0 if lost in the error; that to two."""
  lost = 1e-6 * claim.error
  published, ours = (
    f"{0.0 if abs(value) < lost else value:.4g}"
    for value in (claim.published, claim.ours)
  )
  return published, ours, f"{claim.error:.2g}"


def _claims_table(claims: Sequence[tuple[str, Claim]]) -> str:
  head = (
    "<tr><th>experiment</th><th>source</th><th>quantity</th>"
    "<th class='number'>published</th><th class='number'>ours ± error</th>"
    "<th>error</th><th>agree</th></tr>"
  )
  rows = []
  for name, claim in claims:
    published, ours, error = numbers(claim)
    rows.append(
      f"<tr class='{'yes' if claim.agrees else 'no'}'>"
      f"<td><a href='#{name}'>{name}</a></td>"
      f"<td>{html.escape(claim.source)}</td>"
      f"<td>{html.escape(claim.quantity)}{_remarks(claim)}</td>"
      f"<td class='number'>{published}</td>"
      f"<td class='number'>{ours} ± {error}</td>"
      f"<td>{claim.kind}</td>"
      f"<td>{'yes' if claim.agrees else 'no'}</td></tr>"
    )
  return f"<table>{head}{''.join(rows)}</table>"


def _remarks(claim: Claim) -> str:
  said = [claim.why, claim.shares and f"same draws as: {claim.shares}"]
  return "".join(
    f"<br><span class='faint'>{html.escape(text)}</span>"
    for text in said
    if text
  )


def _section(section: Section) -> str:
  question, _, rest = section.text.strip().partition("\n")
  parts = [
    f"<h2 id='{section.name}'>{html.escape(question)}</h2>",
    f"<p class='faint'>{section.name}, {section.seconds:.0f} s</p>",
  ]
  if section.failure:
    parts.append(f"<p>It failed: {html.escape(section.failure)}</p>")
    return "\n".join(parts)
  if section.figure is not None:
    parts.append(_image(section.figure, question))
  parts += [
    f"<pre>{html.escape(_text(table))}</pre>" for table in section.tables
  ]
  parts.append(
    f"<details><summary>About</summary><pre>{html.escape(rest.strip())}</pre>"
    "</details>"
  )
  return "\n".join(parts)


def _image(figure: Any, alternative: str) -> str:
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=110)
  data = base64.b64encode(file.getvalue()).decode()
  return (
    f"<img alt='{html.escape(alternative, quote=True)}' "
    f"src='data:image/png;base64,{data}'>"
  )


def _text(table: Any) -> str:
  import rich.console

  file = io.StringIO()
  rich.console.Console(file=file, width=110, color_system=None).print(table)
  return file.getvalue().rstrip()
