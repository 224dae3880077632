"""Slices of a leaf that repeat one another: layers, experts, heads, members.

One key for all members of an ensemble makes one leaf of equal slices. The
search covers every axis: it compares a few entries of each slice, then 64, and
what still matches as a whole, on the leaf's own devices.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from initjax.measurement._leaves import Leaves
from initjax.measurement._ranks import normal_scores
from initjax.measurement._reductions import Array, fingerprints, slice_samples

_ENTRIES = 64  # of each slice, evenly spaced
_FIRST = 4  # of these, what almost all leaves are told apart by
_BY_CHANCE = 1e-6  # how likely independent slices may be found to be equal


class EqualSlices(NamedTuple):
  """Along one axis of one leaf."""

  path: str
  axis: int
  number: int
  """how many slices there are"""
  distinct: int
  """how many of them differ"""


def find_equal_slices(leaves: Leaves) -> Iterator[EqualSlices]:
  """Leaves with slices that look drawn, and are equal entry by entry.

  Slices of zeros, ramps or few values are no draws and are passed over, as
  those of so few entries, or such coarse ones, that chance makes them equal.
  """
  for path, leaf in leaves.items():
    for axis in range(leaf.ndim if leaf.ndim > 1 else 0):
      count = leaf.shape[axis]
      repeated = _repeated(leaf, axis)
      if repeated:
        yield EqualSlices(path, axis, count, count - repeated)


def _repeated(leaf: Array, axis: int) -> int:
  """How many slices along an axis are equal to one before."""
  count = leaf.shape[axis]
  if count < 2 or leaf.size // count < _FIRST:
    return 0
  if not _copies(_sample(leaf, axis, _FIRST)).any():
    return 0
  samples = _sample(leaf, axis, _ENTRIES)
  alike = _copies(samples)
  if not (alike & _drawn(samples)).any() or _by_chance(leaf, axis, samples):
    return 0
  others = tuple(i for i in range(leaf.ndim) if i != axis)
  whole, _ = fingerprints(leaf, others)
  return int((_copies(whole[:, None]) & alike & _drawn(samples)).sum())


def _sample(leaf: Array, axis: int, most: int) -> np.ndarray:
  return np.ascontiguousarray(slice_samples(leaf, axis, most))


def _copies(samples: np.ndarray) -> np.ndarray:
  """Which rows [rows, entries] have the bytes of one before."""
  kind = np.dtype((np.void, samples.dtype.itemsize * samples.shape[1]))
  rows = np.ascontiguousarray(samples).view(kind)[:, 0]
  _, first = np.unique(rows, return_index=True)
  copies = np.ones(len(rows), bool)
  copies[first] = False
  return copies


def _drawn(samples: np.ndarray) -> np.ndarray:
  """Which rows look drawn."""
  return np.asarray(normal_scores(samples.real).any(axis=1))


def _by_chance(leaf: Array, axis: int, samples: np.ndarray) -> bool:
  """Whether slices as coarse may be equal without having been copied.

  Two entries are equal with a probability Σp², which is estimated from those
  of one slice; it is no less than the dtype's resolution.
  """
  count = leaf.shape[axis]
  apart = samples[~_copies(samples)].ravel()[:4096]
  _, times = np.unique(apart.real, return_counts=True)
  pairs = max(apart.size * (apart.size - 1), 1)
  equal = max((times * (times - 1)).sum() / pairs, jnp.finfo(leaf.dtype).eps)
  expected = count * (count - 1) / 2 * equal ** (leaf.size / count)
  return bool(expected > _BY_CHANCE) or not math.isfinite(equal)
