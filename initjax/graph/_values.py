"""What the reader of a jaxpr knows of each value.

A value descends from parameters alone (then it may be a kernel, seen through a
view of its leaf), from constants alone, or from data. For data the expression
that made it is kept, so that the activation before a linear operation can be
read back.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from initjax.graph._geometry import Origins
from initjax.graph._graph import Place, Site

Kind = Literal["parameter", "constant", "data"]


class Made(NamedTuple):
  """How a value was made of others, where no data takes part."""

  operands: tuple["Value", ...]
  equation: Any = None
  """None for what one repeat of a scan sees of a stack"""
  output: int = 0
  """which of the equation's outputs"""
  scan: Site | None = None
  """of that scan"""


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


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
  """Provenance of one array."""

  kind: Kind
  paths: tuple[str, ...] = ()
  """the parameters it descends from, if from parameters alone"""
  view: tuple[str, ...] = ()
  """linear steps from the leaf, such as "transpose" or "slice" """
  derived: bool = False
  """whether a nonlinear step, or a mixture of leaves, made it"""
  multiplier: float = 1.0
  """constant factor between the leaf and this"""
  leaf_shape: tuple[int, ...] | None = None
  """of the parameter, if it is one"""
  origins: Origins = None
  """which axes of the leaf the axes of this hold"""
  scalar: Any = None
  """a constant's value, where it is a single number"""
  node: Node | None = None
  """how it was made, for data"""
  made: Made | None = None
  """how it was made, for a parameter that is no leaf"""


CONSTANT = Value("constant")


def size_of(scalar: Any) -> float:
  """A number as a factor of sizes: a complex one by its modulus.

  >>> size_of(-2.0), size_of(3 + 4j)
  (-2.0, 5.0)
  """
  return float(abs(scalar) if np.iscomplexobj(scalar) else scalar)


def data(node: Node) -> Value:
  """A value that depends on the inputs."""
  return Value("data", node=node)


def joined(values: Iterable[Value], step: str) -> Value:
  """A parameter made of several values, none of them data."""
  values = tuple(values)
  paths = tuple(dict.fromkeys(path for value in values for path in value.paths))
  if not paths:
    return CONSTANT
  views = [value.view for value in values if value.paths]
  return Value("parameter", paths, (*views[0], step), derived=True)


def same_kind(first: Value, second: Value) -> bool:
  """Whether two passes over a loop saw the same provenance."""
  return (first.kind, first.paths, first.derived) == (
    second.kind,
    second.paths,
    second.derived,
  )
