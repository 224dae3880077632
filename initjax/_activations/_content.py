"""What a Python function computes with, told without running it.

Two functions of the same code that read the same values compute the same. This
is known only of values that nobody changes in place: numbers, arrays of JAX,
what JAX and NumPy define, and functions that read nothing else.
"""

import builtins
import functools
import sys
import types
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np

from initjax.typing import Activation

_MODULES = frozenset(("jax", "jaxlib", "math", "numpy"))
_STATEFUL = frozenset(("numpy.random", "jax.experimental"))
_JITTED = type(jax.jit(abs))
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), np.generic)
_PURE = """abs bool complex enumerate float int isinstance len map max min pow
range reversed round sum tuple zip"""
_BUILTINS = frozenset(getattr(builtins, name) for name in _PURE.split())


class _UnknownError(Exception):
  """A value may change in place."""


class Content:
  """A function that equals another one if both compute the same.

  What is told by identity is kept, so that no other object has its `id`.
  """

  def __init__(self, function: Activation) -> None:
    self.function = function
    self._kept: list[Any] = []
    self._inside: set[int] = set()
    self._key = self._of(function)
    self._hash = hash(self._key)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Content) and self._key == other._key

  def __hash__(self) -> int:
    return self._hash

  def _of(self, value: Any) -> Hashable:
    if isinstance(value, _NUMBERS):
      return type(value), repr(value)
    if type(value) is tuple:
      return tuple(map(self._of, value))
    if isinstance(value, functools.partial):
      named = tuple(value.keywords.items())
      return "partial", *map(self._of, (value.func, value.args, named))
    if _is_fixed(value) or getattr(value, "never_changes", False):
      return self._itself(value)
    if isinstance(value, _JITTED):
      return self._itself(value), self._of(vars(value)["__wrapped__"])
    if type(value) is jax.custom_jvp:
      rules = value.fun, value.jvp, value.nondiff_argnums, value.symbolic_zeros
      return "custom_jvp", *map(self._of, rules)
    if type(value) is types.FunctionType:
      return self._of_function(value)
    raise _UnknownError

  def _itself(self, value: Any) -> Hashable:
    self._kept.append(value)
    return id(value)

  def _of_function(self, function: types.FunctionType) -> Hashable:
    if vars(function):  # its attributes may be read, and change
      raise _UnknownError
    if id(function) in self._inside:
      return "itself"
    self._inside.add(id(function))
    names = set(_names(function.__code__))
    if "__import__" in names:
      raise _UnknownError
    read = [
      (name, self._of(value)) for name, value in _looked_up(function, names)
    ]
    own = function.__defaults__, tuple((function.__kwdefaults__ or {}).items())
    return function.__code__, tuple(read), *map(self._of, own)


def content_of(function: Activation) -> Content | None:
  """What it computes; None if it reads what may change unseen.

  >>> content_of(lambda x: x * 2.0) == content_of(lambda x: x * 3.0)
  False
  >>> content_of([1.0].index) is None
  True
  """
  try:
    return Content(function)
  except (_UnknownError, RecursionError, ValueError):  # or an empty cell
    return None


def _is_fixed(value: Any) -> bool:
  """Whether it is immutable, or a library's own and known by its name there."""
  if isinstance(value, jax.Array):
    return not isinstance(value, jax.core.Tracer)
  if isinstance(value, types.ModuleType):
    parents = value.__name__.split(".")
    stateful = ".".join(parents[:2]) in _STATEFUL
    return parents[0] in _MODULES and not stateful
  name = getattr(value, "__name__", None)
  module = getattr(value, "__module__", None) or "numpy"
  if not isinstance(name, str) or not isinstance(module, str):
    return False
  if module == "builtins":
    return isinstance(value, Hashable) and value in _BUILTINS
  home = sys.modules.get(module)
  own = getattr(home, name, None) is value
  return own and module.split(".")[0] in _MODULES and module not in _STATEFUL


def _names(code: types.CodeType) -> Iterator[str]:
  """Global names and attributes, of functions inside it as well."""
  yield from code.co_names
  if any(each.startswith("IMPORT") for each in _operations(code)):
    yield "__import__"
  for constant in code.co_consts:
    if isinstance(constant, types.CodeType):
      yield from _names(constant)


@functools.lru_cache(maxsize=1024)
def _operations(code: types.CodeType) -> frozenset[str]:
  import dis

  return frozenset(each.opname for each in dis.get_instructions(code))


def _looked_up(
  function: types.FunctionType, names: set[str]
) -> Iterator[tuple[str, Any]]:
  """The values of free and global names, and of attributes of modules."""
  code, known = function.__code__, vars(builtins) | function.__globals__
  cells = [cell.cell_contents for cell in function.__closure__ or ()]
  found = [(name, known[name]) for name in sorted(names & known.keys())]
  found += zip(code.co_freevars, cells, strict=True)
  seen: list[types.ModuleType] = []
  for name, value in found:  # grows by what modules hold
    yield name, value
    if isinstance(value, types.ModuleType) and value not in seen:
      seen.append(value)
      held = vars(value)
      inside = sorted(names & held.keys())
      found += [(f"{name}.{own}", held[own]) for own in inside]
