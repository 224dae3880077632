"""What the reader of a jaxpr knows about each value.

A value descends from parameters alone (then it may be a kernel: a view of its
leaves), from constants alone, or from data. For data, the expression
that made it is kept, so that the activation before a linear operation can be
recovered.
"""

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple

from initjax.graph._place import Place, Site
from initjax.graph._primitives import ELEMENTWISE, JOINS, LAYOUT
from initjax.graph._view import View, computed

Kind = Literal["parameter", "constant", "data"]


class Touch(NamedTuple):
  """A parameter that has a say in a value."""

  path: str
  product: Site | None = None
  """where it went into a product without data: at later repeats of a loop that
  may be an operation, and this its kernel"""
  operand: int = 0
  """of that product"""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
  """One equation's output within the data flow; compared by identity.

  `index` grows in the order of execution, so operands have lower ones.
  """

  index: int
  label: str
  """"input", a primitive's name, or "linear" for the output of an operation"""
  equation: Any = None
  operands: tuple["Value", ...] = ()
  output: int = 0
  place: Place | None = None
  """where the equation is"""
  operation: str | None = None
  """path of the LinearOp whose output this is"""
  noise: bool = False
  """whether it depends on nothing but random bits and constants"""
  has_zeros: bool = False
  """whether many of its entries may be 0, as of one-hot rows"""
  features: frozenset[int] | None = None
  """axes that the kernel makes, of the output of an operation"""

  @property
  def below(self) -> "list[Node]":
    """Those of its operands that are data."""
    return [value.node for value in self.operands if value.node is not None]

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the array that it is; an equation must have made it."""
    return tuple(self.equation.outvars[self.output].aval.shape)

  @property
  def text(self) -> str:
    """What the equation does, to tell it from others."""
    params = None if self.equation is None else self.equation.params
    return f"{self.label} {params} {self.output}"

  def only_below(self, labels: Collection[str]) -> "Node | None":
    """The one node below, if this one's label is among these."""
    below = self.below
    return below[0] if self.label in labels and len(below) == 1 else None

  @property
  def unmoved(self) -> "Node":
    """The node below all that moves entries, or changes their type."""
    node = self
    while node.label in LAYOUT and node.operands[0].node is not None:
      node = node.operands[0].node
    return node

  def made_of(self, wanted: "Node") -> bool:
    """Whether it is computed of a node by no operation, moved or not.

    Nodes that are older than what is wanted cannot be made of it.
    """
    wanted = wanted.unmoved
    open_nodes, seen = [self.unmoved], {self.unmoved}
    while open_nodes:
      node = open_nodes.pop()
      if node is wanted:
        return True
      if node.operation is None:
        below = {each.unmoved for each in node.below} - seen
        seen |= below
        open_nodes += [each for each in below if each.index >= wanted.index]
    return False


class Choice(NamedTuple):
  """What chooses a parameter, and what it is where it is no kernel."""

  touched: int = 0
  """parameters that have a say in which one it is"""
  look_ups: frozenset[Site] = frozenset()
  """the operations that it is the output of, where it is used as data"""
  roots: frozenset[Node] = frozenset()
  """what indices and predicates are computed of, entry by entry"""
  data: "Value | None" = None
  """what it is as data, where indices are fixed"""


def merged(choices: Iterable[Choice]) -> Choice:
  """What chooses something that is made of several that are chosen."""
  found = Choice()
  for choice in choices:
    found = Choice(
      found.touched | choice.touched,
      found.look_ups | choice.look_ups,
      found.roots | choice.roots,
    )
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
  """Provenance of one array."""

  kind: Kind
  view: View | None = None
  """how it is made of parameters, if of parameters alone; also of data that
  are a parameter which data choose"""
  scalar: Any = None
  """a constant's value, where it is a single number"""
  array: Any = None
  """a constant that the function closes over"""
  input: int | None = None
  """which input it is, if it is taken for a constant"""
  made: Node | None = None
  """how it was computed, if it is no data and no view of one parameter"""
  node: Node | None = None
  """how it was made, for data"""
  touched: int = 0
  """parameters that have a say in it, but for kernels of the operations on the
  way: a bit for each `Touch`"""
  choice: Choice | None = None
  """of what can be read both as a kernel and as data"""

  @property
  def as_data(self) -> "Value":
    """The same, read as data where there is a choice."""
    if self.choice is None:
      return self
    plain = dataclasses.replace(self, view=None, choice=None)
    return self.choice.data or (plain if self.kind == "data" else self)

  @property
  def paths(self) -> tuple[str, ...]:
    """The parameters it descends from, if from parameters alone."""
    return () if self.view is None else self.view.paths

  def more_touched(self, touched: int) -> "Value":
    """The value, if these parameters have a say in it, too."""
    if not touched & ~self.touched:
      return self
    return dataclasses.replace(self, touched=self.touched | touched)

  @property
  def derived(self) -> bool:
    """Whether it is more than entries of one parameter times a number."""
    return self.view is not None and self.view.leaf_shape is None


CONSTANT = Value("constant")


def touched_by(values: Iterable[Value]) -> int:
  """Parameters that have a say in whatever is computed of the values."""
  found = 0
  for value in values:
    found |= value.touched
  return found


def roots_of(values: Iterable[Value]) -> frozenset[Node]:
  """What indices are computed of, entry by entry."""
  open_nodes = [value.node for value in values if value.node is not None]
  seen, found = set(open_nodes), set()
  while open_nodes:
    node = open_nodes.pop()
    if node.operation is None and node.label in ELEMENTWISE | LAYOUT | JOINS:
      fresh = set(node.below) - seen
      seen |= fresh
      open_nodes += fresh
    else:
      found.add(node)
  return frozenset(found)


def joined(
  values: Iterable[Value],
  step: str,
  touched: int | None = None,
  equation: Any = None,
  place: Place | None = None,
) -> Value:
  """A parameter, or a constant, computed of several values that are no data."""
  values = tuple(values)
  touched = touched_by(values) if touched is None else touched
  views = [value.view for value in values if value.view is not None]
  made = None
  if equation is not None:
    made = Node(0, step, equation, values, place=place)
  if views:
    view = computed(views, step)
    return Value("parameter", view, made=made, touched=touched)
  unmade = made is None and not touched
  return CONSTANT if unmade else Value("constant", made=made, touched=touched)


def same_kind(first: Value, second: Value) -> bool:
  """Whether two passes over a loop saw the same provenance."""
  return (first.kind, first.paths, first.derived) == (
    second.kind,
    second.paths,
    second.derived,
  )
