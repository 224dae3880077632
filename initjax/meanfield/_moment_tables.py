"""Tables of one activation's Gaussian moments, fast at any variance.

Second moments are smooth in log₂ q even where φ is not. They are tabulated on
demand in windows of 8 octaves and interpolated by splines of degree 7: within
1e-9 of the exact moments, and within 1e-11 for most activations. Where moments
overflow in a window (exp, cosh), shorter windows are used.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from initjax._activations import (
  evaluator,
  in_float64,
  is_of_library,
  trace,
)
from initjax.gains import moments
from initjax.typing import Activation

_STEP = 0.25  # octaves between two points of a table
_WINDOW, _MARGIN = 8, 2  # octaves
_SHORT = (1.0, 1 / 4, 1 / 16, 1 / 64)  # octaves
_LAST_WINDOW = 8
_EDGE = float(_WINDOW * _LAST_WINDOW)  # of log₂ q; power laws beyond
_ORDERS = 128  # Hermite orders that are computed
_TAIL_STEP = 0.25  # octaves of what is only estimated
_TAIL = (_ORDERS - 1) * 2 ** (_TAIL_STEP * (np.arange(36) + 0.5))
ORDERS = np.concatenate([np.arange(_ORDERS), _TAIL])
_TINY = 1e-300
_REMEMBERED = 1 << 14  # places of a table: layers of a stack ask for the same
_INFINITE = 900.0  # log₂ in a table, where a moment is infinite


THEORY_FAILS = (
  ValueError,
  TypeError,
  ArithmeticError,
  NotImplementedError,
)
"""What theory raises of a function that has no moments, slope or scalar form;
it is silent then, and what was measured stands."""

T = TypeVar("T", float, np.ndarray)
Spline = Callable[..., np.ndarray]
"""(log₂ q, order of the derivative) -> log₂ of E[φ²] and E[φ'²]"""


class Response(NamedTuple, Generic[T]):
  """Moments of φ for Gaussians of variance q, and how they depend on q."""

  log2_second_moment: T
  """log₂ E[φ²]"""
  log2_derivative: T
  """log₂ E[φ'²]; inf where it is infinite"""
  slope: T
  """d log E[φ²]/d log q"""
  derivative_slope: T
  """d log E[φ'²]/d log q"""
  curvature: T
  """the second derivative of log E[φ²] in log q"""
  derivative_curvature: T
  """the second derivative of log E[φ'²] in log q"""


def response(activation: Activation) -> Callable[[float], Response[float]]:
  """Tabulates the moments of φ for Gaussians of any variance.

  Use it for E[φ(√q·ζ)²] and E[φ'(√q·ζ)²] at thousands of variances: windows
  of q are tabulated to 1e-9 on first use, and windows without moments are
  remembered too. Keep the returned function, because it holds the tables.

  Args:
    activation: φ, any elementwise JAX function.

  Returns:
    A function of log₂ q, with the errors of `initjax.gains.moments`.

  >>> import jax
  >>> round(response(jax.nn.relu)(3.0).log2_second_moment, 9)  # of q/2
  2.0

  Reference: Poole et al. 2016, Eq. 3, for E[φ²]; Schoenholz et al. 2017, Eq. 7.
  """
  kept = _kept if is_of_library(activation) else _response
  return kept(activation)


def _response(activation: Activation) -> Callable[[float], Response[float]]:
  window = functools.cache(functools.partial(_window, activation))
  around = functools.lru_cache(256)(functools.partial(_around, activation))
  failed: dict[int, str] = {}

  @functools.lru_cache(_REMEMBERED)
  def respond(log2_q: float) -> Response[float]:
    place = math.floor(log2_q / _WINDOW)
    if place in failed:  # to find that out takes seconds
      raise ValueError(failed[place])
    inside = min(max(log2_q, -_EDGE), _EDGE)
    try:
      index = min(math.floor(inside / _WINDOW), _LAST_WINDOW - 1)
      return _read(window(index) or around(inside), inside, log2_q - inside)
    except THEORY_FAILS as error:
      failed[place] = str(error)
      raise

  return respond


_kept = functools.lru_cache(maxsize=256)(_response)


def _window(activation: Activation, index: int) -> Spline | None:
  """The table of one window; None if moments overflow somewhere in it."""
  low = _WINDOW * index - _MARGIN
  points = np.arange(low, low + _WINDOW + 2 * _MARGIN + _STEP / 2, _STEP)
  try:
    return _spline(activation, points)
  except ValueError:
    return None


def _around(activation: Activation, log2_q: float) -> Spline:
  """The longest table that holds one variance."""
  moments(activation, 2.0**log2_q)  # which may say why there are none
  for reach in _SHORT:
    with contextlib.suppress(ValueError):
      moments(activation, 2.0 ** (log2_q + 4 * reach))  # no pole is close
      points = log2_q + reach * np.linspace(-1, 1, 9)
      return _spline(activation, points)
  return _spline(activation, log2_q + _SHORT[-1] * np.linspace(-2, 0, 9))


def _read(table: Spline, log2_q: float, beyond: float) -> Response[float]:
  """At a place of a table, or on the power law that goes on `beyond` it."""
  value, slope, bend = (table(log2_q, order) for order in range(3))
  infinite = value > _INFINITE
  value = value + beyond * slope
  value[infinite] = math.inf
  bend = 0 * bend if beyond else bend / math.log(2)
  return Response(*np.concatenate([value, slope, bend]).tolist())


def _spline(activation: Activation, points: np.ndarray) -> Spline:
  """log₂ of E[φ²] and E[φ'²] between values of log₂ q."""
  from scipy import interpolate

  m = moments(activation, 2.0**points)
  rows = np.stack([m.second_moment, m.derivative_second_moment], axis=1)
  logs = np.log2(np.clip(rows, _TINY, 1 / _TINY))
  return interpolate.make_interp_spline(points, logs, k=7)


class Spectrum(NamedTuple):
  """φ²/E[φ²] and φ'²/E[φ'²] in Hermite polynomials, and φ and φ' themselves.

  E[f(x)g(y)] = Σ ρ^k·f_k·g_k for standard Gaussians of correlation ρ (Mehler).
  """

  value: np.ndarray
  """[layers, orders] of φ/√E[φ²]"""
  slope: np.ndarray
  """of φ'/√E[φ'²]"""
  square: np.ndarray
  """of φ²/E[φ²]"""
  slope_square: np.ndarray
  """of φ'²/E[φ'²]"""
  thirds: np.ndarray
  """[layers, 2]: E[(φ²/E[φ²])³], and of φ'²"""


def spectrum_of(activation: Activation, log2_q: np.ndarray) -> Spectrum:
  """Hermite spectra of φ at the variances 2^log2_q [layers]."""
  z, weights, polynomials = _hermite()
  log2_q = np.clip(log2_q, -_EDGE, _EDGE).round(9)
  distinct, position = np.unique(log2_q, return_inverse=True)
  points = np.exp2(distinct / 2)[:, None] * z

  def evaluate() -> tuple[np.ndarray, np.ndarray]:
    return evaluator(trace(activation))(points)

  value, slope = in_float64(evaluate)
  rows, thirds = [], []
  for f, decay in ((value, 2.5), (slope, 1.5)):  # a kink is a jump in φ'
    f = f / np.maximum(np.sqrt((f**2) @ weights), _TINY)[:, None]
    rows += [_project(f, decay, weights, polynomials)[position]]
    rows += [_project(f**2, decay, weights, polynomials)[position]]
    with np.errstate(over="ignore"):
      thirds += [(f**6 @ weights)[position]]
  columns = np.stack(thirds, axis=1)
  return Spectrum(rows[0], rows[2], rows[1], rows[3], columns)


def _project(
  f: np.ndarray, decay: float, weights: np.ndarray, polynomials: np.ndarray
) -> np.ndarray:
  """Coefficients [layers, orders]; the tail holds what is left of E[f²].

  Where f is not smooth, their squares fall off as k^-decay.
  """
  weighted = f * weights
  found = weighted @ polynomials.T
  left = (weighted * f).sum(axis=1) - (found**2).sum(axis=1)
  beyond = 2 ** (
    -(decay - 1) * np.append(_TAIL_STEP * np.arange(_TAIL.size), np.inf)
  )
  tail = np.sqrt(np.outer(np.maximum(left, 0.0), -np.diff(beyond)))
  return np.concatenate([found, tail], axis=1)


@functools.cache
def _hermite() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Nodes, Gaussian weights, and orthonormal polynomials [orders, nodes]."""
  edges = [0.0, *np.exp2(np.arange(-14.0, -2.0)), *np.linspace(0.25, 12, 48)]
  left, right = np.array(edges[:-1]), np.array(edges[1:])
  nodes, weights = np.polynomial.legendre.leggauss(10)
  half = (right - left)[:, None] / 2
  x = (left[:, None] + half * (1 + nodes)).ravel()
  mass = (half * weights).ravel() * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
  z, mass = np.concatenate([-x, x]), np.concatenate([mass, mass])
  rows = [np.ones_like(z), z]
  for k in range(1, _ORDERS - 1):
    rows.append((z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
  return z, mass, np.stack(rows)


def powers(rho: np.ndarray) -> np.ndarray:
  """ρ^k of every order k that a `Spectrum` holds, orders last."""
  rho = np.asarray(rho)[..., None]
  return np.concatenate([rho ** np.arange(_ORDERS), abs(rho) ** _TAIL], axis=-1)


def mehler(f: np.ndarray, g: np.ndarray, rho: np.ndarray) -> np.ndarray:
  """Σ_k ρ^k f_k g_k with k >= 0 [...].

  Args:
    f: coefficients, orders last; the rest broadcasts against g and ρ.
    g: likewise.
    rho: correlations in [-1, 1].
  """
  return (f * g * powers(rho)).sum(axis=-1)
