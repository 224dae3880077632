"""Signals whose positions are mixed: pooled, or attended to.

All pairs of positions of a sample are taken to be alike: a signal's variance
around what they share is size - near. If they are not, as under a causal mask,
means over positions are tracked.
"""

import math
from typing import NamedTuple

import numpy as np

from initjax.gains import moments
from initjax.graph import Mixing, window_matrix
from initjax.propagation._borders import mixed
from initjax.propagation._images import evaluate, is_plain
from initjax.propagation._signals import DRAWN, Edge, Signal, draw_units
from initjax.propagation._softmax import weights_of
from initjax.typing import Activation

_LARGEST_SCORES = 4.0
"""Variance beyond which a softmax is not followed."""
_POOL_ERROR = 0.05
"""In bits, for windows whose entries are correlated by their place.

This and the next two are orders of magnitude, chosen so that the rows of
`experiments.theory_rows` fall within their errors; they are no bounds.
"""
_SCORE_ERROR = 0.08
"""In bits, of the gradient that comes back through scores."""
_UNEVEN_ERROR = 0.17
"""In bits, where positions see different numbers of others and so differ."""


def averaged(signal: Signal, mixing: Mixing) -> Signal:
  """The mean of k positions: (E[h²] + (k - 1)·E[h·h'])/k."""
  (k,), together = mixing.counts, mixing.overlap
  return Signal(
    (signal.size + (k - 1) * signal.near) / k,
    signal.mean,
    signal.shared,
    signal.near,
    gaussian=False,
    made=lambda random: None,
    error=signal.error + (0.0 if together else _POOL_ERROR),
    profile=mixed(_matrices(mixing), signal.profile)[1],
    edges=(
      Edge(
        signal,
        mixing.share / k,
        mixing.share**2,
        mixing.share**2,
        lift=together / k**2,
        taps=_matrices(mixing),
      ),
    ),
    stretch=signal.stretch,
    upstream=signal.upstream,
    slope=signal.slope,
    doubt=signal.doubt,
  )


def largest(
  phi: Activation | None,
  source: Signal,
  mixing: Mixing,
  random: np.random.Generator,
) -> Signal | None:
  """The maximum of φ over windows of k positions, equally correlated.

  Given what they share they are independent, and of a Gaussian both parts are
  drawn; of anything else it is not known.
  """
  known = source.variance > 0 and math.isfinite(source.near)
  if not source.gaussian or not known:
    return None
  drawn = _windows(source, mixing.counts[0], random)
  best, passed = _winners(phi, drawn)
  own, near, shared = (float(x) for x in (passed[0] * passed).mean(axis=1))
  matrices, share = _matrices(mixing), mixing.share
  passing = share * own, share**2 * near, share**2 * shared
  return Signal(
    float((best[:2] ** 2).mean()),
    float(best.mean()),
    float((best[0] * best[2]).mean()),
    float((best[0] * best[1]).mean()),
    gaussian=False,
    error=source.error + _POOL_ERROR,
    profile=mixed(matrices, source.profile)[1],
    edges=(Edge(source, *passing, taps=matrices),),
    drawn=best,
    made=lambda random: best,
    doubt=source.doubt,
    upstream=source.upstream,
    stretch=source.stretch,
    slope=source.slope,
  )


def _winners(
  phi: Activation | None, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The largest φ of each window, and its slope there."""
  value, slope = drawn, np.ones_like(drawn)
  if not is_plain(phi):
    value, slope = evaluate(phi, drawn)  # type: ignore[arg-type]
  place = value.argmax(axis=1)[:, None]
  at = lambda each: np.take_along_axis(each, place, 1)[:, 0]
  return at(value), at(slope)


def _windows(
  source: Signal, terms: float, random: np.random.Generator
) -> np.ndarray:
  """Entries [3, k, units]; of a mean number of terms the next integer's."""
  shared = draw_units(
    Signal(
      max(source.near, 0.0),
      source.mean,
      source.shared,
      source.near,
    ),
    random,
  )
  assert shared is not None
  k = max(1, round(terms))
  own = math.sqrt(max(source.size - max(source.near, 0.0), 0.0))
  apart = random.normal(size=(3, k, DRAWN))
  return shared[:, None] + own * apart


def _matrices(mixing: Mixing) -> tuple[np.ndarray, ...]:
  """Along each axis the mean over a window's entries."""
  found = [window_matrix(window) for window in mixing.windows]
  return tuple(each / each.sum(axis=1, keepdims=True) for each in found)


class Heard(NamedTuple):
  """What an attention's weights do."""

  alone: float
  """E[Σ a²], the mean over queries"""
  product: float
  """E[Σ a²(1 - 2a + Σ a²)]: what comes back through the scores"""
  overlap: float
  """E[Σ a·a'] of two queries"""
  entropy: float
  tilt: float
  """by what keys and queries whose scores are large are larger than others"""
  uneven: float
  """how much E[Σ a²] differs between queries, at most 1"""


def attended(
  values: Signal, queries: Signal, keys: Signal, mixing: Mixing
) -> Signal | str:
  """Σ_j a_j·v_j for a = softmax(scores), or why it is not known.

  Scores are Gaussian given a query, with the variance d·E[q²]·Var k; what keys
  share has no effect. Values have kernels of their own, so

      E[o²] = E[v·v'] + E[Σ a²]·(E[v²] - E[v·v'])

  and the gradient of a query is that of its scores, a_j·δ·(v_j - o).
  """
  apart = values.size - values.near
  own_keys = keys.size - keys.near
  product = mixing.features * queries.size * own_keys
  if not math.isfinite(product) or not math.isfinite(apart):
    return "queries, keys or values are not known"
  found = moments(mixing.scores, max(product, 0.0))  # type: ignore[arg-type]
  variance = float(found.second_moment) - float(found.mean) ** 2
  if variance > _LARGEST_SCORES:
    return (
      f"a softmax of large scores: their variance is {variance:.3g}, theory "
      f"holds up to {_LARGEST_SCORES:g}"
    )
  heard = _heard(variance, queries, mixing)
  slope = float(found.derivative_second_moment) * mixing.values
  size = values.near + heard.alone * apart
  near = values.near + heard.overlap * apart
  return Signal(
    size,
    0.0,
    values.shared,
    min(near, size),
    gaussian=False,
    made=lambda random: None,
    error=_error(values, queries, keys, size, heard, variance),
    edges=_back(values, queries, keys, mixing, heard, slope),
    stretch=values.stretch,
    upstream=values.upstream,
    slope=values.slope,
    entropy=heard.entropy,
    doubt=values.doubt,
  )


def _heard(variance: float, queries: Signal, mixing: Mixing) -> Heard:
  weights = weights_of(variance, mixing.counts, mixing.features)
  alone = float(weights.squares.mean())
  uniform = float(np.mean(1 / np.array(mixing.counts)))
  returned = weights.squares - 2 * weights.cubes + weights.squares**2
  alike = queries.near / queries.size if queries.size else 0.0
  alike = float(np.clip(alike, 0.0, 1.0))
  # scores of two queries are as correlated as these: e^(variance·alike)
  overlap = mixing.overlap * (alone / uniform) ** alike
  entropy = float(weights.entropy.mean())
  product = max(0.0, float(returned.mean()))
  tilt = 1 + 4 * variance / max(1, mixing.features)  # E[s²·e^2s]/E[e^2s]
  uneven = min(1.0, float(weights.squares.std()) / alone)
  return Heard(alone, product, min(overlap, 1.0), entropy, tilt, uneven)


def _back(
  values: Signal,
  queries: Signal,
  keys: Signal,
  mixing: Mixing,
  heard: Heard,
  slope: float,
) -> tuple[Edge, ...]:
  apart = values.size - values.near
  own_keys = keys.size - keys.near
  ratio, alone = mixing.share, heard.alone
  number = max(2.0, max(mixing.counts))
  uniform = float(np.mean(1 / np.array(mixing.counts)))
  grown = heard.overlap / mixing.overlap if mixing.overlap else 1.0
  cross = max(0.0, mixing.columns - ratio * uniform) * grown
  straight = Edge(
    values,
    ratio * alone,
    max(0.0, ratio * (ratio * number - 1) - cross) / (number - 1),
    ratio * ratio,
    cross=cross,
    lift=ratio * (1 - alone) / (number - 1),
    error=_UNEVEN_ERROR * heard.uneven,
  )
  slope *= heard.tilt
  scored = slope * apart * heard.product
  error = _SCORE_ERROR + _UNEVEN_ERROR * heard.uneven
  relative = heard.overlap / alone if alone else 0.0
  asked = scored * own_keys
  across = slope * apart * queries.near * cross * (1 - heard.overlap)
  found = scored * queries.size * ratio
  return (
    straight,
    Edge(queries, asked, asked * relative, 0.0, error=error),
    Edge(keys, found, 0.0, 0.0, cross=across, error=error),
  )


def _error(
  values: Signal,
  queries: Signal,
  keys: Signal,
  size: float,
  heard: Heard,
  variance: float,
) -> float:
  """Of log₂ E[o²]: of the values, and of E[Σ a²] by that of the scores."""
  scores = variance * math.log(2) * (queries.error + keys.error)
  part = heard.alone * (values.size - values.near) / size if size else 0.0
  own = _SCORE_ERROR / 2 + _UNEVEN_ERROR * heard.uneven
  return values.error + part * scores / math.log(2) + own
