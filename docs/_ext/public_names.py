"""Every public name has an entry in the reference, and links find it."""

import inspect
import sys
from collections.abc import Iterator

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import initjax

_LOG = logging.getLogger(__name__)


def public_names() -> Iterator[tuple[str, object]]:
  """`package.name` and what it is, for every name that a package lists."""
  for package in initjax.__all__:
    module = sys.modules.get(f"initjax.{package}")
    for name in getattr(module, "__all__", ()):
      yield f"initjax.{package}.{name}", getattr(module, name)


def missing(documented: set[str]) -> list[str]:
  """Public names without an entry, those of the facade included."""
  listed = dict(public_names())
  absent = [name for name in listed if name not in documented]
  values = {id(value) for value in listed.values()}
  for name in initjax.__all__:
    value = getattr(initjax, name)
    if not inspect.ismodule(value) and id(value) not in values:
      absent.append(f"initjax.{name}")
  return absent


def _check(app: Sphinx, env: BuildEnvironment) -> None:
  documented = set(env.get_domain("py").objects)
  for name in missing(documented):
    _LOG.warning("public, but without an entry in the reference: %s", name)


def _resolve(
  app: Sphinx,
  env: BuildEnvironment,
  node: addnodes.pending_xref,
  text: nodes.Element,
) -> nodes.Element | None:
  """Finds `initjax.diagnose`, and `diagnose`, in the package that has it."""
  if node.get("refdomain") != "py":
    return None
  last = node["reftarget"].removeprefix("initjax.")
  if "." in last or not last.isidentifier():
    return None
  found = [name for name, _ in public_names() if name.endswith(f".{last}")]
  if not found:
    return None
  domain = env.get_domain("py")
  return domain.resolve_xref(
    env, node["refdoc"], app.builder, "obj", found[0], node, text
  )


def setup(app: Sphinx) -> dict[str, bool]:
  """Warns of what is missing: with -W, the build fails."""
  app.connect("env-check-consistency", _check)
  app.connect("missing-reference", _resolve)
  return {"parallel_read_safe": True}
