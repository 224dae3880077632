"""Kernels and biases that hold several layers side by side."""

import operator
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from initjax._checks import check_integer, one_axis, positive_axes
from initjax.initializers._sampling import Shape, factory, initializer
from initjax.typing import DType, Initializer


@factory
def blocks(
  init: Initializer | Sequence[Initializer],
  sizes: Sequence[int],
  axis: int = -1,
  dtype: DType = None,
) -> Initializer:
  """Draws parts of the given `sizes` along `axis` as separate kernels.

  The gates of an LSTM, the packed query, key and value of attention and other
  fused kernels are several layers in one array. Fans, orthogonality and
  constants then apply to each part, not to the whole:

      W = [W₁ | W₂ | …],  Wᵢ = initᵢ(keyᵢ, shape with sizesᵢ on `axis`, dtype),

  with `key₁, key₂, … = jax.random.split(key, len(sizes))`. A part has all the
  axes of the whole, so `in_axis`, `batch_axis` etc. keep their meaning. For a
  grouped convolution use `blocks(orthogonal(), [out // groups] * groups)`.

  Args:
    init: one initializer for all parts, or one for each, from this package or
      any function of `(key, shape, dtype)`.
    sizes: sizes of the parts along `axis`; they must add up to its size.
    axis: the axis along which the parts lie.
    dtype: the default dtype; it overrides those of the parts.

  Raises:
    TypeError: if `init` contains something that is not callable.
    ValueError: if a size is below 1, the numbers of initializers and sizes
      differ, or (when called) the sizes do not add up to that of the axis.

  >>> from initjax.initializers import ones, orthogonal, zeros
  >>> gates = blocks(orthogonal(), [64] * 4)
  >>> gates(jax.random.key(0), (64, 256)).shape
  (64, 256)
  >>> bias = blocks([zeros, ones, zeros, zeros], [1] * 4)  # i, f, g, o
  >>> bias(jax.random.key(0), (4,))
  Array([0., 1., 0., 0.], dtype=float32)

  Reference: Saxe et al. 2014, §3 (orthogonal); Gers et al. 2000 and Jozefowicz
  et al. 2015 (the forget gate starts open, with a bias of 1).
  """
  sizes = _checked_sizes(sizes)
  axis = one_axis("axis", axis)
  inits = _one_for_each(init, sizes)

  def place(shape: Shape) -> int:
    """The axis from the front."""
    (front,) = positive_axes("axis", (axis,), shape)
    if 0 not in shape and sum(sizes) != shape[front]:
      raise ValueError(
        f"blocks of sizes {sizes} add up to {sum(sizes)}, but axis={axis} of "
        f"the shape {shape} has {shape[front]}."
      )
    return front

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    front = place(shape)
    keys = jax.random.split(key, len(sizes))
    parts = [
      draw(keys[i], (*shape[:front], size, *shape[front + 1 :]), dtype)
      for i, (draw, size) in enumerate(zip(inits, sizes, strict=True))
    ]
    joined = jnp.concatenate(parts, front)
    if joined.shape != shape:
      raise ValueError(
        f"parts of shapes {[part.shape for part in parts]} do not add up to "
        f"{shape} along axis={axis}; return the shape that `init` is given."
      )
    return joined

  return initializer(sample, dtype, place)


def _checked_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
  listed = tuple(sizes) if isinstance(sizes, Iterable) else ()
  if not listed:
    raise ValueError(f"sizes must be a sequence of one or more; got {sizes!r}.")
  for size in listed:
    check_integer("each of sizes", size, low=1)
  return tuple(map(operator.index, listed))


def _one_for_each(
  init: Initializer | Sequence[Initializer], sizes: tuple[int, ...]
) -> tuple[Initializer, ...]:
  if callable(init):
    return (init,) * len(sizes)
  listed = tuple(init) if isinstance(init, Iterable) else (init,)
  for each in listed:
    if not callable(each):
      raise TypeError(
        f"init must be an initializer, or one for each size; got {each!r}."
      )
  if len(listed) != len(sizes):
    raise ValueError(
      f"{len(listed)} initializers for {len(sizes)} sizes {sizes}: pass one "
      "for each size, or one for all."
    )
  return listed
