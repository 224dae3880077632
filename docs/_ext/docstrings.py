"""Docstrings as they stand in the code, made ready for Sphinx."""

import re
from collections.abc import Sequence
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

_OF_NAMEDTUPLE = re.compile(r"Alias for field number \d+$")
_NOT_TEXT = re.compile(r" |- |>>>|\.\.|[A-Z]\w+:$")  # section, list, example
_NAME = re.compile(r"(``.+?``|`[^`]+`)")


def with_literal_formulas(lines: Sequence[str]) -> list[str]:
  """Marks what is indented by four columns below plain text as literal.

  Formulas stand so in the code, as they do in Markdown; reStructuredText would
  make a quotation of them, and join their lines.
  """
  result: list[str] = []
  kind, paragraph = "text", ""  # of this paragraph; the first line of the last
  for number, line in enumerate(lines):
    if line and (number == 0 or not lines[number - 1]):
      is_formula = line.startswith("    ") and (
        kind == "formula" or (paragraph and not _NOT_TEXT.match(paragraph))
      )
      if is_formula and kind != "formula":
        result += ["::", ""]
      kind = "formula" if is_formula else "text"
      kind = "example" if line.lstrip().startswith(">>>") else kind
      paragraph = line
    result.append(escaped(line) if kind == "text" else line)
  return result


def escaped(line: str) -> str:
  """Bars are magnitudes and stars are products, not markup; plurals pass."""
  parts = _NAME.split(line)
  parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
  for i in range(2, len(parts), 2):
    if parts[i][:1].isalnum():
      parts[i] = "\\ " + parts[i]
  return "".join(parts)


def _process(
  app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
  if lines and _OF_NAMEDTUPLE.match(lines[0]):
    lines.clear()
  lines[:] = with_literal_formulas(lines)
  if what in ("class", "exception", "function", "method", "module"):
    # In others it would take what precedes a colon for a type.
    lines[:] = GoogleDocstring(lines, Config(), app, what, name, value).lines()


def setup(app: Sphinx) -> dict[str, bool]:
  """Stands in the place of sphinx.ext.napoleon, whose parser it calls."""
  app.connect("autodoc-process-docstring", _process)
  return {"parallel_read_safe": True}
