"""The reader: walks a jaxpr once and notes every use of a parameter.

Nothing is computed; what flows through the equations are `Value`s, which say
where an array comes from. Sub-jaxprs are read in place: jit, remat, custom
derivatives, scan, while, cond and shard_map. A loop is read until its carry
stops changing: first fed by the initial carry, then by the body.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

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
from initjax.graph._geometry import product_by_entry
from initjax.graph._graph import Feed, LinearOp
from initjax.graph._linear import read_contraction, read_linear
from initjax.graph._made_kernels import note_made_kernels
from initjax.graph._masks import masked
from initjax.graph._place import BY_DEVICE, Place, Scan, Site
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
from initjax.graph._recurrences import note_powers, note_recurrences
from initjax.graph._statistics import check_statistics
from initjax.graph._values import (
  CONSTANT,
  Node,
  Value,
  joined,
  same_kind,
  touched_by,
)
from initjax.graph._view import sliced

_PASSES = 4


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
  by_entry = product_by_entry(equation) if name == "dot_general" else None
  if by_entry is not None:
    return read(reader, by_entry, operands, place)
  note_powers(reader, equation, operands)
  if name in LINEAR:
    reader.met.as_kernel(operands)
    note_made_kernels(reader, equation, operands)
    return [read_linear(reader, equation, operands, place)]
  by_hand = None
  if name in ADDING and operands:
    note_made_kernels(reader, equation, operands)
    by_hand = reader.met.contraction(equation, operands)
  if by_hand is not None:
    reader.use_as_data(operands[-1])
    return [read_contraction(reader, equation, by_hand, place)]
  kept = masked(equation, operands) if name in ("mul", "select_n") else None
  if kept is not None:
    return [kept]
  found = read_chosen(reader, equation, operands, place)
  if found is not None:
    return found
  if name in PURE:
    return _read_other(reader, equation, operands, place)
  if name in INLINED:
    (inner, *_) = sub_jaxprs(equation.params)
    place = place.run_whole(name) if name in RULES else place
    return read(reader, inner, operands, place)
  if is_collective(equation):
    return read_collective(reader, equation, operands, place)
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
  if len(equation.outvars) > 1 or equation.outvars[0].aval.shape:
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
    _repeat(reader, value, scan) for value in operands[num_consts + num_carry :]
  ]
  inner = place._replace(scans=(*place.scans, scan))

  def body(carried: list[Value]) -> list[Value]:
    return read(reader, params["jaxpr"], [*consts, *carried, *slices], inner)

  outputs = _fixpoint(reader, body, carry, place, "scan")
  stacked = [_stacked(reader, value) for value in outputs[num_carry:]]
  return [*outputs[:num_carry], *stacked]


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

  outputs = _fixpoint(reader, body, carry, place, "while")
  for site, op in _sites_under(reader, place).items():
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
  for op in _sites_under(reader, place).values():
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


def _fixpoint(
  reader: Reader,
  body: Callable[[list[Value]], list[Value]],
  carry: list[Value],
  place: Place,
  name: str,
) -> list[Value]:
  """Reads a body until its carry is stable; keeps its first and last feeds."""
  # Each pass reads one more repeat, until the carry is of the kind it was: the
  # second names its streams, the third meets the names, and one that alternates
  # is left after the fourth. What touched a carry stays, so that set grows from
  # pass to pass until it holds everything, however many passes that takes.
  outputs, fed = body(carry), carry
  first = _sites_under(reader, place)
  for turn in itertools.count():
    for before, value in zip(carry, outputs, strict=False):
      if value is not before:
        reader.use_as_data(before)
        reader.use_as_data(value)
    fed = list(map(_carried, carry, fed, outputs))
    outputs = body(fed)
    pairs = list(zip(fed, outputs, strict=False))
    closed = all(not after.touched & ~before.touched for before, after in pairs)
    settled = turn and all(same_kind(*pair) for pair in pairs)
    if closed and (settled or turn >= _PASSES - 2):
      break
  note_recurrences(reader, fed, outputs, place, name)
  for site, op in _sites_under(reader, place).items():
    began = first[site].feed if site in first else Feed(reason="constant")
    later = op.feed
    reader.sites[site] = dataclasses.replace(op, feed=began, later_feed=later)
  return [*map(_carried, carry, fed, outputs), *outputs[len(carry) :]]


def _carried(began: Value, fed: Value, value: Value) -> Value:
  """A carry that changes is no view of a parameter, and no number."""
  if value is began:
    return value
  value = value.as_data if value.kind == "data" else joined((value,), "loop")
  return value.more_touched(fed.touched)


def _sites_under(reader: Reader, place: Place) -> dict[Site, LinearOp]:
  size = len(place.site)
  return {
    site: op
    for site, op in reader.sites.items()
    if site[:size] == place.site and len(site) > size
  }


def _repeat(reader: Reader, value: Value, scan: Scan) -> Value:
  """The slice of a stacked operand that one repeat of a scan sees."""
  view = None if value.view is None else sliced(value.view, scan)
  if value.kind == "data":
    data = reader.data("slice", operands=(value,), kept=view is not None)
    return dataclasses.replace(data, view=view, choice=value.choice)
  if view is None:
    return value
  return dataclasses.replace(value, view=view, choice=None)


def _stacked(reader: Reader, value: Value) -> Value:
  """A value of all repeats, as a scan hands it out."""
  if value.kind != "data":
    return joined((value,), "stack")
  return reader.data("reshape", operands=(value,))


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
