"""Constants and plain distributions, the baselines.

Everything here keeps the arguments and, for the same key, the values of
`jax.nn.initializers`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import check_bound, check_numbers
from initjax.initializers._sampling import Shape, factory, initializer
from initjax.initializers._truncated import disk, truncated, truncated_disk
from initjax.typing import DType, Initializer, OutSharding


def zeros(
  key: jax.Array,
  shape: Sequence[int],
  dtype: DType = None,
  out_sharding: OutSharding = None,
) -> jax.Array:
  """All zeros, W = 0: for biases and for the last layer of a branch.

  It is itself an initializer (`key` is ignored), for any shape. As the kernel
  of a hidden layer it blocks the signal, and equal units never break symmetry.

  >>> zeros(jax.random.key(0), (3,))
  Array([0., 0., 0.], dtype=float32)

  Reference: as `jax.nn.initializers.zeros`.
  """
  return _zeros(key, shape, dtype, out_sharding)


def ones(
  key: jax.Array,
  shape: Sequence[int],
  dtype: DType = None,
  out_sharding: OutSharding = None,
) -> jax.Array:
  """All ones, W = 1: for the scales of normalization layers.

  It is itself an initializer (`key` is ignored), for any shape.

  >>> ones(jax.random.key(0), (3,))
  Array([1., 1., 1.], dtype=float32)

  Reference: as `jax.nn.initializers.ones`.
  """
  return _ones(key, shape, dtype, out_sharding)


@factory
def zeros_init() -> Initializer:
  """Returns the initializer `zeros`, W = 0, under Flax's name.

  >>> zeros_init()(jax.random.key(0), (2,))
  Array([0., 0.], dtype=float32)

  Reference: as `flax.linen.initializers.zeros_init`.
  """
  return zeros


@factory
def ones_init() -> Initializer:
  """Returns the initializer `ones`, W = 1, under Flax's name.

  >>> ones_init()(jax.random.key(0), (2,))
  Array([1., 1.], dtype=float32)

  Reference: as `flax.linen.initializers.ones_init`.
  """
  return ones


@factory
def constant(value: Any, dtype: DType = None) -> Initializer:
  """W = value everywhere.

  A kernel with equal entries keeps its units equal under gradient descent, so
  use this for biases and scales only.

  Args:
    value: a number, or an array that broadcasts to the shape.
    dtype: the default dtype.

  >>> constant(0.5)(jax.random.key(0), (2,))
  Array([0.5, 0.5], dtype=float32)

  Reference: as `jax.nn.initializers.constant`.
  """

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    del key
    return jnp.full(shape, value, dtype)

  return initializer(sample, dtype)


@factory
def uniform(scale: Any = 1e-2, dtype: DType = None) -> Initializer:
  """W ~ U[0, scale): mean scale/2, variance scale²/12, for any shape.

  In a complex dtype, which JAX refuses, W is uniform in the disk |W| < scale:
  its mean is 0 and its variance scale²/2.

  Args:
    scale: the upper end of the interval, >= 0.
    dtype: the default dtype.

  Raises:
    ValueError: if `scale` is negative.

  >>> init = uniform(2.0)
  >>> bool(init(jax.random.key(0), (100,)).max() < 2)
  True

  Reference: as `jax.nn.initializers.uniform`.
  """
  check_numbers("scale", scale, low=0)
  real = jax.nn.initializers.uniform(scale)

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.complexfloating):
      return disk(key, lambda u: u, shape, dtype) * jnp.array(scale, dtype)
    return real(key, shape, dtype)

  return initializer(sample, dtype, interval=lambda _: _half_open(0.0, scale))


@factory
def uniform_between(low: Any, high: Any, dtype: DType = None) -> Initializer:
  """W ~ U[low, high): mean (low + high)/2, variance (high - low)²/12.

  Args:
    low: the lower end of the interval.
    high: the upper end, at least `low`.
    dtype: the default dtype; a real one.

  Raises:
    ValueError: if `high` is below `low`, or (when called) for a complex dtype.

  >>> init = uniform_between(-0.5, 2.0)
  >>> w = init(jax.random.key(0), (100,))
  >>> bool((w >= -0.5).all() and (w < 2).all())
  True

  Reference: as `torch.nn.init.uniform_`.
  """
  check_numbers("low", low)
  check_numbers("high", high)
  if not _is_traced(low, high) and np.any(np.asarray(low) > np.asarray(high)):
    raise ValueError(f"low must not be above high; got {low} and {high}.")

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.complexfloating):
      raise ValueError(
        f"uniform_between draws real numbers; got {dtype}. In a complex dtype "
        "uniform(scale) fills the disk |W| < scale."
      )
    return jax.random.uniform(key, shape, dtype, low, high)

  return initializer(sample, dtype, interval=lambda _: _half_open(low, high))


@factory
def normal(
  stddev: Any = 1e-2, dtype: DType = None, *, mean: Any = 0.0
) -> Initializer:
  """W ~ N(mean, stddev²) for any shape: the baseline that ignores fans.

  With mean 0, a linear layer of n inputs multiplies the second moment of the
  signal by n·stddev², so only stddev = 1/√n preserves it.

  Args:
    stddev: standard deviation, >= 0.
    dtype: the default dtype.
    mean: mean of all weights; use 0 for kernels.

  Raises:
    ValueError: if `stddev` is negative.

  >>> float(normal(0.0, mean=1.0)(jax.random.key(0), (4, 4)).min())
  1.0

  Reference: as `jax.nn.initializers.normal`; `torch.nn.init.normal_`.
  """
  check_numbers("stddev", stddev, low=0)
  check_numbers("mean", mean)
  return initializer(_shifted(jax.nn.initializers.normal(stddev), mean), dtype)


@factory
def truncated_normal(
  stddev: Any = 1e-2,
  dtype: DType = None,
  lower: Any = -2.0,
  upper: Any = 2.0,
  *,
  mean: Any = 0.0,
  absolute: bool = False,
) -> Initializer:
  """W = mean + stddev·z, with z ~ N(0, 1) truncated to bounds, for any shape.

  By default the bounds apply to z, as in JAX; with `absolute=True` they apply
  to W itself, as in `torch.nn.init.trunc_normal_`. `stddev` applies before
  truncation: bounds of ±2 give variance 0.7737·stddev². The bits match JAX for
  -3 <= lower <= 0 <= upper <= 3. Beyond, where JAX returns distant bounds and
  too few tail values, the law still holds, for any bounds, even infinite ones.

  In a complex dtype, which JAX refuses, z has E|z|² = 1 and is truncated to the
  disk |z| <= u = upper = -lower: the variance is stddev²·(1 - u²/(e^(u²) - 1)),
  0.9254·stddev² at u = 2.

  Args:
    stddev: standard deviation before truncation, >= 0 (> 0 if absolute).
    dtype: the default dtype.
    lower: lower bound, in standard deviations or (absolute) in units of W.
    upper: upper bound, likewise; above `lower`.
    mean: mean before truncation.
    absolute: whether the bounds apply to W rather than to z.

  Raises:
    ValueError: if `stddev` is negative or the bounds are empty, or (when
      called) in a complex dtype, unless they describe a disk.

  >>> init = truncated_normal(1.0, lower=0.0, upper=0.5, absolute=True)
  >>> bool(init(jax.random.key(0), (100,)).max() <= 0.5)
  True

  Reference: as `jax.nn.initializers.truncated_normal`.
  """
  check_numbers("stddev", stddev, low=0, open_low=absolute)
  check_numbers("mean", mean)
  check_bound("lower", lower)
  check_bound("upper", upper)
  if not _is_traced(lower, upper) and not np.all(
    np.asarray(lower) < np.asarray(upper)
  ):
    raise ValueError(f"lower must be below upper; got {lower} and {upper}.")
  if isinstance(stddev, (list, tuple)):
    stddev = np.asarray(stddev)
  low, high = lower, upper
  if absolute:
    low, high = (lower - mean) / stddev, (upper - mean) / stddev

  real = truncated(low, high)

  def standard(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.floating):
      z = real(key, shape, dtype)
    elif jnp.issubdtype(dtype, jnp.complexfloating):
      _check_disk(low, high)
      z = truncated_disk(key, high, shape, dtype)
    else:
      raise ValueError(f"truncated_normal cannot draw integers; got {dtype}.")
    return z * jnp.array(stddev, dtype)

  def within(shape: Shape) -> tuple[Any, Any]:
    del shape
    if absolute:
      return lower, upper
    return mean + stddev * low, mean + stddev * high

  shifted = _shifted(standard, mean)

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    drawn = shifted(key, shape, dtype)
    if absolute and jnp.issubdtype(dtype, jnp.floating):
      return jnp.clip(drawn, lower, upper)  # a rounding may have left them
    return drawn

  return initializer(sample, dtype, interval=within)


def _shifted(centered: Any, mean: Any) -> Any:
  """A sample plus its mean; without one, the very same program."""
  if isinstance(mean, (int, float)) and mean == 0:
    return centered

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    return centered(key, shape, dtype) + jnp.asarray(mean, dtype)

  return sample


def _half_open(low: Any, high: Any) -> tuple[Any, Any]:
  """[low, high) in float32, closed."""
  low, high = jax.lax.stop_gradient((jnp.float32(low), jnp.float32(high)))
  return low, jnp.nextafter(high, low)


def _is_traced(*values: Any) -> bool:
  return any(isinstance(value, jax.core.Tracer) for value in values)


def _check_disk(low: Any, high: Any) -> None:
  """Raises unless the bounds of complex draws are a radius."""
  if not _is_traced(low, high) and not np.allclose(low, np.negative(high)):
    raise ValueError(
      "complex draws are kept within a disk around their mean, so lower must "
      f"be -upper; got {low} and {high}, both in standard deviations."
    )


_zeros = initializer(lambda key, shape, dtype: jnp.zeros(shape, dtype))
_ones = initializer(lambda key, shape, dtype: jnp.ones(shape, dtype))
