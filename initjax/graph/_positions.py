"""Tables of tokens or positions, added or joined without a look-up.

A parameter that is added to a stream and differs between tokens holds a row for
each, as in `x + table[:length]`; a bias is the same for all tokens. A parameter
joined to a stream as extra tokens is a table too: a class token, a prompt. If
both readings fit, a parameter that starts at 0 is a bias.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from initjax.graph._activations import is_score
from initjax.graph._compat import Equation
from initjax.graph._features import features
from initjax.graph._geometry import Axes
from initjax.graph._graph import Feed, LinearOp
from initjax.graph._linear import common_fields, output_of
from initjax.graph._moves import axes_after
from initjax.graph._place import Place, Site
from initjax.graph._primitives import LAYOUT, PARTS, SUMS
from initjax.graph._reader import Reader
from initjax.graph._values import CONSTANT, Node, Value
from initjax.graph._variation import unrepeated, varying_axes
from initjax.graph._view import View


def read_tables(
  reader: Reader, equation: Equation, operands: list[Value], place: Place
) -> tuple[list[Value], dict[Site, LinearOp]]:
  """Operands of a sum, tables as what look-ups would be, and these look-ups."""
  noted: dict[Site, LinearOp] = {}
  if equation.primitive.name == "concatenate":
    return _joined(reader, equation, operands, place, noted), noted
  if equation.primitive.name not in SUMS:
    return operands, noted
  found = []
  for side, value in enumerate(operands):
    stream, avals = operands[1 - side], [v.aval for v in equation.invars]
    if value.kind == "parameter" and _may_have_table(value, stream):
      assert stream.node is not None
      held = features(stream.node, len(avals[1 - side].shape))
      tokens = varying_axes(stream, avals[1 - side]) - held
      rule = _Rule(reader, noted, tokens, held)
      value = rule.read(value, avals[side], place.inside(-1 - side)) or value
    found.append(value)
  return found, noted


def _joined(
  reader: Reader,
  equation: Equation,
  operands: list[Value],
  place: Place,
  noted: dict[Site, LinearOp],
) -> list[Value]:
  """Parameters among data as more tokens, or as more features of tokens."""
  nodes = [v.node for v in operands if v.node is not None and not v.node.noise]
  if not nodes:
    return operands
  aval, along = equation.outvars[0].aval, equation.params["dimension"]
  held = features(nodes[-1], len(aval.shape))
  tokens = frozenset(range(len(aval.shape))) - held
  if along not in held:
    tokens |= held  # one token is a table, too
  rule = _Rule(reader, noted, tokens, held)
  return [
    rule.read(value, atom.aval, place.inside(-1 - side)) or value
    if value.kind == "parameter" and value.choice is None
    else value
    for side, (value, atom) in enumerate(
      zip(operands, equation.invars, strict=True)
    )
  ]


def _may_have_table(value: Value, stream: Value) -> bool:
  node, view = stream.node, value.view
  if value.choice is not None or node is None or node.noise or view is None:
    return False
  several = view.computed or sum(size > 1 for size in view.shape) > 1
  return several and not is_score(node)


class _Rule(NamedTuple):
  """Which parameters hold rows for tokens."""

  reader: Reader
  noted: dict[Site, LinearOp]
  tokens: frozenset[int]
  """axes along which they lie"""
  held: frozenset[int]
  """axes along which features lie"""
  merged: bool = False
  """whether one axis holds both"""

  def read(self, value: Value, aval: Any, place: Place) -> Value | None:
    """A table, or a sum of such, as data; None if nothing of it is one."""
    if value.kind != "parameter" or value.view is None:
      return None
    if not value.view.computed:
      return self._rows(value, aval, place)
    made, shape = value.made, tuple(aval.shape)
    if made is None or made.place is None or made.label not in SUMS | LAYOUT:
      return None
    variables = made.equation.outvars
    if len(variables) > 1 or tuple(variables[0].aval.shape) != shape:
      return None  # a part of it
    return self._made(made, made.place)

  def _made(self, made: Node, place: Place) -> Value | None:
    """Tables that were added or moved, as those of rows and columns are."""
    rule, atoms = self, made.equation.invars
    if made.label in LAYOUT:
      every = tuple((axis,) for axis in range(len(atoms[0].aval.shape)))
      came = axes_after(made.equation, every) or ()
      tokens, held = (
        frozenset(own for axis in axes for own in came[axis])
        for axes in (self.tokens, self.held)
      )
      rule = self._replace(tokens=tokens, held=held, merged=bool(tokens & held))
    operands = tuple(
      rule.read(value, atom.aval, place.inside(-1 - side)) or value
      for side, (value, atom) in enumerate(
        zip(made.operands, atoms, strict=True)
      )
    )
    if all(value.kind != "data" for value in operands):
      return None
    for value in operands:
      if value.kind == "parameter":
        self.reader.elementwise.update(dict.fromkeys(value.paths))
    given: Any = {"equation": made.equation, "place": place}
    return self.reader.data(made.label, operands=operands, **given)

  def _rows(self, value: Value, aval: Any, place: Place) -> Value | None:
    """A parameter that differs between tokens, and between features."""
    varies, (view, shape, places) = (
      varying_axes(value, aval),
      unrepeated(value, aval),
    )
    free = varies & self.held
    if not (varies & self.tokens and free) or self.merged:
      return None
    if view is None or view.multiplier is None:
      return None
    if all(map(self.reader.is_zero, value.paths)):
      return None
    own = [i for i, axis in enumerate(places) if axis in free]
    whole, own = _whole(view, own)
    shape = shape if whole is view else whole.shape
    rows = tuple(i for i in range(len(shape)) if i not in own)
    samples = tuple(i for i in range(len(aval.shape)) if i not in self.held)
    axes = Axes(0, rows, tuple(own), (), samples)
    weight = dataclasses.replace(value, view=whole)
    op = LinearOp(
      kind="embedding",
      fan_in=1,
      fan_out=math.prod(shape[i] for i in own),
      feed=Feed(reason="positions"),
      **common_fields(aval, weight, place, axes, shape),
    )
    self.noted[place.site] = op
    return output_of(self.reader, op, CONSTANT, value, [])


def _whole(view: View, own: list[int]) -> tuple[View, list[int]]:
  """The table of which a view is a part, and the axes of it that are these."""
  if view.scans or view.axes is None or PARTS.isdisjoint(view.steps):
    return view, own
  leaf = view
  while leaf.below:
    leaf = leaf.below[0]
  held = sorted({axis for place in own for axis in view.axes[place]})
  return dataclasses.replace(leaf, multiplier=view.multiplier), held
