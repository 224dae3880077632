"""Compiled programs, reused where the program is the same, not the function.

`jax.jit` and `jax.make_jaxpr` remember a function by its identity, so what
it reads besides its arguments (a global, an attribute, a closure) is frozen.
Here every call traces anew; only compilation is saved, for equal programs.
"""

import collections
import functools
import hashlib
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax

from initjax._checks import type_of
from initjax._paths import paths_of

_MAX_PROGRAMS = 128
_CALLS_BACK = "callback"  # in the name of a custom call: it knows one function


class _Entry:
  """One executable; its lock lets a second thread wait for the first."""

  def __init__(self) -> None:
    self.lock = threading.Lock()
    self.compiled: Any = None


_programs: collections.OrderedDict[Hashable, _Entry] = collections.OrderedDict()
_lock = threading.Lock()


def fresh_jaxpr(fn: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
  """The jaxpr of `fn` as it is now, and the shapes of its outputs.

  Its loops stay loops, where `jax.disable_jit` would unroll them.
  """
  _check_arrays(arguments)
  tracing = jax.make_jaxpr(lambda *given: fn(*given), return_shape=True)
  with jax.disable_jit(False):
    return tracing(*arguments)


def _check_arrays(arguments: tuple[Any, ...]) -> None:
  for place, leaf in enumerate(jax.tree.leaves(arguments)):
    numeric = isinstance(leaf, bool | int | float | complex)
    if not numeric and not hasattr(leaf, "dtype"):
      path = paths_of(arguments)[place].partition("/")[2] or "."
      raise TypeError(
        f"expected arrays as parameters and inputs, got {type_of(leaf)} at "
        f"{path}. Pass the module first and its inputs after it; keyword "
        "arguments of the module go to initjax.functional(module, ...)."
      )


def execute(fn: Callable[..., Any], *arguments: Any) -> Any:
  """`fn(*arguments)`, compiled; equal programs are compiled once.

  Programs are equal if their lowered text, and the kinds and shardings of their
  arguments and the configuration of JAX, are. What `fn` closes over becomes an
  argument, so that no executable holds an array. Inside of `jit`, `vmap` and
  the like it is a part of the program around it.

  >>> import jax.numpy as jnp
  >>> scale = 2.0
  >>> double = lambda x: scale * x
  >>> float(execute(double, jnp.ones(())))
  2.0
  >>> scale = 3.0
  >>> float(execute(double, jnp.ones(())))
  3.0
  """
  return prepared(fn, *arguments)(*arguments)


def prepared(fn: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
  """`fn` as `execute` runs it, for these and for arguments of like kinds.

  Args:
    fn: a function, which is traced once, now.
    *arguments: what it is traced for.
  """
  _check_arrays(arguments)
  leaves, structure = jax.tree.flatten(arguments)
  structures: list[Any] = []

  def flat(*leaves: Any) -> list[Any]:
    outputs = fn(*jax.tree.unflatten(structure, leaves))
    found, after = jax.tree.flatten(outputs)
    structures.append(after)
    return found

  # Text names arguments by position, so all are kept; a key reads as integers.
  program: Any = jax.jit(flat, keep_unused=True)
  closed: list[Any] = []
  nested = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
  if not nested and not jax.config.values["jax_disable_jit"]:
    traced = program.trace(*leaves)
    # What is closed over and being traced counts as an argument.
    if len(traced.jaxpr.in_avals) == len(leaves):
      program, closed = _compiled(traced, leaves)

  def call(*arguments: Any) -> Any:
    found = program(*closed, *jax.tree.leaves(arguments))
    return jax.tree.unflatten(structures[-1], found)

  return call


def _compiled(traced: Any, leaves: list[Any]) -> tuple[Any, list[Any]]:
  """The executable, and what the program closes over: an argument ahead."""
  jaxpr, closed = traced.jaxpr, list[Any]()
  if jaxpr.consts:
    run = functools.partial(jax.core.eval_jaxpr, jaxpr.jaxpr)
    closed = [list(jaxpr.consts)]
    traced = jax.jit(run, keep_unused=True).trace(*closed, *leaves)
  lowered = traced.lower()
  text = lowered.as_text()
  if _CALLS_BACK in text:
    return lowered.compile(), closed
  kinds = tuple(map(str, (*traced.jaxpr.in_avals, *traced.jaxpr.out_avals)))
  places = tuple(map(placement, jax.tree.leaves((closed, leaves))))
  code = hashlib.sha256(text.encode()).digest()
  key = (code, kinds, places, len(jaxpr.consts), _configuration())
  with _lock:
    entry = _programs.setdefault(key, _Entry())
    _programs.move_to_end(key)
    while len(_programs) > _MAX_PROGRAMS:
      _programs.popitem(last=False)
  with entry.lock:
    if entry.compiled is None:
      entry.compiled = lowered.compile()
    return entry.compiled, closed


def placement(leaf: Any) -> Hashable:
  """Where an argument is; arrays of NumPy are nowhere yet."""
  if not isinstance(leaf, jax.Array):
    return None
  return leaf.sharding, leaf.committed


def _configuration() -> Hashable:
  """Every option of JAX, as it is in this thread."""
  return tuple(
    (name, repr(getattr(jax.config, name, value)))
    for name, value in jax.config.values.items()
  )
