"""Signals, as far as theory follows them, their sums, and signals as parts."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


@dataclasses.dataclass(eq=False)
class Signal:
  """A signal h, as far as theory follows it."""

  size: float = 1.0
  """E[h²]; NaN if it is not known"""
  mean: float = 0.0
  """E[h]"""
  shared: float = 0.0
  """E[h_a·h_b] of two samples"""
  gaussian: bool = True
  edges: tuple[tuple["Signal", float], ...] = ()
  """what it is made of, and the gradient's factor going back"""
  gradient: float = math.nan
  """E[δ²], summed over what it feeds; NaN if it feeds nothing"""
  # An operation passes a relative change of size on times d log E[φ²]/d log q,
  # and has chance of its own, a change of 1. Where images of one stream are
  # multiplied, a change that they share acts through all of them, one that the
  # operation of an image adds through that alone: so both are followed.
  stretch: float = 0.0
  """by what a relative change of size, somewhere before, is multiplied"""
  upstream: float = 0.0
  """the same, of changes before the latest operation"""
  slope: float = 1.0
  """d log E[h²] by that of what it is a product of"""
  chi: float = 1.0
  """product of χ over the chain of layers that ends here"""
  layers: int = 0
  """of that chain"""
  doubt: str = ""
  """what was assumed"""
  parts: tuple[tuple["Signal", float], ...] = ()
  """of different sizes that it has side by side, each with its part of all
  entries"""


class Fed(NamedTuple):
  """What one row is fed, φ(h)."""

  source: Signal
  """h"""
  second_moment: float
  """E[φ(h)²]"""
  slope: float = 1.0
  """d log E[φ²]/d log E[h²]"""
  derivative: float = 1.0
  """E[φ'(h)²]; NaN if theory does not know it"""
  shared: float = 0.0
  """E[φ(h_a)·φ(h_b)] of two samples"""
  variance: float = math.nan
  """E[h²] at which theory looked"""
  doubt: str = ""
  """what was assumed of any of these"""

  @property
  def steepness(self) -> float:
    """By what a layer multiplies a relative change of what comes in."""
    return self.slope * self.source.slope


def sum_of(
  terms: Sequence[tuple[Signal, float]],
  others: Sequence[tuple[Signal, float]] = (),
  weight: float = 1.0,
  doubt: str = "",
) -> Signal:
  """Of terms times factors, independent but for their means.

  A deviation of one term counts by that term's part of the sum. Only a part of
  the entries of `others`, by its weight, is in the sum.
  """
  parts = [*terms, *others]
  mean = sum(part.mean * root for part, root in parts)
  apart = sum((p.size - p.mean * p.mean) * r * r for p, r in parts)
  shared = sum((p.shared - p.mean * p.mean) * r * r for p, r in parts)
  weighted = lambda name: average(
    [(getattr(p, name), p.size * r * r) for p, r in parts]
  )
  back = [1.0] * len(terms) + [weight] * len(others)
  return Signal(
    apart + mean * mean,
    mean,
    shared + mean * mean,
    all(part.gaussian for part, _ in parts),
    tuple((p, r * r * w) for (p, r), w in zip(parts, back, strict=True)),
    stretch=weighted("stretch"),
    upstream=weighted("upstream"),
    slope=weighted("slope"),
    doubt=joined([*(part.doubt for part, _ in parts), doubt]),
  )


def side_by_side(pieces: Sequence[tuple[Signal, float]]) -> Signal:
  """Signals side by side; one Gaussian, if they are, and of one size."""
  flat = [
    (inner, weight * own)
    for piece, weight in pieces
    for inner, own in (piece.parts or ((piece, 1.0),))
  ]
  size, mean, shared = (
    sum(getattr(piece, name) * weight for piece, weight in flat)
    for name in ("size", "mean", "shared")
  )
  weighted = lambda name: average(
    [(getattr(p, name), p.size * w) for p, w in flat]
  )
  alike = all(p.gaussian and abs(p.size - size) <= 1e-9 * size for p, _ in flat)
  return Signal(
    size,
    mean,
    shared,
    alike,
    tuple((piece, 1.0) for piece, _ in flat),
    stretch=weighted("stretch"),
    upstream=weighted("upstream"),
    slope=weighted("slope"),
    doubt=joined(piece.doubt for piece, _ in flat),
    parts=() if alike else tuple(flat),
  )


def average(parts: Sequence[tuple[float, float]]) -> float:
  """Of values with weights."""
  total = sum(weight for _, weight in parts)
  return sum(x * weight for x, weight in parts) / total if total else 0.0


def joined(doubts: Iterable[str]) -> str:
  return "; ".join(dict.fromkeys(filter(None, doubts)))
