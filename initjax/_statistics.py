"""What is measured of a signal, and how it is measured going backward.

Second moments are kept as log₂: float32 holds 2^±126, a network 100 layers deep
passes that while its signal is still alive. Dividing by the largest magnitude
first means that nothing underflows before the signal itself does. Inside the
model only sums arise, a `Tally`; the logarithms are taken afterwards.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Statistics(NamedTuple):
  """Statistics of one array; under scan and vmap, of each array."""

  mean: jax.Array
  """E[x], in the units of x"""
  log2_second_moment: jax.Array
  """log₂ E[x²]; -inf if every entry is exactly 0"""
  largest: jax.Array
  """max |x|"""
  zeros: jax.Array
  """number of entries that are exactly 0"""
  nonfinite: jax.Array
  """number of entries that are infinite or NaN"""
  size: jax.Array
  """number of entries; 0 where nothing was measured (a branch not taken)"""


class Tally(NamedTuple):
  """Sums over one array, from which its statistics follow."""

  largest: jax.Array
  """max |x|"""
  total: jax.Array
  """Σ x"""
  squares: jax.Array
  """Σ (x / unit)², with the unit that belongs to `largest`"""
  zeros: jax.Array
  """number of entries that are exactly 0"""
  nonfinite: jax.Array
  """number of entries that are infinite or NaN"""
  size: jax.Array
  """number of entries"""

  @jax.jit
  def statistics(self) -> Statistics:
    """The statistics, as float32 whatever the dtype of the sums."""
    size = jnp.maximum(self.size, 1)
    log2_scaled = jnp.log2(self.squares / size)
    numbers = Statistics(
      mean=self.total / size,
      log2_second_moment=2 * jnp.log2(_unit(self.largest)) + log2_scaled,
      largest=self.largest,
      zeros=self.zeros,
      nonfinite=self.nonfinite,
      size=self.size,
    )
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), numbers)


def _unit(largest: jax.Array) -> jax.Array:
  """What entries are divided by before they are squared.

  Neither 0, nor infinite, nor so extreme that its reciprocal is not normal.
  """
  bound = 2.0 ** (0.8 * jnp.finfo(largest.dtype).maxexp)
  alive = (largest > 0) & jnp.isfinite(largest)
  return jnp.where(alive, jnp.clip(largest, 1 / bound, bound), 1)


def wide(x: jax.Array) -> jax.Array:
  """`x` in float32 or wider; a complex number as two, on a last axis."""
  if jnp.issubdtype(x.dtype, jnp.complexfloating):
    return jnp.stack([x.real, x.imag], axis=-1)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.jit  # so that a model of many sites is traced once for each shape
def tally(x: jax.Array) -> Tally:
  """The sums over all entries of `x`, in float32 or wider.

  The last axis is summed last: its entries are independent lanes for the
  processor. No axis is merged with another, so sharded arrays stay in place.
  """
  x = jnp.atleast_1d(wide(x))
  if x.size == 0:
    return empty_slot((), x.dtype)

  def total(terms: jax.Array) -> jax.Array:
    terms = terms.astype(x.dtype)
    return terms.sum(axis=tuple(range(x.ndim - 1))).sum()

  largest = abs(x).max(axis=tuple(range(x.ndim - 1))).max()
  return Tally(
    largest=largest,
    total=total(x),
    squares=total((x / _unit(largest)) ** 2),
    zeros=total(x == 0),
    nonfinite=total(~jnp.isfinite(x)),
    size=jnp.asarray(x.size, x.dtype),
  )


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
  if missing := _missing_axes(found.largest, slot.largest):
    copies = jax.lax.axis_size(missing)
    largest, *sums = found
    found = Tally(largest, *(one / copies for one in sums))

  def vary(x: jax.Array, like: jax.Array) -> jax.Array:
    axes = _missing_axes(x, like)
    x = x if x.dtype == like.dtype else x.astype(like.dtype)
    return jax.lax.pcast(x, axes, to="varying") if axes else x

  return jax.tree.map(vary, found, slot)


def _missing_axes(x: jax.Array, like: jax.Array) -> tuple[str, ...]:
  """Mesh axes over which `like` differs between devices, and `x` does not."""
  kinds = [jax.typeof(array).manual_axis_type for array in (like, x)]
  return tuple(kinds[0].varying - kinds[1].varying)


def over_devices(found: Tally) -> Tally:
  """The tally of all devices, from theirs along the leading axis."""
  largest, total, squares, *counts = found
  whole = largest.max(0)
  squares *= (_unit(largest) / _unit(whole)) ** 2
  sums = (leaf.sum(0) for leaf in (total, squares, *counts))
  return Tally(whole, *sums)


def empty_slot(
  shape: tuple[int, ...] = (), dtype: jnp.dtype = jnp.float32
) -> Tally:
  """Zeros for `tap` to be differentiated at: a leading axis under scan.

  Args:
    shape: the axes of surrounding scans.
    dtype: of the signal; slots of narrow ones are float32, all are real.
  """
  dtype = wide(jnp.zeros((), dtype)).dtype
  return Tally(*(jnp.zeros(shape, dtype) for _ in Tally._fields))
