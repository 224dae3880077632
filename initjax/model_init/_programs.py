"""Outputs as programs that are equal when only their numbers differ.

A program takes keys, inputs and lifted constants as arguments: every float,
every array, and whatever is folded into a key. Programs are compared by their
form, which holds the operations, their parameters and the small integers.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax.graph import bind
from initjax.model_init._expressions import (
  Application,
  Constant,
  Expression,
  Input,
  Out,
  Test,
  never,
  nodes,
)

Array = np.ndarray | jax.Array
Arrays = list[jax.Array]
Reference = tuple[Any, ...]
"""("node", step, output), ("argument", position) or ("number", its value)"""


class Instruction(NamedTuple):
  """One operation, its operands by place, and the body if it is a loop."""

  node: Application
  places: tuple[Reference, ...]
  body: "Program | None"
  body_places: tuple[Reference, ...]


@dataclasses.dataclass(frozen=True)
class Program:
  """Steps that compute outputs from arguments; compares by its form."""

  form: Hashable
  steps: tuple[Instruction, ...] = dataclasses.field(compare=False)
  outs: tuple[Reference, ...] = dataclasses.field(compare=False)


def _is_lifted(value: Array) -> bool:
  numeric = jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool
  return value.size != 1 or not numeric


def program_of(
  outputs: Sequence[Expression],
  is_argument: Test,
  is_lifted: Callable[[Array], bool] = _is_lifted,
) -> tuple[Program, tuple[Expression, ...]]:
  """A program for the outputs, and the values that are its arguments."""
  ordered = nodes(outputs, stop=is_argument)
  number = {node: place for place, node in enumerate(ordered)}
  arguments: dict[Expression, int] = {}

  def place(value: Expression, lift: bool = False) -> Reference:
    local = isinstance(value, Out) and value.node in number
    if isinstance(value, Out) and local and not is_argument(value):
      return ("node", number[value.node], value.place)
    if isinstance(value, Constant) and not (lift or is_lifted(value.value)):
      array = np.asarray(value.value)
      bits = (array.shape, array.tobytes())
      return ("number", str(array.dtype), bits, value)
    return ("argument", arguments.setdefault(value, len(arguments)))

  steps = tuple(_instruction(node, place) for node in ordered)
  outs = tuple(place(out) for out in outputs)
  shapes = tuple(_shape(value) for value in arguments)
  form = (tuple(map(_form, steps)), tuple(map(_short, outs)), shapes)
  return Program(form, steps, outs), tuple(arguments)


def _is_array(value: Array) -> bool:
  """In a loop XLA knows the numbers outside of jit too."""
  return bool(value.size != 1)


def _shape(value: Expression) -> Hashable:
  if isinstance(value, Input):
    return "input"
  aval = value.aval if isinstance(value, Out) else value.value
  return tuple(aval.shape), str(aval.dtype)


def _instruction(
  node: Application, place: Callable[..., Reference]
) -> Instruction:
  lift = node.name == "random_fold_in"
  places = tuple(place(value, lift) for value in node.operands)
  if node.loop is None:
    return Instruction(node, places, None, ())
  body, arguments = program_of(node.loop.body, never, _is_array)
  body_places = tuple(
    ("operand", node.loop.inputs.index(value.place))
    if isinstance(value, Input)
    else place(value, True)
    for value in arguments
  )
  return Instruction(node, places, body, body_places)


def _short(place: Reference) -> Reference:
  return place[:3]


def _form(step: Instruction) -> Hashable:
  places = tuple(map(_short, step.places + step.body_places))
  if step.body is None:
    eqn = step.node.eqn
    return eqn.primitive, _frozen(eqn.params), places
  loop = step.node.loop
  assert loop is not None
  shape = (loop.num_consts, loop.num_carry, loop.place, loop.length)
  return "loop", shape, loop.reverse, step.body.form, places


def _frozen(params: object) -> Hashable:
  if isinstance(params, dict):
    return tuple((k, _frozen(params[k])) for k in sorted(params))
  if isinstance(params, (list, tuple)):
    return tuple(map(_frozen, params))
  try:
    hash(params)
  except TypeError:
    return id(params)  # the program keeps it alive
  return params


def run(program: Program, arguments: Sequence[jax.Array]) -> list[jax.Array]:
  """The outputs, step by step."""
  results: list[list[jax.Array]] = []

  def get(place: Reference) -> jax.Array:
    kind, which, *rest = place
    if kind == "argument":
      return arguments[which]
    return results[which][rest[0]] if kind == "node" else rest[-1].value

  for step in program.steps:
    operands = [get(place) for place in step.places]
    if step.body is None:
      results.append(bind(step.node.eqn, operands))
    else:
      results.append([_scan(step, operands, get)])
  return [jnp.asarray(get(place)) for place in program.outs]


def _scan(
  step: Instruction,
  operands: list[jax.Array],
  get: Callable[[Reference], jax.Array],
) -> jax.Array:
  loop, body = step.node.loop, step.body
  assert loop is not None
  assert body is not None
  first_row = loop.num_consts + loop.num_carry
  consts = operands[: loop.num_consts]

  def one(carry: Arrays, rows: Arrays) -> tuple[Arrays, Arrays]:
    inputs = [*consts, *carry, *rows]
    outs = run(
      body,
      [
        inputs[place[1]] if place[0] == "operand" else get(place)
        for place in step.body_places
      ],
    )
    return outs[: loop.num_carry], outs[loop.num_carry :]

  carry, rows = jax.lax.scan(
    one,
    operands[loop.num_consts : first_row],
    operands[first_row:],
    length=loop.length,
    reverse=loop.reverse,
  )
  return rows[0] if loop.place is None else carry[loop.place]
