"""Parameters selected by data: one of several kernels, or some of the rows.

A gather or dynamic slice at indices that are data, or a selection by data, can
be read in two ways: as a kernel, if the result is contracted, or as data, the
row that was looked up. Both readings are followed, through moves and constant
factors, until the result is used. If it is used as data, the look-up is noted
as an operation.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from initjax.graph import _geometry
from initjax.graph._activations import is_score
from initjax.graph._compat import Equation
from initjax.graph._follow import follow
from initjax.graph._geometry import Axes
from initjax.graph._linear import look_up
from initjax.graph._moves import Held, axes_after
from initjax.graph._place import Place
from initjax.graph._positions import read_tables
from initjax.graph._primitives import (
  ELEMENTWISE,
  INDEXED,
  JOINS,
  REDUCTIONS,
  SCALES,
  STEPS,
  SUMS,
)
from initjax.graph._reader import Reader
from initjax.graph._values import (
  Choice,
  Value,
  merged,
  roots_of,
  touched_by,
)
from initjax.graph._view import View, chosen, computed, indexed

_FOLLOWED = STEPS | JOINS | ELEMENTWISE | REDUCTIONS


def read_chosen(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value] | None:
  """What data choose, after one more step; None if nothing is so chosen."""
  name = equation.primitive.name
  if name in INDEXED and operands[0].view is not None:
    return _read_part(reader, equation, operands, place)
  if name == "select_n":
    given = {"equation": equation, "place": place}
    value = choose(reader, name, operands[0], operands[1:], **given)
    return None if value is None else [value]
  if name in _FOLLOWED and any(v.choice is not None for v in operands):
    return _follow_both(reader, equation, operands, place)
  return None


def choose(
  reader: Reader,
  name: str,
  chooser: Value,
  cases: Sequence[Value],
  **given: Any,
) -> Value | None:
  """One of several parameters; None if a case is data and nothing else."""
  views = [case.view for case in cases if case.view is not None]
  others = [case for case in cases if case.view is None]
  if not views or any(case.kind == "data" for case in others):
    return None
  view = chosen(views, name)
  if others:
    view = dataclasses.replace(computed(views, name), axes=views[0].axes)
  operands = (chooser, *cases)
  if all(value.kind != "data" for value in operands):
    return Value("parameter", view, touched=touched_by(operands))
  own = Choice(chooser.touched, roots=roots_of([chooser]))
  reader.use_as_data(chooser)
  data = reader.data(name, kept=True, operands=operands, **given)
  choice = merged([own, *(v.choice for v in cases if v.choice)])
  return dataclasses.replace(data, view=view, choice=choice)


def _follow_both(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value] | None:
  """One step with what is chosen, as a kernel and as data."""
  views = _views_after(equation, operands)
  choice = merged([v.choice for v in operands if v.choice is not None])
  given: dict[str, Any] = {"equation": equation, "place": place, "kept": True}
  plain = [value.as_data for value in operands]
  found, tables = read_tables(reader, equation, plain, place)
  given["operands"] = tuple(found)
  if tables:  # as data: a kernel that is a sum has a say in all of it
    reader.look_ups.update(tables)
    own = touched_by(value for value in plain if value.kind == "parameter")
    choice = merged([choice, Choice(own, frozenset(tables))])
  by_data = any(value.kind == "data" for value in operands)
  touched, values = touched_by(operands), []
  for output, view in enumerate(views):
    data = reader.data(equation.primitive.name, output=output, **given)
    values.append(_both(data, view, choice, touched, by_data=by_data))
  return values or None


def _views_after(
  equation: Equation, operands: Sequence[Value]
) -> Sequence[View]:
  """Of the outputs; none where more than parameters and noise have a say."""
  name, views = equation.primitive.name, [v.view for v in operands]
  known = [view for view in views if view is not None]
  plain = [v for v in operands if v.kind == "data" and v.view is None]
  noise = all(v.node is not None and v.node.noise for v in plain)
  if plain and not (noise and name in SCALES):
    return ()
  by_data = [v.view for v in operands if v.kind == "data" and v.view]
  axes = max((v.axes or () for v in by_data or known), key=_held)
  alone = len(known) + len(plain) == 1
  if name in JOINS or (name in STEPS and alone):
    found = follow(equation, views, [value.scalar for value in operands])
    if found is not None and name in SCALES:  # entries stay where they are
      return [dataclasses.replace(found[0], axes=axes or None)]
    if found is not None:
      return found
  return [
    dataclasses.replace(computed(known, name), axes=after)
    for after in _axes_after(equation, axes)
  ]


def _held(axes: Held) -> int:
  """How many axes hold some of a leaf."""
  return sum(map(bool, axes))


def _axes_after(equation: Equation, axes: Held) -> list[Held | None]:
  """Of each output: axes of leaves in what is computed, reduced or moved."""
  name, count = equation.primitive.name, len(equation.outvars)
  if not axes or name in JOINS:
    return [None] * count
  if name in REDUCTIONS:
    gone = equation.params["axes"]
    return [tuple(own for i, own in enumerate(axes) if i not in gone)]
  return [axes_after(equation, axes, output) for output in range(count)]


def _both(
  data: Value, view: View, choice: Choice, touched: int, *, by_data: bool
) -> Value:
  """Data that are a parameter as well, or a parameter that may be data."""
  if by_data:
    return dataclasses.replace(data, view=view, choice=choice)
  choice = choice._replace(data=data)
  return Value("parameter", view, touched=touched, choice=choice)


# Look-ups


def _read_part(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> list[Value] | None:
  """Rows of a table, which may be a kernel as well."""
  table, *indices = operands
  by_data = any(value.kind == "data" for value in indices)
  if not by_data and table.choice is not None:
    return _follow_both(reader, equation, operands, place)
  assert table.view is not None
  view = indexed(equation, table.view, fixed=not by_data)
  axes = _axes(equation, indices)
  numbers = [value.scalar for value in indices]
  if not by_data and not _is_table_of_positions(view, axes, numbers):
    return None
  for value in indices:
    reader.use_as_data(value)
  choice = Choice(touched_by(indices), roots=roots_of(indices))
  if table.choice is None and axes is not None:
    data = look_up(reader, equation, table, indices, place, axes)
    choice = choice._replace(look_ups=frozenset([place.site]))
    reader.rows[place.site] = choice.roots
  else:
    given: Any = {"equation": equation, "operands": tuple(operands)}
    data = reader.data(equation.primitive.name, kept=True, place=place, **given)
    choice = merged([choice, table.choice or Choice()])
  by_data = by_data or table.kind == "data"
  return [_both(data, view, choice, table.touched, by_data=by_data)]


def _axes(equation: Equation, indices: Sequence[Value]) -> Axes | None:
  """Of a look-up of rows; None of a slice that is none."""
  shape = tuple(equation.invars[0].aval.shape)
  if equation.primitive.name == "gather":
    rank = len(equation.outvars[0].aval.shape)
    return _geometry.gather_axes(equation.params, shape, rank)
  every = range(len(shape))
  rows = tuple(axis for axis in every if indices[axis].kind == "data")
  free = tuple(axis for axis in every if axis not in rows)
  return Axes(0, rows, free, (), rows) if rows and free else None


def _is_table_of_positions(
  view: View, axes: Axes | None, numbers: Sequence[Any]
) -> bool:
  """Whether rows of features are taken at several indices that are fixed."""
  rows = axes is not None and bool(axes.samples and axes.free)
  return rows and not view.computed and any(n is None for n in numbers)


# What is added to data


def read_terms(reader: Reader, name: str, operands: list[Value]) -> list[Value]:
  """Operands as what they are where data are added to them, or joined.

  Rows at fixed indices are a table of positions, but not where the scores of
  attention are shifted. What is chosen along with the kernel of an operation
  is a bias of its output.
  """
  if name not in SUMS | JOINS or all(v.kind != "data" for v in operands):
    return operands
  nodes = [value.node for value in operands if value.node is not None]
  found = []
  for value in operands:
    choice, others = value.choice, [n for n in nodes if n is not value.node]
    if choice is not None and value.kind == "parameter":
      if choice.data is not None and not any(map(is_score, others)):
        reader.use_as_data(dataclasses.replace(value, kind="data"))
        value = choice.data
    elif choice is not None and name in SUMS:
      places = [n.unmoved.place for n in others if n.unmoved.operation]
      roots = [reader.roots.get(place.site) for place in places if place]
      same = choice.roots in roots
      if same or not choice.look_ups:
        touched = value.touched
        for path in value.paths:
          touched |= reader.touch(path)
        value = Value("parameter", value.view, touched=touched)
    found.append(value)
  return found
