"""What two samples share of a map, by position.

Zeros around a map make channels differ near its borders, in the same way for
all samples. The mean of E[h·h'] over all pairs of positions is tracked, with
its deviations along each axis: a sum of one term for each axis.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from initjax.propagation._borders import Profile

Common = tuple[np.ndarray, ...]
"""Along each axis [positions, positions], of mean 0; empty where it is flat"""

_LONGEST = 512
"""Positions of an axis along which it is followed."""


class Shared(NamedTuple):
  """What outputs of a convolution have in common, for taps of unit size."""

  shared: float
  """of any two, the same included"""
  near: float
  """of two positions"""
  common: Common
  apart: float
  """the same of two positions, where all entries shared all they have"""


def in_common(
  taps: Sequence[np.ndarray], shared: float, common: Common
) -> Shared:
  """E[h·h'] of outputs by that of entries.

  Only through one tap of the kernel do outputs have anything in common: along
  an axis it is C(M) = Σ_t M[e_t, e_t'] for the entries e_t that tap t meets.
  """
  own = math.prod(float((each >= 0).sum(axis=1).mean()) for each in taps)
  if not taps or not own > 0:
    return Shared(shared, shared, common, 1.0)
  tap_means = [(each >= 0).mean(axis=0) for each in taps]
  means = np.array([(each**2).sum() for each in tap_means])
  everywhere, positions = means.prod() / own, math.prod(map(len, taps))
  others = max(1, positions - 1)
  changes, found = np.zeros(len(taps)), []
  if all(len(each) <= _LONGEST for each in taps):
    given = common if len(common) == len(taps) else [None] * len(taps)
    pairs = [_by_tap(e, m) for e, m in zip(taps, given, strict=True)]
    changes = np.array([varied.mean() for _, varied in pairs]) / means
    for (flat, varied), mean, change in zip(pairs, means, changes, strict=True):
      here = (shared + changes.sum() - change) * flat + varied
      found.append((here - here.mean()) * everywhere / mean)
  whole = everywhere * (shared + changes.sum())
  near = (whole * positions - shared) / others if positions > 1 else whole
  apart = (everywhere * positions - 1) / others if positions > 1 else 1.0
  return Shared(whole, near, tuple(found), float(apart))


def _by_tap(
  entries: np.ndarray, matrix: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """C(1) and C(M), [outputs, outputs]."""
  inside = (entries >= 0).astype(float)
  varied = np.zeros((len(entries), len(entries)))
  if matrix is not None and len(matrix) > entries.max(initial=0):
    for valid, place in zip(inside.T, entries.T, strict=True):
      varied += np.outer(valid, valid) * matrix[np.ix_(place, place)]
  return inside @ inside.T, varied


def centred(
  size: float, own: float, profile: Profile, common: Common
) -> tuple[Profile, Common]:
  """Of h - m, by its own variance, for the mean m over samples and positions.

  E[(h - m)²] is E[h²] - 2·E[h·m] + E[m²], the second of which varies.

  Args:
    size: E[h²].
    own: E[m²].
    profile: of E[h²].
    common: of h.
  """
  lengths = [len(along) for along in profile]
  if not profile or [len(matrix) for matrix in common] != lengths:
    return profile, ()
  sizes, left = [], []
  for along, matrix in zip(profile, common, strict=True):
    rows = matrix.mean(axis=1)
    sizes.append(np.maximum(size * along - own - 2 * rows, 0.0) / (size - own))
    left.append((matrix - rows[:, None] - rows) / (size - own))
  return tuple(each / each.mean() for each in sizes), tuple(left)


def responding(
  profile: Profile, common: Common, by_size: float, by_product: float
) -> Common:
  """Of E[φ·φ'], by its changes with log E[h²] of one, and with E[h·h']."""
  if not math.isfinite(by_size) or not math.isfinite(by_product):
    return ()
  found = []
  for axis, along in enumerate(profile):
    own = by_size * (along - 1)
    change = own[:, None] + own
    if len(common) == len(profile) and len(common[axis]) == len(along):
      change = change + by_product * common[axis]
    found.append(change)
  return tuple(found) if max(map(len, found), default=0) <= _LONGEST else ()


def sum_common(parts: Sequence[tuple[Common, float]]) -> Common:
  """Of independent signals that are added, each times its factor."""
  shapes = {tuple(map(len, common)) for common, _ in parts if common}
  if len(shapes) != 1:
    return ()
  return tuple(
    np.asarray(sum(factor * each[axis] for each, factor in parts if each))
    for axis in range(len(*shapes))
  )
