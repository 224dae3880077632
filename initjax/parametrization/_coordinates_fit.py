"""Exponents of width: how sizes scale with it, and which are accepted.

>>> import numpy as np
>>> sizes = np.log2([[1.0, 1.0], [2.0, 4.0]])  # [widths, seeds]
>>> power_law(np.array([6.0, 7.0]), sizes)
(1.5, 0.5)
"""

from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["linear", "product", "scores", "readout"]
"""Scores of attention and readouts that do not start at 0 are sums of n terms
that are independent at the start, and alike later: their own kinds."""

ROUNDING = 16.0
"""How many units in the last place of a signal are no change."""
SURE = 3.0
"""Standard errors by which a bound is to be passed."""
LOOSE = 0.5
"""Above such an error, times that, nothing is said."""
LOW, HIGH, LAST = -0.20, 0.10, 0.10
"""What is accepted: exponents over all widths, and of the last pair ±."""
LOW_OF_SUMS = -0.6
"""The lower one for scores and readouts: 1/√n at the start."""


class Exponents(NamedTuple):
  """Arrays [steps + 1, rows]: size ∝ width^exponent; NaN where not fitted."""

  exponent: np.ndarray
  error: np.ndarray
  """standard error of the mean over seeds, at least that of most operations"""
  last: np.ndarray
  """of the two largest widths alone"""
  last_error: np.ndarray


def power_law(log2_widths: np.ndarray, log2_sizes: np.ndarray) -> tuple:
  """The exponent of width by least squares, its mean over seeds and error.

  Args:
    log2_widths: [widths].
    log2_sizes: [widths, seeds, ...].
  """
  x = log2_widths - log2_widths.mean()
  with np.errstate(invalid="ignore"):
    slopes = np.tensordot(x / (x @ x), log2_sizes, 1)  # [seeds, ...]
    error = slopes.std(axis=0, ddof=1) / np.sqrt(len(slopes))
  mean = slopes.mean(axis=0)
  return (float(mean), float(error)) if mean.ndim == 0 else (mean, error)


def exponents(log2_widths: np.ndarray, log2_sizes: np.ndarray) -> Exponents:
  """Of sizes [widths, seeds, steps + 1, rows]: those of all finite cells."""
  known = np.isfinite(log2_sizes).all(axis=(0, 1))
  sizes = np.where(known, log2_sizes, np.nan)
  mean, error = power_law(log2_widths, sizes)
  last, last_error = power_law(log2_widths[-2:], sizes[-2:])
  seeds = sizes.shape[1]
  return Exponents(
    mean, _pooled(error, seeds), last, _pooled(last_error, seeds)
  )


def _pooled(errors: np.ndarray, seeds: int) -> np.ndarray:
  """At least the median over rows: few seeds often happen to agree.

  The median of a standard deviation of n seeds is (1 - 2/9(n - 1))^(3/2) of the
  true one (Wilson and Hilferty 1931).
  """
  known = np.isfinite(errors)
  typical = [np.median(row[at]) if at.any() else 0.0
             for row, at in zip(errors, known, strict=True)]  # fmt: skip
  of_true = (1 - 2 / (9 * (seeds - 1))) ** 1.5
  return np.maximum(errors, np.array(typical)[:, None] / of_true)


def without_rounding(
  signal: np.ndarray, change: np.ndarray, eps: np.ndarray
) -> np.ndarray:
  """The changes; -inf for those at the level of rounding.

  Args:
    signal: log₂ sizes [..., rows].
    change: likewise.
    eps: of each row's dtype.
  """
  return np.where(change > signal + np.log2(ROUNDING * eps), change, -np.inf)


class Bounds(NamedTuple):
  """What exponents are accepted."""

  low: float
  high: float
  last: float | None
  """± of the last pair; None if it is not asked"""


def bounds(kind: Kind) -> Bounds:
  """Of an operation's signal, and of its change."""
  if kind in ("scores", "readout"):
    return Bounds(LOW_OF_SUMS, HIGH, None)
  return Bounds(LOW, HIGH, LAST)


Judgement = Literal["stable", "grows", "shrinks", "unknown", "none"]
"""Of one size at one step; "none" where there was none to fit."""


def sure(seeds: int) -> float:
  """Errors that are as sure as three known ones, by Student's t.

  Pooling leaves as many degrees of freedom as seeds, not one less.
  """
  from scipy import stats

  return float(stats.t.isf(stats.norm.sf(SURE), seeds))


def judged(found: Exponents, kinds: list[Kind], seeds: int) -> np.ndarray:
  """A `Judgement` for each step and row [steps + 1, rows].

  What passes a bound by as much as three standard errors would, were they known
  exactly, is outside; where these are so large that a growth of ½ could hide in
  them, it is unknown.
  """
  laws = [bounds(kind) for kind in kinds]
  low, high, last = (
    np.array([np.inf if x is None else x for x in column], float)
    for column in zip(*laws, strict=True)
  )
  margin, last_margin = (
    sure(seeds) * each for each in (found.error, found.last_error)
  )
  with np.errstate(invalid="ignore"):
    grows = found.exponent - margin > high
    grows |= found.last - last_margin > last
    shrinks = found.exponent + margin < low
    shrinks |= found.last + last_margin < -last
    words = np.where(SURE * found.error > LOOSE, "unknown", "stable")
  words = np.where(shrinks, "shrinks", words)
  words = np.where(grows, "grows", words)
  return np.where(np.isnan(found.exponent), "none", words)
