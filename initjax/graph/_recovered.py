"""A function of one scalar, read back from the equations of a jaxpr.

It compares by value: two traces of the same equations recover equal functions,
so graphs can be compared, and results found for one hold for all.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from initjax._statistics import varying_like
from initjax.graph._formula import formula
from initjax.graph._noise import dropout
from initjax.graph._primitives import IDENTITIES
from initjax.graph._values import Node, Value


@dataclasses.dataclass(frozen=True)
class Step:
  """One equation, applied to results of earlier steps and to numbers."""

  label: str
  details: str
  """parameters of the equation, as text"""
  arguments: tuple[Any, ...]
  """an integer is the result of that step, 0 the source; text is a number"""
  params: dict[str, Any] = dataclasses.field(compare=False, repr=False)
  """of the equation: plain data, so that a step can be pickled"""
  numbers: tuple[Any, ...] = dataclasses.field(compare=False, repr=False)
  """for each argument its number, None for a result"""

  def __call__(self, results: Sequence[Any], like: jax.Array) -> jax.Array:
    """The result, in the precision asked for, not the model's."""
    given = [
      number if number is not None else results[place]
      for number, place in zip(self.numbers, self.arguments, strict=True)
    ]
    if self.label in IDENTITIES:
      return given[0]
    if self.label == "dropout":
      return given[0] * given[1]
    if self.label == "convert_element_type":
      wanted = self.params["new_dtype"]
      floating = jnp.issubdtype(wanted, jnp.floating)
      return given[0].astype(like.dtype if floating else wanted)
    full = jnp.broadcast_arrays(*(_cast(number, like) for number in given))
    return _primitives()[self.label].bind(*full, **self.params)


@functools.cache
def _primitives() -> dict[str, Any]:
  """By name; a pickled primitive would be another one, without any rules."""
  from jax.extend.core import Primitive, primitives

  known = (each for each in vars(primitives).values())
  return {each.name: each for each in known if isinstance(each, Primitive)}


@dataclasses.dataclass(frozen=True, repr=False)
class Recovered:
  """The function: steps, of which the last gives the result."""

  steps: tuple[Step, ...]
  never_changes: ClassVar[bool] = True
  """equal ones compute the same, always"""

  def __repr__(self) -> str:
    return formula(self.steps, IDENTITIES)

  @property
  def __name__(self) -> str:
    return repr(self)

  def __call__(self, x: jax.Array) -> jax.Array:
    """φ(x), entry by entry."""
    results = [x]
    for step in self.steps:
      results.append(step(results, x))
    return results[-1]


def recovered(source: Node, between: Sequence[Node]) -> Recovered:
  """The function that leads from `source` through all nodes `between`."""
  ordered = sorted(between, key=lambda node: node.index)
  places = {node: place for place, node in enumerate([source, *ordered])}
  return Recovered(tuple(_step_of(node, places) for node in ordered))


def _step_of(node: Node, places: dict[Node, int]) -> Step:
  dropped = dropout(node)
  if dropped is not None:
    scale = math.sqrt(dropped.rate)  # the root of its mean square over masks
    values: Sequence[Value] = (dropped.kept, Value("constant", scalar=scale))
    label, params = "dropout", {}
  else:
    values, label = node.operands, node.label
    plain = label in IDENTITIES or node.equation is None
    params = {} if plain else dict(node.equation.params)
    params.pop("sharding", None)
  numbers = tuple(_plain(v.scalar) if v.node is None else None for v in values)
  arguments = tuple(
    places[value.node] if value.node is not None else _text(value.scalar)
    for value in values
  )
  return Step(label, str(params) if params else "", arguments, params, numbers)


def _plain(number: Any) -> Any:
  """JAX's own kinds of numbers cannot be pickled."""
  is_python = type(number) in (bool, int, float, complex)
  return number if is_python else np.asarray(number)


def _text(number: Any) -> str:
  array = np.asarray(number)
  return f"{array.dtype} {array.tolist()!r}"


def _cast(argument: Any, like: jax.Array) -> jax.Array:
  argument = jnp.asarray(argument)
  if jnp.issubdtype(argument.dtype, jnp.floating):
    argument = argument.astype(like.dtype)
  return varying_like(argument, like)
