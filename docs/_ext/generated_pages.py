"""Pages made from the library itself: packages, verdicts, words."""

import ast
import inspect
import itertools
import pathlib
import sys
import textwrap
from collections.abc import Mapping

from sphinx.application import Sphinx

import initjax
from initjax.reports import CATALOGUE, GLOSSARY

_HEAD = ".. Made by docs/_ext/generated_pages.py; do not edit.\n\n"
_FACADE = """The verbs of `initjax` itself; each belongs to a package, where it
is described with all that it returns.

"""
_VERDICTS = """`initjax.diagnose` says which of these it finds, how bad each is
(error, warning or note), at which parameter, what was measured, and what to
change.

"""
_GLOSSARY = """The words of reports and pages.

.. glossary::

"""


def _titled(text: str, line: str = "=") -> str:
  return f"{text}\n{line * len(text)}\n\n"


def _of_facade() -> str:
  """Each verb, and the first line of its docstring."""
  entries = []
  for name in initjax.__all__:
    value = getattr(initjax, name)
    if not inspect.ismodule(value):
      said = inspect.getdoc(value).splitlines()[0]
      entries.append(f"`initjax.{name}`\n   {said}\n")
  return _titled("initjax") + _FACADE + "\n".join(entries)


def _of_package(package: str) -> str:
  """Functions first, then what they take and return, then constants."""
  module = sys.modules[package]
  functions, records, data = [], [], []
  for name in sorted(module.__all__):
    value = getattr(module, name)
    if inspect.isroutine(value):
      functions.append(f".. autofunction:: {name}\n")
    elif isinstance(value, type) and value.__module__.startswith("initjax"):
      records.append(f".. autoclass:: {name}\n   :members:\n")
    else:
      data.append(_data(package, name))
  sections = {"Functions": functions, "Records": records, "Constants": data}
  text = f"{_titled(package)}.. automodule:: {package}\n\n"
  for title, entries in sections.items():
    text += (_titled(title, "-") + "\n".join(entries) + "\n") * bool(entries)
  return text


def _data(package: str, name: str) -> str:
  """An entry of an alias or constant; it may stand in a private file."""
  files = [package, *(each for each in sys.modules if f"{package}._" in each)]
  found = [each[name] for each in map(_assigned, files) if name in each]
  value, said = found[0]
  text = textwrap.indent(said, "   ")
  return f".. py:data:: {name}\n   :value: {value}\n\n{text}\n"


def _assigned(module: str) -> dict[str, tuple[str, str]]:
  """Constants that are explained: what they are, and what is said of them."""
  body = ast.parse(inspect.getsource(sys.modules[module])).body
  return {
    node.targets[0].id: (ast.unparse(node.value), inspect.cleandoc(said))
    for node, following in itertools.pairwise(body)
    if isinstance(node, ast.Assign) and isinstance(following, ast.Expr)
    if (said := ast.literal_eval(following.value))
  }


def _definitions(words: Mapping[str, str], indent: str = "") -> str:
  entries = (
    f"{indent}{word}\n{indent}   {said[0].upper()}{said[1:]}.\n"
    for word, said in words.items()
  )
  return "\n".join(entries)


def _glossary() -> str:
  """Words that share what is said of them, each in a line of its own."""
  terms = {key.replace(", ", "\n   "): said for key, said in GLOSSARY.items()}
  return _titled("Glossary") + _GLOSSARY + _definitions(terms, "   ")


def _pages() -> dict[str, str]:
  names = [f"initjax.{name}" for name in initjax.__all__]
  return {
    "initjax": _of_facade(),
    **{name: _of_package(name) for name in names if name in sys.modules},
    "verdicts": _titled("Verdicts") + _VERDICTS + _definitions(CATALOGUE),
    "glossary": _glossary(),
  }


def _write(app: Sphinx) -> None:
  """Writes what has changed, so that a second build reads little."""
  folder = pathlib.Path(app.srcdir) / "generated"
  folder.mkdir(exist_ok=True)
  for name, text in _pages().items():
    path = folder / f"{name}.rst"
    if not path.exists() or path.read_text() != _HEAD + text:
      path.write_text(_HEAD + text)


def setup(app: Sphinx) -> dict[str, bool]:
  """Writes the pages before sources are looked for."""
  app.connect("builder-inited", _write)
  return {"parallel_read_safe": True}
