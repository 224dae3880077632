"""Formulas as MathML: no script, and nothing to fetch when a page is read."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx


def _inline(writer: Any, node: nodes.math) -> None:
  writer.body.append(tex2mathml(node.astext()))
  raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
  formula = tex2mathml(node.astext().strip(), as_block=True)
  writer.body.append(f'<div class="math-block">{formula}</div>\n')
  raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
  """Adds the renderer `mathml`, the only one, so the one that is used."""
  app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
  app.config["html_math_renderer"] = "mathml"
  return {"parallel_read_safe": True}
