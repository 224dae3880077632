"""The null hypothesis: a chain that keeps its signal's size, by theory.

Forward, the weights are those that keep the signal at its present size;
backward, those for which χ₁ = 1 there. A contracting map, such as that of tanh,
keeps it at any σ_w² above 1/φ'(0)²: the null then has the variance of the
model.

Reference: Poole et al. 2016; Schoenholz et al. 2017; Hanin and Nica 2020.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import numpy as np

from initjax.diagnosis._chain import Chain
from initjax.meanfield import Layer, simulate, trajectory
from initjax.propagation import kept_response

_FLAT = 1e-3
_SETTLING = 400  # layers; on the edge q falls to 1/800 by then
_SMALL = -60.0  # log₂ of a variance at which φ is linear
_DRAWS = 1000  # where the law of first order does not hold
_FEWEST = 100
_MOST = 30_000_000  # units of all that is drawn
_INPUTS = 4  # of a batch that is drawn; larger averages are nearly the same


class Null(NamedTuple):
  """What healthy chains do, in log₂ of second moments [rows]; see `Trajectory`.

  Backward of sums of squares.
  """

  forward: np.ndarray
  backward: np.ndarray
  forward_drift: np.ndarray
  backward_drift: np.ndarray
  forward_covariance: np.ndarray
  backward_covariance: np.ndarray
  averaged: tuple[np.ndarray, np.ndarray] | None = None
  """both drifts of averages over a batch; NaN where they are not known"""


@functools.lru_cache(maxsize=16)
def null_of(
  chain: Chain,
  measured: tuple[float, ...],
  target: float | None = None,
  *,
  correlation: float = 0.0,
  batch: int = 1,
) -> Null:
  """Of these widths and activations; backward sums of squares, χ₁ = 1."""
  wanted = float(np.median(measured)) if target is None else math.log2(target)
  log2_sigma_w2, level = keeping(chain, wanted), wanted
  contraction = max(
    kept_response(phi)(wanted).slope for phi in chain.activations
  )
  if target is None and contraction < 1 - _FLAT:
    log2_sigma_w2, level = _of_the_model(chain, log2_sigma_w2)
  layers = tuple(_layers(chain, log2_sigma_w2))
  # Rounded, so that models that are drawn alike share what is kept: fits take
  # what is left of the first row's deviation for one of chance.
  start = 2 ** (round(8 * float(measured[0])) / 8)
  null = _law(layers, start)
  if batch > 1:  # averages of few large samples scatter like one of them
    options = round(correlation, 2), batch, _is_deep(null)
    averaged = _of_averages(layers, start, *options)
    null = null._replace(averaged=averaged)
  if math.isnan(level):
    level = _settled(chain, log2_sigma_w2, float(null.forward[-1]))
  slopes = [
    kept_response(phi)(level).log2_derivative for phi in chain.activations
  ]
  log2_chi = np.append(log2_sigma_w2 + slopes, 0.0)
  above = np.cumsum(log2_chi[::-1])[::-1]  # log₂ ∏ χ₁ over the rows after each
  backward = null.backward + np.log2(chain.widths) - above
  return null._replace(backward=backward)


@functools.lru_cache(maxsize=16)
def _law(layers: tuple[Layer, ...], start: float) -> Null:
  """Of one input; where the first order does not hold, of draws if cheap."""
  t = trajectory(layers, second_moment=start)
  drifts = t.forward_drift, t.backward_drift
  covariances = t.forward_covariance, t.backward_covariance
  if not np.isfinite(drifts).all():
    draws = max(_DRAWS, 5 * len(layers))  # for a covariance of all rows
    drawn = _drawn(layers, start, draws, fewest=draws)
    if drawn is not None:
      drifts = drawn[0].mean(0) - t.forward, drawn[1].mean(0) - t.backward
      covariances = np.cov(drawn[0].T), np.cov(drawn[1].T)
  return Null(t.forward, t.backward, *drifts, *covariances)


def _is_deep(null: Null) -> bool:
  """Whether drifts are beyond a standard deviation: deeper than wide."""
  both = (
    (null.forward_drift, null.forward_covariance),
    (null.backward_drift, null.backward_covariance),
  )
  return any(np.any(d**2 > np.diag(cov)) for d, cov in both)


@functools.lru_cache(maxsize=16)
def _of_averages(
  layers: tuple[Layer, ...],
  start: float,
  correlation: float,
  batch: int,
  deep: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Drifts over a batch, of gradients that are drawn at random at the end.

  In deep chains samples collapse sooner than the first order says: backward
  it is a bound then. Where it says nothing, draws do, if they are cheap. In
  others a drift is not worth them.
  """
  given = {"second_moment": start, "correlation": correlation}
  t = trajectory(layers, **given, batch=batch)
  forward, backward = t.forward_drift, t.backward_drift
  backward = np.where(np.isnan(backward), t.drift_apart[1], backward)
  if deep and not np.isfinite([forward, backward]).all():
    few = min(batch, _INPUTS)
    drawn = _drawn(layers, start, _FEWEST, correlation, few)
    if drawn is not None:
      if not np.isfinite(forward).all():
        forward = drawn[0].mean(axis=0) - t.forward
      if not np.isfinite(backward).all():
        backward = drawn[1].mean(axis=0) - t.backward
  return forward, backward


def _drawn(
  layers: tuple[Layer, ...],
  start: float,
  draws: int,
  correlation: float = 0.0,
  batch: int = 1,
  fewest: int = _FEWEST,
) -> tuple[np.ndarray, np.ndarray] | None:
  """Both directions of draws that live; None if too few are cheap, or live."""
  units = len(layers) * batch * max(layer.width or 1 for layer in layers)
  draws = min(draws, _MOST // units)
  if draws < fewest:
    return None
  forward, backward = simulate(
    jax.random.key(0), layers, draws, second_moment=start, batch=batch,
    correlation=max(correlation, -1 / max(batch - 1, 1)),
  )  # fmt: skip
  alive = np.isfinite(forward + backward).all(axis=1)
  if alive.sum() <= draws / 2:
    return None
  return forward[alive], backward[alive]


def _layers(chain: Chain, log2_sigma_w2: np.ndarray) -> list[Layer]:
  """The chain with these weights, its first row as the data."""
  rest = zip(
    chain.activations,
    np.exp2(np.round(log2_sigma_w2, 6)).tolist(),
    chain.sigma_b2[1:].tolist(),
    chain.widths[1:],
    strict=True,
  )
  return [Layer(width=chain.widths[0]), *(Layer(*each) for each in rest)]


def keeping(chain: Chain, level: float) -> np.ndarray:
  """[rows - 1]: log₂ σ_w² of weights that keep a signal at that log₂ q.

  Biases give a part of it.
  """
  signal = np.maximum(1 - chain.sigma_b2[1:] / 2**level, 1e-3)  # not the bias
  return unbiased(chain, level) + np.log2(signal)


def unbiased(chain: Chain, level: float) -> np.ndarray:
  """[rows - 1]: log₂ σ_w² of weights that would do so without biases."""
  sizes = [
    kept_response(phi)(level).log2_second_moment for phi in chain.activations
  ]
  return level - np.array(sizes)


def _of_the_model(chain: Chain, kept: np.ndarray) -> tuple[np.ndarray, float]:
  """log₂ σ_w² of the model itself; log₂ q where it settles, NaN if unknown.

  Without biases σ_w² must not be below 1/φ'(0)², or the signal dies fast: on
  that edge it settles at 0.
  """
  ratios = np.log2(chain.sigma_w2[1:]) - kept
  own = kept + (ratios.mean() if np.isfinite(ratios).all() else 0.0)
  edge = keeping(chain, _SMALL)
  if chain.sigma_b2.any() or (own > edge + _FLAT).all():
    return own, math.nan
  return np.maximum(own, edge), _SMALL


def _settled(chain: Chain, log2_sigma_w2: np.ndarray, log2_q: float) -> float:
  """log₂ q after these layers, over and over again."""
  layers = zip(
    chain.activations, log2_sigma_w2, chain.sigma_b2[1:], strict=True
  )
  again = itertools.islice(itertools.cycle(layers), _SETTLING)
  for phi, log2_weights, sigma_b2 in again:
    signal = 2 ** (log2_weights + kept_response(phi)(log2_q).log2_second_moment)
    log2_q = math.log2(signal + sigma_b2)
  return log2_q


def passed_on(
  chain: Chain, log2_q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What reaches each row [rows] of a signal at these sizes.

  First of a deviation in the first row, then of a bit too much gain in all.
  """
  kept, accumulated = [1.0], [0.0]
  for i, phi in enumerate(chain.activations):
    signal = 1 - chain.sigma_b2[i + 1] / 2 ** log2_q[i + 1]
    slope = signal * kept_response(phi)(log2_q[i]).slope
    kept.append(slope * kept[-1])
    accumulated.append(slope * accumulated[-1] + signal)
  return np.array(kept), np.array(accumulated)
