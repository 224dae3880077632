"""What all initializers share: precision, empty shapes and sharding.

An initializer of this package is a `sample(key, shape, dtype)` that knows only
its own formula, wrapped by `initializer`, which adds the rest once:

* a dtype narrower than 32 bits is sampled in float32 and cast (in the target
  dtype the variance itself would be rounded, and float8 has no tails);
* values bounded by an interval stay within it after that rounding;
* a shape with a zero gives an empty array, whatever its fans;
* `out_sharding` is honoured by every initializer, on meshes with explicit and
  automatic axes, inside and outside `jax.jit`.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from initjax._checks import check_key, is_key
from initjax.typing import DType, Initializer, OutSharding

Shape = tuple[int, ...]
Sample = Callable[[jax.Array, Shape, DType], jax.Array]
P = ParamSpec("P")
Interval = Callable[[Shape], tuple[Any, Any]]


def initializer(
  sample: Sample,
  dtype: DType = None,
  check_shape: Callable[[Shape], object] | None = None,
  interval: Interval | None = None,
) -> Initializer:
  """Wraps `sample` into the Flax signature; see the module docstring.

  `interval` is the closed interval of float32 in which all of its draws lie.
  """
  default_dtype = dtype

  def init(
    key: jax.Array,
    shape: int | Sequence[int],
    dtype: DType = None,
    out_sharding: OutSharding = None,
  ) -> jax.Array:
    shape = _sizes(key, shape)
    if check_shape is not None:
      check_shape(shape)
    dtype = default_dtype if dtype is None else dtype
    if dtype is None:
      dtype = jax.dtypes.canonicalize_dtype(float)
    dtype = jnp.dtype(dtype)
    try:
      if out_sharding is None:
        return _draw(sample, interval, key, shape, dtype)
      _check_sharding(out_sharding)
      return _sharded(sample, interval, shape, dtype, out_sharding)(key)
    except (TypeError, ValueError):
      check_key(key)
      raise

  return init


def factory(build: Callable[P, Initializer]) -> Callable[P, Initializer]:
  """Lets what makes initializers say so where it is taken for one."""

  @functools.wraps(build)
  def checked(*args: P.args, **options: P.kwargs) -> Initializer:
    if args and is_key(args[0]):
      name = build.__name__
      raise TypeError(
        f"{name} makes an initializer, but was called like one, with a key; "
        f"call it first: {name}(...), as in kernel_init=he_normal()."
      )
    return build(*args, **options)

  return checked


def _sizes(key: Any, shape: int | Sequence[int]) -> Shape:
  """A shape as a tuple of integers; a number is that of a vector."""
  try:
    listed = shape if isinstance(shape, Iterable) else (shape,)
    sizes = tuple(map(operator.index, listed))
  except TypeError:
    check_key(key)  # init(shape, dtype) lacks one
    raise TypeError(
      f"a shape must be an integer or a sequence of integers; got {shape!r}."
    ) from None
  if sizes and min(sizes) < 0:
    raise ValueError(f"the sizes of a shape must be >= 0; got {sizes}.")
  return sizes


def _draw(
  sample: Sample,
  interval: Interval | None,
  key: jax.Array,
  shape: Shape,
  dtype: DType,
) -> jax.Array:
  """One array of `shape`, cast from float32 where `dtype` is narrower."""
  if 0 in shape:
    return jnp.zeros(shape, dtype)
  if dtype.itemsize >= 4 or not jnp.issubdtype(dtype, jnp.floating):
    return sample(key, shape, dtype)
  drawn = sample(key, shape, jnp.dtype(jnp.float32))
  limits = jnp.finfo(dtype)
  low, high = float(limits.min), float(limits.max)
  if low > 0:
    raise ValueError(
      f"{dtype} cannot hold negative numbers or zero; use another dtype."
    )
  within = jnp.clip(drawn, low, high)  # an overflow would help no network
  cast = jnp.where(jnp.isfinite(drawn), within, drawn).astype(dtype)
  return cast if interval is None else _kept_within(cast, *interval(shape))


def _kept_within(cast: jax.Array, low: Any, high: Any) -> jax.Array:
  """What was rounded out of the interval goes back by one step."""
  wide, limits = cast.astype(jnp.float32), jnp.finfo(cast.dtype)
  other_end = jnp.where(wide > high, low, high)
  other_end = jnp.clip(other_end, float(limits.min), float(limits.max))
  back = jax.lax.nextafter(  # which has no derivative
    jax.lax.stop_gradient(cast),
    jax.lax.stop_gradient(other_end.astype(cast.dtype)),
  )
  return jnp.where((wide < low) | (wide > high), back, cast)


@functools.lru_cache(maxsize=256)
def _sharded(
  sample: Sample,
  interval: Interval | None,
  shape: Shape,
  dtype: DType,
  out_sharding: OutSharding,
) -> Callable[[jax.Array], jax.Array]:
  """Draws each shard where it shall live."""

  def draw(key: jax.Array) -> jax.Array:
    drawn = _draw(sample, interval, key, shape, dtype)
    return _with_explicit_type(drawn, out_sharding)

  return jax.jit(draw, out_shardings=out_sharding)


def _with_explicit_type(
  drawn: jax.Array, out_sharding: OutSharding
) -> jax.Array:
  """`drawn` with the explicit axes of its sharding in its type.

  On explicit axes an outer `jax.jit` believes types: there the `out_shardings`
  of an inner one are lost.
  """
  explicit = jax.sharding.get_abstract_mesh().explicit_axes
  if not explicit:
    return drawn
  spec: Any = getattr(out_sharding, "spec", out_sharding)
  listed = [part if isinstance(part, tuple) else (part,) for part in spec]
  kept = [tuple(n for n in names if n in explicit) for names in listed]
  target = jax.sharding.PartitionSpec(*(names or None for names in kept))
  return jax.sharding.reshard(drawn, target)


def _check_sharding(out_sharding: OutSharding) -> None:
  """Raises if a bare PartitionSpec has no mesh to refer to."""
  is_spec = isinstance(out_sharding, jax.sharding.PartitionSpec)
  if is_spec and jax.sharding.get_abstract_mesh().empty:
    raise ValueError(
      f"out_sharding={out_sharding} names mesh axes, but no mesh is set; use "
      "`with jax.set_mesh(mesh):` or pass a NamedSharding."
    )
