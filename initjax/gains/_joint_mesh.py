"""Where an activation is smooth: panels that 21 nodes resolve.

Everything is in units of the standard deviation of x ~ N(0, v): x = √v·z.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from initjax._activations import Evaluate
from initjax.gains._quadrature import (
  CUTOFF,
  NODES,
  DivergenceError,
  integrals_and_intervals,
  lobatto,
)

TOLERANCE = 1e-12  # of the last coefficients of a resolved panel
MAX_PANELS = 20_000

_PANEL = 1.5  # widest panel
_UNSEEN = 1e-30  # mass of the tails that are cut off, of the whole
_STEEP = 1e3  # a change that much faster than its panel is a kink or a jump
_BISECTIONS = 60
_DISCONTINUITY = 1e-9  # smallest jump of φ or φ', of its root mean square


class Mesh(NamedTuple):
  """Panels, and what else the joint moments need to know of φ."""

  edges: np.ndarray
  """[panels + 1], from -reach to reach"""
  knots: np.ndarray
  """edges where φ or φ' jumps"""
  scales: np.ndarray
  """E[φ²], E[φ'²], E[φ⁴], E[φ'⁴]: natural sizes of the joint moments"""
  variance: float


def powers(value: np.ndarray, slope: np.ndarray) -> np.ndarray:
  """The functions that a mesh resolves: φ, φ', φ², φ'², φ⁴, φ'⁴."""
  return np.stack([value, slope, value**2, slope**2, value**4, slope**4])


def density(z: np.ndarray) -> np.ndarray:
  """Of N(0, 1)."""
  return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def nodes_of(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """[m, n]: the nodes of panels [m]."""
  return left[:, None] + (right - left)[:, None] * lobatto()[0]


def last_coefficients(values: np.ndarray) -> np.ndarray:
  """The largest of the last four Legendre coefficients of values [..., n]."""
  return abs(values @ _coefficients()[-4:].T).max(axis=-1)


@functools.cache
def _coefficients() -> np.ndarray:
  """[k, n]: from values at the nodes to Legendre coefficients."""
  unit = 2 * lobatto()[0] - 1
  vandermonde = np.polynomial.legendre.legvander(unit, NODES - 1)
  return np.linalg.inv(vandermonde)


def mesh_of(evaluate: Evaluate, variance: float) -> Mesh:
  """Adaptive panels, with an edge at every kink and jump.

  Raises:
    DivergenceError: where a moment is infinite or cannot be resolved.
  """
  std = math.sqrt(variance)

  def factors(x: np.ndarray) -> np.ndarray:
    return powers(*evaluate(x))

  totals, left, right = integrals_and_intervals(factors, np.array([variance]))
  second = totals[2:, 0]
  scales = np.concatenate([np.sqrt(second[:2]), second])
  change = _change(evaluate, std, scales)
  steep = _steepest(change, left / std, right / std)
  reach = _reach(factors, std)
  edges = _panels(factors, std, scales, reach, steep)
  knots = _discontinuities(evaluate, edges, std, scales)
  mesh = Mesh(edges, knots, second, variance)
  _check_mesh(factors, mesh, totals[:, 0], scales)
  return mesh


def _reach(factors: Callable[..., np.ndarray], std: float) -> float:
  """Beyond how many standard deviations no moment has anything."""
  z = np.arange(1.0, CUTOFF)
  with np.errstate(over="ignore", invalid="ignore"):
    rows = factors(std * np.stack([z, -z]))[4:]
    rows = np.concatenate([rows, np.ones((1, *rows.shape[1:]))])
    mass = np.where(np.isfinite(rows), abs(rows), 0.0).max(axis=1) * density(z)
  seen = mass > _UNSEEN * mass.max(axis=-1, keepdims=True)
  return min(CUTOFF, z[seen.any(axis=0)].max() + 1)


def _change(
  evaluate: Evaluate, std: float, scales: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """How much φ and φ' differ between points, of their root mean squares."""

  def change(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    value, slope = evaluate(std * np.stack([a, b]))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
      return np.fmax(
        abs(value[1] - value[0]) / scales[0],
        abs(slope[1] - slope[0]) / scales[1],
      )

  return change


def _steepest(
  change: Callable[[np.ndarray, np.ndarray], np.ndarray],
  left: np.ndarray,
  right: np.ndarray,
) -> np.ndarray:
  """[2, n]: where φ or φ' changes, to the last bit, and how fast.

  The adaptive intervals say where; the jump may also lie between two of them.
  """
  near = abs(left + right) < 2 * CUTOFF
  points = np.sort(nodes_of(left[near], right[near])[:, [0, -1]].ravel())
  a, b = points[:-1], points[1:]
  with np.errstate(invalid="ignore", divide="ignore"):
    rate = change(a, b) / (b - a)
  steep = rate * _PANEL > _STEEP
  a, b, rate = a[steep], b[steep], rate[steep]
  for _ in range(_BISECTIONS):
    middle = (a + b) / 2
    if ((middle == a) | (middle == b)).all():
      break
    first = change(a, middle) >= change(middle, b)
    a, b = np.where(first, a, middle), np.where(first, middle, b)
  return np.stack([(a + b) / 2, rate])


def _panels(
  factors: Callable[..., np.ndarray],
  std: float,
  scales: np.ndarray,
  reach: float,
  steep: np.ndarray,
) -> np.ndarray:
  edges = np.linspace(-reach, reach, 2 * math.ceil(reach / _PANEL) + 1)
  left, right, found = edges[:-1], edges[1:], edges
  while left.size:
    tails = last_coefficients(factors(std * nodes_of(left, right)))
    weights = (right - left) * _largest_density(left, right)
    rough = ~(tails * weights <= TOLERANCE * scales[:, None])
    rough &= right - left > 1e-14 * np.maximum(1e-3, abs(left))
    left, right = left[rough.any(axis=0)], right[rough.any(axis=0)]
    cuts = np.array(
      [_cut(*ends, steep) for ends in zip(left, right, strict=True)]
    )
    found = np.concatenate([found, cuts])
    if found.size > MAX_PANELS:
      raise DivergenceError("stalls", int(rough.any(axis=1).argmax()), 0)
    left, right = np.concatenate([left, cuts]), np.concatenate([cuts, right])
  return np.sort(found)


def _cut(left: float, right: float, steep: np.ndarray) -> float:
  """Where φ or φ' jumps within a panel; else its middle."""
  inside = (steep[0] > left) & (steep[0] < right)
  inside &= steep[1] * (right - left) > _STEEP
  if not inside.any():
    return (left + right) / 2
  return float(steep[0][np.where(inside, steep[1], 0.0).argmax()])


def _largest_density(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  return density(np.maximum(0.0, np.maximum(left, -right)))


def _discontinuities(
  evaluate: Evaluate, edges: np.ndarray, std: float, scales: np.ndarray
) -> np.ndarray:
  """Edges where φ or φ' jumps, by extrapolation from either side."""
  both = np.stack(evaluate(std * nodes_of(edges[:-1], edges[1:])))
  coefficients = both @ _coefficients().T  # [2, panels, k]
  signs = (-1.0) ** np.arange(NODES)
  gaps = (coefficients[:, 1:] @ signs) - coefficients[:, :-1].sum(axis=-1)
  inner = edges[1:-1]
  sizes = scales[:2, None]
  sharp = abs(gaps) > _DISCONTINUITY * (sizes + abs(both[:, 1:, 0]))
  sharp &= abs(gaps) * density(inner) > 1e-3 * _DISCONTINUITY * sizes
  return inner[sharp.any(axis=0)]


def _check_mesh(
  factors: Callable[..., np.ndarray],
  mesh: Mesh,
  totals: np.ndarray,
  scales: np.ndarray,
) -> None:
  """Raises if the panels have overlooked what finer intervals saw."""
  left, right = mesh.edges[:-1], mesh.edges[1:]
  z = nodes_of(left, right)
  weights = (right - left)[:, None] * lobatto()[1] * density(z)
  sums = np.einsum("cmn,mn->c", factors(math.sqrt(mesh.variance) * z), weights)
  wrong = ~(abs(sums - totals) <= 10 * TOLERANCE * scales)
  if wrong.any():
    raise DivergenceError("stalls", int(wrong.argmax()), 0)
