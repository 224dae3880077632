"""Deep ReLU networks, dense or convolutional, with a readout."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax import initializers, stacks
from initjax.typing import Initializer

KINDS = ("mlp", "conv")
INITS: dict[str, Initializer] = {
  "He": initializers.he_normal(),
  "Xavier": initializers.xavier_normal(),
}


class Params(NamedTuple):
  """All there is to learn."""

  stack: stacks.StackParams
  """of `depth - 1` layers"""
  readout: jax.Array
  """[features, 10], drawn alike for all"""


def draw(
  key: jax.Array, *, kind: str, depth: int, width: int, init: str, image: Any
) -> Params:
  """Kernels by `init`, biases 0; images [1, height, width, channels]."""
  key, readout_key = jax.random.split(key)
  build: Any = stacks.mlp if kind == "mlp" else stacks.conv
  stack = build(
    depth=depth - 1,
    width=width,
    activation=jax.nn.relu,
    kernel_init=INITS[init],
  )
  shape = (1, image[1] * image[2] * image[3]) if kind == "mlp" else image
  space = 1 if kind == "mlp" else (-(-image[1] // 2)) * (-(-image[2] // 2))
  readout = initializers.lecun_normal()(
    readout_key, (space * width, 10), jnp.float32
  )
  return Params(stack.init(key, shape), readout)


def apply(params: Params, x: jax.Array) -> jax.Array:
  """Logits; which kind of network it is shows in the kernels' shapes.

  The first convolution has stride 2, as in the networks of He et al.
  """
  stack = params.stack
  if stack.first_kernel.ndim == 2:
    x = x.reshape(len(x), -1)

  def layer(
    h: jax.Array, weights: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, None]:
    kernel, bias = weights
    return _linear(jax.nn.relu(h), kernel) + bias, None

  h = _linear(x, stack.first_kernel)
  if h.ndim == 4:
    h = h[:, ::2, ::2]
  h, _ = jax.lax.scan(
    layer, h + stack.first_bias, (stack.kernels, stack.biases)
  )
  return jax.nn.relu(h).reshape(len(h), -1) @ params.readout


def _linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x·W, of all 3×3 patches if x are images; circular, as `stacks.conv`.

  A product of patches, since CPUs are slow at a convolution for each of many
  networks.
  """
  if kernel.ndim == 4:
    steps = [(i, j) for i in (1, 0, -1) for j in (1, 0, -1)]
    x = jnp.concatenate([jnp.roll(x, step, (1, 2)) for step in steps], -1)
    kernel = kernel.reshape(-1, kernel.shape[-1])
  return x @ kernel
