"""Kernels that overlap share one factor; all others have one of their own.

Where the kernel is sliced by scans, the factor has their lengths as axes; in
other scans it is carried from one repeat to the next, with what is known of it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from initjax._statistics import wide_dtype
from initjax.graph._graph import LinearOp, Site
from initjax.model_init._kernel_views import View, overlap
from initjax.model_init._kernels import Kernels


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
      if any(overlap(kernels.views[s].regions, view.regions) for s in group)
    ]
    sets = [group for group in sets if group not in near]
    sets.append(sorted([*(s for group in near for s in group), site]))
  return tuple(
    _group(ops, kernels.views, group)
    for group in sorted(sets)
    if not _leaves(kernels.views, group) & kernels.entangled
  )


def _leaves(
  views: Mapping[Site, View], sites: Sequence[Site]
) -> frozenset[int]:
  return frozenset[int]().union(*(views[site].leaves for site in sites))


def _group(
  ops: Mapping[Site, LinearOp], views: Mapping[Site, View], sites: list[Site]
) -> Group:
  sliced = [views[site].sliced for site in sites]
  slicers = frozenset(scan for scans in sliced for scan in scans)
  if len(sites) > 1 and not _alike(ops, views, sites, slicers):
    slicers = frozenset()
  lengths = {
    scan.site: scan.length for site in sites for scan in ops[site].place.scans
  }
  shape = tuple(lengths[scan] for scan in sliced[0] if scan in slicers)
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

  def signature(view: View) -> Any:
    ((_, region), *others) = view.regions
    lead = len(view.sliced)
    start = region.__array_interface__["data"][0]
    known = not (others or view.moved)
    return known and (start, region.shape[:lead], region.strides[:lead])

  first, *rest = (signature(views[site]) for site in sites)
  around = (
    {scan.site for scan in ops[site].place.scans} & slicers for site in sites
  )
  consistent = all(
    scans == set(views[site].sliced)
    for scans, site in zip(around, sites, strict=True)
  )
  return bool(first) and all(one == first for one in rest) and consistent
