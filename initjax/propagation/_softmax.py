"""Weights of a softmax whose scores are independent Gaussians."""

import functools
import math
from typing import NamedTuple

import numpy as np

_ORDERS = 8
_HEAVIEST = 300
"""Of more features, chance in the size of a query does not matter."""
_EXACT = 24
"""Up to here every number of keys is computed by itself."""


class Weights(NamedTuple):
  """Means over scores of a_j = exp(s_j)/Σ exp(s), for each number of keys."""

  squares: np.ndarray
  """E[Σ a²]"""
  cubes: np.ndarray
  """E[Σ a³]"""
  entropy: np.ndarray
  """E[-Σ a log a], in nats"""


def weights_of(
  variance: float, counts: tuple[float, ...], features: int
) -> Weights:
  """Of scores q·k_j, Gaussian given the query q of so many features.

  With L(t) = E[exp(-t·eˢ)] the moments over n scores are integrals over t,

      E[Σ a^m] = n ∫ t^(m-1)/(m-1)! · E[e^(ms)·exp(-t·eˢ)] · L(t)^(n-1) dt

  averaged over |q|², which is χ² of as many degrees of freedom.

  Args:
    variance: of a score, over keys and queries.
    counts: numbers n of keys.
    features: of a query.
  """
  n = np.array(sorted(set(counts)))
  if n.size > _EXACT:
    n = np.unique(np.round(np.geomspace(n[0], n[-1], _EXACT)))
  scales, masses = _sizes(features)
  found = sum(
    mass * _given(variance * scale, tuple(n.tolist()))
    for scale, mass in zip(scales, masses, strict=True)
  )
  logs = np.log(np.maximum(counts, 1.0))
  squares, cubes = (
    np.exp(np.interp(logs, np.log(n), np.log(row))) for row in found[:2]
  )
  return Weights(squares, cubes, np.interp(logs, np.log(n), found[2]))


def _sizes(features: int) -> tuple[np.ndarray, np.ndarray]:
  """Nodes and masses for χ²/features."""
  if not 0 < features <= _HEAVIEST:
    return np.ones(1), np.ones(1)
  from scipy import special

  nodes, masses = special.roots_genlaguerre(_ORDERS, features / 2 - 1)
  return nodes * 2 / features, masses / masses.sum()


@functools.lru_cache(maxsize=256)
def _given(variance: float, counts: tuple[float, ...]) -> np.ndarray:
  """[3, counts]: Σ a², Σ a³, entropy."""
  n = np.array(counts)[:, None]
  std = math.sqrt(variance)
  z = np.linspace(-8.5, 8.5, 171)
  density = np.exp(-(z**2) / 2)
  density /= density.sum()
  s = std * z
  low = -math.log(n.max()) - 9 * std - 12
  u = np.linspace(low, 9 * std + 5, 700)  # t = eᵘ: dt = t·du
  step = u[1] - u[0]
  with np.errstate(under="ignore", over="ignore"):
    falls = np.exp(-np.exp(u[:, None] + s)) * density
    log_falls = np.log(np.maximum(falls.sum(axis=1), 1e-300))
    others = np.exp((n - 1) * log_falls)
    t = np.exp(u)
    moment = lambda power: falls @ np.exp(power * s)
    squares = (n * others * t**2 * moment(2)).sum(axis=1) * step
    cubes = (n * others * t**3 / 2 * moment(3)).sum(axis=1) * step
    along = (n * others * t * (falls @ (s * np.exp(s)))).sum(axis=1) * step
    log_sum = (np.exp(-t) - others * np.exp(log_falls)).sum(axis=1) * step
  return np.stack([squares, cubes, log_sum - along])
