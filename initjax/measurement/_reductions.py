"""Queries about a parameter: sums, tests, samples and fingerprints.

A parameter may lie on the devices of several processes, none of which could
hold it. So each query is a function of arrays, from NumPy or traced by
`jax.jit`, with a small result; `reduced` runs it where the array is.
"""

import math
from typing import Any

import jax
import numpy as np

from initjax._sharding import reduced

Array = Any
"""Of NumPy, of JAX, or traced."""


_BLOCK = 2**16  # entries that a processor holds beside itself


def in_double(x: Array) -> Array:
  """In float64 or complex128."""
  return x.astype(complex if np.iscomplexobj(x) else float)


def mean_square(leaf: Array) -> float:
  """E|w|²."""
  return float(reduced(_mean_square, leaf)) if leaf.size else 0.0


def _mean_square(x: Array) -> Array:
  return _row_moments(x, 0)[0]


def mean_and_std(leaf: Array) -> tuple[float, float]:
  """Of all entries; of their real parts, if they are complex."""
  mean, std = reduced(_mean_and_std, leaf)
  return float(mean), float(std)


def _mean_and_std(x: Array) -> Array:
  x = in_double(x.real)
  return x.mean(), x.std()


def is_finite(leaf: Array) -> bool:
  """Whether all entries are."""
  return bool(reduced(_is_finite, leaf))


def _is_finite(x: Array) -> Array:
  return _of(x).isfinite(x).all()


def is_zero(leaf: Array) -> bool:
  """Whether all entries are exactly 0."""
  return not reduced(_any, leaf)


def _any(x: Array) -> Array:
  return (x != 0).any()


def row_moments(leaf: Array, axes: int) -> tuple[Array, Array]:
  """E|w|² and |E w|² along all but the leading axes."""
  return reduced(_row_moments, leaf, axes=axes)


def _row_moments(x: Array, axes: int) -> Array:
  if isinstance(x, np.ndarray) and x.size > _BLOCK:
    return _moments_by_blocks(x, axes)
  x, rest = in_double(x), tuple(range(axes, x.ndim))
  return (abs(x) ** 2).mean(rest), abs(x.mean(rest)) ** 2


def _moments_by_blocks(x: np.ndarray, axes: int) -> tuple[Array, Array]:
  """The same without a copy in double precision: a block of it at a time."""
  rows = x.reshape(math.prod(x.shape[:axes]), -1)
  number = rows.shape[1]
  squares = np.zeros(len(rows))
  total = np.zeros(len(rows), in_double(rows[:0]).dtype)
  many = max(1, _BLOCK // number)  # rows in a block, or a part of one
  for i in range(0, len(rows), many):
    for j in range(0, number, _BLOCK):
      part = in_double(rows[i : i + many, j : j + _BLOCK])
      squares[i : i + many] += (part * part.conj()).real.sum(1)
      total[i : i + many] += part.sum(1)
  shape, shift = x.shape[:axes], abs(total / number) ** 2
  return (squares / number).reshape(shape), shift.reshape(shape)


def sample(
  leaf: Array, most: int, axes: tuple[int, ...] | None = None
) -> np.ndarray:
  """At most so many entries, evenly spaced; 0 is the place on other axes."""
  axes = tuple(range(leaf.ndim)) if axes is None else axes
  return np.ravel(reduced(_sample, leaf, most=most, axes=axes))


def _sample(x: Array, most: int, axes: tuple[int, ...]) -> Array:
  if not x.ndim or not x.size:
    return x.reshape(-1)
  shape = tuple(x.shape[axis] for axis in axes)
  size = math.prod(shape)
  places = np.linspace(0, size - 1, min(size, most)).astype(int)
  by_axis = dict(zip(axes, np.unravel_index(places, shape), strict=True))
  zero = np.zeros_like(places)
  return x[tuple(by_axis.get(axis, zero) for axis in range(x.ndim))]


def head(leaf: Array, most: int) -> np.ndarray:
  """So many entries, or all there are, from the start."""
  return np.ravel(reduced(_head, leaf, most=most))


def _head(x: Array, most: int) -> Array:
  if not x.ndim or not x.size:
    return x.reshape(-1)
  return x[np.unravel_index(np.arange(min(x.size, most)), x.shape)]


def slice_samples(leaf: Array, axis: int, most: int) -> np.ndarray:
  """Of each slice along an axis [slices, entries]: so many, evenly spaced."""
  return reduced(_slice_samples, leaf, axis=axis, most=most)


def _slice_samples(x: Array, axis: int, most: int) -> Array:
  rest = [n for place, n in enumerate(x.shape) if place != axis]
  size = math.prod(rest)
  places = np.linspace(0, size - 1, min(size, most)).astype(int)
  index: list[Any] = list(np.unravel_index(places, rest))
  index.insert(axis, slice(None))
  found = x[tuple(index)]
  return found if axis == 0 else found.T  # the slice leads, or comes last


def direction(leaf: Array, most: int) -> np.ndarray:
  """A sample without its mean, of length 1, or 0 where there is none."""
  with np.errstate(invalid="ignore", divide="ignore"):
    x = _of_unit_size(sample(leaf, most))
    x = x - x.mean()
    length = np.linalg.norm(x)
  return x / length if np.isfinite(length) and length > 0 else np.zeros_like(x)


def are_equal(one: Array, other: Array) -> bool:
  """Whether they are, entry by entry."""
  return one.dtype == other.dtype and bool(reduced(_are_equal, one, other))


def _are_equal(one: Array, other: Array) -> Array:
  return (one == other).all()


def _of_unit_size(x: Array) -> Array:
  """In double precision, so scaled that no square under- or overflows."""
  x, xp = in_double(x), _of(x)
  largest = abs(x).max()
  return x / xp.where(largest > 0, largest, 1.0)


def beside(one: Array, other: Array) -> tuple[float, float]:
  """Of a and a multiple of b: |a - b·(b·a)/(b·b)|, and the spread of a."""
  left, spread = reduced(_beside, one, other)
  return float(left), float(spread)


def _beside(one: Array, other: Array) -> Array:
  a, b = _of_unit_size(one), _of_unit_size(other)
  part = (b.conj() * a).sum() / (abs(b) ** 2).sum()
  return _length(a - b * part), _length(a - a.mean())


def _length(x: Array) -> Array:
  return (abs(x) ** 2).sum() ** 0.5


def fingerprints(
  leaf: Array, ins: tuple[int, ...], most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Along the other axes, a number of each column's bits; and if it is not 0.

  Columns with the same bits have the same number. Others have it with a chance
  of 2⁻⁶⁴, as their bits and places are mixed before they are summed.

  Args:
    leaf: a kernel.
    ins: axes along which a column extends.
    most: how much of each of them is looked at.
  """
  return reduced(_fingerprints, leaf, ins=ins, most=most)


def _fingerprints(x: Array, ins: tuple[int, ...], most: int | None) -> Array:
  seen = (slice(most if axis in ins else None) for axis in range(x.ndim))
  x = x[tuple(seen)]
  shape = [n if axis in ins else 1 for axis, n in enumerate(x.shape)]
  places = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
  parts = (x.real, x.imag) if np.iscomplexobj(x) else (x,)
  words: Any = 0
  for part in parts:
    words = _mixed(_bits(part) + _mixed(places + words + np.uint64(1)))
  return words.sum(ins, dtype=np.uint64), (x != 0).any(ins)


def _bits(x: Array) -> Array:
  kind = np.dtype(f"uint{8 * x.dtype.itemsize}")
  is_numpy = isinstance(x, np.ndarray)
  bits = x.view(kind) if is_numpy else jax.lax.bitcast_convert_type(x, kind)
  return bits.astype(np.uint64)


def _mixed(words: Array) -> Array:
  """Each bit depends on all (Steele, Lea and Flood 2014, SplitMix64)."""
  words = words * np.uint64(0x9E3779B97F4A7C15)
  words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return words ^ (words >> np.uint64(31))


def has_equal_rows(leaf: Array, ins: tuple[int, ...]) -> bool:
  """Whether entries do not differ along these axes."""
  return bool(reduced(_has_equal_rows, leaf, ins=ins))


def _has_equal_rows(x: Array, ins: tuple[int, ...]) -> Array:
  first = (
    slice(0, 1) if axis in ins else slice(None) for axis in range(x.ndim)
  )
  return (x == x[tuple(first)]).all()


def _of(x: Array) -> Any:
  """The functions of its kind of arrays."""
  return x.__array_namespace__()
