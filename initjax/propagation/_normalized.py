"""Signals divided by a standard deviation over units or over samples.

Over samples s² = Σ λ_i·g_i², with normal g_i and the eigenvalues λ of what N
entries of a channel have in common: as χ² with m = (Σλ)²/Σλ² degrees of
freedom, over m. The gradient is divided by s², so it grows by E[1/s²] =
m/(m - 2), while its mean and its part along the signal are removed.
"""

import math

import numpy as np

from initjax.graph import Term
from initjax.propagation._borders import unevenness
from initjax.propagation._common import centred
from initjax.propagation._signals import Batch, Edge, Signal, draw_units

_MOST = 0.4
"""1/m beyond which E[1/s²] is not followed: it is infinite at m = 2."""


def divided(inner: Signal, whole: Signal, term: Term, assumes: bool) -> Signal:
  """A signal, or a part of one, by the size of the whole."""
  if term.over == "samples":
    return _over_samples(inner, term, assumes)
  own = whole.mean * whole.mean if term.centred else 0.0
  if term.centred and term.channels:  # a mean over few keeps what is shared
    own += max(0.0, np.nan_to_num(whole.near - own)) / term.channels
  variance = whole.size - own
  if variance <= 0:
    return _nothing_left(inner, assumes)
  mean = 0.0 if term.centred else inner.mean / math.sqrt(variance)
  known = math.isfinite(variance)

  def made(random: np.random.Generator) -> np.ndarray | None:
    entries = draw_units(inner, random)
    if entries is None or not known:
      return None
    return (entries - inner.mean * term.centred) / math.sqrt(variance)

  own_error = 1 / (4 * term.channels * math.log(2)) if term.channels else 0.0
  return Signal(
    1.0 if inner is whole else (inner.size - own) / variance,
    mean if known else 0.0,
    (inner.shared - own) / variance,
    (inner.near - own) / variance,
    inner.gaussian or not known,
    error=own_error + (0.0 if inner is whole else inner.error),
    profile=inner.profile,
    made=made,
    edges=(Edge(inner, 1 / variance, error=inner.error + own_error),),
  )


def _nothing_left(inner: Signal, assumes: bool) -> Signal:
  size = 1.0 if assumes else math.nan
  return Signal(size, edges=(Edge(inner, math.nan),))


def _over_samples(inner: Signal, term: Term, assumes: bool) -> Signal:
  """Of each channel by itself, over a batch and its positions."""
  own = _of_mean(inner, term) if term.centred else 0.0
  variance = inner.size - own
  if variance <= 0:
    return _nothing_left(inner, assumes)
  profile, common = inner.profile, inner.common
  if term.centred:
    profile, common = centred(inner.size, own, profile, common)
  found = Signal(
    1.0,
    0.0 if term.centred else inner.mean / math.sqrt(variance),
    (inner.shared - own) / variance,
    (inner.near - own) / variance,
    profile=profile,
    common=common,
  )
  found.edges = (_back(inner, found, variance, term),)
  return found


def _counts(term: Term) -> tuple[float, float]:
  """Samples and positions; many, where it is not known."""
  if not term.counts:
    return math.inf, 1.0
  return float(term.counts[0]), float(math.prod(term.counts[1:]))


def _of_mean(inner: Signal, term: Term) -> float:
  """E[m²] of a channel's mean."""
  samples, positions = _counts(term)
  others = inner.near if positions > 1 else 0.0
  each = (inner.size + (positions - 1) * others) / positions
  return inner.shared + (each - inner.shared) / samples


def _back(inner: Signal, found: Signal, variance: float, term: Term) -> Edge:
  """The gradient's way; of E[1/s²] the second order in 1/m may be missing."""
  samples, positions = _counts(term)
  flat = math.prod(float((each**2).mean()) for each in found.profile)
  one_by_m = flat / max(samples * positions - 1, 1)
  one_by_m += sum(float((each**2).mean()) for each in found.common)
  if positions > 1:
    one_by_m += (found.near - found.shared) ** 2 / max(samples - 1, 1)
  growth = 1 / (1 - 2 * one_by_m) if one_by_m < _MOST else math.nan
  return Edge(
    inner,
    growth / variance,
    error=inner.error + _error(inner, variance) + (2 * one_by_m) ** 2,
    batch=Batch(samples, positions, term.centred, found.near, found.shared),
  )


def _error(inner: Signal, variance: float) -> float:
  """Of log₂ s², which lacks the mean that samples share.

  Of φ's that are rough, E[φ·φ'] is as √E[h²]: where that varies by u of its
  square, the mean is off by u/4.
  """
  uneven = unevenness(inner.profile) / 4
  return uneven * (inner.size - variance) / variance
