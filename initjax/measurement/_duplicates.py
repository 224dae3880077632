"""Leaves that were drawn with one key, or copied: equal up to a factor."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from initjax.measurement._leaves import Leaves, is_random
from initjax.measurement._reductions import (
  Array,
  are_equal,
  beside,
  direction,
)

_SAMPLE = 256  # entries that tell most leaves apart
_NEAR = 0.99  # |cosine| of samples of leaves that are worth a closer look
_ROUNDED = 0.0045  # of the spread: what is left between copies kept in 16 bits
_BY_CHANCE = 1e-6  # how likely two leaves may be equal up to a factor


class Duplicates(NamedTuple):
  """Leaves that repeat the first of them."""

  paths: tuple[str, ...]
  """of all, in their order"""
  equal: tuple[str, ...]
  """of those that are equal to the first entry by entry"""
  scaled: tuple[str, ...]
  """of those that are so up to a factor, and rounding"""


def find_duplicates(leaves: Leaves) -> list[Duplicates]:
  """Groups of leaves of one shape that look drawn, and are not independent.

  One key drawn twice gives equal leaves, and at two scales leaves equal up to
  a factor. Zeros, identities and the like are nobody's duplicates, nor are
  leaves of so few entries, or such coarse ones, that chance may do it.
  """
  by_shape: dict[tuple[int, ...], list[str]] = {}
  for path, leaf in leaves.items():
    if is_random(leaf):
      by_shape.setdefault(leaf.shape, []).append(path)
  found = []
  for paths in by_shape.values():
    if len(paths) > 1:
      found += _groups({path: leaves[path] for path in paths})
  order = {path: place for place, path in enumerate(leaves)}
  return sorted(found, key=lambda group: order[group.paths[0]])


def _groups(leaves: Leaves) -> list[Duplicates]:
  """Of leaves of one shape: only those with like samples are compared whole."""
  paths = list(leaves)
  samples = np.stack([direction(leaf, _SAMPLE) for leaf in leaves.values()])
  near = abs(samples @ samples.conj().T) > _NEAR
  found: list[Duplicates] = []
  taken: set[str] = set()
  for place, path in enumerate(paths):
    if path in taken:
      continue
    others = [paths[i] for i in np.flatnonzero(near[place]) if i > place]
    others = [other for other in others if other not in taken]
    like = [(p, _likeness(leaves[path], leaves[p])) for p in others]
    equal = tuple(p for p, likeness in like if likeness == "equal")
    scaled = tuple(p for p, likeness in like if likeness == "scaled")
    taken.update(equal, scaled)
    if equal or scaled:
      same = tuple(p for p, likeness in like if likeness)
      found.append(Duplicates((path, *same), equal, scaled))
  return found


def _likeness(one: Array, other: Array) -> str:
  """Whether they are "equal", "scaled" (equal up to a factor) or neither, "".

  They are scaled if what is left of one, the other's part taken out, is
  rounding. It is compared with the spread about the mean, since two leaves of
  ones and a little noise point the same way, too. Of n numbers a part t is left
  by chance with a probability of about t^(n-1).
  """
  if are_equal(one, other):
    return "equal"
  rounding = 2 * float(max(jnp.finfo(x.dtype).eps for x in (one, other)))
  few = one.size < 8
  part = rounding if few else max(rounding, _ROUNDED)
  if one.size < 4 or part ** (one.size - 1) > _BY_CHANCE:
    return ""
  left, spread = beside(one, other)  # NaN where an entry is
  return "scaled" if left <= part * spread else ""
