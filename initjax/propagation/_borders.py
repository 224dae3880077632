"""Sizes by position, where convolutions meet zeros at borders.

An output near a border sums fewer terms. From layer to layer, less is lost
than the mean number of terms suggests, since most of the signal is inside. A
size is tracked as a product of profiles along the axes of a map, with mean 1.
"""

import math
from collections.abc import Sequence

import numpy as np

Profile = tuple[np.ndarray, ...]
"""Along each axis; empty where all positions are alike"""


def mixed(
  taps: Sequence[np.ndarray], profile: Profile
) -> tuple[float, Profile]:
  """What outputs get, against a flat profile, and theirs.

  Args:
    taps: for each axis [outputs, entries], which meet.
    profile: of the entries; of another shape it counts as flat.
  """
  factor, found = 1.0, []
  for axis, matrix in enumerate(taps):
    given = np.ones(matrix.shape[1])
    if len(profile) == len(taps) and len(profile[axis]) == len(given):
      given = profile[axis]
    sums, flat = matrix @ given, matrix.sum(axis=1)
    if not sums.sum() > 0:
      return 1.0, ()
    factor *= sums.mean() / flat.mean()
    found.append(sums / sums.mean())
  return float(factor), tuple(found)


def matrices_of(
  taps: Sequence[np.ndarray], profile: Profile
) -> tuple[np.ndarray, ...]:
  """For each axis [outputs, entries] of a convolution: which meet.

  A strided one may meet none of the last entries: their number is that of the
  profile, where there is one.
  """
  found, known = [], len(profile) == len(taps)
  for axis, entries in enumerate(taps):
    length = max(entries.max(initial=0) + 1, len(profile[axis]) if known else 0)
    matrix = np.zeros((len(entries), length))
    outputs, _ = np.nonzero(entries >= 0)
    np.add.at(matrix, (outputs, entries[entries >= 0]), 1.0)
    found.append(matrix)
  return tuple(found)


def average_profile(parts: Sequence[tuple[Profile, float]]) -> Profile:
  """Of signals that are added, by their sizes."""
  shapes = {tuple(map(len, profile)) for profile, _ in parts if profile}
  total = sum(weight for _, weight in parts)
  if len(shapes) != 1 or not 0 < total < math.inf:
    return ()
  (lengths,) = shapes
  flat = tuple(np.ones(length) for length in lengths)
  sums = [
    sum(weight * (profile or flat)[axis] for profile, weight in parts) / total
    for axis in range(len(lengths))
  ]
  return tuple(np.asarray(each) for each in sums)


def raised(profile: Profile, power: float) -> Profile:
  """What an activation makes of it, E[φ²] going as this power of E[h²]."""
  if power == 1 or not math.isfinite(power):
    return profile
  powers = [np.maximum(along, 1e-12) ** power for along in profile]
  return tuple(along / along.mean() for along in powers)


def unevenness(profile: Sequence[np.ndarray]) -> float:
  """log₂ of E[p²]/E[p]², added over the axes of a map."""
  known = [along for along in profile if along.mean() > 0]
  return sum(math.log2((p * p).mean() / p.mean() ** 2) for p in known)


def neglected(taps: Sequence[np.ndarray]) -> float:
  """What may be wrong with all this, in bits: an order of magnitude.

  A profile is taken for a product along the axes. That is exact for the first
  layer, and for powers of a product; a sum of two products is none, though its
  marginals are right. What it lacks is of second order in the unevenness u of
  the axes, so u² is stated: neither a bound nor a mean of the error, which has
  either sign.
  """
  return unevenness([matrix.sum(axis=1) for matrix in taps]) ** 2
