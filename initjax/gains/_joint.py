"""Moments of an activation at two jointly Gaussian arguments."""

import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from initjax._activations import (
  Evaluate,
  TracedActivation,
  compiled,
  in_float64,
  trace,
)
from initjax._checks import check_number
from initjax.gains._joint_mesh import (
  MAX_PANELS,
  TOLERANCE,
  Mesh,
  density,
  last_coefficients,
  mesh_of,
  nodes_of,
)
from initjax.gains._moments import cached_moments, check_not_nan, explained
from initjax.gains._quadrature import DivergenceError, lobatto
from initjax.typing import Activation, Numbers

_NAMES = ("E[φ]", "E[φ']", "E[φ²]", "E[φ'²]", "E[φ⁴]", "E[φ'⁴]")
_PANEL = 3.0  # widest panel, in standard deviations of the inner Gaussian
_CHUNK = 400  # outer nodes at a time: bounds memory


class JointMoments(NamedTuple):
  """Moments for (u, v): floats, or arrays of the shape of c."""

  product: Numbers
  """E[φ(u)φ(v)]"""
  derivative_product: Numbers
  """E[φ'(u)φ'(v)] = d E[φ(u)φ(v)]/dc / variance; where φ jumps, φ' holds a
  delta, which is counted, and this is inf at c = 1 (nan at c = -1)"""
  square_product: Numbers
  """E[φ(u)²φ(v)²]"""
  derivative_square_product: Numbers
  """E[φ'(u)²φ'(v)²]; inf where φ jumps"""
  square_difference: Numbers
  """E[(φ(u) - φ(v))²], to full relative accuracy as c -> 1"""


def joint_moments(
  activation: Activation,
  correlation: float | np.ndarray,
  variance: float = 1.0,
) -> JointMoments:
  """Returns E[φ(u)φ(v)] and similar moments of Gaussian u and v, in float64.

  Both have mean 0 and the same variance. With independent w, t, t' ~ N(0, 1)

      u = √v·(√c·w + √(1-c)·t),   v = √v·(√c·w + √(1-c)·t'),

  so E[φ(u)φ(v)] = E_w[(E_t φ(u))²]: the inner integral is cut at the kinks and
  jumps of φ, and the outer function is smooth. The relative error is at most
  1e-12 (absolute 1e-14, in units of E[φ²], for a moment that is 0).

  Args:
    activation: any elementwise JAX function of real numbers.
    correlation: c in [-1, 1], a number or an array.
    variance: the variance of both u and v, > 0.

  Raises:
    ValueError: for arguments out of range, as for `moments`, or if E[φ⁴] or
      E[φ'⁴] diverges.
    TypeError: if an argument is being traced.

  >>> half = joint_moments(jax.nn.relu, 0.5)
  >>> round(half.product, 12), round(half.derivative_product, 12)
  (0.304498890522, 0.333333333333)

  Reference: Cho & Saul 2009, Eq. 1; Poole et al. 2016, Eq. 5; Price 1958.
  """
  leaves = jax.tree.leaves((correlation, variance))
  if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
    raise TypeError(
      "correlation and variance must be numbers that are known when tracing; "
      "got a traced value: compute joint moments outside of jit, or tabulate "
      "them."
    )
  check_number("variance", variance, low=0, open_low=True)
  c = np.asarray(correlation, np.float64)
  if not np.all(abs(c) <= 1):
    raise ValueError(f"correlation must be in [-1, 1]; got {correlation!r}.")
  q = float(variance)

  def compute() -> np.ndarray:
    traced = trace(activation)
    rows = [_cached(traced, each, q) for each in c.ravel().tolist()]
    return np.reshape(rows, (c.size, 5)).T

  table = in_float64(compute)
  if c.ndim == 0:
    return JointMoments(*(float(row[0]) for row in table))
  return JointMoments(*(row.reshape(c.shape) for row in table))


@functools.lru_cache(maxsize=4096)
def _cached(
  traced: TracedActivation, correlation: float, variance: float
) -> tuple[float, ...]:
  """The five moments of a traced activation; runs inside `in_float64`."""
  evaluate = _checked(traced)
  jumps = math.isinf(cached_moments(traced, (variance,))[3, 0])
  try:
    mesh = _cached_mesh(traced, variance)
    if abs(correlation) == 1:
      rows = _at_the_ends(evaluate, mesh, correlation)
    else:
      rows = _inside(evaluate, mesh, correlation, jumps)
  except DivergenceError as error:
    raise explained(traced, error, np.array([variance]), _NAMES) from None
  if jumps:
    ends = {1.0: math.inf, -1.0: math.nan}
    rows[1] = ends.get(correlation, rows[1])
    rows[3] = math.inf
  return tuple(rows.tolist())


@functools.lru_cache(maxsize=256)
def _cached_mesh(traced: TracedActivation, variance: float) -> Mesh:
  return mesh_of(_checked(traced), variance)


def _checked(traced: TracedActivation) -> Evaluate:
  run = compiled(traced)

  def evaluate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    value, slope = run(x)
    check_not_nan(traced, x, value, slope)
    return value, slope

  return evaluate


def _at_the_ends(evaluate: Evaluate, mesh: Mesh, sign: float) -> np.ndarray:
  """The moments [5] at c = ±1: those of φ(u)φ(±u)."""
  edges = np.unique(abs(mesh.edges))
  z = nodes_of(edges[:-1], edges[1:])
  weights = np.diff(edges)[:, None] * lobatto()[1] * density(z)
  std = math.sqrt(mesh.variance)
  there, back = np.stack(evaluate(std * z)), np.stack(evaluate(-std * z))
  value, slope = np.stack([there, back], axis=1)
  firsts = np.stack([value, slope, value**2, slope**2])
  rows = _products(firsts, sign)
  rows[4] = 2 * (value[0] - value[1]) ** 2 * (sign < 0)
  return np.einsum("rmn,mn->r", rows, weights)


def _products(factors: np.ndarray, sign: float) -> np.ndarray:
  """The sums [5, ...] over w and -w of products of factors [4, 2, ...].

  At a negative correlation v is -v' of a positive one. The last row is empty.
  """
  seconds = factors if sign > 0 else factors[:, ::-1]
  products = (factors * seconds).sum(axis=1)
  return np.concatenate([products, np.zeros_like(products[:1])])


def _inside(
  evaluate: Evaluate, mesh: Mesh, c: float, jumps: bool
) -> np.ndarray:
  """The moments [5] for |c| < 1, by adaptive quadrature over w >= 0."""
  edges = _outer_edges(mesh, c)
  left, right = edges[:-1], edges[1:]
  total, size = np.zeros(5), np.zeros(5)
  relative = np.full(5, TOLERANCE)
  relative[4] += 1e-15 / math.sqrt(1 - abs(c))  # φ(u) - φ(v) is rounded
  floor = 1e-16 * np.append(mesh.scales, (1 - c) * mesh.scales[0])
  count = 0
  while left.size:
    w = nodes_of(left, right)
    rows = _outer(evaluate, mesh, c, jumps, w.ravel()).reshape(5, *w.shape)
    rows = rows * density(w) * (right - left)[:, None]
    integrals = rows @ lobatto()[1]
    size = np.maximum(size, abs(total) + abs(integrals).sum(axis=-1))
    rough = ~(relative * size + floor >= last_coefficients(rows).T)
    rough = rough.any(axis=1)
    total += integrals[:, ~rough].sum(axis=-1)
    left, right = left[rough], right[rough]
    middle = (left + right) / 2
    left, right = np.append(left, middle), np.append(middle, right)
    count += left.size
    if count > MAX_PANELS:
      raise DivergenceError("stalls", 2, 0)
  return total


def _outer_edges(mesh: Mesh, c: float) -> np.ndarray:
  """Panels over w >= 0 that resolve φ, smoothed at the scale √((1-c)/c)."""
  reach = mesh.edges[-1]
  grid = np.linspace(0.0, reach, math.ceil(reach / 2) + 1)
  if c == 0:
    return grid
  alpha, scale = math.sqrt(abs(c)), math.sqrt(1 / abs(c) - 1)
  edges = np.unique(np.round(abs(mesh.edges) / alpha / scale)) * scale
  steps = scale * np.array([-9.0, -5.0, -2.5, 0.0, 2.5, 5.0, 9.0])
  near = abs(abs(mesh.knots)[:, None] / alpha + steps).ravel()
  edges = np.concatenate([grid, edges, near])
  return np.unique(np.clip(edges, 0.0, reach))


def _outer(
  evaluate: Evaluate, mesh: Mesh, c: float, jumps: bool, w: np.ndarray
) -> np.ndarray:
  """What is integrated over w: the products [5, w] of inner integrals."""
  both = np.concatenate([w, -w])
  parts = [
    _smoothed(evaluate, mesh, abs(c), jumps, both[i : i + _CHUNK])
    for i in range(0, both.size, _CHUNK)
  ]
  smooth = np.concatenate(parts, axis=1).reshape(5, 2, w.size)
  rows = _products(smooth[:4], c)
  rows[4] = 2 * smooth[4].sum(axis=0)
  if c < 0:
    rows[4] += 2 * (smooth[0, 0] - smooth[0, 1]) ** 2
  return rows


def _smoothed(
  evaluate: Evaluate, mesh: Mesh, c: float, jumps: bool, w: np.ndarray
) -> np.ndarray:
  """E_t of φ, φ', φ², φ'², and Var_t φ [5, w] at √v·(√c·w + √(1-c)·t).

  Where φ jumps, E_t φ' = E_t[t·φ]/√(v(1-c)) by Stein's lemma.
  """
  center, spread = math.sqrt(c) * w, math.sqrt(1 - c)
  left, right, owner = _inner_panels(mesh, center, spread)
  starts = np.searchsorted(owner, np.arange(w.size))
  t = nodes_of(left, right)
  weights = (right - left)[:, None] * lobatto()[1] * density(t)
  std = math.sqrt(mesh.variance)
  value, slope = evaluate(std * (center[owner, None] + spread * t))

  def mean(values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(np.einsum("mn,mn->m", values, weights), starts)

  first = mean(value)
  first_slope = mean(t * value) / (spread * std) if jumps else mean(slope)
  deviation = mean((value - first[owner, None]) ** 2)
  rows = [first, first_slope, mean(value**2), mean(slope**2), deviation]
  return np.stack(rows)


def _inner_panels(
  mesh: Mesh, center: np.ndarray, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Panels (left, right, whose) over t, cut where those of φ are."""
  reach = mesh.edges[-1]
  grid = np.linspace(-reach, reach, 2 * math.ceil(reach / _PANEL) + 1)
  cuts = (mesh.edges - center[:, None]) / spread
  cuts = cuts.clip(-reach, reach)
  grid = np.broadcast_to(grid, (center.size, grid.size))
  edges = np.sort(np.concatenate([grid, cuts], axis=1), axis=1)
  owner, panel = np.nonzero(np.diff(edges) > 0)
  return edges[owner, panel], edges[owner, panel + 1], owner
