"""Readable records and verdicts: in a terminal, as a figure, or on a page.

>>> print(to_text([], [], width=60))
no linear operation was found
nothing to judge: no linear operation of a parameter was
found. Pass (fn, params, *inputs): a function of parameters
and inputs, such as model.apply, and the parameters
themselves as an argument, not closed over. For an NNX or
Equinox module: fn, params = initjax.functional(module).
"""

from initjax.reports._about import about, versions
from initjax.reports._figure import figure
from initjax.reports._files import (
  check_directory,
  check_free,
  write_figure,
  write_json,
  write_text,
)
from initjax.reports._glossary import CATALOGUE, GLOSSARY
from initjax.reports._html import Content, fragment, html, html_fragment, page
from initjax.reports._names import alike_names, short_paths
from initjax.reports._table import table, to_text
from initjax.reports._text_table import (
  Column,
  Note,
  TextTable,
  leaf_table,
  number_column,
)
from initjax.reports._words import (
  NOUNS,
  SEVERITIES,
  fans,
  not_followed,
  nothing_judged,
  ordered,
  remarks,
  repeat_of,
)

__all__ = [
  "figure",
  "html",
  "html_fragment",
  "table",
  "to_text",
  "write_figure",
  "write_json",
  "write_text",
]
