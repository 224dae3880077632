"""One way to say which leaves are meant: by path, or by a predicate."""

import difflib
import fnmatch
import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any

Predicate = Callable[[str, Any], bool]
Where = str | re.Pattern[str] | Predicate | Sequence[Any]
"""Which leaves are meant.

str            a glob over the whole path, names joined by "/": `*` is any
               text, slashes too, `?` one character, `[ab]` one of them
re.Pattern     found anywhere in the path
a predicate    `where(path, leaf) -> bool`
a sequence     any of its members
"""


def check_where(name: str, where: Any) -> None:
  """Raises unless `where` is one of the four."""
  if isinstance(where, Sequence) and not isinstance(where, str):
    if not where:
      raise ValueError(f"{name} must name leaves; got an empty sequence.")
    for one in where:
      check_where(name, one)
  elif not (isinstance(where, str | re.Pattern) or callable(where)):
    raise ValueError(
      f"{name} must be a glob, a re.Pattern, a predicate(path, leaf) or a "
      f"sequence of these; got {where!r}."
    )


def matches(where: Where, path: str, leaf: Any) -> bool:
  """Whether a leaf is meant.

  >>> matches("*/Dense_*/kernel", "params/Dense_0/kernel", None)
  True
  >>> matches("kernel", "params/Dense_0/kernel", None)
  False
  """
  if isinstance(where, str):
    return fnmatch.fnmatchcase(path, where)
  if isinstance(where, re.Pattern):
    return where.search(path) is not None
  if isinstance(where, Sequence):
    return any(matches(one, path, leaf) for one in where)
  return bool(where(path, leaf))


def where_text(where: Where) -> str:
  """`where` as the table shows it."""
  if isinstance(where, str):
    return where
  if isinstance(where, re.Pattern):
    return f"/{where.pattern}/"
  if isinstance(where, Sequence):
    return " | ".join(map(where_text, where))
  return getattr(where, "__name__", repr(where))


def near_misses(where: Where, paths: Sequence[str]) -> list[str]:
  """Up to three paths that may have been meant."""
  if not isinstance(where, str):
    return list(paths[:3])
  inside = [p for p in paths if fnmatch.fnmatchcase(p, f"*{where.strip('/')}*")]
  letters = where.replace("*", "")
  close = difflib.get_close_matches(letters, paths, n=3, cutoff=0.3)
  return (inside or close or list(paths))[:3]


def check_target(target: Any) -> None:
  """Raises unless `target` is an initializer or a number."""
  number = isinstance(target, numbers.Real) and not isinstance(target, bool)
  if number and not math.isfinite(target):
    raise ValueError(f"a scale must be finite; got {target!r}.")
  if not number and not callable(target):
    raise ValueError(
      "a rule sets leaves by an initializer (key, shape, dtype) -> array or "
      f"scales them by a number; got {target!r}."
    )
