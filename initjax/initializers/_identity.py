"""Kernels that start as the identity, or as close as their shapes allow."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from initjax._checks import (
  Axes,
  axes_tuple,
  check_disjoint,
  check_integer,
  check_number,
  positive_axes,
)
from initjax.initializers._sampling import Shape, factory, initializer
from initjax.typing import DType, Initializer


@factory
def eye(
  scale: Any = 1.0, dtype: DType = None, *, batch_axis: Axes = ()
) -> Initializer:
  """W = scale·I for a kernel `[in, out]`, cropped to its shape.

  A dense layer then passes on its first min(in, out) inputs.

  Args:
    scale: the value on the diagonal.
    dtype: the default dtype.
    batch_axis: axes of independent kernels, such as a stack of layers.

  Raises:
    ValueError: if `scale` is not a number, a batch axis is named twice, or
      (when called) the axes besides the batch are not exactly two.

  >>> eye()(jax.random.key(0), (2, 3))
  Array([[1., 0., 0.],
         [0., 1., 0.]], dtype=float32)

  Reference: as `torch.nn.init.eye_`.
  """
  check_number("scale", scale)
  batch_axes = axes_tuple("batch_axis", batch_axis)
  check_disjoint(batch_axis=batch_axes)

  def batch_of(shape: Shape) -> tuple[int, ...]:
    batch = positive_axes("batch_axis", batch_axes, shape)
    check_disjoint(batch_axis=batch)
    if len(shape) != 2 + len(batch):
      besides = f" besides batch_axis={batch_axes}" if batch else ""
      raise ValueError(
        f"eye needs a shape [in, out]{besides}, got {shape}; use dirac for the "
        "kernel of a convolution, zeros for a bias."
      )
    return batch

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    del key
    batch = batch_of(shape)
    in_size, out_size = (n for i, n in enumerate(shape) if i not in batch)
    matrix = jnp.eye(in_size, out_size, dtype=dtype) * jnp.array(scale, dtype)
    return jnp.broadcast_to(jnp.expand_dims(matrix, batch), shape)

  return initializer(sample, dtype, batch_of)


@factory
def dirac(
  groups: int = 1, scale: Any = 1.0, dtype: DType = None
) -> Initializer:
  """Makes a convolution pass on its input: a Dirac delta per channel.

  The kernel `[*window, in // groups, out]` is `scale` at the centre of the
  window where input and output channel (counted within the group) agree, and 0
  elsewhere. The centre is (k - 1)//2, so SAME padding gives the identity for
  even windows too (PyTorch's k//2 shifts those by one).

  Args:
    groups: groups of the convolution; they must divide the outputs.
    scale: the value of the delta.
    dtype: the default dtype.

  Raises:
    ValueError: if `groups` < 1, or (when called) the rank is not 3 to 5 or the
      outputs are not divisible by `groups`.

  >>> dirac()(jax.random.key(0), (3, 1, 1)).ravel()
  Array([0., 1., 0.], dtype=float32)

  Reference: as `torch.nn.init.dirac_`.
  """
  check_integer("groups", groups, low=1)
  check_number("scale", scale)

  def check_shape(shape: Shape) -> None:
    _check_window("dirac", shape)
    if shape[-1] % groups:
      raise ValueError(
        f"dirac needs outputs divisible by groups={groups}; got {shape}."
      )

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    del key
    in_size, out_size = shape[-2:]
    one_group = jnp.eye(in_size, out_size // groups, dtype=dtype)
    matrix = jnp.tile(one_group, (1, groups)) * jnp.array(scale, dtype)
    return jnp.zeros(shape, dtype).at[_centre(shape)].set(matrix)

  return initializer(sample, dtype, check_shape)


@factory
def zero_hadamard(scale: Any = 1.0, dtype: DType = None) -> Initializer:
  """ZerO: identities and Hadamard matrices, with no randomness at all.

  For a kernel `[in, out]`, or at the window's centre for `[*window, in, out]`:

      out <= in   W = scale·I                  the first `out` inputs pass
      out > in    W = scale·2^(-(m-1)/2)·H_m   cut to [in, out], m = ⌈log₂ out⌉

  where H_m is Sylvester's Hadamard matrix of size 2^m. Without the Hadamard
  branch a widening layer would have equal units, and training would never
  separate them. (The authors' notebook divides by 2^(m/2) instead, an isometry
  if out is a power of two; `scale=2**-0.5` gives that branch.)

  Args:
    scale: factor that multiplies the kernel.
    dtype: the default dtype.

  Raises:
    ValueError: if `scale` is not a number, or (when called) the rank is 1 or
      above 5.

  >>> zero_hadamard()(jax.random.key(0), (1, 2))
  Array([[1., 1.]], dtype=float32)

  Reference: Zhao, Schäfer and Anandkumar 2022, Algorithms 1 and 2.
  """
  check_number("scale", scale)

  def check_shape(shape: Shape) -> None:
    if len(shape) != 2:
      _check_window("zero_hadamard", shape)

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    del key
    in_size, out_size = shape[-2:]
    matrix = _partial_hadamard(in_size, out_size, dtype)
    matrix *= jnp.array(scale, dtype)
    if len(shape) == 2:
      return matrix
    return jnp.zeros(shape, dtype).at[_centre(shape)].set(matrix)

  return initializer(sample, dtype, check_shape)


def _partial_hadamard(in_size: int, out_size: int, dtype: DType) -> jax.Array:
  """Algorithm 1 of ZerO for one matrix [in, out], P = out, Q = in."""
  if out_size <= in_size:
    return jnp.eye(in_size, out_size, dtype=dtype)
  exponent = math.ceil(math.log2(out_size))
  rows, columns = jnp.arange(in_size), jnp.arange(out_size)
  shared_bits = jnp.bitwise_count(
    rows[:, None] & columns
  )  # H[i,j] = (-1)^|i&j|
  signs = 1 - 2 * (shared_bits % 2).astype(jnp.int32)
  return signs.astype(dtype) * jnp.array(2 ** (-(exponent - 1) / 2), dtype)


def _check_window(name: str, shape: Shape) -> None:
  if len(shape) not in (3, 4, 5):
    raise ValueError(
      f"{name} needs a shape [*window, in, out] with one to three window axes, "
      f"got {shape}; use eye for a dense kernel, zeros for a bias."
    )


def _centre(shape: Shape) -> tuple[int, ...]:
  """The tap that SAME padding aligns with the output."""
  return tuple((size - 1) // 2 for size in shape[:-2])
