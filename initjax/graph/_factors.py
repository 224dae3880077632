"""What scales or shifts a stream, except data: numbers, parameters, constants.

A constant counts with its root mean square. So does a parameter, but its values
are known only later, so what is computed from it is kept as an expression.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax.graph._constants import FUNCTIONS, entries_in_place
from initjax.graph._graph import UNKNOWN, Computed, Scale, Stream, Term
from initjax.graph._moves import size_of
from initjax.graph._primitives import LAYOUT
from initjax.graph._values import Node, Value

_LARGEST = 1 << 20
"""A constant of more entries is not looked at."""


class Factor(NamedTuple):
  """Multiplies all terms of a stream."""

  number: float = 1.0
  scales: tuple[Scale, ...] = ()
  """parameters that multiply them, such as the scale of a branch"""

  def on(self, stream: Stream) -> Stream:
    """The terms, multiplied."""
    return tuple(
      term._replace(
        factor=term.factor * self.number, scales=(*term.scales, *self.scales)
      )
      for term in stream
    )

  def times(self, other: "Factor") -> "Factor":
    """Both, taken to be independent."""
    return Factor(self.number * other.number, self.scales + other.scales)


def factor_of(value: Value) -> Factor | None:
  """Of what is no data; None if its size cannot be told."""
  if value.scalar is not None:
    return Factor(size_of(value.scalar))
  view, made = value.view, value.made
  if view is not None and view.leaf_shape is not None:
    number = view.multiplier
    return None if number is None else Factor(number, view.paths)
  if (entries := _entries(value)) is not None:
    return Factor(float(np.sqrt(np.mean(np.abs(entries) ** 2))))
  if made is not None and made.label in LAYOUT | {"neg"}:
    return factor_of(made.operands[0])
  if made is not None and made.label == "mul":
    first, second = map(factor_of, made.operands)
    return first and second and first.times(second)
  scale = _expression(value)
  if isinstance(scale, Computed):
    return Factor(1.0, (scale,))
  given = value.array is not None or made is not None
  return Factor(1.0, (UNKNOWN,)) if given and not value.paths else None


def shift_of(value: Value) -> Stream | None:
  """The terms of what is added to a stream and is no data."""
  made = value.made
  is_sum = made is not None and made.label in ("add", "sub")
  if made is not None and is_sum and _entries(value) is None:
    streams = [shift_of(each) for each in made.operands]
    if None in streams:
      return None
    sign = Factor(-1.0 if made.label == "sub" else 1.0)
    return (*(streams[0] or ()), *sign.on(streams[1] or ()))
  factor = factor_of(value)
  if factor is None:
    return None
  if value.scalar is not None and factor.number:
    return factor.on((Term("constant"),))
  paths = [scale for scale in factor.scales if isinstance(scale, str)]
  if factor.number == 0:
    return ()
  if not paths:
    return factor.on((Term("bias"),))
  others = list(factor.scales)
  others.remove(paths[0])
  rest = factor._replace(scales=tuple(others))
  return rest.on((Term("bias", path=paths[0]),))


def divisor_of(value: Value) -> Factor | None:
  """Of what a stream is divided by."""
  one = Value("constant", scalar=1.0)
  made = Node(0, "div", operands=(one, value))
  return factor_of(Value(value.kind, made=made))


def _entries(value: Value) -> np.ndarray | None:
  """The entries of a constant, where they are known; their places are not."""
  if value.scalar is not None:
    return _wide(value.scalar)
  if value.array is not None:
    return values_of(value.array)
  made = value.made
  if made is None or value.kind != "constant":
    return None
  if made.label in LAYOUT:
    return _entries(made.operands[0])
  given = [_entries(each) for each in made.operands]
  if made.label not in FUNCTIONS or any(each is None for each in given):
    computed = entries_in_place(value)
    return None if computed is None else _wide(computed)
  return _applied(made.label, [*given, *_exponent(made)])


def values_of(array: Any) -> np.ndarray | None:
  """The entries of an array, where they are here and not too many."""
  abstract = isinstance(array, (jax.core.Tracer, jax.ShapeDtypeStruct))
  if abstract or not 0 < np.size(array) <= _LARGEST:
    return None
  here = getattr(array, "is_fully_addressable", True)
  if not here and not array.is_fully_replicated:
    return None
  return _wide(array)


def _wide(array: Any) -> Any:
  traced = isinstance(array, jax.core.Tracer)
  found = array if traced else np.asarray(array)
  return found.astype(complex if np.iscomplexobj(found) else float)


def _exponent(made: Any) -> tuple[float, ...]:
  integer = made.label == "integer_pow"
  return (float(made.equation.params["y"]),) if integer else ()


def _applied(label: str, given: list[Any]) -> Any:
  try:
    if any(isinstance(each, jax.core.Tracer) for each in given):
      return _on_devices(label, given)
    with np.errstate(all="ignore"):
      return np.asarray(FUNCTIONS[label](*given))
  except ValueError:  # shapes that do not go together once they were moved
    return None


def _on_devices(label: str, given: list[Any]) -> jax.Array:
  """Of entries that no process has all of: the primitive of that name."""
  if label == "integer_pow":
    return given[0] ** int(given[1])
  return getattr(jax.lax, label)(*jnp.broadcast_arrays(*given))


def _expression(value: Value) -> Computed | str | float | None:
  """What is computed of parameters, of inputs and of numbers."""
  if value.scalar is not None:
    return size_of(value.scalar)
  if value.input is not None:
    return Computed("input", (value.input,))
  view, made = value.view, value.made
  if view is not None and view.leaf_shape is not None:
    entry, number = view.paths[0], view.multiplier
    if number is None:
      return None
    return entry if number == 1 else Computed("mul", (entry, number))
  if made is None:
    return None
  if made.label in LAYOUT:
    return _expression(made.operands[0])
  given: list[Any] = [_expression(each) for each in made.operands]
  if made.label not in FUNCTIONS or None in given:
    return None
  return Computed(made.label, (*given, *_exponent(made)))


def named_in(scale: Scale | float) -> set[str | int]:
  """The parameters, by path, and the inputs, by number, that it is made of."""
  if isinstance(scale, str):
    return {scale}
  if not isinstance(scale, Computed):
    return set()
  if scale.label == "input":
    return {int(scale.operands[0])}  # type: ignore[arg-type]
  return set().union(*map(named_in, scale.operands))


def entries_of(scale: Scale | float, known: Mapping[str | int, Any]) -> Any:
  """The entries of a scale; NaN if not known.

  Args:
    scale: of a term.
    known: arrays, traced or not, for all that is `named_in` it.
  """
  if isinstance(scale, str):
    return _wide(known[scale])
  if not isinstance(scale, Computed):
    return _wide(scale)
  if scale.label == "input":
    (number,) = named_in(scale)
    return _wide(known[number])
  given = [entries_of(each, known) for each in scale.operands]
  found = _applied(scale.label, given) if scale.operands else None
  return np.asarray(np.nan) if found is None else found
