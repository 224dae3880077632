"""The reference networks: MLP, convolutional, residual.

All start with a linear layer from the features of the data to the width,
followed by depth - 1 equal layers, each an activation and then a linear map. A
layer outputs its pre-activation (in a residual network, the stream), so the
length map of the theory applies to the statistics directly.
"""

from typing import Any

import jax
import jax.numpy as jnp

from initjax._checks import check_integer, check_number
from initjax.stacks._stack import Architecture, Stack, build
from initjax.typing import Activation, Initializer


def mlp(
  *,
  depth: int,
  width: int,
  activation: Activation,
  kernel_init: Initializer,
  bias_init: Initializer = jax.nn.initializers.zeros,
) -> Stack:
  """Fully connected: z₁ = x·W₁ + b₁, then z_l = φ(z_{l-1})·W_l + b_l.

  Inputs are [batch, features], outputs [batch, width].

  Args:
    depth: number of linear layers, >= 2.
    width: number of units of each.
    activation: φ.
    kernel_init: initializer of kernels [in, out].
    bias_init: initializer of biases [out].

  Raises:
    ValueError: if `depth` < 2 or `width` < 1.

  >>> stack = mlp(depth=100, width=8, activation=jax.nn.relu,
  ...             kernel_init=jax.nn.initializers.he_normal())
  >>> params = stack.init(jax.random.key(0), (2, 4))
  >>> stack.apply(params, jnp.ones((2, 4))).shape
  (2, 8)

  Reference: Poole et al. 2016, Eq. 1.
  """
  block = lambda h, layer: layer(activation(h))
  net = Architecture(depth, width, (), kernel_init, bias_init, _dense, block)
  return build(net)


def conv(
  *,
  depth: int,
  width: int,
  activation: Activation,
  kernel_init: Initializer,
  bias_init: Initializer = jax.nn.initializers.zeros,
  window: tuple[int, ...] = (3, 3),
) -> Stack:
  """Like `mlp`, with convolutions of stride 1 and circular padding.

  Inputs are [batch, *space, channels], outputs [batch, *space, width]. With
  circular padding every position sums the same number of terms; zeros at the
  border would lose part of the signal in every layer, whatever the weights.

  Args:
    depth: number of convolutions, >= 2.
    width: number of channels of each.
    activation: φ.
    kernel_init: initializer of kernels [*window, in, out].
    bias_init: initializer of biases [out].
    window: sizes along one to three axes, no larger than those of the data.

  Raises:
    ValueError: if `depth` < 2, `width` < 1, or `window` is not 1 to 3 sizes.

  >>> stack = conv(depth=100, width=4, activation=jax.nn.relu,
  ...              kernel_init=jax.nn.initializers.he_normal())
  >>> params = stack.init(jax.random.key(0), (2, 8, 8, 1))
  >>> stack.apply(params, jnp.ones((2, 8, 8, 1))).shape
  (2, 8, 8, 4)

  Reference: Xiao et al. 2018, §2.1.
  """
  if len(window) not in (1, 2, 3):
    raise ValueError(f"window must have one to three sizes; got {window}.")
  for size in window:
    check_integer("every size of window", size, low=1)
  block = lambda h, layer: layer(activation(h))
  linear = _circular_convolution
  inits = (kernel_init, bias_init)
  return build(Architecture(depth, width, tuple(window), *inits, linear, block))


def residual(
  *,
  depth: int,
  width: int,
  activation: Activation,
  kernel_init: Initializer,
  bias_init: Initializer = jax.nn.initializers.zeros,
  branch_scale: Any = 1.0,
) -> Stack:
  """Residual: z₁ = x·W₁ + b₁, z_l = z_{l-1} + s·(φ(z_{l-1})·W_l + b_l).

  A branch that keeps the second moment doubles that of the stream if s = 1.
  With s = 1/√depth the whole stack multiplies it by at most e.

  Inputs are [batch, features], outputs [batch, width].

  Args:
    depth: number of linear layers, >= 2.
    width: number of units of each.
    activation: φ.
    kernel_init: initializer of kernels [in, out].
    bias_init: initializer of biases [out].
    branch_scale: the factor s.

  Raises:
    ValueError: if `depth` < 2 or `width` < 1.

  >>> stack = residual(depth=100, width=8, activation=jax.nn.relu,
  ...                  kernel_init=jax.nn.initializers.he_normal(),
  ...                  branch_scale=0.1)
  >>> params = stack.init(jax.random.key(0), (2, 4))
  >>> stack.apply(params, jnp.ones((2, 4))).shape
  (2, 8)

  Reference: He et al. 2016; De and Smith 2020, §2.
  """
  check_number("branch_scale", branch_scale)
  block = lambda h, layer: h + branch_scale * layer(activation(h))
  net = Architecture(depth, width, (), kernel_init, bias_init, _dense, block)
  return build(net)


def _dense(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
  return _with_bias(x @ kernel, bias)


def _with_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds a bias to the last axis, also where rank promotion is an error."""
  return y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))


def _circular_convolution(
  x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
  """SAME, wrapped around: [batch, *space, in] with [*window, in, out]."""
  window, space = kernel.shape[:-2], x.shape[1:-1]
  if any(size > room for size, room in zip(window, space, strict=True)):
    raise ValueError(
      f"the window {window} is larger than the data's space {space}."
    )
  margins = [((size - 1) // 2, size // 2) for size in window]
  x = jnp.pad(x, [(0, 0), *margins, (0, 0)], mode="wrap")
  axes = "DHW"[-len(window) :]
  layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
  y = jax.lax.conv_general_dilated(
    x, kernel, (1,) * len(window), "VALID", dimension_numbers=layout
  )
  return _with_bias(y, bias)
