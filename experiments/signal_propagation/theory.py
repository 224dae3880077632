"""Theory for the main experiment: what chance allows in each layer.

`meanfield.trajectory` gives log₂ second moments at infinite width, their drift
at the width of the run and their covariance over networks. The measurement
starts in one layer s (signal: the first, gradient: the last), and what it found
there, y_s, is known. So the mean over seeds of y_l should lie within

    E y_l + k_l·(y_s - E y_s)  ±  3·√(Var(y_l - k_l·y_s) / seeds)

where k_l is what layer l keeps of a deviation in s: of the signal, as much as
the covariance says; of the gradient, which is linear, all.

All to first order in depth/width, for Gaussian weights; where that order does
not hold, mean and covariance are those of draws by `meanfield.simulate`. Left
out of the first order is that at finite width inputs become correlated by
chance: where theory has them all but independent (tanh, softsign), signals
fluctuate up to 3 times as much. Uniform and truncated weights differ by their
fourth moment over the width, a few percent. Orthogonal ones drift and fluctuate
less (ReLU: 3 instead of 5 per layer), so their band reaches from infinite width
to that of Gaussian weights.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from initjax import meanfield
from initjax.typing import Activation

SIGMAS = 3.0  # standard deviations from the middle of a band to its edge
DRAWS = 64  # where the first order does not hold


class Conditions(NamedTuple):
  """What all pairs of a run have in common."""

  depth: int
  width: int
  seeds: int
  batch: int
  correlation: float
  """between two inputs of the batch"""


class Law(NamedTuple):
  """One direction, log₂ of second moments, first layer first."""

  mean: np.ndarray
  """[depth], over networks; infinitely wide ones, and the drift at width n"""
  drift: np.ndarray
  """[depth]: its part that is due to the width"""
  covariance: np.ndarray
  """[depth, depth]: over networks"""


class Band(NamedTuple):
  """Where the mean over seeds should lie, in log₂."""

  middle: np.ndarray
  """[depth]"""
  half_width: np.ndarray
  """[depth]: `SIGMAS` standard deviations, and what is not known of a drift"""


def typical_correlation(inputs: np.ndarray) -> float:
  """Root mean square over pairs of different inputs of E[x_a·x_b]/E[x²].

  Of squares, since what two inputs have in common of the fluctuations of a
  second moment goes with the square of their correlation.
  """
  gram = inputs.astype(np.float64) @ inputs.T.astype(np.float64)
  batch = len(gram)
  if batch == 1:
    return 0.0
  pairs = (gram**2).sum() - (np.diag(gram) ** 2).sum()
  rms = math.sqrt(pairs / (batch * (batch - 1))) / np.diag(gram).mean()
  return float(min(rms, 1.0))


def laws(
  activation: Activation,
  log2_sigma_w2: float,
  log2_q1: float,
  conditions: Conditions,
) -> tuple[Law, Law]:
  """Of signal and gradient, in networks that start with q_1 in their first."""
  width, hidden = conditions.width, conditions.depth - 1
  layer = meanfield.Layer(activation, 2.0**log2_sigma_w2, width=width)
  layers = [meanfield.Layer(width=width)] + hidden * [layer]
  given = {
    "second_moment": 2.0**log2_q1,
    "correlation": conditions.correlation,
    "cotangent_correlation": 0.0,  # drawn at random
  }
  t = meanfield.trajectory(layers, batch=conditions.batch, **given)
  found = (
    Law(t.forward + t.forward_drift, t.forward_drift, t.forward_covariance),
    Law(t.backward + t.backward_drift, t.backward_drift, t.backward_covariance),
  )
  if all(np.isfinite(law.covariance).all() for law in found):
    return found
  drawn = meanfield.simulate(
    jax.random.key(0), layers, DRAWS, batch=min(conditions.batch, 8), **given
  )
  return _law(t.forward, drawn.forward), _law(t.backward, drawn.backward)


def _law(infinite: np.ndarray, drawn: np.ndarray) -> Law:
  """Of log₂ second moments [draws, depth]."""
  mean = drawn.mean(axis=0)
  return Law(mean, mean - infinite, np.cov(drawn, rowvar=False))


def healthy(conditions: Conditions) -> tuple[Law, Law]:
  """Of ReLU networks at the He gain, the yardstick for all others."""
  return laws(jax.nn.relu, 1.0, 1.0, conditions)


def band(
  law: Law,
  start: int,
  measured: float,
  conditions: Conditions,
  *,
  backward: bool = False,
  drift_is_bound: bool = False,
) -> Band:
  """What the mean over seeds may do, given that it is `measured` in `start`.

  Orthogonal weights drift less than `law` says: `drift_is_bound`.
  """
  covariance, at_start = law.covariance, law.covariance[:, start]
  kept = np.ones(len(law.mean)) if backward else at_start / at_start[start]
  variance = (
    np.diag(covariance) - 2 * kept * at_start + kept**2 * at_start[start]
  )
  spread = SIGMAS * np.sqrt(np.maximum(variance, 0.0) / conditions.seeds)
  middle = law.mean + kept * (measured - law.mean[start])
  unknown = np.zeros_like(middle)
  if drift_is_bound:
    unknown = (law.drift - kept * law.drift[start]) / 2
  return Band(middle - unknown, spread + abs(unknown))
