"""How the length map changes: E[φ²] and its slope in the variance."""

import functools
from typing import NamedTuple

import numpy as np

from initjax._activations import (
  TracedActivation,
  compiled,
  in_float64,
  trace,
)
from initjax._checks import check_numbers
from initjax.gains._moments import check_not_nan, explained
from initjax.gains._quadrature import DivergenceError, gaussian_integrals
from initjax.typing import Activation, Numbers

_NAMES = ("E[φ²]", "E[xφφ']", "E[x²φ²]")
_JUMP = 1e-10  # relative gap between two forms of the slope: φ² jumps


class Length(NamedTuple):
  """E[φ²] and its slope for x ~ N(0, v): floats, or arrays shaped like v."""

  second_moment: Numbers
  """E[φ(x)²]; inf where it diverges"""
  slope: Numbers
  """dE[φ²]/dv"""


def length(activation: Activation, variance: Numbers = 1.0) -> Length:
  """Returns E[φ²] and its slope in the variance v of x ~ N(0, v), in float64.

      dE[φ²]/dv = E[xφφ']/v = (E[x²φ²]/v - E[φ²])/(2v)

  Both forms of the slope are computed: the first is more accurate, but misses
  the deltas of φ' where φ² jumps, so there the second is returned.

  Args:
    activation: any elementwise JAX function of real numbers.
    variance: variance of the pre-activation, > 0; a number or an array.

  Raises:
    ValueError: for a variance that is not > 0, and as for `moments`, except
      where φ grows too fast: then both are inf.

  >>> import jax
  >>> found = length(jax.nn.silu)
  >>> round(found.slope / found.second_moment, 6)  # above 1: unstable
  1.172594

  Reference: Poole et al. 2016, Eq. 3; Schoenholz et al. 2017, §3.
  """
  check_numbers("variance", variance, low=0, open_low=True)
  variances = np.asarray(variance, np.float64)
  flat = tuple(variances.ravel().tolist())
  table = in_float64(lambda: _length(trace(activation), flat))
  if variances.ndim == 0:
    return Length(*(float(row[0]) for row in table))
  return Length(*(row.reshape(variances.shape).copy() for row in table))


@functools.lru_cache(maxsize=1024)
def _length(traced: TracedActivation, v: tuple[float, ...]) -> np.ndarray:
  """Both [2, v]; inf in both where φ grows too fast."""
  try:
    return _integrate(traced, np.array(v))
  except DivergenceError as error:
    if len(v) > 1:
      parts = [_length(traced, (each,)) for each in v]
      return np.concatenate(parts, axis=1)
    if error.reason == "grows":
      return np.full((2, 1), np.inf)
    raise explained(traced, error, np.array(v), _NAMES) from None


def _integrate(traced: TracedActivation, v: np.ndarray) -> np.ndarray:
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
  return np.stack([second, np.where(jumps, stein, smooth)])
