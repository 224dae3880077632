"""How the length map moves: E[φ²] and its slope with the variance."""

from typing import NamedTuple

import numpy as np

from initjax._activations import (
  TracedActivation,
  compiled,
  in_float64,
  trace,
)
from initjax.gains._moments import check_not_nan, explained
from initjax.gains._quadrature import DivergenceError, gaussian_integrals
from initjax.typing import Activation

_NAMES = ("E[φ²]", "E[xφφ']", "E[x²φ²]")
_JUMP = 1e-10  # relative gap between two forms of the slope: φ² jumps


class Length(NamedTuple):
  """Of x ~ N(0, v), arrays of the shape of v."""

  second_moment: np.ndarray
  """E[φ(x)²]; inf where it diverges"""
  slope: np.ndarray
  """dE[φ²]/dv = E[xφφ']/v = (E[x²φ²]/v - E[φ²])/(2v)"""


def length(activation: Activation, variances: np.ndarray) -> Length:
  """E[φ²] and dE[φ²]/dv for variances [v] > 0.

  Both forms of the slope are computed: the first is more accurate and misses
  the deltas of φ' where φ² jumps; there the second is returned.
  """

  def compute() -> Length:
    traced = trace(activation)
    try:
      return _integrate(traced, variances)
    except DivergenceError as error:
      if variances.size == 1:
        if error.reason == "grows":
          return Length(*np.full((2, 1), np.inf))
        raise explained(traced, error, variances, _NAMES) from None
    parts = [length(activation, v) for v in np.split(variances, variances.size)]
    return Length(*np.concatenate(parts, axis=1))

  return in_float64(compute)


def _integrate(traced: TracedActivation, v: np.ndarray) -> Length:
  evaluate = compiled(traced)
  unit = np.sqrt(v.max())  # x² alone could overflow or underflow

  def factors(x: np.ndarray) -> np.ndarray:
    value, slope = evaluate(x)
    check_not_nan(traced, x, value, slope)
    u = x / unit
    return np.stack([value**2, u * value * slope, (u * value) ** 2])

  second, product, square = gaussian_integrals(factors, v, may_have_poles=[1])
  smooth = product * unit / v
  stein = (square * (unit**2 / v) - second) / (2 * v)
  rounding = 1e3 * np.finfo(float).eps * second / v
  jumps = abs(stein - smooth) > _JUMP * abs(stein) + rounding
  return Length(second, np.where(jumps, stein, smooth))
