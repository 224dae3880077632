"""Leaves that were drawn with the same key, or copied.

Draws with one key have the same ranks (see `_ranks`), even if shapes differ,
since JAX numbers the entries of every array from its start. Not found are draws
of other widths (bfloat16 and float64 use other bits of a key), draws whose
entries are mixed afterwards (orthogonal), and transposed copies.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from initjax.measurement._leaves import Leaves, is_random
from initjax.measurement._ranks import normal_scores
from initjax.measurement._reductions import (
  Array,
  are_equal,
  beside,
  direction,
  head,
)

_HEAD = 256  # entries that are compared first
_STEP = 16  # leaves of fewer entries than _HEAD: so many, or a multiple
_CORRELATED = 0.5  # 8σ of 256 independent entries
_OF_VECTORS = 0.9  # training alone makes scales and biases resemble each other
_NEAR = 0.99  # |cosine| of samples of few entries that are worth a closer look
_ROUNDED = 0.0045  # of the spread: what is left between copies kept in 16 bits
_BY_CHANCE = 1e-6  # how likely any two leaves may be found that are independent


class Duplicates(NamedTuple):
  """Leaves that repeat the first of them."""

  paths: tuple[str, ...]
  """of all, in their order"""
  equal: tuple[str, ...]
  """of those that are equal to the first entry by entry"""
  scaled: tuple[str, ...]
  """of those that are so up to a factor, and rounding"""
  correlated: tuple[str, ...] = ()
  """of those of another shape or law, whose first entries have like ranks"""
  correlation: float = 1.0
  """of these ranks, the least in magnitude, as normal scores"""


def find_duplicates(leaves: Leaves) -> list[Duplicates]:
  """Groups of leaves that look drawn, and are not independent.

  One key drawn twice gives equal leaves, at two scales leaves equal up to a
  factor, and with two shapes or laws leaves whose first entries have the same
  ranks. Zeros, identities, ramps and the like are nobody's duplicates, nor are
  leaves of so few entries, or such coarse ones, that chance may do it.
  """
  names = list(leaves)
  near = _near(leaves)
  found: list[Duplicates] = []
  taken: set[int] = set()
  for first in np.flatnonzero(near.any(axis=1)).tolist():
    others = np.flatnonzero(near[first]).tolist()
    others = [i for i in others if i > first and i not in taken]
    if first not in taken and others:
      group, members = _group(leaves, names[first], [names[i] for i in others])
      taken.update(i for i in others if names[i] in members)
      found += [group] if members else []
  return found


def _group(
  leaves: Leaves, path: str, others: Sequence[str]
) -> tuple[Duplicates, set[str]]:
  """Those that repeat a leaf, looked at as a whole where shapes agree."""
  one = leaves[path]
  like = {other: _likeness(one, leaves[other]) for other in others}
  for other in others:
    if not like[other] and not _is_few(one) and not _is_few(leaves[other]):
      like[other] = "correlated"
  by = lambda kind: tuple(other for other in others if like[other] == kind)
  alike = [abs(_correlation(one, leaves[other])) for other in by("correlated")]
  paths = (path, *(other for other in others if like[other]))
  group = Duplicates(
    paths, by("equal"), by("scaled"), by("correlated"), min(alike, default=1.0)
  )
  return group, set(paths[1:])


def _near(leaves: Leaves) -> np.ndarray:
  """Which pairs of leaves are worth a closer look, [leaf, leaf]."""
  arrays = list(leaves.values())
  near = np.zeros((len(arrays), len(arrays)), bool)
  few = [i for i, leaf in enumerate(arrays) if _is_few(leaf)]
  _near_by_ranks(arrays, sorted({*range(len(arrays))} - {*few}), near)
  by_shape: dict[tuple[int, ...], list[int]] = {}
  for i in few:
    by_shape.setdefault(arrays[i].shape, []).append(i)
  for places in by_shape.values():
    places = [i for i in places if is_random(arrays[i])]
    if len(places) > 1:
      samples = np.stack([direction(arrays[i], _HEAD) for i in places])
      near[np.ix_(places, places)] = abs(samples @ samples.conj().T) > _NEAR
  return near


def _is_few(leaf: Array) -> bool:
  """Whether ranks would not tell: few entries, or complex ones."""
  return leaf.size < _STEP or np.issubdtype(leaf.dtype, np.complexfloating)


def _near_by_ranks(
  arrays: Sequence[Array], places: list[int], near: np.ndarray
) -> None:
  """Marks pairs whose first entries have like ranks: one product a length."""
  heads = {i: head(arrays[i], _HEAD) for i in places}
  lengths = {i: heads[i].size // _STEP * _STEP for i in places}
  vectors = np.array([leaf.ndim < 2 for leaf in arrays])
  pairs = len(places) * (len(places) - 1) / 2
  for length in sorted(set(lengths.values())):
    longer = np.array([i for i in places if lengths[i] >= length])
    scores = normal_scores(np.stack([heads[i][:length] for i in longer]))
    own = [at for at, i in enumerate(longer) if lengths[i] == length]
    scores = scores.astype(np.float32)
    correlation = abs(scores[own] @ scores.T)
    rows = longer[own]
    least = _by_chance(length, pairs)
    either = vectors[rows][:, None] | vectors[longer][None]
    wanted = np.where(either, max(least, _OF_VECTORS), least)
    near[np.ix_(rows, longer)] |= correlation > wanted
    near[np.ix_(longer, rows)] |= (correlation > wanted).T


@functools.lru_cache
def _by_chance(length: int, pairs: float) -> float:
  """The |correlation| that none of so many independent pairs has.

  r² of n normal numbers beyond t² has the probability I_{1-t²}((n - 2)/2, ½).
  """
  from scipy.special import betaincinv

  tail = betaincinv((length - 2) / 2, 0.5, _BY_CHANCE / max(pairs, 1))
  return max(_CORRELATED, math.sqrt(1 - float(tail)))


def _correlation(one: Array, other: Array) -> float:
  heads = [head(leaf, _HEAD) for leaf in (one, other)]
  length = min(each.size for each in heads) // _STEP * _STEP
  a, b = normal_scores(np.stack([each[:length] for each in heads]))
  return float(a @ b)


def _likeness(one: Array, other: Array) -> str:
  """Whether they are "equal", "scaled" (equal up to a factor) or neither, "".

  They are scaled if what is left of one, the other's part taken out, is
  rounding. It is compared with the spread about the mean, since two leaves of
  ones and a little noise point the same way, too. Of n numbers a part t is left
  by chance with a probability of about t^(n-1).
  """
  if one.shape != other.shape:
    return ""
  if are_equal(one, other):
    return "equal"
  rounding = 2 * float(max(jnp.finfo(x.dtype).eps for x in (one, other)))
  few = one.size < 8
  part = rounding if few else max(rounding, _ROUNDED)
  if one.size < 4 or part ** (one.size - 1) > _BY_CHANCE:
    return ""
  left, spread = beside(one, other)  # NaN where an entry is
  return "scaled" if left <= part * spread else ""
