"""What chance does to a chain of layers, and whether more than that happened.

Theory at the chain's own widths gives the mean and the covariance of all
logarithms under the null hypothesis (`_null`), and generalized least squares
gives the best estimate of the drift per layer, with its error. For ReLU, this
compares the ends; for contracting maps, it averages over layers.

Reference: Hanin and Nica 2020; Roberts, Yaida and Hanin 2022; Aitken 1935.
"""

import math
from typing import NamedTuple

import numpy as np

from initjax.diagnosis._chain import Chain
from initjax.diagnosis._null import Null, null_of, passed_on, unbiased
from initjax.meanfield import THEORY_FAILS
from initjax.measurement import RowStatistics
from initjax.propagation import kept_response


class Drift(NamedTuple):
  """One direction of a chain: what was measured, what the null expects."""

  measured: np.ndarray
  """[rows]: log₂ of the second moment, biases included; backward of the sum of
  squares"""
  expected: np.ndarray
  """[rows]: mean over healthy chains that start with the same number"""
  std: np.ndarray
  """[rows]: their standard deviation"""
  unsure: np.ndarray
  """[rows]: by how much that mean may be off, either way"""
  per_layer: float
  """growth in log₂ per layer beyond what is expected, in the direction that
  the signal takes"""
  error: float
  """its standard deviation by chance"""

  @property
  def sigmas(self) -> float:
    """By how many standard deviations it drifts."""
    return self.per_layer / self.error

  def margin(self, sigmas: float) -> np.ndarray:
    """[rows]: how far from `expected` a healthy chain may be."""
    return sigmas * self.std + self.unsure


def drift_of(
  chain: Chain,
  found: RowStatistics,
  direction: str,
  target: float | None,
) -> Drift | None:
  """How a chain drifts; None where no law of it is known.

  So it is where theory is silent on an activation, where the signal or the
  gradient does not arrive, and where the gradient comes back by other ways too.

  Args:
    chain: from `chain_of`.
    found: what was measured.
    direction: "forward" for second moments, "backward" for the gradients' sums
      of squares.
    target: the second moment, biases included, that the weights should keep
      forward; if None, that which most layers have.
  """
  rows = list(chain.rows)
  moments = [bits[:, rows] for bits in found.log2_moments.values()]
  if not np.isfinite(moments).all():
    return None
  if direction == "backward" and not chain.returns:
    return None
  try:
    with np.errstate(all="ignore"):
      if direction == "forward":
        drift = _forward(chain, found, target)
      else:
        drift = _backward(chain, found)
  except THEORY_FAILS:
    return None
  numbers = (drift.per_layer, drift.error, *drift.expected, *drift.std)
  return drift if np.isfinite(numbers).all() and drift.error > 0 else None


def _forward(chain: Chain, found: RowStatistics, target: float | None) -> Drift:
  measured = _signal(chain, found)
  null = _null(chain, found, measured, target)
  kept, accumulated = passed_on(chain, null.forward)
  steps = np.arange(chain.length, dtype=float)
  alone, drift = null.forward_drift, null.forward_drift
  if null.averaged is not None:
    drift = np.where(np.isnan(null.averaged[0]), alone, null.averaged[0])
  return _least_squares(
    measured,
    null.forward,
    (drift, 0 * drift if chain.has_positions else drift),
    null.forward_covariance / len(found.log2_moments["forward"]),
    start=kept,
    growth=steps if target is None else accumulated,
  )


def _backward(chain: Chain, found: RowStatistics) -> Drift:
  """How the gradients of different samples correlate is not known.

  Their average drifts less than one of them, down to what it does where they
  are drawn at random at the end, and is taken to scatter like one: an upper
  bound.
  """
  rows = list(chain.rows)
  gradient = found.log2_moments["backward"][:, rows]
  sizes = np.log2(np.maximum(found.backward.size[rows], 1))
  null = _null(chain, found, _signal(chain, found), None)
  alone = least = null.backward_drift
  if null.averaged is not None:
    least = np.where(np.isnan(null.averaged[1]), 0.0, null.averaged[1])
  drift = _least_squares(
    (gradient.mean(axis=0) + sizes)[::-1],
    null.backward[::-1],
    (alone[::-1], (0 * alone if chain.has_positions else least)[::-1]),
    null.backward_covariance[::-1, ::-1] / len(gradient),
    start=np.ones(len(rows)),
    growth=np.arange(len(rows), dtype=float),
  )
  names = ("measured", "expected", "std", "unsure")
  return drift._replace(**{name: getattr(drift, name)[::-1] for name in names})


def _null(
  chain: Chain,
  found: RowStatistics,
  measured: np.ndarray,
  target: float | None,
) -> Null:
  """The null of as many samples, as alike as those that were measured."""
  first = chain.rows[0]
  correlation = float(found.detail.correlation[first])
  known = math.isfinite(correlation)
  return null_of(
    chain,
    tuple(measured.tolist()),
    target,
    correlation=min(max(correlation, -1.0), 1.0) if known else 0.0,
    batch=int(found.detail.samples[first]) if known else 1,
  )


def _signal(chain: Chain, found: RowStatistics) -> np.ndarray:
  """[rows]: log₂ second moments with biases, mean over draws."""
  bits = found.log2_moments["forward"][:, list(chain.rows)]
  return np.logaddexp2(bits, np.log2(chain.sigma_b2)).mean(axis=0)


def _least_squares(
  measured: np.ndarray,
  expected: np.ndarray,
  drifts: tuple[np.ndarray, np.ndarray],
  covariance: np.ndarray,
  *,
  start: np.ndarray,
  growth: np.ndarray,
) -> Drift:
  """Fits measured - expected = drift + a·start + b·growth + chance.

  Rows stand in the order that the signal takes. The drift of a healthy chain
  lies between both `drifts`.
  """
  # Generalized least squares, since deviations are passed on from row to row:
  # for ReLU, whose logarithm walks at random, it compares the ends alone, where
  # an ordinary fit would take a walk for a trend. One row may be certain.
  ridge = 1e-9 * np.trace(covariance) / len(start)
  design = np.stack([start, growth], axis=1)
  weighted = np.linalg.solve(covariance + ridge * np.eye(len(start)), design)
  precision = np.linalg.inv(design.T @ weighted)
  since = np.eye(len(start))
  since[:, 0] -= start  # what is left of the first row's deviation is known
  variances = ((since @ covariance) * since).sum(axis=1)
  unsure = (drifts[0] - drifts[1]) / 2
  middle = expected + (drifts[0] + drifts[1]) / 2
  ends = (
    float((precision @ weighted.T @ (measured - middle + sign * unsure))[1])
    for sign in (-1, 1)
  )
  low, high = sorted(ends)
  return Drift(
    measured,
    measured[0] * start + since @ middle,
    np.sqrt(np.maximum(variances, 0.0)),
    abs(since @ unsure),
    per_layer=max(low, 0.0) + min(high, 0.0),
    error=math.sqrt(precision[1, 1]),
  )


def one_layer(
  chain: Chain, found: RowStatistics, direction: str
) -> tuple[np.ndarray, np.ndarray] | None:
  """[rows - 1] each: what a layer adds beyond theory, and its deviation.

  In log₂, of layers as they are and of healthy ones. Theory starts from what
  was measured of the layer before, so that one bad layer is no other's fault.
  None where `drift_of` is.
  """
  rows, back = list(chain.rows), direction == "backward"
  moments = [bits[:, rows] for bits in found.log2_moments.values()]
  if not np.isfinite(moments).all() or (back and not chain.returns):
    return None
  try:
    with np.errstate(all="ignore"):
      return _one_layer(chain, found, back)
  except THEORY_FAILS:
    return None


def _one_layer(
  chain: Chain, found: RowStatistics, back: bool
) -> tuple[np.ndarray, np.ndarray] | None:
  signal, rows = _signal(chain, found), list(chain.rows)
  null = _null(chain, found, signal, None)
  kept = [
    kept_response(phi)(log2_q)
    for phi, log2_q in zip(chain.activations, signal, strict=False)
  ]
  gain = unbiased(chain, float(np.median(signal)))
  sizes = found.log2_moments["forward"][:, rows].mean(axis=0)
  covariance = null.forward_covariance
  off = sizes[1:] - gain - [each.log2_second_moment for each in kept]
  if back:
    gradient = found.log2_moments["backward"][:, rows].mean(axis=0)
    gradient += np.log2(np.maximum(found.backward.size[rows], 1))
    covariance = null.backward_covariance[::-1, ::-1]
    off = -np.diff(gradient) - gain - [each.log2_derivative for each in kept]
  ridge = 1e-9 * np.trace(covariance) / len(rows) * np.eye(len(rows))
  root = np.linalg.cholesky(covariance + ridge)
  std = np.diag(root)[1:][:: -1 if back else 1]
  std = std / math.sqrt(len(found.log2_moments["forward"]))
  known = np.isfinite(off).all() and np.isfinite(std).all()
  return (off, np.maximum(std, 1e-6)) if known else None
