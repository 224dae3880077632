"""Gaussian moments of any elementwise activation, to 12 digits."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from initjax._activations import (
  Evaluate,
  TracedActivation,
  evaluator,
  in_float64,
  is_of_library,
  trace,
)
from initjax.gains._quadrature import DivergenceError, gaussian_integrals
from initjax.typing import Activation, Numbers

_JUMP = 1e-10  # relative gap between φ' and Stein's lemma: φ jumps
_SLOPES = (2, 3, 5)  # of the following, what holds φ' and no φ
_NAMES = ("E[φ]", "E[φ²]", "E[φ']", "E[φ'²]", "E[xφ]", "E[xφ']", "E[x²φ]")


class Moments(NamedTuple):
  """Moments of φ(x) for x ~ N(0, v): floats, or arrays of the shape of v."""

  mean: Numbers
  """E[φ(x)]"""
  second_moment: Numbers
  """E[φ(x)²]"""
  derivative_mean: Numbers
  """E[φ'(x)] = E[x·φ(x)]/v"""
  derivative_second_moment: Numbers
  """E[φ'(x)²]; inf where φ jumps, since φ' then holds a delta, and where φ is
  as steep as √|x| at 0"""


def moments(activation: Activation, variance: Numbers = 1.0) -> Moments:
  """Returns E[φ], E[φ²], E[φ'], E[φ'²] for x ~ N(0, variance), in float64.

  The relative error is at most 1e-12 (for a moment that is 0, the absolute
  error is 1e-14 in units of E|φ|), even with kinks and jumps. φ is
  evaluated in float64 on the CPU whatever the x64 setting, even while something
  else is being traced; results are cached by what φ computes, not by its
  identity. At variance 0 the values are φ(0) and the one-sided slopes there.
  A feature of φ narrower than 1/200 of its distance from 0 may be overlooked,
  and one narrower than 1e-4 of it loses as many digits as x itself does there.
  Casts to float32, bfloat16 and the like within φ are ignored; casts to
  integers and booleans are part of φ.

  Args:
    activation: any elementwise JAX function of real numbers.
    variance: variance of the pre-activation, >= 0; a number or an array.

  Raises:
    ValueError: if φ is not elementwise, gives NaN, or a moment diverges.
    TypeError: if φ or the variance is being traced.

  >>> m = moments(jax.nn.relu)
  >>> round(m.mean, 12), round(m.second_moment, 12)
  (0.398942280401, 0.5)

  Reference: Poole et al. 2016, Eqs. 3 and 12; Stein 1981, Lemma 1.
  """
  if any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(variance)):
    raise TypeError(
      "variance must be a number that is known when tracing; got a traced "
      "value: compute the moments outside of jit, or tabulate them."
    )
  variances = np.asarray(variance, np.float64)
  if not np.all(np.isfinite(variances) & (variances >= 0)):
    raise ValueError(
      f"variance must be finite and >= 0; got {variance!r}, and a variance is "
      "σ², not σ."
    )
  flat = tuple(variances.ravel().tolist())
  isolated = _of_library if is_of_library(activation) else _isolated
  table = isolated(activation, flat)
  if variances.ndim == 0:
    return Moments(*(float(row[0]) for row in table))
  return Moments(*(row.reshape(variances.shape).copy() for row in table))


def _isolated(
  activation: Activation, variances: tuple[float, ...]
) -> np.ndarray:
  return in_float64(lambda: cached_moments(trace(activation), variances))


_of_library = functools.lru_cache(maxsize=1024)(_isolated)


@functools.lru_cache(maxsize=1024)
def cached_moments(
  traced: TracedActivation, variances: tuple[float, ...]
) -> np.ndarray:
  """Moments [4, variances] of a traced activation."""
  v = np.array(variances)
  evaluate = evaluator(traced)
  table = np.empty((4, v.size))
  positive = v > 0
  if not positive.all():
    table[:, ~positive] = _moments_at_zero(traced, evaluate)[:, None]
  if positive.any():
    table[:, positive] = _integrate(traced, evaluate, v[positive])
  return table


def _moments_at_zero(
  traced: TracedActivation, evaluate: Evaluate
) -> np.ndarray:
  """The limit v -> 0: φ(0), and φ' averaged over both sides of 0."""
  value, slope = evaluate(np.array([0.0, 1e-150, -1e-150]))
  sides = slope[1:]
  with np.errstate(over="ignore", invalid="ignore"):
    limits = [value[0], value[0] ** 2, sides.mean(), (sides**2).mean()]
  if not np.isfinite(limits).all():
    raise ValueError(
      f"{traced.name} or its slope is not finite at x = 0, so it "
      "has no moments at variance 0."
    )
  return np.array(limits)


def _integrate(
  traced: TracedActivation, evaluate: Evaluate, v: np.ndarray
) -> np.ndarray:
  """Moments [4, v] for positive variances v.

  E[φ'] and E[xφ'] are computed twice: from φ' itself, and by Stein's lemma as
  E[xφ]/v and E[x²φ]/v - E[φ]. One of them differs where φ jumps, since autodiff
  gives 0 there for what is a delta (the first alone: not if φ is even). Where
  the slope has a pole, the lemma alone holds.
  """
  unit = np.sqrt(v.max())  # x² alone could overflow or underflow

  def factors(x: np.ndarray) -> np.ndarray:
    value, slope = evaluate(x)
    check_not_nan(traced, x, value, slope)
    u = x / unit
    rows = [value, value**2, slope, slope**2, x * value]
    return np.stack([*rows, u * slope, u * x * value])

  try:
    integrals = gaussian_integrals(factors, v, _SLOPES)
  except DivergenceError as error:
    raise explained(traced, error, v) from None
  mean, second, slope, slope_second, x_value, u_slope, ux_value = integrals
  poles = np.isinf(slope_second)
  slope_size = np.sqrt(np.where(poles, 0.0, slope_second))
  size, std = np.sqrt(second), np.sqrt(v)
  rounding = 1e3 * np.finfo(float).eps * size / std

  def differ(autodiff: np.ndarray, stein: np.ndarray) -> np.ndarray:
    relative = _JUMP * (slope_size + abs(stein))
    return abs(stein - autodiff) > relative + rounding

  stein = x_value / v
  jumps = poles | differ(slope, stein)
  jumps |= differ(u_slope * unit / std, (ux_value / v * unit - mean) / std)
  slope_second = np.where(jumps, np.inf, slope_second)
  return np.stack([mean, second, np.where(jumps, stein, slope), slope_second])


def check_not_nan(
  traced: TracedActivation, x: np.ndarray, value: np.ndarray, slope: np.ndarray
) -> None:
  bad = np.isnan(value) | (np.isnan(slope) & np.isfinite(value))
  if bad.any():
    raise ValueError(
      f"{traced.name} or its slope is NaN at x = "
      f"{x[bad].flat[0]:.6g}; a gain needs a value for every real number."
    )


def explained(
  traced: TracedActivation,
  error: DivergenceError,
  v: np.ndarray,
  names: tuple[str, ...] = _NAMES,
) -> ValueError:
  """The quadrature's failure, in terms of the activation."""
  name, moment = traced.name, names[error.row]
  where = f"{moment} at variance {v[error.column]:g}"
  if error.reason == "grows":
    return ValueError(
      f"{name}: {where} diverges or overflows float64, because the function "
      "grows too fast. Bound the function, or pass a smaller variance."
    )
  place = "" if error.place is None else f" near x = {error.place:.6g}"
  if error.reason == "pole":
    return ValueError(
      f"{name}: {where} diverges: the function, or its slope, has a pole"
      f"{place}. Bound it there."
    )
  return ValueError(
    f"{name}: {where} cannot be resolved in float64{place}: the function "
    "oscillates too fast, jumps too often, or is rounded to coarse steps."
  )
