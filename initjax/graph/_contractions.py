"""Handwritten contractions of parameters, and uses that are not followed.

A parameter times data, summed over an axis along which the parameter varies, is
a kernel like that of a matrix product: `(W * x[..., None, :]).sum(-1)`. So is
one whose Fourier transform multiplies that of data. Any other use that is not a
bias or scale is noted with the primitive in which the parameter meets data.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from initjax._paths import is_float
from initjax.graph._activations import without_layout
from initjax.graph._compat import Equation
from initjax.graph._geometry import Axes
from initjax.graph._moves import Shape, size_of
from initjax.graph._nonzeros import NonZeros, nonzeros
from initjax.graph._primitives import (
  ELEMENTWISE,
  JOINS,
  LAYOUT,
  MOVES,
  PLACES,
  SUMS,
)
from initjax.graph._spectra import Spectra
from initjax.graph._values import Node, Value
from initjax.graph._variation import (
  KEPT,
  axes_of,
  summed_axes,
  unrepeated,
  varying_axes,
)
from initjax.graph._view import View, overlap

Paths = dict[str, str]
"""Parameters, and the primitive in which each met data."""

_MOST = 64  # terms of one sum that are compared
_SIMPLE = ELEMENTWISE | LAYOUT | JOINS | PLACES


class Contraction(NamedTuple):
  """A sum of products, as an operation."""

  kernel: Value
  """without axes along which it is only repeated"""
  kernel_shape: Shape
  signal: Value
  axes: Axes
  """of the kernel, and of the products, which stand for the signal"""
  terms: NonZeros
  fan_out: float


class _Tap(NamedTuple):
  """A part of a parameter times a signal, as a term of a sum."""

  view: View
  signal: Node


class _Product(NamedTuple):
  """A parameter times data, as it is summed."""

  node: Node
  factor: float = 1.0
  """constant, between the product and the sum"""
  moved: bool = False
  """whether axes, or single entries, are no longer what they were"""
  orders: tuple[Shape, ...] | None = ()
  """of axes, the last one first; None if more than their order changed"""

  @property
  def sides(self) -> list[tuple[Value, Any]]:
    """The parameter and the data, with their types."""
    atoms = [atom.aval for atom in self.node.equation.invars]
    pairs = list(zip(self.node.operands, atoms, strict=True))
    return sorted(pairs, key=lambda pair: not _may_be_kernel(pair[0]))


@dataclasses.dataclass
class Met:
  """Where parameters met data so far."""

  not_followed: Paths = dataclasses.field(default_factory=dict)
  uses: dict[Any, int] = dataclasses.field(default_factory=dict)
  """of each variable: the number of equations that read it"""
  followed: set[Node] = dataclasses.field(default_factory=set)
  """products that were read as operations, with their sums"""
  taps: dict[Node, tuple[_Tap, ...]] = dataclasses.field(default_factory=dict)
  """of what is a sum of them"""
  spectra: Spectra = dataclasses.field(default_factory=Spectra)

  def count(self, reads: Iterable[Iterable[Any]]) -> None:
    """Counts the uses of variables, given what each equation reads."""
    own: dict[Any, int] = {}
    for atoms in reads:
      for atom in {atom for atom in atoms if not hasattr(atom, "val")}:
        own[atom] = own.get(atom, 0) + 1
    self.uses.update(own)

  def note(
    self,
    equation: Equation,
    operands: Sequence[Value],
    outputs: Sequence[Value],
  ) -> None:
    """Notes what an equation does where parameters meet data, or did before."""
    name = equation.primitive.name
    paths = {
      path: name
      for value, atom in zip(operands, equation.invars, strict=True)
      if value.kind == "parameter" and is_float(atom.aval)
      for path in value.paths
    }
    nodes = [value.node for value in outputs if value.node is not None]
    if name not in _SIMPLE:
      self.not_followed |= paths
    elif paths or any(value.node in self.taps for value in operands):
      self._note_taps(name, operands, nodes[0])

  def contraction(
    self, equation: Equation, operands: Sequence[Value]
  ) -> Contraction | None:
    """The operation that a sum of products is; None if it is none, or noted."""
    axes, node = summed_axes(equation), operands[-1].node
    if axes is None or node is None or self._shared(equation.invars[-1]):
      return None
    found = self._product(node)
    if found is None or not _sums_over_kernel(found, equation, axes):
      return None
    operation = self._operation(found, equation, axes)
    if operation is None:
      paths = found.sides[0][0].paths
      self.not_followed |= dict.fromkeys(paths, found.node.label)
    self.followed.add(found.node)
    return operation

  def _operation(
    self, found: _Product, equation: Equation, axes: frozenset[int]
  ) -> Contraction | None:
    """The operation, if the sum is one that is followed."""
    (kernel, aval), (signal, signal_aval) = found.sides
    both = _own_axes(kernel, aval) & varying_axes(signal, signal_aval)
    if equation.primitive.name == "fft":
      return self._convolved(equation, found)
    is_sum = equation.primitive.name == "reduce_sum" and axes <= both
    return (
      _contraction(found, equation, axes)
      if is_sum and not found.moved
      else None
    )

  def _used_once(self, node: Node) -> bool:
    """Whether one equation alone reads the node."""
    equation = node.equation
    return equation is not None and not self._shared(
      equation.outvars[node.output]
    )

  def _shared(self, variable: Any) -> bool:
    return self.uses.get(variable, 0) != 1

  def _product(self, node: Node) -> _Product | None:
    """The product that is summed, unless something else reads it as well."""
    factor, moved = 1.0, False
    orders: tuple[Shape, ...] | None = ()
    while self._used_once(node):
      data = [value for value in node.operands if value.node is not None]
      below = node.only_below(MOVES | KEPT | {"mul", "div", "neg", "pad"})
      if node.label == "mul" and any(map(_may_be_kernel, node.operands)):
        floats = all(is_float(v.aval) for v in node.equation.invars)
        return _Product(node, factor, moved, orders) if floats else None
      if below is None:
        return None
      if node.label == "div" and node.operands[0] is not data[0]:
        return None
      number, known = _number(node)
      if node.label == "transpose" and orders is not None:
        orders = (*orders, tuple(node.equation.params["permutation"]))
      elif not known:
        orders = None
      factor, moved = factor * number, moved or not known
      node = below
    return None

  def _convolved(
    self, equation: Equation, found: _Product
  ) -> Contraction | None:
    """A circular convolution, where both sides are Fourier transforms."""
    (kernel, _), (signal, _) = found.sides
    if found.orders is None:
      return None
    sides = self.spectra.convolved(equation, found.orders, kernel, signal)
    if sides is None:
      return None
    shape, signal = sides
    first = len(shape) - len(equation.params["fft_lengths"])
    terms = math.prod(shape[first:])
    axes = Axes(1, tuple(range(first, len(shape))), (), (), ())
    return Contraction(kernel, shape, signal, axes, NonZeros(terms), terms)

  def _note_taps(
    self, name: str, operands: Sequence[Value], node: Node
  ) -> None:
    """Parts of one parameter that multiply one signal, moved, and are added."""
    data = [value.node for value in operands if value.node is not None]
    exact = [value.view for value in operands if value.view is not None]
    if name == "mul" and len(data) == 1 and exact and not exact[0].computed:
      self.taps[node] = (_Tap(exact[0], without_layout(data[0])),)
      return
    given = [self.taps.get(each, ()) for each in data if self._used_once(each)]
    if name in SUMS:
      for first, *others in (given[i:] for i in range(len(given))):
        self._compare(first, [tap for each in others for tap in each])
    found = tuple(tap for each in given for tap in each)[:_MOST]
    if found and name in SUMS | JOINS | LAYOUT | {"neg", "mul", "div"}:
      self.taps[node] = found

  def _compare(self, some: Iterable[_Tap], others: Sequence[_Tap]) -> None:
    """Two parts of a parameter on one signal are a kernel of two terms."""
    for one in some:
      for other in others:
        shared = {*one.view.paths} & {*other.view.paths}
        apart = shared and not overlap(one.view, other.view)
        if one.signal is other.signal and apart:
          self.not_followed |= dict.fromkeys(one.view.paths, "mul")


def _sums_over_kernel(
  found: _Product, equation: Equation, axes: frozenset[int]
) -> bool:
  """Whether the sum is over axes along which the parameter varies.

  Over samples too, it is a loss.
  """
  own = _own_axes(*found.sides[0])
  if not equation.outvars[0].aval.shape:
    return not found.moved and bool(axes) and axes <= own
  return bool(own if found.moved else own & axes)


def _contraction(
  found: _Product, equation: Equation, axes: frozenset[int]
) -> Contraction:
  """A product summed over axes along which both sides vary."""
  (kernel, aval), (signal, signal_aval) = found.sides
  view, shape, places = unrepeated(kernel, aval)
  terms = nonzeros(signal, tuple(signal_aval.shape), axes)
  if view is not None and view.multiplier is not None:
    factor = view.multiplier * found.factor * (terms.value or 1.0)
    view = dataclasses.replace(view, multiplier=factor)
  own, signals = _own_axes(kernel, aval), varying_axes(signal, signal_aval)
  sizes = found.node.equation.outvars[0].aval.shape
  free = own - signals
  kept = [axis for axis in range(len(sizes)) if axis not in axes_of(equation)]
  return Contraction(
    dataclasses.replace(kernel, kind="parameter", node=None, view=view),
    shape,
    signal,
    Axes(
      kernel=1,
      summed=tuple(i for i, axis in enumerate(places) if axis in axes),
      free=tuple(i for i, axis in enumerate(places) if axis in free),
      units=tuple(sorted(own & signals)),
      samples=tuple(
        place for place, axis in enumerate(kept) if axis in signals - own
      ),
    ),
    terms,
    math.prod(sizes[axis] for axis in free),
  )


def _number(node: Node) -> tuple[float, bool]:
  """What a node multiplies by, and whether it is known and entries stay."""
  if node.label in KEPT:
    return 1.0, True
  if node.label == "neg":
    return -1.0, True
  others = [value.scalar for value in node.operands if value.node is None]
  if node.label == "pad":  # of nothing, as before a transform
    return 1.0, all(not any(c) for c in node.equation.params["padding_config"])
  if node.label in MOVES or others[0] is None or not size_of(others[0]):
    return 1.0, False
  number = size_of(others[0])
  return (1 / number if node.label == "div" else number), True


def _own_axes(kernel: Value, aval: Any) -> frozenset[int]:
  """Axes along which it differs, and not because of what chooses it."""
  own = varying_axes(kernel, aval)
  view, _, places = unrepeated(kernel, aval)
  if kernel.choice is None or view is None:
    return own
  held = zip(places, view.axes or (), strict=False)
  return own - {axis for axis, axes in held if not axes}


def _may_be_kernel(value: Value) -> bool:
  """Whether it is a parameter, also if data choose which."""
  chosen = value.choice is not None and value.view is not None
  return value.kind == "parameter" or chosen
