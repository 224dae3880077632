"""How parameters are named: one path for each, its patterns, and its key.

A path is what `jax.tree_util.keystr(path, simple=True, separator="/")` writes,
such as `params/Dense_0/kernel`. The box around an array (a Variable of NNX, a
partitioned array of linen) is no part of it; a bare array is ".". What is
printed in one place can be pasted in any other.
"""

import difflib
import fnmatch
import hashlib
import itertools
import math
import numbers
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Keys = tuple[Any, ...]
"""A path as JAX has it: of dictionary keys, attributes and indices."""
Predicate = Callable[[str, Any], bool]
Where = str | re.Pattern[str] | Predicate | Sequence[Any]
"""Which leaves are meant.

str            a glob over the whole path, or the whole path as tables shorten
               it: `*` is any text, slashes too, `?` one character, `[ab]` one
               of them
re.Pattern     found anywhere in the path
a predicate    `where(path, leaf) -> bool`
a sequence     any of its members
"""


def paths_of(tree: Any) -> list[str]:
  """The path of each leaf, in the order of `jax.tree.leaves`.

  Where names contain "/", two paths may read alike: the second ends in "#2".

  >>> paths_of({"a": [1.0, 2.0]}), paths_of(3.0)
  (['a/0', 'a/1'], ['.'])
  """
  paths: dict[str, None] = {}  # in order, and none twice
  for keys in _keys_of(tree, _boxes()):
    text = path = path_text(keys)
    for number in itertools.count(2):
      if path not in paths:
        break
      path = f"{text}#{number}"
    paths[path] = None
  return list(paths)


def path_text(keys: Keys) -> str:
  """A path as text."""
  return jax.tree_util.keystr(keys, simple=True, separator="/") or "."


def short_path(path: str) -> str:
  """A path as tables show it, which patterns match too.

  Without the collection "params" before it, and "kernel" or "weight" at its
  end.

  >>> short_path("params/Dense_0/kernel"), short_path("kernel")
  ('Dense_0', 'kernel')
  """
  if ", " in path:  # of a kernel made of several
    return path
  inside = path.removeprefix("params/")
  stem, _, last = inside.rpartition("/")
  return stem if stem and last in ("kernel", "weight") else inside


def _boxes() -> tuple[type, ...]:
  """Types whose one leaf is what they stand for."""
  nnx, meta = (sys.modules.get(f"flax.{name}") for name in ("nnx", "core.meta"))
  boxes: list[Any] = [nnx and nnx.Variable, meta and meta.AxisMetadata]
  return tuple(box for box in boxes if box is not None)


def _keys_of(tree: Any, boxes: tuple[type, ...]) -> Iterator[Keys]:
  is_inner_box = lambda node: node is not tree and isinstance(node, boxes)
  named = 1 if isinstance(tree, boxes) else 0  # the field that holds its value
  flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_inner_box)
  for keys, leaf in flat:
    inside = _keys_of(leaf, boxes) if is_inner_box(leaf) else [()]
    yield from ((*keys[named:], *more) for more in inside)


def leaves_by_path(tree: Any) -> dict[str, Any]:
  """Every leaf by its path."""
  return dict(zip(paths_of(tree), jax.tree.leaves(tree), strict=True))


def map_floats(fn: Callable[[str, Any], Any], tree: Any) -> Any:
  """`fn(path, leaf)` for each leaf of floats; all others stay."""
  leaves, structure = jax.tree.flatten(tree)
  mapped = (
    fn(path, leaf) if is_float(leaf) else leaf
    for path, leaf in zip(paths_of(tree), leaves, strict=True)
  )
  return jax.tree.unflatten(structure, mapped)


def is_float(leaf: Any) -> bool:
  """Whether a leaf is an array, or the shape of one, of real or complex."""
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def key_of(key: jax.Array, path: str, part: str = "") -> jax.Array:
  """A key that 64 bits of SHA-256 of the path, and of a part, set apart.

  No other leaf has a say. No path holds the character 0.
  """
  digest = hashlib.sha256(f"{path}\0{part}".encode()).digest()
  for start in (0, 4):
    word = int.from_bytes(digest[start : start + 4], "little")
    key = jax.random.fold_in(key, jnp.uint32(word))
  return key


# Patterns


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
  >>> matches("Dense_0", "params/Dense_0/kernel", None)
  True
  >>> matches("kernel", "params/Dense_0/kernel", None)
  False
  """
  if isinstance(where, str):
    names = (path, short_path(path))
    return where in names or any(fnmatch.fnmatchcase(n, where) for n in names)
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
