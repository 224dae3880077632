"""The effect of an activation on a signal: moments of φ(h) and of φ'(h).

For a Gaussian h these are integrals; otherwise, as for a rectified stream with
additions, they are means over randomly drawn units.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from initjax import meanfield
from initjax._activations import (
  compiled,
  evaluator,
  identity,
  in_float64,
  trace,
)
from initjax.gains import joint_moments, length, moments
from initjax.meanfield import Response
from initjax.propagation._common import Common, responding
from initjax.propagation._signals import DRAWN_ERROR, Fed, Signal, draw_units
from initjax.typing import Activation


@functools.lru_cache(maxsize=256)
def kept_response(activation: Activation) -> Callable[[float], Response[float]]:
  """Caches `meanfield.response`, since a recovered φ never changes."""
  return meanfield.response(activation)


@dataclasses.dataclass(frozen=True)
class Shifted:
  """x -> φ(x + mean)."""

  activation: Activation
  mean: float

  def __call__(self, x: jax.Array) -> jax.Array:
    """φ(x + mean), entry by entry."""
    return self.activation(x + self.mean)


class ImageMoments(NamedTuple):
  """Of φ(h), one sample's."""

  mean: float
  second: float
  slope: float
  """d log E[φ²]/d log E[h²]"""
  derivative: float
  """E[φ'²]"""


def is_plain(phi: Activation | None) -> bool:
  """Whether it changes nothing."""
  return phi is None or phi is identity


def image_of_gaussian(
  phi: Activation, source: Signal, *, pairs: bool, needs_mean: bool
) -> Fed:
  """φ of a Gaussian, by integrals; raises what `moments` does."""
  found = _moments(phi, source, needs_mean or pairs)
  near = shared = derivative_near = by_product = 0.0
  common: Common = ()
  if pairs:
    near, derivative_near = _pair(phi, source, source.near)
    shared, by_product = _pair(phi, source, source.shared)
    if source.profile:
      by_size = _by_size(phi, source, shared)
      common = responding(source.profile, source.common, by_size, by_product)
  return Fed(
    source,
    found.second,
    found.slope,
    found.derivative,
    shared,
    near,
    derivative_near,
    by_product,
    found.mean,
    source.doubt,
    abs(found.slope) * source.error,
    common,
  )


def image_of_drawn(
  phi: Activation, source: Signal, random: np.random.Generator
) -> Fed | None:
  """φ of units that are drawn; None where that cannot be done."""
  entries = draw_units(source, random)
  if entries is None:
    return None
  value, slope = evaluate(phi, entries)
  with np.errstate(all="ignore"):
    second = float((value[:2] ** 2).mean())
    products = (entries * value * slope)[:2].mean()
    own = float(products / second) if second else 1.0
  if not math.isfinite(second):
    raise OverflowError("theory leaves float64")
  by_product = float((slope[0] * slope[2]).mean())
  by_size = float((slope[0] * entries[0] * value[2]).mean())
  by_size = (by_size - by_product * source.shared) / 2
  return Fed(
    source,
    second,
    own,
    float((slope[:2] ** 2).mean()),
    float((value[0] * value[2]).mean()),
    float((value[0] * value[1]).mean()),
    float((slope[0] * slope[1]).mean()),
    by_product,
    float(value.mean()),
    source.doubt,
    abs(own) * source.error + DRAWN_ERROR,
    responding(source.profile, source.common, by_size, by_product),
  )


@functools.lru_cache(maxsize=256)
def affine_of(phi: Activation) -> tuple[float, float] | None:
  """The slope and the offset of a φ that is a straight line."""
  points = np.array([-1e3, -3.0, -1.0, 0.0, 0.5, 2.0, 1e3])
  value, slope = in_float64(lambda: evaluator(trace(phi))(points))
  if not np.isfinite(value).all():
    return None
  line = slope[0] * points + value[3]
  close = np.allclose(value, line, rtol=1e-9, atol=1e-12 * abs(value).max())
  return (float(slope[0]), float(value[3])) if close else None


def image_by_line(line: tuple[float, float], source: Signal) -> Fed:
  """Of slope·h + offset, for any h."""
  slope, offset = line
  mean = slope * source.mean + offset
  apart = offset * offset + 2 * slope * offset * source.mean
  square = slope * slope
  second = square * source.size + apart
  return Fed(
    source,
    second,
    square * source.size / second if second else 1.0,
    square,
    square * source.shared + apart,
    square * source.near + apart,
    square,
    square,
    mean,
    source.doubt,
    source.error,
    tuple(square * each for each in source.common),
  )


def evaluate(
  phi: Activation, entries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """φ and φ' of entries."""
  return in_float64(lambda: compiled(trace(phi))(entries))


def _moments(phi: Activation, source: Signal, needs_mean: bool) -> ImageMoments:
  q = source.size
  if source.mean:
    return _shifted_moments(phi, source)
  if q == 0:
    at_zero = moments(phi, 0.0)
    slope = float(at_zero.derivative_second_moment)
    mean, second = float(at_zero.mean), float(at_zero.second_moment)
    return ImageMoments(mean, second, 1.0, slope)
  here = kept_response(phi)(math.log2(q))
  size, derivative = here.log2_second_moment, here.log2_derivative
  if size >= 1024:
    raise OverflowError("theory leaves float64")
  return ImageMoments(
    float(moments(phi, q).mean) if needs_mean else 0.0,
    2.0**size,
    here.slope,
    math.inf if derivative >= 1024 else 2.0**derivative,
  )


def _shifted_moments(phi: Activation, source: Signal) -> ImageMoments:
  """Of φ at N(mean, variance)."""
  shifted, v = Shifted(phi, source.mean), max(source.variance, 0.0)
  found = moments(shifted, v)
  second = float(found.second_moment)
  slope = float(length(shifted, v).slope) * v / second if v and second else 1.0
  derivative = float(found.derivative_second_moment)
  return ImageMoments(float(found.mean), second, slope, derivative)


def _by_size(phi: Activation, source: Signal, product: float) -> float:
  """dE[φ·φ']/d log E[h²] of one of two samples."""
  step = 1e-3
  larger = dataclasses.replace(source, size=source.size * (1 + step))
  return (_pair(phi, larger, source.shared)[0] - product) / (2 * step)


def _pair(
  phi: Activation, source: Signal, product: float
) -> tuple[float, float]:
  """E[φ·φ'] and E[φ'·φ''] of two entries of which E[h·h'] is given."""
  v, square = source.variance, source.mean * source.mean
  if v == 0:
    at_zero = _moments(phi, source, needs_mean=True)
    return at_zero.second, at_zero.derivative
  if math.isnan(product) or not v > 0:
    return math.nan, math.nan
  shifted = Shifted(phi, source.mean) if source.mean else phi
  correlation = float(np.clip((product - square) / v, -1.0, 1.0))
  if abs(correlation) < 1e-9:
    found = moments(shifted, v)
    return float(found.mean) ** 2, float(found.derivative_mean) ** 2
  both = joint_moments(shifted, correlation, v)
  return float(both.product), float(both.derivative_product)
