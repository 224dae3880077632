"""The reader, which walks a jaxpr once and notes every use of a parameter.

Nothing is computed; `Value`s flow through the equations and say where an array
comes from. Sub-jaxprs are read in place: jit, remat, custom
derivatives, scan, while, cond and shard_map. A loop is read until its carry
stops changing: first fed by the initial carry, then by the body.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from initjax.graph._carry import settled, sites_under, slice_of, stacked
from initjax.graph._chosen import choose, read_chosen, read_terms
from initjax.graph._collectives import (
  into_shards,
  is_collective,
  out_of_shards,
  read_collective,
)
from initjax.graph._compat import (
  Equation,
  open_jaxpr,
  scan_operands,
  sub_jaxprs,
)
from initjax.graph._follow import follow
from initjax.graph._geometry import rewritten
from initjax.graph._linear import read_contraction, read_linear
from initjax.graph._made_kernels import note_made_kernels
from initjax.graph._masks import masked
from initjax.graph._place import BY_DEVICE, Place, Scan
from initjax.graph._positions import read_tables
from initjax.graph._primitives import (
  ADDING,
  INLINED,
  JOINS,
  LAYOUT,
  LINEAR,
  PURE,
  RANDOM,
  RULES,
  SCALES,
  SUMS,
)
from initjax.graph._reader import Reader
from initjax.graph._recurrences import note_powers
from initjax.graph._statistics import check_statistics
from initjax.graph._tables import read_copy
from initjax.graph._values import (
  CONSTANT,
  Node,
  Value,
  joined,
  touched_by,
)


def read(
  reader: Reader, jaxpr: Any, values: Sequence[Value], place: Place
) -> list[Value]:
  """Values of the outputs of `jaxpr` for values of its inputs."""
  opened = open_jaxpr(jaxpr)
  closed_over = map(_closed_over, opened.consts)
  known = dict(zip(opened.jaxpr.constvars, closed_over, strict=True))
  known.update(zip(opened.jaxpr.invars, values, strict=True))

  def look_up(atom: Any) -> Value:
    return _closed_over(atom.val) if hasattr(atom, "val") else known[atom]

  every = [(place.inside(i), e) for i, e in enumerate(opened.jaxpr.eqns)]
  live = [(at, each) for at, each in every if at.site not in reader.dead]
  if len(live) < len(every):
    gone = (v for at, e in every if at.site in reader.dead for v in e.outvars)
    known.update(dict.fromkeys(gone, CONSTANT))
  reader.met.count([e.invars for _, e in live] + [opened.jaxpr.outvars])
  for at, equation in live:
    operands = [look_up(atom) for atom in equation.invars]
    if reader.statistics:
      check_statistics(reader, equation, operands)
    outputs = _read_equation(reader, equation, operands, at)
    known.update(zip(equation.outvars, outputs, strict=True))
  return [look_up(atom) for atom in opened.jaxpr.outvars]


def _closed_over(constant: Any) -> Value:
  """A literal, or an array that the function closes over."""
  if np.ndim(constant) == 0:
    traced = isinstance(constant, jax.core.Tracer)  # of a jit around
    return CONSTANT if traced else Value("constant", scalar=constant)
  return Value("constant", array=constant)


def _read_equation(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  name = equation.primitive.name
  if name == "optimization_barrier":
    return operands
  if name == "copy" and place.site < (len(reader.tables),):
    return [read_copy(reader, equation, operands[0], place)]
  simpler = rewritten(equation)
  if simpler is not None:
    return read(reader, simpler, operands, place)
  note_powers(reader, equation, operands)
  found = _read_sum(reader, equation, operands, place)
  if found is None and name in ("mul", "select_n"):
    found = masked(equation, operands)
  if found is not None:
    return [found]
  chosen = read_chosen(reader, equation, operands, place)
  if chosen is not None:
    return chosen
  if name not in PURE:
    return _read_call(reader, equation, operands, place)
  return _read_other(reader, equation, operands, place)


def _read_sum(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> Value | None:
  """A product, or a sum of products that is one; None if it is none."""
  if equation.primitive.name in LINEAR:
    note_made_kernels(reader, equation, operands)
    return read_linear(reader, equation, operands, place)
  if equation.primitive.name not in ADDING or not operands:
    return None
  note_made_kernels(reader, equation, operands)
  by_hand = reader.met.contraction(equation, operands)
  if by_hand is None:
    return None
  reader.use_as_data(operands[-1])
  return read_contraction(reader, equation, by_hand, place)


def _read_call(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  """What holds a jaxpr, or is known by its name alone."""
  name, inside = equation.primitive.name, sub_jaxprs(equation.params)
  if name in INLINED:
    place = place.run_whole(name) if name in RULES else place
    return read(reader, inside[0], operands, place)
  if is_collective(equation):
    return read_collective(reader, equation, operands, place)
  if name in _LOOPS:
    return _LOOPS[name](reader, equation, operands, place)
  if any(map(_holds_linear, inside)):
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
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  """An equation that is neither linear in a parameter nor a call."""
  name = equation.primitive.name
  if name in SUMS | JOINS:
    operands, tables = read_tables(reader, equation, operands, place)
    operands = read_terms(reader, name, operands)
    reader.sites.update(tables)
  parameters = [value for value in operands if value.kind == "parameter"]
  nodes = [value.node for value in operands if value.node is not None]
  noise = name in RANDOM or (bool(nodes) and all(n.noise for n in nodes))
  if parameters and (noise or all(v.kind != "data" for v in operands)):
    views = _read_view(equation, operands, place, noise)
    if views:
      reader.met.spectra.note(equation, operands[0], views[0])
    return views
  if noise or nodes:
    for value in parameters:
      reader.elementwise.update(dict.fromkeys(value.paths))
    given: Any = {"equation": equation, "place": place, "noise": noise}
    given["operands"] = tuple(operands)
    outputs = [
      reader.data(name, output=output, **given)
      for output in range(len(equation.outvars))
    ]
    if outputs:
      reader.met.note(equation, operands, outputs)
    return outputs
  return [_constant(equation, operands)] * len(equation.outvars)


def _read_view(
  equation: Equation, operands: list[Value], place: Place, noise: bool
) -> list[Value]:
  """A parameter after one more step; noise may multiply it, as DropConnect."""
  name, views = equation.primitive.name, [value.view for value in operands]
  numbers, touched = [v.scalar for v in operands], touched_by(operands)
  found = None
  if not noise or name in SCALES:
    found = follow(equation, views, numbers)
  if found is None:
    step = "noise" if noise else name
    mixture = joined(operands, step, equation=equation, place=place)
    return [mixture] * len(equation.outvars)
  scaled = any(view.leaf_shape is None for view in found)
  made = Node(0, name, equation, tuple(operands)) if scaled else None
  given: Any = {"touched": touched, "made": made}
  return [Value("parameter", view, **given) for view in found]


def _constant(equation: Equation, operands: list[Value]) -> Value:
  """A constant; its number is kept where it has one."""
  name, params = equation.primitive.name, equation.params
  scalars = [value.scalar for value in operands]
  unknown = not scalars or any(scalar is None for scalar in scalars)
  if name not in PURE or unknown:
    return joined(operands, name, equation=equation)
  if name == "convert_element_type":
    cast = np.asarray(scalars[0]).astype(params["new_dtype"])
    return Value("constant", scalar=cast)
  if name in LAYOUT:
    return operands[0]
  if len(equation.outvars) > 1:
    return joined(operands, name, equation=equation)
  with jax.ensure_compile_time_eval():
    number = equation.primitive.bind(*scalars, **params)
  return Value("constant", scalar=number)


# Loops and branches


def _read_scan(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  params = equation.params
  num_consts, num_carry = scan_operands(params)
  consts, carry = operands[:num_consts], operands[num_consts:][:num_carry]
  scan = Scan(place.site, params["length"], params["reverse"])
  slices = [
    slice_of(reader, value, scan)
    for value in operands[num_consts + num_carry :]
  ]
  inner = place._replace(scans=(*place.scans, scan))

  def body(carried: list[Value]) -> list[Value]:
    return read(reader, params["jaxpr"], [*consts, *carried, *slices], inner)

  outputs = settled(reader, body, carry, place, "scan")
  rows = [stacked(reader, value) for value in outputs[num_carry:]]
  return [*outputs[:num_carry], *rows]


def _read_while(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  params = equation.params
  place = place.run_whole("while")
  skipped = params["cond_nconsts"]
  split = skipped + params["body_nconsts"]
  consts, carry = operands[skipped:split], operands[split:]

  def body(carried: list[Value]) -> list[Value]:
    return read(reader, params["body_jaxpr"], [*consts, *carried], place)

  outputs = settled(reader, body, carry, place, "while")
  for site, op in sites_under(reader, place).items():
    feed, later = op.feed._replace(stream=None), op.later_feed
    later = later and later._replace(stream=None)
    reader.sites[site] = dataclasses.replace(op, feed=feed, later_feed=later)
  counted = [  # nobody knows how often the body was run
    reader.data("while", operands=(value,))
    if value.kind == "data" and value is not began
    else value
    for began, value in zip(carry, outputs, strict=True)
  ]
  touched = touched_by(operands)
  return [value.more_touched(touched) for value in counted]


def _read_linear_solve(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  """Inside is how a system is solved; what comes out is no sum of that."""
  solve = equation.params["jaxprs"].solve
  if not _holds_linear(solve):
    return _read_other(reader, equation, operands, place)
  lengths = equation.params["const_lengths"]
  start = lengths.matvec + lengths.vecmat
  given = operands[start:][: lengths.solve] + operands[sum(lengths) :]
  place = place.run_whole("custom_linear_solve")
  outputs = read(reader, solve, given, place)
  for op in sites_under(reader, place).values():
    for path in op.paths:
      reader.met.not_followed.setdefault(path, equation.primitive.name)
  return [
    reader.data("solution", operands=(value,)) if value.node else value
    for value in outputs
  ]


def _read_shard_map(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  (inner, *_) = sub_jaxprs(equation.params)
  shards = into_shards(reader, equation, operands)
  outputs = read(reader, inner, shards, place.run_whole("shard_map"))
  touched = touched_by(operands)
  together = out_of_shards(reader, equation, outputs)
  return [value.more_touched(touched) for value in together]


def _read_cond(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value]:
  index, *others = operands
  if index.touched & reader.devices(reader.mesh):
    place = place.run_whole(BY_DEVICE)
  branches = [
    read(reader, branch, others, place.inside(number))
    for number, branch in enumerate(equation.params["branches"])
  ]
  return [
    choose(reader, "cond", index, values) or _of_branches(reader, index, values)
    for values in zip(*branches, strict=True)
  ]


def _of_branches(
  reader: Reader, index: Value, values: Sequence[Value]
) -> Value:
  """What comes out of branches, where none hands out a parameter alone."""
  if any(value.kind == "data" for value in (index, *values)):
    return reader.data("cond", operands=(index, *values))
  return joined(values, "cond", touched_by((index, *values)))


_LOOPS: dict[str, Callable[..., list[Value]]] = {
  "scan": _read_scan,
  "while": _read_while,
  "cond": _read_cond,
  "custom_linear_solve": _read_linear_solve,
  "shard_map": _read_shard_map,
}
