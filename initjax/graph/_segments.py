"""A model cut after each of its operations, so that equal layers match.

XLA compiles every layer of an unrolled model anew, although nearly all are
equal. If the model is cut into segments, each with its sites at its end, only
one of each kind is compiled, however deep the model is.
"""

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._paths import is_float
from initjax.graph._compat import Equation, open_jaxpr, sub_jaxprs
from initjax.graph._interpret import bind
from initjax.graph._place import Site
from initjax.graph._primitives import JITS, RULES


class Variable:
  """A value between equations, of its own even where a jaxpr is used twice."""

  def __init__(self, aval: Any) -> None:
    self.aval = aval


class Line(NamedTuple):
  """An `Equation`, between variables of the whole model."""

  primitive: Any
  params: dict[str, Any]
  invars: list[Any]
  outvars: list[Any]
  ctx: Any


class Segment(NamedTuple):
  """Some equations in a row, as a jaxpr that `run` takes."""

  eqns: list[Line]
  invars: list[Variable]
  outvars: list[Variable]
  """what later segments, or the outputs, want"""
  sites: dict[Site, Site]
  """of the whole model, by where they are here"""
  first_read: set[Variable]
  """what no earlier segment reads"""
  constvars: tuple[Variable, ...] = ()

  @property
  def kind(self) -> Hashable:
    """Equal for segments that compute the same of inputs of the same types.

    What has no other name is known by identity: it is to be kept meanwhile.
    """
    return _kind_of_jaxpr(self), tuple(self.sites)


class Segments(NamedTuple):
  """A model in segments."""

  segments: list[Segment]
  invars: list[Variable]
  """of the model, its constants first"""
  outputs: list[Any]
  """variables and literals"""
  constants: tuple[Any, ...]


def _kind_of_jaxpr(jaxpr: Any) -> Hashable:
  names: dict[Any, int] = {}
  name = lambda var: names.setdefault(var, len(names))
  given = (*jaxpr.constvars, *jaxpr.invars)
  inputs = tuple((name(var), var.aval) for var in given)
  lines = tuple(_kind_of(line, name) for line in jaxpr.eqns)
  return inputs, lines, tuple(_kind_of_atom(x, name) for x in jaxpr.outvars)


def _kind_of(line: Any, name: Callable[[Any], int]) -> Hashable:
  operands = tuple(_kind_of_atom(atom, name) for atom in line.invars)
  results = tuple((name(var), var.aval) for var in line.outvars)
  does: Hashable = id(line)  # what devices do has no type outside
  if line.primitive.name in RULES:
    does = _kind_of_rule(line)
  elif line.primitive.name != "shard_map":
    does = _hashable(line.params)
  return line.primitive, does, line.ctx, operands, results


def _kind_of_atom(atom: Any, name: Callable[[Any], int]) -> Hashable:
  if hasattr(atom, "val"):
    return atom.aval, _hashable(atom.val)
  return name(atom)


def _kind_of_rule(line: Any) -> Hashable:
  """Of a function with a derivative of its own: that, as it is traced.

  The rule itself is another object at each call.
  """
  avals = [atom.aval for atom in line.invars]
  if not all(map(is_float, [*avals, *(var.aval for var in line.outvars)])):
    return id(line)

  function = lambda *operands: bind(line, operands)

  def derivative(*operands: Any) -> Any:
    if "jvp" in line.primitive.name:  # the cheaper way
      return jax.jvp(function, operands, operands)
    outputs, pull_back = jax.vjp(function, *operands)
    return pull_back(outputs)

  own = [*sub_jaxprs(line.params), jax.make_jaxpr(derivative)(*avals)]
  if any(open_jaxpr(jaxpr).consts for jaxpr in own):
    return id(line)
  # As text: of a rule within a rule no second derivative is asked for.
  return tuple(map(str, own))


def _hashable(value: Any) -> Hashable:
  """Something that is equal for equal values; else it is known by identity."""
  opened = open_jaxpr(value)
  if hasattr(opened.jaxpr, "eqns"):
    return _kind_of_jaxpr(opened.jaxpr), tuple(map(id, opened.consts))
  if isinstance(value, dict):
    return tuple((key, _hashable(each)) for key, each in sorted(value.items()))
  if isinstance(value, (list, tuple)):
    return (type(value), *map(_hashable, value))
  if isinstance(value, (np.generic, np.ndarray)):  # as literals are
    return value.dtype, value.shape, value.tobytes()
  try:
    hash(value)
  except TypeError:
    return id(value)
  return type(value), value


def cut(
  jaxpr: Any, sites: Collection[Site], ends: Collection[Site]
) -> Segments:
  """Segments of a model.

  Args:
    jaxpr: of the model, closed.
    sites: of whatever is looked at.
    ends: those after whose equations it is cut.
  """
  opened = open_jaxpr(jaxpr)
  given = (*opened.jaxpr.constvars, *opened.jaxpr.invars)
  known = {var: Variable(var.aval) for var in given}
  invars = list(known.values())
  rows: list[_Row] = [_Row([], {})]
  for line, inside in _flat(opened.jaxpr, (), sites, known):
    index = len(rows[-1].lines)
    rows[-1].lines.append(line)
    rows[-1].sites.update({(index, *own): inside[own] for own in inside})
    if any(site in ends for site in inside.values()):
      rows.append(_Row([], {}))
  outputs = [_look_up(known, atom) for atom in opened.jaxpr.outvars]
  return Segments(_linked(rows, outputs), invars, outputs, opened.consts)


class _Row(NamedTuple):
  """What becomes a segment."""

  lines: list[Line]
  sites: dict[Site, Site]


def _linked(rows: list[_Row], outputs: list[Any]) -> list[Segment]:
  """The segments, each with what it reads and what later ones read of it."""
  wanted = {atom for atom in outputs if isinstance(atom, Variable)}
  segments = []
  for lines, sites in reversed(rows):
    made = dict.fromkeys(var for line in lines for var in line.outvars)
    read = (atom for line in lines for atom in line.invars)
    own = dict.fromkeys(a for a in read if isinstance(a, Variable))
    invars = [var for var in own if var not in made]
    outvars = [var for var in made if var in wanted]
    segments.append(Segment(lines, invars, outvars, sites, set()))
    wanted.update(invars)
  seen: set[Variable] = set()
  for segment in reversed(segments):
    segment.first_read.update(set(segment.invars) - seen)
    seen.update(segment.invars)
  return segments[::-1]


def _look_up(known: dict[Any, Any], atom: Any) -> Any:
  return atom if hasattr(atom, "val") else known[atom]


def _flat(
  jaxpr: Any, place: Site, sites: Collection[Site], known: dict[Any, Any]
) -> Iterator[tuple[Line, dict[Site, Site]]]:
  """Equations, also those in jits, and by where they are in it, their sites."""
  busy: dict[int, dict[Site, Site]] = {}
  for site in sites:
    own = busy.setdefault(site[len(place)], {})
    own[site[len(place) + 1 :]] = site
  for index, equation in enumerate(jaxpr.eqns):
    inside = busy.get(index, {})
    operands = [_look_up(known, atom) for atom in equation.invars]
    inner = _opened(equation, inside)
    if inner is None:
      results: list[Any] = [Variable(var.aval) for var in equation.outvars]
      rest = (operands, results, equation.ctx)
      yield Line(equation.primitive, equation.params, *rest), inside
    else:
      own = dict(zip(inner.invars, operands, strict=True))
      yield from _flat(inner, (*place, index), [*inside.values()], own)
      results = [_look_up(own, atom) for atom in inner.outvars]
    known.update(zip(equation.outvars, results, strict=True))


def _opened(equation: Equation, inside: dict[Site, Site]) -> Any:
  """The jaxpr of a jit in which all of these sites are."""
  if equation.primitive.name not in JITS or not inside:
    return None
  (inner,) = map(open_jaxpr, sub_jaxprs(equation.params))
  is_operand = any(len(own) < 1 or own[0] < 0 for own in inside)
  return None if is_operand or inner.consts else inner.jaxpr
