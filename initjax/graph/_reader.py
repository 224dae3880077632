"""What the reader of a jaxpr has noted so far."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from initjax.graph._contractions import Met
from initjax.graph._graph import LinearOp
from initjax.graph._nonzeros import has_zeros
from initjax.graph._place import Site
from initjax.graph._streams import Streams
from initjax.graph._values import (
  Node,
  Touch,
  Value,
  touched_by,
)
from initjax.graph._view import leaf


@dataclasses.dataclass
class Reader:
  """What has been noted so far."""

  is_zero: Callable[[str], bool] = lambda path: False
  """whether all entries of a parameter are known to be 0"""
  dead: frozenset[Site] = frozenset()
  """of equations that no output depends on, which are not read"""
  tables: Mapping[str, frozenset[int]] = dataclasses.field(default_factory=dict)
  """parameters that are copied first, as data, and their axes of features"""
  mixed: dict[Site, Value] = dataclasses.field(default_factory=dict)
  """kernels of operations that are products of parameters"""
  sites: dict[Site, LinearOp] = dataclasses.field(default_factory=dict)
  elementwise: dict[str, None] = dataclasses.field(default_factory=dict)
  opaque: dict[str, None] = dataclasses.field(default_factory=dict)
  bits: dict[Touch | str, int] = dataclasses.field(default_factory=dict)
  """also of axes of a mesh over whose devices a value differs, by name"""
  touched: int = 0
  """parameters that reach an operation otherwise than as its kernel"""
  look_ups: dict[Site, LinearOp] = dataclasses.field(default_factory=dict)
  """what data choose: operations, if the result is used as data"""
  roots: dict[Site, frozenset[Node]] = dataclasses.field(default_factory=dict)
  """of operations whose kernel is chosen, what chooses it"""
  rows: dict[Site, frozenset[Node]] = dataclasses.field(default_factory=dict)
  """of look-ups, what chooses their rows"""
  mesh: dict[str, int] = dataclasses.field(default_factory=dict)
  """sizes of the axes of the shard_maps that are being read"""
  summable: dict[Site, int] = dataclasses.field(default_factory=dict)
  """bits of the axes along which devices have other terms of an operation"""
  statistics: int = 0
  """inputs that are taken for constants: their bits"""
  contracted: int = 0
  """bits of those that were summed with parameters, as a power iteration does,
  in what came out"""
  in_kernels: int = 0
  """bits of those that reached an operation as a part of its kernel"""
  streams: Streams = dataclasses.field(default_factory=Streams)
  samples: dict[Node, frozenset[int]] = dataclasses.field(default_factory=dict)
  """axes along which a node differs, and not for its parameters alone"""
  met: Met = dataclasses.field(default_factory=Met)
  nodes: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def data(
    self,
    label: str,
    touched: int | None = None,
    *,
    kept: bool = False,
    **fields: Any,
  ) -> Value:
    """A value that depends on the inputs; touched by its operands.

    These are used as data, unless the choice is `kept` what else they are.
    """
    zeros = has_zeros(label, fields.get("operands", ()))
    node = Node(next(self.nodes), label, has_zeros=zeros, **fields)
    for value in () if kept else node.operands:
      self.use_as_data(value)
    touched = touched_by(node.operands) if touched is None else touched
    return Value("data", node=node, touched=touched)

  def use_as_data(self, value: Value) -> None:
    """Notes what is no kernel, where there was a choice: look-ups, or terms."""
    if value.choice is None or value.kind != "data":
      return
    looked_up = {site: self.look_ups[site] for site in value.choice.look_ups}
    self.sites.update(looked_up)
    listed = {path for op in looked_up.values() for path in op.paths}
    others = (path for path in value.paths if path not in listed)
    self.elementwise.update(dict.fromkeys(others))

  def forget_kernels_looked_up(self) -> None:
    """Rows that are a kernel as well are no look-up: the kernel decides."""
    found = {(self.sites[at].path, roots) for at, roots in self.roots.items()}
    for site, roots in self.rows.items():
      if site in self.sites and (self.sites[site].path, roots) in found:
        del self.sites[site]

  def touch(self, *touch: Any) -> int:
    """The bit of a `Touch`."""
    return self.bits.setdefault(Touch(*touch), 1 << len(self.bits))

  def devices(self, axes: Iterable[str]) -> int:
    """The bits of axes of a mesh; none for those that have one device."""
    found = 0
    for axis in axes:
      if self.mesh.get(axis, 1) > 1:
        found |= self.bits.setdefault(axis, 1 << len(self.bits))
    return found

  def parameter(self, path: str, shape: tuple[int, ...]) -> Value:
    """A leaf."""
    return Value("parameter", leaf(path, shape), touched=self.touch(path))

  def statistic(self, number: int) -> Value:
    """An input that is taken for a constant."""
    bit = self.touch("", None, number)
    self.statistics |= bit
    return Value("constant", input=number, touched=bit)

  def contract(self, touched: int) -> int:
    """Bits for what is summed, if statistics have a say in it."""
    found = 0
    for touch, bit in [*self.bits.items()]:
      is_input = isinstance(touch, Touch) and touch[:2] == ("", None)
      if is_input and bit & touched & self.statistics:
        found |= self.touch("", (), touch[2])
    self.contracted |= found
    return found

  def inputs_of(self, bits: int) -> set[int]:
    """Numbers of the inputs whose bits are among these."""
    return {
      touch.operand
      for touch, bit in self.bits.items()
      if isinstance(touch, Touch) and not touch.path and bit & bits
    }

  @property
  def entangled(self) -> frozenset[str]:
    """Paths of those, without products that turned out to be operations."""
    ops = self.sites
    return frozenset(
      touch.path
      for touch, bit in self.bits.items()
      if isinstance(touch, Touch)
      and touch.path
      and bit & self.touched
      and (
        touch.product not in ops
        or ops[touch.product].axes.kernel != touch.operand
      )
    )
