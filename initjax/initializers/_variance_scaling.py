"""Variance scaling: LeCun, Xavier, Kaiming, and the exact gain of anything.

All of them draw weights of Var W = scale / n, where n is a fan of the kernel:

    fan_in       n = inputs summed into one output      keeps the signal
    fan_out      n = outputs fed by one input           keeps the gradient
    fan_avg      n = (fan_in + fan_out) / 2             a compromise
    fan_geo_avg  n = √(fan_in · fan_out)                a compromise

Glorot and Bengio average because a linear or tanh-like layer needs 1/n_in
forward and 1/n_out backward. He et al. do not: with either fan alone, the other
direction is off by one ratio n_in/n_out for the whole stack, not per layer,
because the ratios of successive layers cancel.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from initjax._checks import (
  Axes,
  check_choice,
  check_integer,
  check_number,
  check_numbers,
)
from initjax.gains import gain as exact_gain
from initjax.initializers._fans import (
  MODES,
  KernelAxes,
  Mode,
  check_kernel_shape,
  fan,
  kernel_axes,
)
from initjax.initializers._sampling import Shape, factory, initializer
from initjax.typing import Activation, DType, Initializer

Distribution = Literal["truncated_normal", "normal", "uniform"]
Direction = Literal["forward", "backward", "centered"]

_DISTRIBUTIONS = ("truncated_normal", "normal", "uniform")

# The ends of the real ones, in standard deviations.
_BOUNDS = {"uniform": math.sqrt(3), "truncated_normal": 2 / 0.87962566103423978}

# E|z|² of the complex standard normal within |z| <= 2, over what JAX divides by
_DISK_EXCESS = (1 - 4 / math.expm1(4)) / 0.95311164380491208**2  # 1.0187


@factory
def variance_scaling(
  scale: Any,
  mode: Mode,
  distribution: Distribution,
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  groups: int = 1,
) -> Initializer:
  """Var W = scale / n, with the fan n chosen by `mode`; the mean is 0.

  Kernels are `[*window, in, out]` by default. "truncated_normal" cuts at two
  standard deviations and corrects the variance; "uniform" is U(±√(3·scale/n)).
  Complex dtypes use discs. The values match JAX for the same key, even where it
  divides by 0.9531, not 0.9620: a truncated disc has variance 1.0187·scale/n.

  A grouped convolution has kernels `[*window, in/groups, out]`: `groups` (in
  Flax `feature_group_count`) divides fan_out, since an input feeds only the
  outputs of its own group.

  Args:
    scale: the weights' variance times n, >= 0.
    mode: "fan_in", "fan_out", "fan_avg" or "fan_geo_avg".
    distribution: "truncated_normal", "normal" or "uniform".
    in_axis: input axis or axes.
    out_axis: output axis or axes; for an embedding, may include input axes.
    batch_axis: axes of independent kernels, such as a stack of layers.
    dtype: the default dtype.
    groups: groups of the convolution, >= 1; they must divide the outputs.

  Raises:
    ValueError: for an unknown mode or distribution, a negative scale, a batch
      axis that is also an input or an output, an axis named twice, or (when
      called) a shape of too low a rank or outputs not divisible by `groups`.

  >>> init = variance_scaling(2.0, "fan_in", "normal")
  >>> init(jax.random.key(0), (256, 512)).shape
  (256, 512)

  Reference: as `jax.nn.initializers.variance_scaling`; LeCun et al. 1998, §4.6.
  """
  check_numbers("scale", scale, low=0)
  axes = kernel_axes(in_axis, out_axis, batch_axis)
  return _scaling(lambda dtype: scale, mode, distribution, axes, dtype, groups)


def _scaling(
  scale_of: Callable[[DType], Any],
  mode: Mode,
  distribution: Distribution,
  axes: KernelAxes,
  dtype: DType,
  groups: int,
) -> Initializer:
  """`variance_scaling` of a scale that may depend on the dtype."""
  check_choice("mode", mode, MODES)
  check_choice("distribution", distribution, _DISTRIBUTIONS)
  check_integer("groups", groups, low=1)

  def sample(key: jax.Array, shape: Shape, dtype: DType) -> jax.Array:
    scale = scale_of(dtype)
    if groups > 1:  # JAX has no groups
      n = fan(mode, shape, axes, groups)
      return with_variance(scale / n, distribution, key, shape, dtype)
    draw = jax.nn.initializers.variance_scaling(
      scale, mode, distribution, *axes
    )
    return draw(key, shape, dtype)

  def interval(shape: Shape) -> tuple[Any, Any]:
    variance = scale_of(None) / fan(mode, shape, axes, groups)
    bound = _BOUNDS[distribution] * jnp.sqrt(jnp.float32(variance))
    return -bound, bound

  return initializer(
    sample,
    dtype,
    lambda shape: check_kernel_shape(shape, axes, groups),
    interval if distribution in _BOUNDS else None,
  )


def with_variance(
  variance: Any,
  distribution: Distribution,
  key: jax.Array,
  shape: Shape,
  dtype: DType,
) -> jax.Array:
  """`variance_scaling` of entries that are kernels of their own: n = 1."""
  every_axis = tuple(range(len(shape)))
  draw = jax.nn.initializers.variance_scaling(
    variance, "fan_in", distribution, (), (), every_axis
  )
  return draw(key, shape, dtype)


@factory
def lecun_normal(
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  groups: int = 1,
) -> Initializer:
  """Var W = 1/fan_in, truncated normal: for linear layers and SELU.

  The arguments and errors are those of `variance_scaling`.

  >>> lecun_normal()(jax.random.key(0), (256, 512)).shape
  (256, 512)

  Reference: LeCun et al. 1998, §4.6; Klambauer et al. 2017, §3.
  """
  axes = (in_axis, out_axis, batch_axis)
  return variance_scaling(
    1.0, "fan_in", "truncated_normal", *axes, dtype, groups=groups
  )


@factory
def lecun_uniform(
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  groups: int = 1,
) -> Initializer:
  """Var W = 1/fan_in, uniform: U(±√(3/fan_in)).

  The arguments and errors are those of `variance_scaling`.

  >>> lecun_uniform()(jax.random.key(0), (256, 512)).shape
  (256, 512)

  Reference: LeCun et al. 1998, §4.6.
  """
  axes = (in_axis, out_axis, batch_axis)
  return variance_scaling(1.0, "fan_in", "uniform", *axes, dtype, groups=groups)


@factory
def xavier_normal(
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  gain: Any = 1.0,
  groups: int = 1,
) -> Initializer:
  """Var W = gain²·2/(fan_in + fan_out), truncated normal.

  A compromise between 1/fan_in (signal) and 1/fan_out (gradient), designed for
  zero-mean activations with slope 1 at the origin: tanh, softsign. Unsuitable
  for sigmoid, and for ReLU, which halves the second moment in every layer.
  Also called `glorot_normal`.

  `gain` >= 0 multiplies the standard deviation; the other arguments and the
  errors are those of `variance_scaling`.

  >>> xavier_normal(gain=5 / 3)(jax.random.key(0), (256, 512)).shape
  (256, 512)

  Reference: Glorot and Bengio 2010, Eq. 12.
  """
  check_number("gain", gain, low=0)
  axes = (in_axis, out_axis, batch_axis)
  return variance_scaling(
    gain**2, "fan_avg", "truncated_normal", *axes, dtype, groups=groups
  )


@factory
def xavier_uniform(
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  gain: Any = 1.0,
  groups: int = 1,
) -> Initializer:
  """W ~ U(±gain·√(6/(fan_in + fan_out))): Var W = gain²·2/(fan_in + fan_out).

  The "normalized initialization" of the paper, with the arguments and errors
  of `xavier_normal`. Also called `glorot_uniform`.

  >>> xavier_uniform()(jax.random.key(0), (256, 512)).shape
  (256, 512)

  Reference: Glorot and Bengio 2010, Eq. 16.
  """
  check_number("gain", gain, low=0)
  axes = (in_axis, out_axis, batch_axis)
  return variance_scaling(
    gain**2, "fan_avg", "uniform", *axes, dtype, groups=groups
  )


@factory
def kaiming_normal(
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  negative_slope: Any = 0.0,
  mode: Mode = "fan_in",
  groups: int = 1,
) -> Initializer:
  """Var W = 2/((1 + a²)·n), truncated normal; a is the negative slope.

  ReLU keeps half of the second moment, leaky ReLU (1 + a²)/2 of it, both for
  the signal and for the gradient; the factor 2/(1 + a²) restores it exactly.
  Also called `he_normal`. (PyTorch's function of this name does not truncate.)

  The slope a is 0 for ReLU and 1 for a linear layer. The mode "fan_in" keeps
  the signal, "fan_out" the gradient; the rest is as in `variance_scaling`.

  >>> kaiming_normal(negative_slope=0.01)(jax.random.key(0), (8, 4)).shape
  (8, 4)

  Reference: He et al. 2015, Eqs. 10, 14 and 15.
  """
  scale = _leaky_scale(negative_slope)
  axes = (in_axis, out_axis, batch_axis)
  return variance_scaling(
    scale, mode, "truncated_normal", *axes, dtype, groups=groups
  )


@factory
def kaiming_uniform(
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  negative_slope: Any = 0.0,
  mode: Mode = "fan_in",
  groups: int = 1,
) -> Initializer:
  """W ~ U(±√(6/((1 + a²)·n))): Var W = 2/((1 + a²)·n), a the negative slope.

  Like `kaiming_normal`, with the same arguments. Also called `he_uniform`.

  >>> kaiming_uniform(mode="fan_out")(jax.random.key(0), (8, 4)).shape
  (8, 4)

  Reference: He et al. 2015, Eqs. 10, 14 and 15.
  """
  scale = _leaky_scale(negative_slope)
  axes = (in_axis, out_axis, batch_axis)
  return variance_scaling(scale, mode, "uniform", *axes, dtype, groups=groups)


def _leaky_scale(negative_slope: Any) -> Any:
  """2/(1 + a²): the inverse of what leaky ReLU keeps of a second moment."""
  check_number("negative_slope", negative_slope)
  return 2.0 / (1.0 + negative_slope**2)


@factory
def activation_scaling(
  activation: Activation,
  mode: Mode = "fan_in",
  distribution: Distribution = "truncated_normal",
  direction: Direction = "forward",
  in_axis: Axes = -2,
  out_axis: Axes = -1,
  batch_axis: Axes = (),
  dtype: DType = None,
  *,
  groups: int = 1,
) -> Initializer:
  """Var W = gain²/n, with the exact gain of any elementwise activation φ.

  Generalizes Kaiming from ReLU to any JAX callable: with z ~ N(0, 1),

      forward   gain² = 1/E[φ(z)²]    a layer fed by φ keeps unit second moment
      backward  gain² = 1/E[φ'(z)²]   the gradient keeps its second moment
      centered  gain² = 1/Var[φ(z)]   as forward, for signals that are centred

  At the forward gain, the length map (slope Q' at the fixed point) and the
  gradient factor χ₁ per layer tell how a stack of 100 layers behaves:

  ================  ==================  ==============================
  activation        signal              gradient over 100 layers
  ================  ==================  ==============================
  relu, leaky_relu  stable              stable (χ₁ = 1)
  tanh              stable, Q' 0.46     explodes 1e7 (χ₁ = 1.178)
  softsign          stable, Q' 0.48     explodes 3e9 (χ₁ = 1.244)
  selu              stable, Q' 0.78     explodes 1e3 (χ₁ = 1.072)
  elu               stable, Q' 0.89     grows 34 (χ₁ = 1.036)
  sigmoid           stable, Q' 0.11     vanishes 3e-82 (χ₁ = 0.153)
  gelu, silu        unstable, Q' 1.144  explodes with the signal
                    and 1.173
  ================  ==================  ==============================

  Where Q' > 1, even the smallest deviation grows from layer to layer; such
  stacks need normalization, residual branches, or their own critical point.

  The variance is exact for complex dtypes too, including the truncated disc.

  Args:
    activation: any elementwise JAX function; evaluated once, on construction.
    mode: as in `variance_scaling`.
    distribution: as in `variance_scaling`.
    direction: "forward", "backward" or "centered".
    in_axis: input axis or axes.
    out_axis: output axis or axes.
    batch_axis: axes of independent kernels.
    dtype: the default dtype.
    groups: groups of the convolution.

  Raises:
    ValueError: as for `variance_scaling`, and where `initjax.gain` fails (φ is
      not elementwise, a moment diverges, φ' has a delta).

  >>> init = activation_scaling(jax.nn.gelu)
  >>> init(jax.random.key(0), (256, 512)).shape
  (256, 512)

  Reference: He et al. 2015, §2.2, for general φ; Poole et al. 2016, Eq. 3.
  """
  scale = exact_gain(activation, direction) ** 2

  def scale_of(dtype: DType) -> Any:
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    is_truncated = distribution == "truncated_normal"
    return scale / _DISK_EXCESS if is_complex and is_truncated else scale

  axes = kernel_axes(in_axis, out_axis, batch_axis)
  return _scaling(scale_of, mode, distribution, axes, dtype, groups)


glorot_normal = xavier_normal
glorot_uniform = xavier_uniform
he_normal = kaiming_normal
he_uniform = kaiming_uniform
