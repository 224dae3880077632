"""The reader: walks a jaxpr once and notes every use of a parameter.

Nothing is computed; what flows through the equations are `Value`s, which say
where an array comes from. Sub-jaxprs are read in place: jit, remat, custom
derivatives, scan, while, cond and shard_map. A loop is read until its carry
stops changing: first fed by the initial carry, then by the body.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from initjax.graph._compat import open_jaxpr, scan_operands, sub_jaxprs
from initjax.graph._geometry import follow
from initjax.graph._graph import Feed, LinearOp, Place, Scan, Site
from initjax.graph._linear import Reader, read_linear, read_look_up
from initjax.graph._primitives import (
  INLINED,
  LAYOUT,
  LINEAR,
  PARTS,
  PURE,
  RANDOM,
  RULES,
)
from initjax.graph._values import (
  CONSTANT,
  Made,
  Value,
  data,
  joined,
  same_kind,
  size_of,
)

_LOOK_UP = ["parameter", "data"]  # of a gather: the table and the indices
_MAX_PASSES = 4


def read(
  reader: Reader, jaxpr: Any, values: Sequence[Value], place: Place
) -> list[Value]:
  """Values of the outputs of `jaxpr` for values of its inputs."""
  opened = open_jaxpr(jaxpr)
  known: dict[Any, Value] = {}
  for variables, given in (
    (opened.jaxpr.constvars, [_closed_over(c) for c in opened.consts]),
    (opened.jaxpr.invars, values),
  ):
    known.update(zip(variables, given, strict=True))

  def look_up(atom: Any) -> Value:
    if hasattr(atom, "val"):
      return _closed_over(atom.val)
    return known[atom]

  for index, equation in enumerate(opened.jaxpr.eqns):
    operands = [look_up(atom) for atom in equation.invars]
    outputs = _read_equation(reader, equation, operands, place.inside(index))
    known.update(zip(equation.outvars, outputs, strict=True))
  return [look_up(atom) for atom in opened.jaxpr.outvars]


def _closed_over(constant: Any) -> Value:
  """A literal, or an array that the function closes over."""
  if np.ndim(constant) == 0:
    traced = isinstance(constant, jax.core.Tracer)  # of a jit around
    return CONSTANT if traced else Value("constant", scalar=constant)
  return Value("constant", view=("closed over",))


def _read_equation(
  reader: Reader, equation: Any, operands: list[Value], place: Place
) -> list[Value]:
  name = equation.primitive.name
  if name in LINEAR:
    return [read_linear(reader, equation, operands, place)]
  if name == "gather" and [value.kind for value in operands] == _LOOK_UP:
    return [read_look_up(reader, equation, operands, place)]
  if name in INLINED or name == "shard_map":
    (inner, *_) = sub_jaxprs(equation.params)
    closed = place.closed or name in RULES or name == "shard_map"
    return read(reader, inner, operands, place._replace(closed=closed))
  if name in _LOOPS:
    return _LOOPS[name](reader, equation, operands, place)
  if any(_holds_linear(inner) for inner in sub_jaxprs(equation.params)):
    reader.opaque[name] = None
  return _read_other(reader, equation, operands, place)


def _holds_linear(jaxpr: Any) -> bool:
  equations = open_jaxpr(jaxpr).jaxpr.eqns
  return any(
    equation.primitive.name in LINEAR
    or any(_holds_linear(inner) for inner in sub_jaxprs(equation.params))
    for equation in equations
  )


# Everything that is not linear


def _read_other(
  reader: Reader, equation: Any, operands: list[Value], place: Place
) -> list[Value]:
  """An equation that is neither linear in a parameter nor a call."""
  name = equation.primitive.name
  parameters = [value for value in operands if value.kind == "parameter"]
  nodes = [value.node for value in operands if value.node is not None]
  noise = name in RANDOM or (bool(nodes) and all(n.noise for n in nodes))
  if parameters and noise:  # a kernel under dropout, or with noise added
    return [joined(parameters, "noise")] * len(equation.outvars)
  if noise or any(value.kind == "data" for value in operands):
    reader.elementwise.update({p: None for v in parameters for p in v.paths})
    given: Any = {"equation": equation, "place": place, "noise": noise}
    given["operands"] = tuple(operands)
    return [
      data(reader.node(name, output=output, **given))
      for output in range(len(equation.outvars))
    ]
  if parameters:
    value = _read_view(name, equation, operands)
    return [
      dataclasses.replace(value, made=Made(tuple(operands), equation, output))
      for output in range(len(equation.outvars))
    ]
  return [_constant(equation, operands)] * len(equation.outvars)


def _read_view(name: str, equation: Any, operands: list[Value]) -> Value:
  """A parameter seen through one more step, linear or not."""
  parameters = [value for value in operands if value.kind == "parameter"]
  first, rest = parameters[0], parameters[1:]
  if name in LAYOUT | PARTS and not rest:
    origins = follow(equation, first.origins)
    view = (*first.view, name)
    return dataclasses.replace(first, view=view, origins=origins)
  if name == "neg":
    return dataclasses.replace(first, multiplier=-first.multiplier)
  others = [value for value in operands if value.kind == "constant"]
  scalar = others[0].scalar if len(others) == 1 and not rest else None
  if scalar is not None and name == "mul":
    factor = size_of(scalar)
    return dataclasses.replace(first, multiplier=first.multiplier * factor)
  is_divided = scalar is not None and name == "div" and operands[0] is first
  if is_divided and scalar != 0:
    factor = 1 / size_of(scalar)
    return dataclasses.replace(first, multiplier=first.multiplier * factor)
  return joined(parameters, name)


def _constant(equation: Any, operands: list[Value]) -> Value:
  """A constant; its number is kept where it has one."""
  name, params = equation.primitive.name, equation.params
  if name not in PURE:
    return CONSTANT
  scalars = [value.scalar for value in operands]
  if not scalars or any(scalar is None for scalar in scalars):
    return CONSTANT
  if name == "convert_element_type":
    cast = np.asarray(scalars[0]).astype(params["new_dtype"])
    return Value("constant", scalar=cast)
  if name in LAYOUT:
    return operands[0]
  if len(equation.outvars) > 1 or equation.outvars[0].aval.shape:
    return CONSTANT
  with jax.ensure_compile_time_eval():
    number = equation.primitive.bind(*scalars, **params)
  return Value("constant", scalar=number)


# Loops and branches


def _read_scan(
  reader: Reader, equation: Any, operands: list[Value], place: Place
) -> list[Value]:
  params = equation.params
  num_consts, num_carry = scan_operands(params)
  consts, carry = operands[:num_consts], operands[num_consts:][:num_carry]
  length = params["length"]
  slices = [
    _slice(reader, value, length, place.site)
    for value in operands[num_consts + num_carry :]
  ]
  scan = Scan(place.site, length, params["reverse"])
  inner = place._replace(scans=(*place.scans, scan))

  def body(carried: list[Value]) -> list[Value]:
    return read(reader, params["jaxpr"], [*consts, *carried, *slices], inner)

  outputs = _fixpoint(reader, body, carry, place)
  stacked = [_stacked(reader, value) for value in outputs[num_carry:]]
  return [*outputs[:num_carry], *stacked]


def _read_while(
  reader: Reader, equation: Any, operands: list[Value], place: Place
) -> list[Value]:
  params = equation.params
  place = place._replace(closed=True)
  skipped = params["cond_nconsts"]
  split = skipped + params["body_nconsts"]
  consts, carry = operands[skipped:split], operands[split:]

  def body(carried: list[Value]) -> list[Value]:
    return read(reader, params["body_jaxpr"], [*consts, *carried], place)

  outputs = _fixpoint(reader, body, carry, place)
  for site, op in _sites_under(reader, place).items():
    feed, later = op.feed._replace(stream=None), op.later_feed
    later = later and later._replace(stream=None)
    reader.sites[site] = dataclasses.replace(op, feed=feed, later_feed=later)
  return [
    value if value is began else _after_while(reader, value)
    for began, value in zip(carry, outputs, strict=True)
  ]


def _after_while(reader: Reader, value: Value) -> Value:
  """Nobody knows how often the body was run."""
  if value.kind == "data":
    return data(reader.node("while", operands=(value,)))
  return value


def _fixpoint(
  reader: Reader,
  body: Callable[[list[Value]], list[Value]],
  carry: list[Value],
  place: Place,
) -> list[Value]:
  """Reads a body until its carry is stable; keeps its first and last feeds."""
  outputs = body(carry)
  first = _sites_under(reader, place)
  for turn in range(_MAX_PASSES - 1):
    fed = list(map(_carried, carry, outputs))
    outputs = body(fed)
    if turn and all(map(same_kind, fed, outputs)):
      break  # the second pass has named its streams, the third met the names
  for site, op in _sites_under(reader, place).items():
    began = first[site].feed if site in first else Feed(reason="constant")
    later = op.feed
    reader.sites[site] = dataclasses.replace(op, feed=began, later_feed=later)
  return [*map(_carried, carry, outputs), *outputs[len(carry) :]]


def _carried(began: Value, value: Value) -> Value:
  """What is changed at every repeat is no view of a parameter, no number."""
  if value is began or value.kind == "data":
    return value
  return joined((value,), "loop")


def _sites_under(reader: Reader, place: Place) -> dict[Site, LinearOp]:
  size = len(place.site)
  return {
    site: op
    for site, op in reader.sites.items()
    if site[:size] == place.site and len(site) > size
  }


def _slice(reader: Reader, value: Value, length: int, scan: Site) -> Value:
  """What one repeat of a scan sees of a stacked operand."""
  if value.kind == "parameter":
    view = (*value.view, f"scan[{length}]")
    origins = value.origins and value.origins[1:]
    made = Made((value,), scan=scan)
    return dataclasses.replace(value, view=view, origins=origins, made=made)
  if value.kind == "constant":
    return value
  return data(reader.node("slice", operands=(value,)))


def _stacked(reader: Reader, value: Value) -> Value:
  """What a scan hands out of all repeats of a value."""
  if value.kind == "parameter":
    return joined((value,), "stack")
  if value.kind == "constant":
    return CONSTANT
  return data(reader.node("reshape", operands=(value,)))


def _read_cond(
  reader: Reader, equation: Any, operands: list[Value], place: Place
) -> list[Value]:
  branches = [
    read(reader, branch, operands[1:], place.inside(number))
    for number, branch in enumerate(equation.params["branches"])
  ]
  return [
    _either(reader, [operands[0], *values])
    for values in zip(*branches, strict=True)
  ]


def _either(reader: Reader, values: list[Value]) -> Value:
  """What may come out of a branch; the first value chooses."""
  if any(value.kind == "data" for value in values):
    return data(reader.node("cond", operands=tuple(values)))
  return joined(values[1:], "cond")


_LOOPS: dict[str, Callable[..., list[Value]]] = {
  "scan": _read_scan,
  "while": _read_while,
  "cond": _read_cond,
}
