"""The standard normal truncated to bounds, wherever they lie.

JAX inverts erf between the bounds, which is accurate enough near 0, so its bits
are kept there. Beyond three standard deviations erf is within a few ulps of 1:
a wide interval then occasionally returns its bound, 100 σ away, and a tail has
only a few values. There the survival function Q, small where erf is near 1, is
inverted instead, on each side of 0.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax.initializers._sampling import Sample, Shape
from initjax.typing import DType

_JAX_BOUND = 3.0  # standard deviations up to which JAX's draws are right
_FAR = 10.0  # from here on Q(x) = φ(x)/x to 1 %, and ratios of Q to 1e-4
_NARROW = 0.01  # below this half-width φ is a straight line


def truncated(low: Any, high: Any) -> Sample:
  """z ~ N(0, 1) given low <= z <= high: numbers or arrays, traced or not."""

  def by_jax(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    return jax.random.truncated_normal(key, low, high, shape, dtype)

  def by_sides(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    return _by_sides(key, low, high, shape, dtype)

  def by_either(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    both = by_jax(key, shape, dtype), by_sides(key, shape, dtype)
    return jnp.where(_is_central(low, high), *both)

  if any(isinstance(bound, jax.core.Tracer) for bound in (low, high)):
    return by_either
  return by_jax if np.all(_is_central(low, high)) else by_sides


def _is_central(low: Any, high: Any) -> Any:
  is_left_central = (low >= -_JAX_BOUND) & (low <= 0)
  return is_left_central & (high >= 0) & (high <= _JAX_BOUND)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _by_sides(
  key: jax.Array, low: Any, high: Any, shape: Shape, dtype: DType
) -> jax.Array:
  """The side of 0 by its probability, then the distance from 0."""
  from jax.scipy.special import ndtr

  side_key, distance_key = jax.random.split(key)
  low, high = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
  left, right = _side(-high, -low), _side(low, high)
  masses = [ndtr(-near) - ndtr(-far) for near, far in (left, right)]
  share = masses[0] / jnp.maximum(masses[0] + masses[1], _tiny(dtype))
  share = jnp.where(low >= 0, 0, jnp.where(high <= 0, 1, share))
  is_left = jax.random.uniform(side_key, shape, dtype) < share
  near, far = (
    jnp.where(is_left, *ends) for ends in zip(left, right, strict=True)
  )
  distance = _distance(
    jax.random.uniform(distance_key, shape, dtype), near, far
  )
  return jnp.where(is_left, -distance, distance)


def _side(near: jax.Array, far: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The part of an interval beyond 0."""
  return jnp.maximum(near, 0), jnp.maximum(far, 0)


def _distance(u: jax.Array, near: jax.Array, far: jax.Array) -> jax.Array:
  """The quantile of z given near <= z <= far at 1 - u, for near >= 0."""
  from jax.scipy.special import ndtr, ndtri

  beyond = ndtr(-far)
  survival = beyond + (1 - u) * (ndtr(-near) - beyond)
  central = -ndtri(jnp.maximum(survival, _tiny(u.dtype)))
  chosen = jnp.where(near > _FAR, _far_distance(u, near, far), central)
  half = jnp.minimum((far - near) / 2, 1)
  narrow = half * jnp.maximum(near, 1) < _NARROW
  chosen = jnp.where(narrow, _narrow_distance(u, near, half), chosen)
  return jnp.clip(chosen, near, far)


def _far_distance(u: jax.Array, near: jax.Array, far: jax.Array) -> jax.Array:
  """Of Q(x) = φ(x)/x: z = near + t with t·near + t²/2 + log(1 + t/near) = e.

  e = log(Q(near)/Q(z)) is an exponential variable, cut where z is `far`.
  """
  near = jnp.maximum(near, _FAR)
  width = jnp.maximum(far - near, 0)
  whole = width * (near + width / 2) + jnp.log1p(width / near)
  exponent = -jnp.log1p(u * jnp.expm1(-whole))
  root = lambda e: 2 * e / (near + jnp.sqrt(near**2 + 2 * e))
  return near + root(exponent - jnp.log1p(root(exponent) / near))


def _narrow_distance(
  u: jax.Array, near: jax.Array, half: jax.Array
) -> jax.Array:
  """The density falls from the middle by its slope: -middle."""
  w, middle = 2 * u - 1, near + half
  return middle + half * w - middle * half**2 * (1 - w**2) / 2


def _tiny(dtype: DType) -> float:
  return float(jnp.finfo(dtype).tiny)


def truncated_disk(
  key: jax.Array, radius: Any, shape: Shape, dtype: DType
) -> jax.Array:
  """Complex z with E|z|² = 1 before |z| <= radius: |z|² is exponential."""
  radius = jnp.asarray(radius, jnp.finfo(dtype).dtype)
  mass = -jnp.expm1(-(radius**2))
  return disk(key, lambda u: -jnp.log1p(-u * mass), shape, dtype)


def disk(key: jax.Array, squared: Any, shape: Shape, dtype: DType) -> jax.Array:
  """Complex z of uniform angle, |z|² = squared(u) of a uniform u."""
  radius_key, angle_key = jax.random.split(key)
  real = jnp.finfo(dtype).dtype
  radius = jnp.sqrt(squared(jax.random.uniform(radius_key, shape, real)))
  angle = jax.random.uniform(angle_key, shape, real, -np.pi, np.pi)
  return jax.lax.complex(radius * jnp.cos(angle), radius * jnp.sin(angle))
