"""Deep ReLU networks, dense or convolutional, with a readout."""

import itertools
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


class Alternating(NamedTuple):
  """Dense ReLU layers, narrow and wide in turn, and a readout; no biases."""

  first: jax.Array
  """[features, narrow]"""
  up: jax.Array
  """[pairs, narrow, wide]"""
  down: jax.Array
  """[pairs, wide, narrow]"""
  readout: jax.Array
  """[narrow, 10]"""


def draw_alternating(
  key: jax.Array, gains: jax.Array, sizes: tuple[int, int, int, int]
) -> Alternating:
  """By He; kernels up and down have `gains`, [2], times his variance.

  Args:
    key: of all kernels.
    gains: which may be traced.
    sizes: features, narrow and wide units, and pairs of layers.
  """
  features, narrow, wide, pairs = sizes
  he = initializers.variance_scaling(2.0, "fan_in", "normal", batch_axis=0)
  keys, (up, down) = jax.random.split(key, 4), jnp.sqrt(gains)
  return Alternating(
    INITS["He"](keys[0], (features, narrow), jnp.float32),
    up * he(keys[1], (pairs, narrow, wide), jnp.float32),
    down * he(keys[2], (pairs, wide, narrow), jnp.float32),
    initializers.lecun_normal()(keys[3], (narrow, 10), jnp.float32),
  )


def apply_alternating(params: Alternating, x: jax.Array) -> jax.Array:
  """Logits of images."""

  def pair(h: jax.Array, kernels: Any) -> tuple[jax.Array, None]:
    up, down = kernels
    return jax.nn.relu(jax.nn.relu(h @ up) @ down), None

  h = jax.nn.relu(x.reshape(len(x), -1) @ params.first)
  h = jax.lax.scan(pair, h, (params.up, params.down))[0]
  return h @ params.readout


def shrinkage(
  key: jax.Array, *, filters: tuple[int, ...], std: float, size: int
) -> jax.Array:
  """|gradient|² of a 3×3 convolutional ReLU net's first signal over its last.

  `filters` are those of the signal before the first convolution and after each;
  kernels deviate by `std`, and images are size × size.
  """
  keys = jax.random.split(key, len(filters) + 1)
  shapes = [(9 * a, b) for a, b in itertools.pairwise(filters)]

  def run(x: jax.Array) -> jax.Array:
    for key, shape in zip(keys[2:], shapes, strict=True):
      kernel = std * jax.random.normal(key, shape)
      z = _patches(x) @ kernel
      x = jax.nn.relu(z / std)  # of any size, and no subject of this
    return x

  x = jax.nn.relu(jax.random.normal(keys[0], (1, size, size, filters[0])))
  out, pull_back = jax.vjp(run, x)
  cotangent = jax.random.normal(keys[1], out.shape)
  (gradient,) = pull_back(cotangent * std ** len(shapes))
  return (gradient**2).mean() / (cotangent**2).mean()


def _patches(x: jax.Array) -> jax.Array:
  """All 3×3 patches of images, circular: [batch, height, width, 9·channels]."""
  steps = [(i, j) for i in (1, 0, -1) for j in (1, 0, -1)]
  return jnp.concatenate([jnp.roll(x, step, (1, 2)) for step in steps], -1)


def _linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x·W, of all 3×3 patches if x are images; circular, as `stacks.conv`.

  A product of patches, since CPUs are slow at a convolution for each of many
  networks.
  """
  if kernel.ndim == 4:
    x = _patches(x)
    kernel = kernel.reshape(-1, kernel.shape[-1])
  return x @ kernel
