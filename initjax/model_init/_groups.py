"""Kernels that overlap share one factor; all others have one of their own.

Where the kernel is sliced by scans, the factor has their lengths as axes; in
other scans it is carried from one repeat to the next, with what is known of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


class Kernels(NamedTuple):
  """What can be calibrated."""

  views: dict[Site, View]
  """of operations whose kernel is a view of floating-point parameters"""
  entangled: frozenset[str]
  """parameters that are used in another way, too: rescaling them would change
  signals behind the back of the pass"""


def kernels_of(traced: Trace, paths: Sequence[str]) -> Kernels:
  """The kernels of all operations that the pass reaches.

  Args:
    traced: the model.
    paths: of its parameters, in order.
  """
  leaves = zip(paths, traced.jaxpr.in_avals, strict=False)
  floats = {p for p, aval in leaves if jnp.issubdtype(aval.dtype, jnp.inexact)}
  views = {
    op.place.site: op.view.covering
    for op in traced.graph.ops
    if op.view is not None
    and not op.view.computed
    and floats.issuperset(op.paths)
    and op.place.whole <= FORWARD
  }
  return Kernels(views, traced.entangled)


@dataclasses.dataclass(frozen=True)
class Group:
  """Operations whose kernels have one factor."""

  sites: tuple[Site, ...]
  slicers: frozenset[Site]
  """scans that slice it; others carry it"""
  shape: tuple[int, ...]
  """of its factors: a factor for each repeat of the slicers"""
  dtype: Any
  shared: bool
  """whether one factor serves several uses"""


def groups_of(
  ops: Mapping[Site, LinearOp], kernels: Kernels
) -> tuple[Group, ...]:
  """The groups of all operations that can be calibrated."""
  sets: list[list[Site]] = []
  for site, view in kernels.views.items():
    near = [
      group
      for group in sets
      if any(overlap(kernels.views[s], view) for s in group)
    ]
    sets = [group for group in sets if group not in near]
    sets.append(sorted([*(s for group in near for s in group), site]))
  return tuple(
    _group(ops, kernels.views, group)
    for group in sorted(sets)
    if not any(kernels.entangled & set(kernels.views[s].paths) for s in group)
  )


def _group(
  ops: Mapping[Site, LinearOp], views: Mapping[Site, View], sites: list[Site]
) -> Group:
  scans = [scan for site in sites for scan in views[site].scans]
  slicers = frozenset(scan.site for scan in scans)
  if len(sites) > 1 and not _alike(ops, views, sites, slicers):
    slicers = frozenset()
  lengths = {
    scan.site: scan.length for site in sites for scan in ops[site].place.scans
  }
  first = (scan.site for scan in views[sites[0]].scans)
  shape = tuple(lengths[scan] for scan in first if scan in slicers)
  dtypes = [wide_dtype(ops[site].dtype) for site in sites]
  carried = any(
    length > 1 for scan, length in lengths.items() if scan not in slicers
  )
  return Group(
    tuple(sites),
    slicers,
    shape,
    jnp.result_type(*dtypes),
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

  def signature(view: View) -> Any:
    try:
      region = np.asarray(view.apply(memory))
    except ValueError:  # no view of memory
      return None
    lead = len(view.scans)
    start = region.__array_interface__["data"][0]
    return start, region.shape[:lead], region.strides[:lead]

  first, *rest = (signature(views[site]) for site in sites)
  around = (
    {scan.site for scan in ops[site].place.scans} & slicers for site in sites
  )
  consistent = all(
    scans == {scan.site for scan in views[site].scans}
    for scans, site in zip(around, sites, strict=True)
  )
  return bool(first) and all(one == first for one in rest) and consistent
