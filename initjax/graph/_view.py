"""How an array is made from parameters: moved, sliced by scans, scaled.

A `View` is a tree of plain data: two views are equal if their arrays are made
alike, and a view does not hold the program it was read from. It says which axes
of a leaf the array holds, which scans slice it and what multiplies it; applied
to leaves it gives the array, and its transpose maps a factor back to them.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from initjax.graph._compat import Equation
from initjax.graph._moves import (
  Array,
  Held,
  Index,
  Move,
  Reshape,
  Shape,
  part_axes,
)
from initjax.graph._primitives import CHOSEN, PARTS, STAYS

if TYPE_CHECKING:
  from initjax.graph._place import Scan
  from initjax.graph._splits import Split

Region = tuple[str, np.ndarray]
"""Entries of a leaf, as a view of memory that is never read."""
_MAX_WORK: Any = 10_000


@dataclasses.dataclass(frozen=True)
class View:
  """An array [*lengths of the scans that slice it, *its own axes]."""

  shape: Shape
  """of its own axes; () of what is computed"""
  paths: tuple[str, ...] = ()
  """of the leaves"""
  name: str = ""
  """of the last step: a primitive, or "scan" where a scan slices it; "" for a
  leaf"""
  below: tuple["View", ...] = ()
  """what that step takes; nothing for a leaf and for what is computed"""
  move: Move | int | None = None
  """what it does with entries; for several, the axis along which they are
  joined; None if they stay, or if that is not known"""
  scans: "tuple[Scan, ...]" = ()
  """that slice it, outermost first"""
  axes: Held | None = None
  """for each axis the axes of the leaf that it holds; None if lost"""
  leaf_shape: Shape | None = None
  """of the leaf, or each to choose from; None if joined or scaled apart"""
  multiplier: float | None = 1.0
  """constant factor between leaves and array; None if entries differ"""
  alive: float = 1
  """share of its entries that no constant mask sets to 0"""
  exact: bool = True
  """whether it is known which entries it holds"""
  computed: bool = False
  """whether it is more than entries moved and scaled"""
  mixed: tuple[str, ...] = ()
  """those of `paths` that come in through products with other leaves alone"""
  splits: "tuple[Split, ...]" = ()
  """between devices, in the order in which they were done"""

  @property
  def size(self) -> int:
    """Entries in all repeats."""
    return math.prod((*self.shape, *(scan.length for scan in self.scans)))

  @property
  def steps(self) -> tuple[str, ...]:
    """From the (first) leaf, such as "transpose" or "scan[6]"."""
    label = f"scan[{self.below[0].shape[0]}]" if self.name == "scan" else ""
    own = (label or self.name,) if self.name else ()
    return (*self.below[0].steps, *own) if self.below else own

  @property
  def part(self) -> str:
    """How entries are chosen, as text; "" if none is left out."""
    if self.name in PARTS:
      return self._moves
    return "|".join(filter(None, (view.part for view in self.below)))

  @property
  def _moves(self) -> str:
    before = "|".join(view._moves for view in self.below)
    return before if self.move is None else f"{before} {self.move}".strip()

  @property
  def stacked(self) -> bool:
    """Whether it is the leaf, or an entry along its leading axes: scans'."""
    kept = self.name == "scan" or self.name in STAYS
    return not self.below or (kept and self.below[0].stacked)

  def apply(self, leaves: Mapping[str, Array], fill: int = 0) -> Array:
    """The array [*repeats of scans, *own axes], but for constant factors.

    Args:
      leaves: by path, of any dtype; of NumPy arrays the result is a view.
      fill: what stands for zeros that are joined to parameters.

    Raises:
      ValueError: if it is not exact, or NumPy arrays would have to be copied.
    """
    if not self.exact:
      raise ValueError(f"which part of {self.paths} it is cannot be told")
    if not self.below:
      return leaves[self.paths[0]]
    parts = [view.apply(leaves, fill) for view in self.below if view.paths]
    if self.move is None:
      return parts[0]
    lead, first = len(self.scans), parts[0]
    if not isinstance(self.move, int):
      return self.move(first, lead)
    if isinstance(first, np.ndarray):
      raise ValueError("arrays side by side are no view of memory")
    given, repeats = iter(parts), first.shape[:lead]
    zeros = lambda shape: jnp.full((*repeats, *shape), fill, first.dtype)
    every = [next(given) if v.paths else zeros(v.shape) for v in self.below]
    return jnp.concatenate(every, axis=lead + self.move)

  @property
  def leaves(self) -> dict[str, Shape]:
    """Shapes of the leaves, by path."""
    if not self.below:
      return dict.fromkeys(self.paths, self.shape)
    return {p: s for view in self.below for p, s in view.leaves.items()}

  def regions(self, memory: Mapping[str, np.ndarray]) -> list[Region]:
    """The entries that it may hold, where `memory` stands for the leaves."""
    if not self.paths:
      return []
    try:
      return [(self.paths[0], np.asarray(self.apply(memory)))]
    except ValueError:  # as much as can be viewed
      return [region for view in self.below for region in view.regions(memory)]

  @property
  def distinct(self) -> bool:
    """Whether no entry is held twice."""
    pairs = itertools.combinations(self.below, 2)
    size = sum(math.prod(view.shape) for view in self.below or (self,))
    return (
      math.prod(self.shape) <= size
      and all(view.distinct for view in self.below)
      and not any(overlap(*pair) for pair in pairs)
    )

  @property
  def choices(self) -> int:
    """Among how many arrays it is chosen; 1 if it is known which it is."""
    if self.name not in CHOSEN or self.exact or self.computed:
      return math.prod(view.choices for view in self.below[:1])
    own = zip(self.shape, self.axes or self.shape, strict=True)
    size = math.prod(size for size, held in own if held != ())
    return max(1, math.prod(self.covering.shape) // max(1, size))

  @property
  def covering(self) -> "View":
    """The smallest exact view that this is a part of: itself if it is exact.

    A slice of what repeats entries counts as a part, so that each scan that
    slices the covering view sees entries of its own.
    """
    given = [view for view in self.below if view.paths]
    below = [view.covering for view in given]
    repeated = self.name == "scan" and not below[0].distinct
    if self.exact and below == given and not repeated:
      return self
    if not self.exact:
      below = list(dict.fromkeys(map(_once, below)))
    return below[0] if len(below) == 1 else _flat(below)


def leaf(path: str, shape: Shape) -> View:
  """A parameter as it is."""
  axes = tuple((axis,) for axis in range(len(shape)))
  return View(shape, (path,), axes=axes, leaf_shape=shape)


def sliced(view: View, scan: "Scan") -> View:
  """What one repeat of a scan sees of it."""
  scans, axes = (*view.scans, scan), view.axes and view.axes[1:]
  after = stepped(view, "scan", view.shape[1:], scans=scans, axes=axes)
  own = dataclasses.replace(view, scans=scans, axes=axes)
  return own if view.computed else after


def part(view: View, name: str, shape: Shape, axes: Held | None) -> View:
  """A part that cannot be told beforehand."""
  return stepped(view, name, shape, axes=axes, exact=False)


def indexed(equation: Equation, view: View, *, fixed: bool) -> View:
  """A part at indices that are no numbers; `fixed` if they are constants."""
  name, output = equation.primitive.name, equation.outvars[0].aval
  if view.computed:
    return computed([view], name)
  axes = view.axes and part_axes(equation, view.axes, fixed=fixed)
  return part(view, name, tuple(output.shape), axes)


def chosen(views: Sequence[View], name: str) -> View:
  """One of several arrays of a shape; which one, cannot be told beforehand."""
  first, *rest = views
  if all(view == first for view in rest):
    return first
  alike = {(view.axes, view.leaf_shape) for view in views}
  if any(view.computed or view.scans != first.scans for view in views):
    return computed(views, name)
  axes, shape = alike.pop() if len(alike) == 1 else (None, None)
  view = beside(views, name, first.shape, None)
  return dataclasses.replace(view, axes=axes, leaf_shape=shape, exact=False)


def computed(views: Sequence[View], name: str) -> View:
  """What is more than entries of parameters, moved and scaled."""
  first, paths = views[0], _paths(views)
  if name == "product" and len({view.paths for view in views}) > 1:
    mixed = paths
  else:
    direct = {p for view in views for p in view.paths if p not in view.mixed}
    mixed = tuple(path for path in paths if path not in direct)
  return View(
    (),
    paths,
    name,
    first.below if first.computed else (first,),
    scans=first.scans,
    multiplier=None,
    exact=False,
    computed=True,
    mixed=mixed,
  )


def stepped(view: View, name: str, shape: Shape, **changes: Any) -> View:
  """The view after one more step."""
  return dataclasses.replace(
    view, name=name, shape=shape, below=(view,), **{"move": None, **changes}
  )


def beside(
  below: Sequence[View], name: str, shape: Shape, axis: int | None
) -> View:
  """Several arrays along an axis; None if one of them is chosen."""
  known = [view for view in below if view.paths]
  multipliers = {view.multiplier for view in known}
  return View(
    shape,
    _paths(known),
    name,
    tuple(below),
    axis,
    known[0].scans,
    multiplier=multipliers.pop() if len(multipliers) == 1 else None,
    alive=sum(view.alive for view in known) / len(known),
    exact=all(view.exact for view in known),
  )


def _paths(views: Sequence[View]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(path for view in views for path in view.paths))


def _once(view: View) -> View:
  """The same entries, where an array repeats them along axes of its own."""
  if view.distinct or view.axes is None:
    return view
  every = list(zip(view.shape, view.axes, strict=True))
  move = Index(tuple((0, size, 1) if held else 0 for size, held in every))
  shape = tuple(size for size, held in every if held)
  return stepped(view, "", shape, move=move, axes=move.axes(view.axes))


def _flat(views: Sequence[View]) -> View:
  """All entries of several views, in no order."""
  alike = len({view.scans for view in views}) == 1
  scans = views[0].scans if alike else ()
  flat = []
  for view in views:
    size = (math.prod(view.shape) if alike else view.size,)
    move = Reshape(view.shape, size)
    flat.append(stepped(view, "", size, move=move, scans=scans, axes=None))
  total = (sum(view.shape[0] for view in flat),)
  return beside(flat, "concatenate", total, 0)


# Which entries are held in common


def memory_of(views: Iterable[View]) -> dict[str, np.ndarray]:
  """What stands for the leaves: never read or written, so it takes no space."""
  leaves = {p: s for view in views for p, s in view.leaves.items()}
  return {path: np.empty(shape, np.int8) for path, shape in leaves.items()}


def overlap(first: View, second: View) -> bool:
  """Whether they may hold one entry in common."""
  if set(first.paths).isdisjoint(second.paths):
    return False
  memory = memory_of((first, second))
  pairs = itertools.product(first.regions(memory), second.regions(memory))
  return any(path == other and _shares(a, b) for (path, a), (other, b) in pairs)


def _shares(one: np.ndarray, other: np.ndarray) -> bool:
  try:
    return np.shares_memory(one, other, max_work=_MAX_WORK)
  except np.exceptions.TooHardError:
    return True
