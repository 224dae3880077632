"""Reference networks, and how a signal is propagated through them."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from initjax._checks import check_integer
from initjax._statistics import Statistics, Tally, empty_slot, tally, tap
from initjax.typing import DType, Initializer


class StackParams(NamedTuple):
  """Parameters of a stack: its first layer, and all other layers stacked."""

  first_kernel: jax.Array
  """[*window, features, width]"""
  kernels: jax.Array
  """[depth - 1, *window, width, width]"""
  first_bias: jax.Array
  """[width]"""
  biases: jax.Array
  """[depth - 1, width]"""


class Stack(NamedTuple):
  """A deep network as two pure functions."""

  init: Callable[..., StackParams]
  """(key, input_shape, dtype=float32) -> parameters; input_shape has a batch"""
  apply: Callable[..., jax.Array]
  """(params, x) -> outputs"""
  apply_with_statistics: Callable[..., tuple[jax.Array, Statistics]]
  """(params, x) -> (outputs, Statistics [depth] of each layer's output)"""


class Signals(NamedTuple):
  """The results of one forward and one backward pass through a stack."""

  outputs: jax.Array
  forward: Statistics
  """[depth]: of the output of each layer"""
  backward: Statistics
  """[depth]: of the gradient with respect to that output"""


def propagate(
  stack: Stack, params: StackParams, x: jax.Array, cotangent: jax.Array
) -> Signals:
  """Propagates `x` forward and `cotangent` backward, measuring every layer.

  Gradients with respect to parameters are not computed, and only the statistics
  are kept. Works under jit and vmap.

  Args:
    stack: a stack from `mlp`, `conv` or `residual`.
    params: its parameters.
    x: inputs, batch first.
    cotangent: gradient of a loss in the outputs, with their shape.

  >>> from initjax.stacks import mlp
  >>> stack = mlp(depth=100, width=8, activation=jax.nn.relu,
  ...             kernel_init=jax.nn.initializers.he_normal())
  >>> params = stack.init(jax.random.key(0), (2, 4))
  >>> signals = propagate(stack, params, jnp.ones((2, 4)), jnp.ones((2, 8)))
  >>> signals.backward.log2_second_moment.shape
  (100,)
  """
  depth = params.kernels.shape[0] + 1
  run = lambda slots: stack.apply_with_statistics(params, x, slots)
  slots = _empty_slots(depth, params, x)
  outputs, pull_back, forward = jax.vjp(run, slots, has_aux=True)
  (backward,) = pull_back(cotangent.astype(outputs.dtype))
  return Signals(outputs, forward, backward.statistics())


def _empty_slots(depth: int, params: StackParams, x: jax.Array) -> Tally:
  return empty_slot((depth,), jnp.result_type(x, *jax.tree.leaves(params)))


Linear = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Block = Callable[[jax.Array, Callable[[jax.Array], jax.Array]], jax.Array]


class Architecture(NamedTuple):
  """What tells one stack from another."""

  depth: int
  """number of linear layers, the first included"""
  width: int
  """their outputs"""
  window: tuple[int, ...]
  """spatial axes of a kernel"""
  kernel_init: Initializer
  """draws each kernel from a key of its own"""
  bias_init: Initializer
  """likewise for biases"""
  linear: Linear
  """(x, kernel, bias) -> output; alone, it is the first layer"""
  block: Block
  """(h, layer) -> the next h, where layer(x) is the linear layer"""


def build(architecture: Architecture) -> Stack:
  """The two functions of a network, checked."""
  check_integer("depth", architecture.depth, low=2)
  check_integer("width", architecture.width, low=1)
  return Stack(
    functools.partial(_init, architecture),
    functools.partial(_apply, architecture),
    functools.partial(_apply_with_statistics, architecture),
  )


def _init(
  net: Architecture,
  key: jax.Array,
  input_shape: Sequence[int],
  dtype: DType = jnp.float32,
) -> StackParams:
  kernel_keys, bias_keys = jax.random.split(key, (2, net.depth))

  def stacked(
    init: Initializer, keys: jax.Array, shape: tuple[int, ...]
  ) -> jax.Array:
    return jax.lax.map(lambda key: init(key, shape, dtype), keys)

  first_shape = (*net.window, input_shape[-1], net.width)
  shape = (*net.window, net.width, net.width)
  return StackParams(
    net.kernel_init(kernel_keys[0], first_shape, dtype),
    stacked(net.kernel_init, kernel_keys[1:], shape),
    net.bias_init(bias_keys[0], (net.width,), dtype),
    stacked(net.bias_init, bias_keys[1:], (net.width,)),
  )


def _apply(net: Architecture, params: StackParams, x: jax.Array) -> jax.Array:
  return _apply_with_statistics(net, params, x)[0]


def _apply_with_statistics(
  net: Architecture,
  params: StackParams,
  x: jax.Array,
  slots: Tally | None = None,
) -> tuple[jax.Array, Statistics]:
  slots = _empty_slots(net.depth, params, x) if slots is None else slots
  first_slot = jax.tree.map(lambda leaf: leaf[0], slots)
  other_slots = jax.tree.map(lambda leaf: leaf[1:], slots)

  def layer(
    h: jax.Array, inputs: tuple[jax.Array, jax.Array, Tally]
  ) -> tuple[jax.Array, Tally]:
    kernel, bias, slot = inputs
    h = tap(net.block(h, lambda x: net.linear(x, kernel, bias)), slot)
    return h, tally(h)

  h = tap(net.linear(x, params.first_kernel, params.first_bias), first_slot)
  inputs = (params.kernels, params.biases, other_slots)
  outputs, others = jax.lax.scan(layer, h, inputs)
  found = jax.tree.map(
    lambda one, many: jnp.concatenate([one[None], many]), tally(h), others
  )
  return outputs, found.statistics()
