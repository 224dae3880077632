"""A kernel as a view of parameters: which of their entries it holds.

A `View` says how an array is made from leaves by moving and selecting entries:
casts, transposes, slices, concatenations, the slices that a scan takes.
Constant multiples are left out, because they do not matter to where a factor
goes. Built from arrays, its transpose carries a factor back to the leaves;
built from NumPy arrays that are never read, it tells which memory it touches,
so whether two kernels overlap.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from initjax.graph._graph import Site
from initjax.graph._primitives import INDEXED, JOINS, SCALES, STAYS
from initjax.model_init._view_steps import STEPS, Step, dynamic_slice

Leaves = Mapping[int, Any]
"""Arrays by the position of their leaf."""
Region = tuple[int, np.ndarray]
"""Entries of a leaf, as a view of memory."""

_MAX_WORK: Any = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class View:
  """An array [*lengths of the scans that slice it, *its own axes]."""

  build: Callable[[Leaves], Any]
  """from the leaves, in any dtype"""
  regions: tuple[Region, ...]
  """entries that it may hold"""
  sliced: tuple[Site, ...] = ()
  """scans that slice it, outermost first: the leading axes"""
  moved: bool = False
  """whether the region's axes are no longer those of the array"""
  distinct: bool = True
  """whether no entry is held twice"""
  closed: bool = False
  """whether its axes are lost: it may be any part of what `build` gives"""

  @property
  def leaves(self) -> frozenset[int]:
    """The leaves it is made of."""
    return frozenset(leaf for leaf, _ in self.regions)

  def with_axes_lost(self) -> "View":
    """The view where a part is taken that cannot be told beforehand."""
    return dataclasses.replace(self, closed=True)

  def slice_of(self, scan: Site) -> "View":
    """What one repeat of a scan sees of it."""
    if self.closed or not self.distinct:
      return self.with_axes_lost()
    return dataclasses.replace(self, sliced=(*self.sliced, scan))


def leaf_view(leaf: int, shape: Sequence[int]) -> View:
  """A leaf seen as it is.

  The NumPy array is never read or written, so it takes no memory.
  """
  region = np.empty(tuple(shape), np.int8)
  return View(lambda leaves: leaves[leaf], ((leaf, region),))


def follow(
  equation: Any, views: Sequence[View | None], numbers: Sequence[Any]
) -> list[View] | None:
  """Views of an equation's outputs; None where it does more than move entries.

  Args:
    equation: of a jaxpr.
    views: of its operands; None for a constant.
    numbers: of its operands, where they are literals.
  """
  name = equation.primitive.name
  if name in JOINS:
    return _joined(equation, views)
  view = views[1] if name == "mul" and views[0] is None else views[0]
  if view is None or sum(one is not None for one in views) > 1:
    return None
  outputs = [variable.aval for variable in equation.outvars]
  if name in STAYS | SCALES:
    same = _is_same(outputs[0], equation.invars[views.index(view)].aval)
    return [view] if same else None
  if name in STEPS or name in INDEXED:
    if view.closed:
      return [view] * len(outputs)
    step = _step(equation, numbers[1:], outputs)
    if step is None:
      return [view.with_axes_lost()]
    if outputs[0].size > equation.invars[0].aval.size:  # broadcast
      view = dataclasses.replace(view, distinct=False)
    return [_moved(view, step, output) for output in range(len(outputs))]
  return None


def _is_same(output: Any, given: Any) -> bool:
  """Whether entries stay where they are, in floating point."""
  floating = jnp.issubdtype(output.dtype, jnp.inexact)
  return floating and output.shape == given.shape


def _step(
  equation: Any, starts: Sequence[Any], outputs: Sequence[Any]
) -> Step | None:
  """What the equation does to any array; None if that is not known."""
  name, params = equation.primitive.name, equation.params
  if name in STEPS:
    return STEPS[name](params, outputs)
  if name == "gather" or any(start is None for start in starts):
    return None
  return dynamic_slice(params, starts, equation.invars[0].aval.shape)


def _moved(view: View, step: Step, output: int) -> View:
  lead, before = len(view.sliced), view.build
  build = lambda leaves: step(before(leaves), lead, output)
  if view.moved:
    return dataclasses.replace(view, build=build)
  ((leaf, region),) = view.regions
  try:
    after = step(region, lead, output)
  except (TypeError, ValueError):  # it would have to be copied
    return dataclasses.replace(view, build=build, moved=True)
  return dataclasses.replace(view, build=build, regions=((leaf, after),))


def _joined(equation: Any, views: Sequence[View | None]) -> list[View] | None:
  """Several parameters side by side."""
  known = [view for view in views if view is not None]
  if len(known) < len(views) or len({view.sliced for view in known}) != 1:
    return None
  regions = tuple(region for view in known for region in view.regions)
  distinct = all(view.distinct for view in known) and not any(
    overlap([one], regions[:place]) for place, one in enumerate(regions)
  )
  lost = any(view.closed for view in known)
  build = _side_by_side(known) if lost else _concatenated(equation, known)
  return [View(build, regions, known[0].sliced, True, distinct, lost)]


def _concatenated(
  equation: Any, views: Sequence[View]
) -> Callable[[Leaves], Any]:
  stacks = equation.primitive.name == "stack"
  axis = equation.params["axis" if stacks else "dimension"]
  place = len(views[0].sliced) + axis % len(equation.outvars[0].aval.shape)
  join = jnp.stack if stacks else jnp.concatenate
  return lambda leaves: join([view.build(leaves) for view in views], axis=place)


def _side_by_side(views: Sequence[View]) -> Callable[[Leaves], Any]:
  """All entries, in no order."""
  lead = len(views[0].sliced)

  def build(leaves: Leaves) -> Any:
    parts = [view.build(leaves) for view in views]
    flat = [part.reshape((*part.shape[:lead], -1)) for part in parts]
    return jnp.concatenate(flat, axis=-1)

  return build


def overlap(first: Sequence[Region], second: Sequence[Region]) -> bool:
  """Whether two kernels may hold one entry in common."""
  return any(
    leaf == other and _shares(one, another)
    for leaf, one in first
    for other, another in second
  )


def _shares(one: np.ndarray, other: np.ndarray) -> bool:
  try:
    return np.shares_memory(one, other, max_work=_MAX_WORK)
  except np.exceptions.TooHardError:
    return True
