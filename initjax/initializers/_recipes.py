"""Initializers specific to one library, paper or model."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from initjax._checks import Axes, check_integer, check_number
from initjax.initializers._basic import normal
from initjax.initializers._fans import check_kernel_shape, fans, kernel_axes
from initjax.initializers._sampling import Shape, factory, initializer
from initjax.initializers._variance_scaling import (
  variance_scaling,
  with_variance,
)
from initjax.typing import DType, Initializer


@factory
def torch_linear_kernel(
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
) -> Initializer:
  """W ~ U(±1/√fan_in): Var W = 1/(3·fan_in), PyTorch's default.

  `torch.nn.Linear` and `Conv` start with it. It is Kaiming uniform with a = √5,
  the "standard" initialization that Glorot and Bengio showed to fail with
  depth (each linear layer keeps a third of the second moment).

  Args:
    in_axis: input axis or axes.
    out_axis: output axis or axes.
    batch_axis: axes of independent kernels.
    dtype: the default dtype.

  Raises:
    ValueError: as for `variance_scaling`.

  >>> torch_linear_kernel()(jax.random.key(0), (256, 512)).shape
  (256, 512)

  Reference: `torch.nn.Linear.reset_parameters`; Glorot and Bengio 2010, Eq. 1.
  """
  return variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype
  )


@factory
def torch_linear_bias(fan_in: int, dtype: DType = None) -> Initializer:
  """b ~ U(±1/√fan_in) for any shape: PyTorch's default bias.

  Complex b fills the disc of the same variance, E|b|² = 1/(3·fan_in).

  Args:
    fan_in: that of the layer's kernel; the bias's shape does not reveal it.
    dtype: the default dtype.

  Raises:
    ValueError: if `fan_in` < 1.

  >>> b = torch_linear_bias(fan_in=4)(jax.random.key(0), (100,))
  >>> bool(abs(b).max() <= 0.5)
  True

  Reference: `torch.nn.Linear.reset_parameters`.
  """
  check_integer("fan_in", fan_in, low=1)
  bound = 1 / math.sqrt(fan_in)

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    return _symmetric_uniform(bound, key, shape, dtype)

  return initializer(sample, dtype, interval=lambda _: (-bound, bound))


def _symmetric_uniform(
  bound: float, key: jax.Array, shape: Shape, dtype: DType
) -> jax.Array:
  """U(±bound); for complex dtypes the disc of its variance, bound²/3."""
  if jnp.issubdtype(dtype, jnp.complexfloating):
    return with_variance(bound**2 / 3, "uniform", key, shape, dtype)
  return jax.random.uniform(key, shape, dtype, -bound, bound)


@factory
def sparse(
  sparsity: float, stddev: Any = 0.01, dtype: DType = None
) -> Initializer:
  """W ~ N(0, stddev²) with ⌈sparsity·in⌉ zeros per column of `[in, out]`.

  Each output unit reads a fixed number of inputs, so its variance is
  (number kept)·stddev² at any width. (PyTorch's function, on kernels
  [out, in], zeroes outputs of each input instead.)

  Args:
    sparsity: fraction of the inputs of each output that is zero, in [0, 1].
    stddev: standard deviation of the other weights, >= 0.
    dtype: the default dtype.

  Raises:
    ValueError: for a sparsity outside [0, 1], a negative stddev, or (when
      called) a rank other than 2, or a sparsity below 1 that rounds up to all
      inputs (a sparsity of 1 gives zeros).

  >>> w = sparse(0.75)(jax.random.key(0), (8, 4))
  >>> (w != 0).sum(axis=0)
  Array([2, 2, 2, 2], dtype=int32)

  Reference: Martens 2010, §5; `torch.nn.init.sparse_`.
  """
  check_number("sparsity", sparsity, low=0)
  check_number("stddev", stddev, low=0)
  if sparsity > 1:
    raise ValueError(f"sparsity must be a fraction in [0, 1]; got {sparsity}.")

  def check_shape(shape: Shape) -> None:
    if len(shape) != 2:
      raise ValueError(
        f"sparse needs a shape [in, out], got {shape}; use zeros for a bias."
      )
    ins = shape[0]
    if sparsity < 1 and 0 not in shape and math.ceil(sparsity * ins) == ins:
      raise ValueError(
        f"sparse({sparsity}) leaves no input: ⌈{sparsity}·{ins}⌉ = {ins} of "
        f"the {ins} inputs of each output in {shape} are zero; use a sparsity "
        f"<= {ins - 1}/{ins}, or 1 for zeros."
      )

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    value_key, order_key = jax.random.split(key)
    in_size = shape[0]
    kept = in_size - math.ceil(sparsity * in_size)
    mask = jnp.broadcast_to(jnp.arange(in_size)[:, None] < kept, shape)
    mask = jax.random.permutation(order_key, mask, axis=0, independent=True)
    values = jax.random.normal(value_key, shape, dtype)
    return jnp.where(mask, values * jnp.array(stddev, dtype), 0)

  return initializer(sample, dtype, check_shape)


@factory
def siren(
  omega_0: float = 30.0,
  first: bool = False,
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
) -> Initializer:
  """Kernels of a network with activation sin(ω₀·x), for signals in [-1, 1].

      first layer    W ~ U(±1/fan_in)
      hidden layers  W ~ U(±√(6/fan_in)/ω₀)

  The variance q of a hidden sine's argument maps to that of the next as

      q ↦ ω₀²·fan_in·Var W·E[sin(√q ζ)²] = 1 - e^(-2q),  ζ ~ N(0, 1)

  which is 1 only after a sine of many periods (q large, E[sin²] = ½). In deep
  networks q settles at 0.797 = 1 - e^(-2·0.797), whatever its first value.

  In complex dtypes W fills discs of the same variances.

  Args:
    omega_0: the frequency factor of the activation, > 0.
    first: whether this is the kernel of the first layer.
    in_axis: input axis or axes.
    out_axis: output axis or axes.
    batch_axis: axes of independent kernels.
    dtype: the default dtype.

  Raises:
    ValueError: if `omega_0` is not positive, or as for `variance_scaling`.

  >>> w = siren(first=True)(jax.random.key(0), (2, 256))
  >>> bool(abs(w).max() <= 0.5)
  True

  Reference: Sitzmann et al. 2020, §3.2 and supplement §1.5.
  """
  check_number("omega_0", omega_0, low=0, open_low=True)
  if not first:
    return variance_scaling(
      2 / omega_0**2, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype
    )
  axes = kernel_axes(in_axis, out_axis, batch_axis)
  bound = lambda shape: 1 / fans(shape, axes)[0]

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    return _symmetric_uniform(bound(shape), key, shape, dtype)

  return initializer(
    sample,
    dtype,
    lambda shape: check_kernel_shape(shape, axes),
    lambda shape: (-bound(shape), bound(shape)),
  )


@factory
def residual_normal(
  num_branches: int, stddev: Any = 0.02, dtype: DType = None
) -> Initializer:
  """W ~ N(0, stddev²/N) with N residual branches: GPT-2's output projections.

  The N branches together then add as much as one would without the factor. A
  transformer of L blocks has N = 2L branches (attention and MLP).

  Args:
    num_branches: N >= 1, counted over the whole network.
    stddev: standard deviation of the other kernels.
    dtype: the default dtype.

  Raises:
    ValueError: if N < 1 or `stddev` is negative.

  >>> residual_normal(2 * 12)(jax.random.key(0), (768, 768)).shape
  (768, 768)

  Reference: Radford et al. 2019, §2.3.
  """
  check_integer("num_branches", num_branches, low=1)
  return normal(stddev / math.sqrt(num_branches), dtype)
