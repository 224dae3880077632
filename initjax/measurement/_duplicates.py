"""Leaves that were drawn with one key, or copied: equal up to a factor."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from initjax.measurement._leaves import Leaves, is_random, wide

_SAMPLE = 256  # entries that tell most leaves apart
_NEAR = 0.99  # |cosine| of samples of leaves that are worth a closer look
_ROUNDED = 0.0045  # of the spread: what is left between copies kept in 16 bits
_BY_CHANCE = 1e-6  # how likely two leaves may be equal up to a factor


class Duplicates(NamedTuple):
  """One leaf, and those that repeat it."""

  path: str
  equal: tuple[str, ...]
  """entry by entry, bit by bit"""
  scaled: tuple[str, ...]
  """up to a factor other than 1, and rounding"""

  @property
  def paths(self) -> tuple[str, ...]:
    """All of them, in the order of the leaves."""
    return (self.path, *self.equal, *self.scaled)


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
  return sorted(found, key=lambda group: order[group.path])


def _groups(leaves: Leaves) -> list[Duplicates]:
  """Of leaves of one shape: only those with like samples are compared whole."""
  paths = list(leaves)
  samples = np.stack([_sample(leaf) for leaf in leaves.values()])
  near = abs(samples @ samples.conj().T) > _NEAR
  found: list[Duplicates] = []
  taken: set[str] = set()
  for place, path in enumerate(paths):
    if path in taken:
      continue
    others = [paths[i] for i in np.flatnonzero(near[place]) if i > place]
    others = [other for other in others if other not in taken]
    equal = [p for p in others if _is_equal(leaves[path], leaves[p])]
    scaled = [
      p for p in others
      if p not in equal and _is_scaled(leaves[path], leaves[p])
    ]  # fmt: skip
    taken.update(equal, scaled)
    if equal or scaled:
      found.append(Duplicates(path, tuple(equal), tuple(scaled)))
  return found


def _sample(leaf: np.ndarray) -> np.ndarray:
  """Some entries without their mean, of length 1, or 0 where there is none."""
  x = _of_unit_size(leaf.ravel()[:: max(1, leaf.size // _SAMPLE)])
  x = x - x.mean()
  length = np.linalg.norm(x)
  return x / length if np.isfinite(length) and length > 0 else np.zeros_like(x)


def _of_unit_size(leaf: np.ndarray) -> np.ndarray:
  """In double precision, so scaled that no square under- or overflows."""
  x = wide(leaf)
  with np.errstate(invalid="ignore"):
    return x / (abs(x).max() or 1.0)


def _is_equal(one: np.ndarray, other: np.ndarray) -> bool:
  return one.dtype == other.dtype and np.array_equal(one, other)


def _is_scaled(one: np.ndarray, other: np.ndarray) -> bool:
  """Whether what is left of one, the other's part taken out, is rounding.

  It is compared with the spread about the mean, since two leaves of ones and a
  little noise point the same way, too. Of n numbers a part t is left by chance
  with a probability of about t^(n-1).
  """
  rounding = 2 * float(max(jnp.finfo(x.dtype).eps for x in (one, other)))
  few = one.size < 8
  part = rounding if few else max(rounding, _ROUNDED)
  if one.size < 4 or part ** (one.size - 1) > _BY_CHANCE:
    return False
  a, b = (_of_unit_size(leaf).ravel() for leaf in (one, other))
  if not np.isfinite(a).all() or not np.isfinite(b).all():
    return False
  left = a - b * (np.vdot(b, a) / np.vdot(b, b))
  return bool(np.linalg.norm(left) <= part * np.linalg.norm(a - a.mean()))
