"""Kernels that overlap share one factor; all others have one of their own.

If the kernel is sliced by scans, its factor has their lengths as axes. In other
scans, the factor and what is known of it are carried from repeat to repeat.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from initjax._statistics import wide_dtype
from initjax.graph import (
  FORWARD,
  LinearOp,
  Site,
  Trace,
  View,
  memory_of,
  overlap,
)
from initjax.typing import DType


def calibrated_views(traced: Trace, paths: Sequence[str]) -> dict[Site, View]:
  """Of kernels that are views of floating-point parameters.

  Args:
    traced: the model; operations that the pass does not reach are left out.
    paths: of its parameters, in order.
  """
  leaves = zip(paths, traced.jaxpr.in_avals, strict=False)
  floats = {p for p, aval in leaves if jnp.issubdtype(aval.dtype, jnp.inexact)}
  return {
    op.place.site: op.view.covering
    for op in traced.graph.ops
    if op.view is not None
    and not op.view.computed
    and floats.issuperset(op.paths)
    and op.place.whole <= FORWARD
  }


@dataclasses.dataclass(frozen=True)
class Group:
  """Operations whose kernels have one factor."""

  sites: tuple[Site, ...]
  slicers: frozenset[Site]
  """scans that slice it; others carry it"""
  shape: tuple[int, ...]
  """of its factors: a factor for each repeat of the slicers"""
  dtype: DType
  shared: bool
  """whether one factor serves several uses"""


def groups_of(
  ops: Mapping[Site, LinearOp],
  views: Mapping[Site, View],
  entangled: frozenset[str],
) -> tuple[Group, ...]:
  """The groups of all operations that can be calibrated.

  Args:
    ops: all operations.
    views: of their kernels.
    entangled: parameters that are used in another way, too: rescaling them
      would change signals behind the back of the pass.
  """
  sets: list[list[Site]] = []
  for site, view in views.items():
    near = [
      group for group in sets if any(overlap(views[s], view) for s in group)
    ]
    sets = [group for group in sets if group not in near]
    sets.append(sorted([*(s for group in near for s in group), site]))
  return tuple(
    _group(ops, views, group)
    for group in sorted(sets)
    if entangled.isdisjoint(path for s in group for path in views[s].paths)
  )


def _group(
  ops: Mapping[Site, LinearOp], views: Mapping[Site, View], sites: list[Site]
) -> Group:
  slicers = frozenset(scan.site for s in sites for scan in views[s].scans)
  if len(sites) > 1 and not _alike(ops, views, sites, slicers):
    slicers = frozenset()
  around = {scan for site in sites for scan in ops[site].place.scans}
  carried = any(s.length > 1 for s in around if s.site not in slicers)
  return Group(
    tuple(sites),
    slicers,
    tuple(s.length for s in views[sites[0]].scans if s.site in slicers),
    jnp.result_type(*(wide_dtype(ops[site].dtype) for site in sites)),
    carried or len(sites) > 1,
  )


def _alike(
  ops: Mapping[Site, LinearOp],
  views: Mapping[Site, View],
  sites: list[Site],
  slicers: frozenset[Site],
) -> bool:
  """Whether repeats of all scans see the same slices of one parameter."""
  memory = memory_of(views[site] for site in sites)

  def signature(view: View) -> object:
    try:
      region = np.asarray(view.apply(memory))
    except ValueError:  # no view of memory
      return None
    lead = len(view.scans)
    start = region.__array_interface__["data"][0]
    return start, region.shape[:lead], region.strides[:lead]

  consistent = all(
    {scan.site for scan in ops[site].place.scans} & slicers
    == {scan.site for scan in views[site].scans}
    for site in sites
  )
  first, *rest = (signature(views[site]) for site in sites)
  return bool(first) and all(one == first for one in rest) and consistent
