"""What is measured of a signal, and how it is measured going backward.

Second moments are kept as log₂: float32 holds 2^±126, a network 100 layers deep
passes that while its signal is still alive. Dividing by the largest magnitude
first means that nothing underflows before the signal itself does. Inside the
model only sums arise, a `Tally`; the logarithms are taken afterwards.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@contextlib.contextmanager
def nan_is_unknown() -> Iterator[None]:
  """JAX's debug_nans and debug_infs off: what is measured may be neither.

  NaN means "unknown" in a report, -inf is log₂ of a signal that is 0, and where
  a model makes them itself, a report says so rather than an exception.
  """
  with jax.debug_nans(False), jax.debug_infs(False):
    yield


class Statistics(NamedTuple):
  """Statistics of one array; under scan and vmap, of each array."""

  mean: jax.Array
  """E[x], in the units of x; of complex numbers, of their real parts"""
  log2_second_moment: jax.Array
  """log₂ E[|x|²]; -inf if every entry is exactly 0"""
  largest: jax.Array
  """max |x|"""
  zeros: jax.Array
  """number of entries that are exactly 0"""
  nonfinite: jax.Array
  """number of entries that are infinite or NaN"""
  size: jax.Array
  """number of entries; 0 where nothing was measured (a branch not taken)"""


class Tally(NamedTuple):
  """What is summed over one array, and its statistics follow from."""

  numbers: jax.Array
  """max |x|, Σ x, Σ (x / unit)² with the unit that belongs to max |x|, and the
  numbers of zeros, of entries that are not finite, and of all, along the last
  axis: one small array, because a compiler's work grows with their number"""

  def statistics(self) -> Statistics:
    """The statistics, as float32 whatever the dtype of the sums."""
    numbers: Any = self.numbers
    is_ready = isinstance(numbers, jax.core.Tracer | np.ndarray)
    if not is_ready and numbers.is_fully_addressable:
      numbers = np.asarray(numbers)  # of no mesh, whatever the context's is
    with nan_is_unknown():
      return _statistics(Tally(numbers))

  def shared(self, copies: int) -> "Tally":
    """What each of several equal copies has, if all together count as one."""
    if copies == 1:
      return self
    return Tally(jnp.asarray(self.numbers).at[..., 1:].divide(copies))


@jax.jit
def _statistics(tally: Tally) -> Statistics:
  return _told(jnp, _numbers_of(tally.numbers), unit(tally.numbers[..., 0]))


def statistics_in_numpy(numbers: np.ndarray, bound: np.ndarray) -> Statistics:
  """The statistics that tallies [..., 6] tell, all at once.

  Args:
    numbers: of tallies that were summed in any dtype.
    bound: `bound_of` that dtype.
  """
  units = np.clip(numbers[..., 0], 1 / bound, bound)
  with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
    return _told(np, _numbers_of(numbers), units)


def _told(xp: Any, numbers: list[Any], unit: Any) -> Statistics:
  largest, total, squares, zeros, nonfinite, entries = numbers
  size = xp.maximum(entries, 1)
  found = Statistics(
    mean=total / size,
    log2_second_moment=2 * xp.log2(unit) + xp.log2(squares / size),
    largest=largest,
    zeros=zeros,
    nonfinite=nonfinite,
    size=entries,
  )
  return Statistics(*(number.astype(xp.float32) for number in found))


_LENGTH = 6


def _numbers_of(numbers: Any) -> list[Any]:
  return [numbers[..., index] for index in range(_LENGTH)]


def unit(largest: Any, xp: Any = jnp) -> Any:
  """What entries are divided by before they are squared.

  Never 0, nor so extreme that its reciprocal is not normal.
  """
  bound = bound_of(largest.dtype)
  return xp.clip(largest, 1 / bound, bound)


def in_units(x: Any, largest: Any) -> Any:
  """The entries in units, to be squared: of size 1 at most, if finite.

  The bound stays XLA from taking the square of a constant, (x / c)², for
  x²·(1/c)²: for zeros that is 0·∞.
  """
  xp = functions_of(x)
  return xp.maximum(x / unit(largest, xp), -bound_of(x.dtype))


def bound_of(dtype: Any) -> float:
  """The largest unit of a dtype."""
  return 2.0 ** int(0.8 * jnp.finfo(dtype).maxexp)


def wide(x: Any) -> Any:
  """`x` in float32 or wider; a complex number as two, on a last axis."""
  if jnp.issubdtype(x.dtype, jnp.complexfloating):
    return functions_of(x).stack([x.real, x.imag], axis=-1)
  is_wide = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize >= 4
  return x if is_wide else x.astype(np.float32)


def functions_of(x: Any) -> Any:
  """NumPy for its own arrays, else jax.numpy."""
  return np if isinstance(x, np.ndarray) else jnp


def wide_dtype(dtype: Any) -> jnp.dtype:
  """Of `wide(x)`: real, float32 or wider."""
  if not jnp.issubdtype(dtype, jnp.inexact):
    return jnp.dtype(jnp.float32)
  info = jnp.finfo(dtype)
  return info.dtype if info.bits >= 32 else jnp.dtype(jnp.float32)


@jax.jit  # so that a model of many sites is traced once for each shape
def tally(x: jax.Array) -> Tally:
  """The sums over all entries of `x`, in float32 or wider.

  No axis is merged with another, so sharded arrays stay in place.
  """
  return _tally(x, _extremes)


def tally_in_numpy(x: np.ndarray) -> Tally:
  """The same of an array of NumPy, which has nothing to compile."""
  with np.errstate(all="ignore"):
    return _tally(x, _extremes_in_numpy)


def _tally(x: Any, extremes: Callable[[Any], tuple[Any, ...]]) -> Tally:
  xp = functions_of(x)
  real = wide(x.real)
  x = xp.atleast_1d(wide(abs(x)) if xp.iscomplexobj(x) else real)
  if x.size == 0:
    return empty_slot((), x.dtype)
  largest, zeros, nonfinite = extremes(x)
  numbers = (
    largest,
    total_of(xp.atleast_1d(real)),
    total_of(in_units(x, largest) ** 2),
    zeros,
    nonfinite,
    x.size,
  )
  return Tally(xp.stack([xp.asarray(one, x.dtype) for one in numbers]))


def total_of(terms: Any) -> Any:
  """The last axis goes last: its entries are lanes for the processor."""
  return terms.sum(axis=tuple(range(terms.ndim - 1))).sum()


def _extremes(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """max |x|, the number of zeros, and of entries that are not finite.

  As integers in one reduction: those may be taken in any order, so they are
  taken side by side. The bits of |x| are ordered as its values, NaN on top.
  """
  bits = _bits(x)
  count = jnp.int32 if x.size < 2**31 else x.dtype
  terms = (bits, (x == 0).astype(count), (~jnp.isfinite(x)).astype(count))
  found = jax.lax.reduce(
    terms,
    tuple(term.dtype.type(0) for term in terms),
    lambda a, b: (jax.lax.max(a[0], b[0]), a[1] + b[1], a[2] + b[2]),
    tuple(range(x.ndim)),
  )
  return jax.lax.bitcast_convert_type(found[0], x.dtype), found[1], found[2]


def _extremes_in_numpy(x: np.ndarray) -> tuple[Any, ...]:
  finite = np.isfinite(x)
  return abs(x).max(), x.size - np.count_nonzero(x), (~finite).sum()


def _bits(x: jax.Array) -> jax.Array:
  """Those of |x|."""
  integer = jnp.dtype(f"int{jnp.finfo(x.dtype).bits}")
  return jax.lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).max


def statistics(x: jax.Array) -> Statistics:
  """The statistics of all entries of `x`, summed in float32 or wider.

  >>> float(statistics(jnp.full((4,), 1e-30)).log2_second_moment) < -199
  True
  """
  return tally(x).statistics()


@jax.custom_vjp
def tap(x: jax.Array, slot: Tally) -> jax.Array:
  """The identity on `x`; its gradient with respect to `slot` is a measurement.

  Going backward, the cotangent of `x` passes through unchanged, and its tally
  is handed out as the cotangent of `slot`. So the gradient of a loss with
  respect to slots of zeros *is* the report on its gradients, at no extra
  memory, under jit, vmap and scan alike.

  >>> x, slot = jnp.ones(3), empty_slot()
  >>> report = jax.grad(lambda slot: tap(x, slot).sum() * 4)(slot)
  >>> float(report.statistics().log2_second_moment)
  4.0
  """
  del slot
  return x


def _tap_forward(x: jax.Array, slot: Tally) -> tuple[jax.Array, Tally]:
  return x, slot


def _tap_backward(slot: Tally, cotangent: jax.Array) -> tuple[jax.Array, Tally]:
  return cotangent, spread(tally(cotangent), slot)


tap.defvjp(_tap_forward, _tap_backward)


def spread(found: Tally, slot: Tally) -> Tally:
  """`found`, as an array that differs between devices where `slot` does.

  Inside a shard_map, equal arrays on k devices are one array: so that a sum
  over devices counts it once, each of them holds 1/k of the sums.
  """
  like = slot.numbers
  missing = _missing_axes(found.numbers, like)
  numbers = found.shared(jax.lax.axis_size(missing)).numbers
  if numbers.dtype != like.dtype:
    numbers = numbers.astype(like.dtype)
  return Tally(varying_like(numbers, like))


def varying_like(x: jax.Array, like: jax.Array) -> jax.Array:
  """`x`, as an array that differs between devices where `like` does."""
  missing = _missing_axes(x, like)
  return jax.lax.pcast(x, missing, to="varying") if missing else x


def _missing_axes(x: jax.Array, like: jax.Array) -> tuple[str, ...]:
  """Mesh axes over which `like` differs between devices, and `x` does not."""
  kinds = [jax.typeof(array).manual_axis_type for array in (like, x)]
  return tuple(kinds[0].varying - kinds[1].varying)


def over_devices(found: Tally) -> Tally:
  """The tally of all devices, from theirs along the leading axis."""
  largest, total, squares, *counts = _numbers_of(found.numbers)
  whole = largest.max(0)
  squares *= (unit(largest) / unit(whole)) ** 2
  sums = [leaf.sum(0) for leaf in (total, squares, *counts)]
  return Tally(jnp.stack([whole, *sums], axis=-1))


def empty_slot(
  shape: tuple[int, ...] = (),
  dtype: jnp.dtype = jnp.float32,
  varying: Collection[str] = (),
) -> Tally:
  """Zeros for `tap` to be differentiated at: a leading axis under scan.

  Args:
    shape: the axes of surrounding scans.
    dtype: of the signal; slots of narrow ones are float32, all are real.
    varying: mesh axes of a surrounding shard_map over which signals differ.
  """
  return Tally(varying_zeros((*shape, _LENGTH), varying, wide_dtype(dtype)))


def varying_zeros(
  shape: tuple[int, ...],
  varying: Collection[str],
  dtype: jnp.dtype = jnp.float32,
) -> Any:
  """Zeros that JAX takes to differ over these axes of a shard_map's mesh."""
  axes = tuple(varying)
  if not axes:
    return np.zeros(shape, dtype)  # of JAX, each shape would be a program
  return jax.lax.pcast(jnp.zeros(shape, dtype), axes, to="varying")
