"""Formulas as MathML: no script, and nothing to fetch when a page is read."""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)
_PRIME = '<mo lspace="0" rspace="0">′</mo>'


def _converted(node: nodes.Element, as_block: bool) -> str:
  """The formula as MathML; a warning and its source if it is not understood."""
  source = node.astext().strip()
  try:
    formula = tex2mathml(source, as_block=as_block)
  except MathError as error:
    _LOG.warning("no formula: %s (%s)", source, error, location=node)
    return f"<code>{source}</code>"
  return formula.replace("<mo>'</mo>", _PRIME)


def _inline(writer: Any, node: nodes.math) -> None:
  writer.body.append(_converted(node, as_block=False))
  raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
  formula = _converted(node, as_block=True)
  writer.body.append(f'<div class="math-block">{formula}</div>\n')
  raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
  """Adds the renderer `mathml`, and asks for it."""
  app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
  app.config["html_math_renderer"] = "mathml"
  return {"parallel_read_safe": True}
