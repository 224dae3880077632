"""Which use of a kernel decides its variance, row by row.

A kernel is a leaf, or a part of one that is sliced before it is used. Every use
asks for a variance; where several uses share entries (tied weights, a kernel
that is applied at every time step) one of them decides: the first or the last
that carries a signal.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from initjax.graph import LinearOp, SignalGraph, View
from initjax.propagation import Fed, Signal, Walk
from initjax.typing import Direction

Key = tuple[str, str]
"""The path of a leaf and the part of it that is seen: "" is the whole."""
Repeat = tuple[int, ...]
Tied = Literal["first", "last"]

_ROUNDS, _UNDAMPED = 50, 3


class Kernel(NamedTuple):
  """The kernel of one operation."""

  view: View | None
  """None if it is more than a view of leaves"""
  keys: tuple[Key, ...]
  """what is drawn; empty for a constant"""

  def repeat(self, op: LinearOp, repeat: Repeat) -> Repeat:
    """Which of the stacked kernels one repeat uses."""
    scans = () if self.view is None else self.view.scans
    at = dict(zip(op.place.scans, repeat, strict=True))
    return tuple(at[scan] for scan in scans)


def kernels_of(
  graph: SignalGraph, sizes: Mapping[str, int]
) -> tuple[Kernel, ...]:
  """The kernel of each operation; `sizes` are those of the leaves."""
  used = [(op, _entries(op)) for op in graph.ops]
  parts: dict[str, set[str]] = {}
  for op, view in used:
    for path in op.paths:
      parts.setdefault(path, set()).add("" if view is None else view.part)
  found = []
  for op, view in used:
    part = "" if view is None else view.part
    keys = [
      (path, "" if "" in parts[path] else part)
      for path in op.paths
      if view is not None or sizes[path] >= _size(op)
    ]
    found.append(Kernel(view, tuple(keys)))
  return tuple(found)


def _entries(op: LinearOp) -> View | None:
  """The view, if it tells each entry and its factor."""
  view = op.view
  known = view is not None and view.exact and view.multiplier is not None
  return view if known else None


def _size(op: LinearOp) -> int:
  return math.prod(op.kernel_shape)


class Share(NamedTuple):
  """What one row asked for, and what it was given."""

  op: int
  """of the operation in the graph"""
  repeat: Repeat
  fed: Fed
  output: Signal
  wanted: float | None
  """variance of an entry of the leaf; None if the row is fed by zeros"""
  given: float | None
  """None if the kernel cannot be set"""


@dataclasses.dataclass
class Given:
  """The variance of one kernel, in each of the repeats that has its own."""

  index: int
  """of the operation that decides"""
  variances: dict[Repeat, float] = dataclasses.field(default_factory=dict)

  def at(self, repeat: Repeat) -> float:
    """Of one repeat; the mean where repeats are counted otherwise."""
    if repeat in self.variances:
      return self.variances[repeat]
    return sum(self.variances.values()) / len(self.variances)


Table = dict[Key, Given]


def assign(
  graph: SignalGraph,
  kernels: tuple[Kernel, ...],
  sizes: Walk,
  *,
  direction: Direction,
  tied: Tied,
) -> tuple[list[Share], Table]:
  """Runs all rows; again where a later use decides what an earlier one gets."""
  table: Table = {}
  for turn in range(_ROUNDS):
    walk = _Walk(graph, kernels, sizes, direction, tied, before=table)
    shares = [walk.run(row.number, row.repeat) for row in graph.rows]
    walk.fill()
    before, table = table, walk.table
    if tied == "first" or _same(before, table):
      break
    if turn >= _UNDAMPED:  # a kernel that halves its own wish would alternate
      table = _between(before, table)
  return shares, table


def _between(first: Table, second: Table) -> Table:
  """Geometric means."""

  def mean(key: Key, given: Given) -> Given:
    pairs = given.variances.items()
    old = first[key].variances
    return Given(
      given.index, {at: (v * old.get(at, v)) ** 0.5 for at, v in pairs}
    )

  return {key: mean(key, given) for key, given in second.items()}


def _same(first: Table, second: Table) -> bool:
  if first.keys() != second.keys():
    return False
  pairs = (
    (first[key].variances.get(repeat, 0.0), variance)
    for key, given in second.items()
    for repeat, variance in given.variances.items()
  )
  return all(abs(old - new) <= 1e-9 * abs(new) for old, new in pairs)


@dataclasses.dataclass
class _Walk:
  graph: SignalGraph
  kernels: tuple[Kernel, ...]
  sizes: Walk
  direction: Direction
  tied: Tied
  before: Table
  """what an earlier walk ended with"""
  table: Table = dataclasses.field(default_factory=dict)

  def run(self, index: int, repeat: Repeat) -> Share:
    op, kernel = self.graph.ops[index], self.kernels[index]
    fed = self.sizes.fed(op, repeat)
    own = kernel.repeat(op, repeat)
    factor = op.multiplier**2
    wanted = _entry_variance(op, fed, self.direction)
    wanted = wanted / factor if wanted is not None and factor else None
    for key in kernel.keys:
      self._claim(key, index, own, wanted)
    known = self.table if self.tied == "first" else self.before or self.table
    found = [known[key].at(own) for key in kernel.keys if key in known]
    given = sum(found) / len(found) if found else None
    followed = kernel.view is not None
    variance = given * factor if given is not None and followed else None
    output = self.sizes.put(op, fed, variance)
    return Share(index, repeat, fed, output, wanted, given)

  def _claim(
    self, key: Key, index: int, own: Repeat, wanted: float | None
  ) -> None:
    if wanted is None:
      return
    given = self.table.setdefault(key, Given(index))
    ours, others = self.kernels[index].view, self.kernels[given.index].view
    alike = (ours and ours.scans) == (others and others.scans)
    if self.tied == "last":
      if not alike:
        given.variances.clear()
      given.index = index
      given.variances[own] = wanted
    elif alike:
      given.variances.setdefault(own, wanted)

  def fill(self) -> None:
    """Kernels that no live row uses: as if fed by unit second moment."""
    for index, op, repeat in self.graph.rows:
      kernel = self.kernels[index]
      unit = 1 / (op.fan_in if self.direction == "forward" else op.fan_out)
      for key in kernel.keys:
        given = self.table.setdefault(key, Given(index))
        if given.index == index:
          own = kernel.repeat(op, repeat)
          given.variances.setdefault(own, unit / op.multiplier**2)


def _entry_variance(
  op: LinearOp, fed: Fed, direction: Direction
) -> float | None:
  """The variance of the operand's entries by the law of one layer."""
  if op.kind == "embedding":
    return 1.0
  if direction == "forward":
    kept, fan = fed.second_moment, op.fan_in
  else:
    kept, fan = fed.derivative, op.fan_out
    if math.isnan(kept):
      kept = 1.0
    if math.isinf(kept):
      raise ValueError(
        f"what feeds {op.path} jumps, or is as steep as √|x| at 0: φ' holds a "
        "delta or a pole, and no variance keeps the gradient; use "
        "direction='forward'."
      )
  return 1 / (fan * kept) if kept * fan > 0 and fed.second_moment > 0 else None
