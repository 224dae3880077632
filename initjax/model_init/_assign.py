"""Decides, row by row, which use of a kernel determines its variance.

A kernel is a leaf, or a part of one that is sliced before use. Every use asks
for a variance. Where several uses share entries (tied weights, or a kernel that
is applied at every time step), one of them decides: the first or the last that
carries a signal, or the first that is not a look-up.
"""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from initjax.graph import LinearOp, Row, SignalGraph, Site, View
from initjax.model_init._tables import Beside, positions_of, read_out
from initjax.propagation import Fed, Signal, Walk

Key = tuple[str, str]
"""The path of a leaf and the part of it that is seen: "" is the whole."""
Repeat = tuple[int, ...]
Kept = Literal["forward", "backward", "balanced"]
Tied = Literal["first", "last", "readout"]

_ROUNDS, _UNDAMPED = 50, 3
_GROWN = 10.0
"""times that the gradient's second moment may grow along a chain of layers"""


class Kernel(NamedTuple):
  """The kernel of one operation."""

  view: View | None
  """None if it is more than a view of leaves"""
  keys: tuple[Key, ...]
  """what is drawn; empty for a constant"""

  def repeat(self, row: Row) -> Repeat:
    """Which of the stacked kernels a row uses."""
    scans = () if self.view is None else self.view.scans
    at = dict(zip(row.op.place.scans, row.repeat, strict=True))
    return tuple(at[scan] for scan in scans)


def kernels_of(
  graph: SignalGraph, sizes: Mapping[str, int]
) -> tuple[Kernel, ...]:
  """The kernel of each operation; `sizes` are those of the leaves."""
  views = [_exact_view(op) for op in graph.ops]
  parts = ["" if view is None else view.part for view in views]
  used: dict[str, set[str]] = {}
  for op, part in zip(graph.ops, parts, strict=True):
    for path in op.paths:
      used.setdefault(path, set()).add(part)
  found = []
  for op, view, part in zip(graph.ops, views, parts, strict=True):
    # What is a product of larger leaves, as a learned query, is a signal.
    others = () if op.view is None else op.view.mixed
    least = max([math.prod(op.kernel_shape), *(sizes[p] + 1 for p in others)])
    keys = [
      (path, "" if "" in used[path] else part)
      for path in op.paths
      if view is not None or sizes[path] >= least
    ]
    found.append(Kernel(view, tuple(keys)))
  return tuple(found)


def _exact_view(op: LinearOp) -> View | None:
  """The view, if it tells each entry and its factor.

  Of a kernel that data choose, all that it is chosen from.
  """
  view = op.view
  if view is None or view.computed or view.multiplier is None:
    return None
  view = view if view.exact else view.covering
  return view if view.exact and view.multiplier is not None else None


class Share(NamedTuple):
  """What one row asked for."""

  row: Row
  fed: Fed
  output: Signal
  wanted: float | None
  """variance of an entry of the leaf; None if the row is fed by zeros"""


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


class Assigned(NamedTuple):
  """What the rows of a graph asked for, and what each kernel is given."""

  graph: SignalGraph
  kernels: tuple[Kernel, ...]
  """of the operations"""
  shares: list[Share]
  """of the rows"""
  table: Table
  positions: Mapping[Site, Beside]
  """look-ups that are given the size of the tokens they are added to"""
  direction: Kept
  """what came out of the wish: "balanced" only where it is another rule"""
  growth: float = 1.0
  """of the gradient where signals would keep their size, if "balanced" """

  def given(self, row: Row) -> float | None:
    """In the end: a row may be run before it is decided."""
    kernel = self.kernels[row.number]
    own = kernel.repeat(row)
    return _mean([self.table[key].at(own) for key in kernel.keys])


def _mean(variances: Collection[float]) -> float | None:
  return sum(variances) / len(variances) if variances else None


def assign(
  graph: SignalGraph,
  kernels: tuple[Kernel, ...],
  sizes: Walk,
  *,
  direction: Kept,
  tied: Tied,
) -> Assigned:
  """What the rows get; "balanced" is "forward" where gradients stand it."""
  if tied == "readout" and not read_out(graph.ops):
    tied = "first"
  settle = functools.partial(_settled, graph, kernels, sizes, tied)
  if direction != "balanced":
    return settle(direction)
  forward = settle("forward")
  growth = max((share.output.chi for share in forward.shares), default=1.0)
  if growth <= _GROWN:
    return forward
  return settle("balanced")._replace(growth=growth)


def _settled(
  graph: SignalGraph,
  kernels: tuple[Kernel, ...],
  sizes: Walk,
  tied: Tied,
  direction: Kept,
) -> Assigned:
  """Runs all rows; again where a later use decides what an earlier one gets."""
  table: Table = {}
  positions = positions_of(graph) if tied == "readout" else {}
  rules = direction, tied, positions
  for count in range(_ROUNDS):
    turn = _Turn(graph, kernels, sizes, *rules, before=table)
    shares = [turn.run(row) for row in graph.rows]
    turn.fill()
    before, table = table, turn.table
    if tied == "first" or _same(before, table):
      break
    if count >= _UNDAMPED:  # a kernel that halves its own wish would alternate
      table = _between(before, table)
  return Assigned(graph, kernels, shares, table, positions, direction)


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
class _Turn:
  """All rows once, in the order of execution."""

  graph: SignalGraph
  kernels: tuple[Kernel, ...]
  sizes: Walk
  direction: Kept
  tied: Tied
  positions: Mapping[Site, Beside]
  before: Table
  """what an earlier turn ended with"""
  table: Table = dataclasses.field(default_factory=dict)

  def run(self, row: Row) -> Share:
    op, kernel = row.op, self.kernels[row.number]
    fed, own = self.sizes.fed(op, row.repeat), kernel.repeat(row)
    factor = op.multiplier**2
    wanted = _entry_variance(op, fed, self.direction)
    if op.place.site in self.positions:
      wanted = self._beside(self.positions[op.place.site]) / op.fan_in
    wanted = wanted / factor if wanted is not None and factor else None
    for key in kernel.keys:
      self._claim(key, row.number, own, wanted)
    known = self.table if self.tied == "first" else self.before or self.table
    given = _mean([known[key].at(own) for key in kernel.keys if key in known])
    followed = kernel.view is not None or op.origin == "parameter"
    variance = given * factor if given is not None and followed else None
    return Share(row, fed, self.sizes.put(op, fed, variance), wanted)

  def _beside(self, beside: Beside) -> float:
    """The second moment of the tokens that rows of positions are added to."""
    ops = self.graph.ops
    (number,) = (i for i, o in enumerate(ops) if o.place.site == beside.tokens)
    keys = [key for key in self.kernels[number].keys if key in self.before]
    given = _mean([self.before[key].at(()) for key in keys])
    if given is None:
      return 1.0
    token = ops[number]
    return given * token.fan_in * (token.multiplier * beside.ratio) ** 2

  def _yields(self, index: int) -> bool:
    """Whether a use asks for nothing where the kernel is multiplied as well."""
    return self.tied == "readout" and self.graph.ops[index].kind == "embedding"

  def _claim(
    self, key: Key, index: int, own: Repeat, wanted: float | None
  ) -> None:
    if wanted is None:
      return
    given = self.table.setdefault(key, Given(index))
    if self._yields(given.index) and not self._yields(index):
      given = self.table[key] = Given(index)
    elif self._yields(index) and not self._yields(given.index):
      return
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
    for row in self.graph.rows:
      index, op, kernel = row.number, row.op, self.kernels[row.number]
      unit = 1 / (op.fan_out if self.direction == "backward" else op.fan_in)
      for key in kernel.keys:
        given = self.table.setdefault(key, Given(index))
        if given.index == index:
          own = kernel.repeat(row)
          given.variances.setdefault(own, unit / op.multiplier**2)


def _entry_variance(op: LinearOp, fed: Fed, direction: Kept) -> float | None:
  """The variance of the operand's entries by the law of one layer."""
  if op.kind == "embedding":
    return 1 / op.fan_in
  if direction != "backward":
    kept, fan = fed.second_moment, op.fan_in
    if direction == "balanced" and math.isfinite(fed.derivative):
      kept = max(kept, fed.derivative)  # neither signal nor gradient grows
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
