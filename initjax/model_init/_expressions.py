"""Represents a jaxpr as values that know how they are computed.

Calls (jit, remat, custom derivatives) are inlined. Each output of a loop
becomes a loop of its own that carries only what this output needs. Numbers that
depend on nothing are computed at once, as they are outside jit.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax.graph import (
  INLINED,
  PURE_ARRAYS,
  Atom,
  Aval,
  Equation,
  bind,
  open_jaxpr,
  scan_operands,
)

_serial = itertools.count()


class Input(NamedTuple):
  """An argument of what was traced, by position."""

  place: int


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
  """A number or an array that depends on nothing."""

  value: np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
  """A scan that computes one of its outputs."""

  body: "tuple[Expression, ...]"
  """the carries that the output needs, then the row if it is of rows"""
  inputs: tuple[int, ...]
  """which inputs of the body the operands are: constants, carries, rows"""
  num_consts: int
  num_carry: int
  place: int | None
  """the output is this carry; None: the stacked rows"""
  length: int
  reverse: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Application:
  """One operation."""

  eqn: Equation
  loop: Loop | None
  operands: "tuple[Expression, ...]"
  avals: tuple[Aval, ...]
  serial: int = dataclasses.field(default_factory=lambda: next(_serial))

  @property
  def name(self) -> str:
    """The primitive's name; "loop" for a part of a scan."""
    return "loop" if self.loop else self.eqn.primitive.name


class Out(NamedTuple):
  """One output of an operation."""

  node: Application
  place: int

  @property
  def aval(self) -> Aval:
    """Its shape and dtype."""
    return self.node.avals[self.place]


Expression = Input | Constant | Out
Test = Callable[[Expression], bool]


def read(jaxpr: Any, inputs: Sequence[Expression]) -> list[Expression]:
  """The outputs of a jaxpr, closed or not, as values of its inputs."""
  body, consts = open_jaxpr(jaxpr)
  known: dict[Atom, Expression] = dict(zip(body.invars, inputs, strict=True))
  known |= zip(body.constvars, map(Constant, consts), strict=True)

  def value(atom: Atom) -> Expression:
    if hasattr(atom, "val"):
      return Constant(np.asarray(atom.val, atom.aval.dtype))
    return known[atom]

  for eqn in _live(body):
    outputs = _outputs(eqn, [value(atom) for atom in eqn.invars])
    known |= zip(eqn.outvars, outputs, strict=True)
  return [value(atom) for atom in body.outvars]


def _live(body: Any) -> list[Equation]:
  """The equations that an output needs, in order."""
  needed = {atom for atom in body.outvars if not hasattr(atom, "val")}
  kept = []
  for eqn in reversed(body.eqns):
    if not needed.isdisjoint(eqn.outvars):
      kept.append(eqn)
      needed.update(atom for atom in eqn.invars if not hasattr(atom, "val"))
  return kept[::-1]


def _outputs(eqn: Equation, operands: list[Expression]) -> list[Expression]:
  name = eqn.primitive.name
  if name in INLINED:
    inner = "jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"
    return read(eqn.params[inner], operands)
  if name == "scan":
    return list(_loops(eqn, operands))
  avals = tuple(var.aval for var in eqn.outvars)
  numbers = [x.value for x in operands if isinstance(x, Constant)]
  single = all(math.prod(aval.shape) == 1 for aval in avals)
  if name in PURE_ARRAYS and single and len(numbers) == len(operands):
    with jax.ensure_compile_time_eval():
      return [Constant(result) for result in bind(eqn, numbers)]
  node = Application(eqn, None, tuple(operands), avals)
  return [Out(node, index) for index in range(len(avals))]


def _loops(eqn: Equation, operands: list[Expression]) -> Iterator[Expression]:
  """Each output of a scan as a scan of its own."""
  # A carry may read others, which read others again: what an output needs is
  # the smallest set of carries that is closed under what their updates read.
  num_consts, num_carry = scan_operands(eqn.params)
  body = read(eqn.params["jaxpr"], [Input(i) for i in range(len(operands))])
  reads = [{x.place for x in inputs_of([out])} for out in body]
  for place, var in enumerate(eqn.outvars):
    needed, carries = reads[place], {place} & set(range(num_carry))
    while True:
      needed = needed.union(*(reads[i] for i in carries))
      more = {i for i in range(num_carry) if num_consts + i in needed}
      if more <= carries:
        break
      carries |= more
    kept = tuple(sorted(needed | {num_consts + i for i in carries}))
    rows = place >= num_carry
    loop = Loop(
      body=tuple(body[i] for i in sorted(carries) + [place] * rows),
      inputs=kept,
      num_consts=sum(i < num_consts for i in kept),
      num_carry=len(carries),
      place=None if rows else sorted(carries).index(place),
      length=eqn.params["length"],
      reverse=eqn.params["reverse"],
    )
    node = Application(eqn, loop, tuple(operands[i] for i in kept), (var.aval,))
    yield Out(node, 0)


def never(_: Expression) -> bool:
  """For no value."""
  return False


def inputs_of(outputs: Sequence[Expression], stop: Test = never) -> set[Input]:
  """The inputs that the outputs are made of; none behind a stop."""
  operands = [x for node in nodes(outputs, stop) for x in node.operands]
  return {x for x in (*outputs, *operands) if isinstance(x, Input)}


def nodes(
  outputs: Iterable[Expression], stop: Test = never
) -> list[Application]:
  """The operations that the outputs need, in order; none behind a stop."""
  found: set[Application] = set()
  waiting = list(outputs)
  while waiting:
    value = waiting.pop()
    if isinstance(value, Out) and value.node not in found and not stop(value):
      found.add(value.node)
      waiting += value.node.operands
  return sorted(found, key=lambda node: node.serial)
