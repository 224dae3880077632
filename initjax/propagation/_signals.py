"""Signals as far as theory follows them, their sums, and signals as parts."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from initjax.propagation._borders import Profile, average_profile
from initjax.propagation._common import Common, sum_common

DRAWN = 1 << 16
"""Units that are drawn, where a law is no Gaussian."""
DRAWN_ERROR = 0.01
"""Of a mean over them, in bits"""


class Batch(NamedTuple):
  """A signal h that was divided by its deviation over samples."""

  samples: float
  positions: float
  centred: bool
  near: float
  """E[h·h'] of two positions, for E[h²] = 1"""
  shared: float
  """the same of two samples"""


class Edge(NamedTuple):
  """What a signal is made of, and how the gradient goes back there.

  Of the gradient δ, G = E[δ²] and N = E[δ·δ'] of two positions are followed,
  and S, that of two samples, which comes of what is normalized over them.
  """

  below: "Signal"
  own: float
  """G below is own·G + cross·N"""
  near: float = math.nan
  """N below is near·N + lift·G; NaN: as `own`"""
  shared: float = math.nan
  """S below is shared·S; NaN: as `own`"""
  cross: float = 0.0
  lift: float = 0.0
  error: float = 0.0
  """of all of them, in bits"""
  taps: Sequence[np.ndarray] = ()
  """of a convolution with borders: which outputs meet which entries"""
  slopes: Callable[[], np.ndarray | None] | None = None
  """gives [3, units]: `own`, `near`, `shared` for each unit that was drawn"""
  batch: Batch | None = None
  """whose mean is taken away, and what goes along the signal"""


@dataclasses.dataclass(eq=False)
class Signal:
  """What theory knows about a signal h."""

  size: float = 1.0
  """E[h²]; NaN if it is not known"""
  mean: float = 0.0
  """E[h]"""
  shared: float = 0.0
  """E[h·h'] of two samples"""
  near: float = 0.0
  """E[h·h'] of two positions of a sample: tokens, pixels"""
  gaussian: bool = True
  error: float = 0.0
  """of log₂ E[h²]: what theory neglects"""
  profile: Profile = ()
  """of E[h²] over the positions of a map"""
  common: Common = ()
  """of what two samples share"""
  edges: tuple[Edge, ...] = ()
  """what it is made of, with the gradient's factors on the way back"""
  made: Callable[[np.random.Generator], np.ndarray | None] | None = None
  """draws its units from those it is made of, where possible"""
  drawn: np.ndarray | None = None
  """[3, units]: two positions of a sample, and another sample's"""
  # An operation passes a relative change of size on times d log E[φ²]/d log q,
  # and has chance of its own, a change of 1. Where images of one stream are
  # multiplied, a change that they share acts through all of them, one that the
  # operation of an image adds through that alone: so both are followed.
  stretch: float = 0.0
  """the factor on a relative change of size anywhere before"""
  upstream: float = 0.0
  """the same, for changes before the latest operation"""
  slope: float = 1.0
  """d log E[h²] over that of the signals it is a product of"""
  chi: float = 1.0
  """product of χ over the chain of layers that ends here"""
  layers: int = 0
  """of that chain"""
  doubt: str = ""
  """what was assumed, or why the signal is unknown"""
  entropy: float = math.nan
  """of the attention that it comes from, in nats"""
  parts: tuple[tuple["Signal", float], ...] = ()
  """of different sizes that it has side by side, each with its part of all
  entries"""
  fan_in: float | None = None
  """of the operation whose output it is, so that its units have fresh kernels;
  None if it is not an operation's output"""
  raised: float = 1.0
  """factor of its gradient beyond what its kernel passes on: if each unit is
  divided by its deviation, those with small kernels get most"""

  @property
  def variance(self) -> float:
    """The variance of h: E[h²] - E[h]²."""
    return self.size - self.mean * self.mean


class Fed(NamedTuple):
  """The input φ(h) of one row."""

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
  near: float = 0.0
  """the same of two positions"""
  derivative_near: float = 1.0
  """E[φ'·φ'] of two positions"""
  derivative_shared: float = 1.0
  """the same of two samples"""
  mean: float = 0.0
  """E[φ(h)]; left at 0 where it is not needed"""
  doubt: str = ""
  """what was assumed about any of these, or why they are unknown"""
  error: float = 0.0
  """of log₂ E[φ²]"""
  common: Common = ()
  """of what two samples share"""

  @property
  def steepness(self) -> float:
    """The factor by which a layer multiplies a relative change of its input."""
    return self.slope * self.source.slope


def draw_units(
  signal: Signal, random: np.random.Generator
) -> np.ndarray | None:
  """Entries [3, units] of a signal, the same whenever it is asked for."""
  if signal.drawn is None:
    if signal.made is not None:
      signal.drawn = signal.made(random)
    known = signal.gaussian and math.isfinite(signal.size)
    if signal.drawn is None and known:
      signal.drawn = _gaussians(signal, random)
  return signal.drawn


def _gaussians(signal: Signal, random: np.random.Generator) -> np.ndarray:
  """Of the three entries' covariances."""
  from scipy import special

  v, square = max(signal.variance, 0.0), signal.mean * signal.mean
  ranks = (np.arange(DRAWN) + 0.5) / DRAWN  # evenly spread, in any order
  z = special.ndtri(np.stack([random.permutation(ranks) for _ in range(3)]))
  near, shared = (
    float(np.clip((each - square) / v, -1, 1)) if v > 0 else 0.0
    for each in (signal.near, signal.shared)
  )
  near, shared = np.nan_to_num([near, shared])
  second = near * z[0] + math.sqrt(1 - near * near) * z[1]
  along = shared / (1 + near) if near > -1 else 0.0
  rest = math.sqrt(max(0.0, 1 - 2 * along * along * (1 + near)))
  third = along * (z[0] + second) + rest * z[2]
  return signal.mean + math.sqrt(v) * np.stack([z[0], second, third])


def sum_of(
  terms: Sequence[tuple[Signal, float]],
  others: Sequence[tuple[Signal, float]] = (),
  weight: float = 1.0,
  shares: Sequence[float] = (),
) -> Signal:
  """Of terms times factors, independent but for their means.

  A deviation of one term counts by that term's part of the sum. Only a part of
  the entries of `others`, by its weight, is in the sum.

  Args:
    terms: signals, and what multiplies them.
    others: likewise.
    weight: of the others.
    shares: of the terms' entries that are taken; 1 if not given.
  """
  parts = [*terms, *others]
  mean = sum(part.mean * root for part, root in parts)
  apart, shared, near = (
    sum((getattr(p, name) - p.mean * p.mean) * r * r for p, r in parts)
    for name in ("size", "shared", "near")
  )
  weighted = lambda name: average(
    [(getattr(p, name), p.size * r * r) for p, r in parts]
  )
  back = [*(shares or [1.0] * len(terms)), *[weight] * len(others)]
  backwards = zip(parts, back, strict=True)
  square = mean * mean

  def made(random: np.random.Generator) -> np.ndarray | None:
    found = np.zeros((3, DRAWN))
    for part, root in parts:
      entries = draw_units(part, random)
      if entries is None:
        return None
      found += root * entries
    return found

  gaussian = all(part.gaussian for part, _ in parts)
  return Signal(
    apart + square,
    mean,
    shared + square,
    near + square,
    gaussian,
    weighted("error"),
    average_profile([(p.profile, p.size * r * r) for p, r in parts]),
    edges=tuple(Edge(p, r * r * w) for (p, r), w in backwards),
    made=made,
    common=sum_common([(p.common, r * r) for p, r in parts]),
    stretch=weighted("stretch"),
    upstream=weighted("upstream"),
    slope=weighted("slope"),
    doubt=joined(part.doubt for part, _ in parts),
    entropy=parts[0][0].entropy if len(parts) == 1 else math.nan,
  )


def side_by_side(pieces: Sequence[tuple[Signal, float]]) -> Signal:
  """Signals side by side; one Gaussian, if they are, and of one size."""
  flat = [
    (inner, weight * own)
    for piece, weight in pieces
    for inner, own in (piece.parts or ((piece, 1.0),))
  ]
  size, mean, shared, near = (
    sum(getattr(piece, name) * weight for piece, weight in flat)
    for name in ("size", "mean", "shared", "near")
  )
  weighted = lambda name: average(
    [(getattr(p, name), p.size * w) for p, w in flat]
  )
  alike = all(p.gaussian and abs(p.size - size) <= 1e-9 * size for p, _ in flat)
  return Signal(
    size,
    mean,
    shared,
    near,
    alike and all(abs(p.mean - mean) <= 1e-9 * size**0.5 for p, _ in flat),
    weighted("error"),
    average_profile([(p.profile, p.size * w) for p, w in flat]),
    edges=tuple(Edge(piece, 1.0) for piece, _ in flat),
    made=None if alike else lambda random: None,
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
