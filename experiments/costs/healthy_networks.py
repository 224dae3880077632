"""Healthy networks of many kinds, none of which should be called sick."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import initjax
from initjax.typing import Activation

Kernels = Callable[[jax.Array, Sequence[int]], jax.Array]


class Network(NamedTuple):
  """A model, how it is drawn, and what it is given."""

  apply: Callable[..., Any]
  init: Callable[[jax.Array], Any]
  inputs: tuple[jax.Array, ...]
  signs: tuple[str, ...] = ("",)
  """of a sick one: what kinds of verdicts tell of it; all, if not given"""


_SEED = 3


def gaussians(*shape: int) -> jax.Array:
  """Inputs of unit variance."""
  return jax.random.normal(jax.random.key(_SEED), shape)


def mlp(activation: Activation) -> Callable[..., jax.Array]:
  """Linear layers with φ between them: a stack of kernels is a scan."""

  def apply(params: Any, x: jax.Array) -> jax.Array:
    def layer(h: jax.Array, leaf: Any) -> tuple[jax.Array, None]:
      kernel, bias = leaf
      return activation(h) @ kernel + bias, None

    stacked = params["kernels"], params["biases"]
    return jax.lax.scan(layer, x @ params["first"], stacked)[0]

  return apply


def drawn(
  kernel_init: Any,
  depth: int,
  width: int,
  features: int = 64,
  sigma_b2: float = 0.0,
  size: float = 1.0,
) -> Callable[[jax.Array], Any]:
  """Parameters of `mlp`, each layer by `kernel_init(key, shape)`."""

  def init(key: jax.Array) -> Any:
    first, rest, biases = jax.random.split(key, 3)
    keys = jax.random.split(rest, depth - 1)
    return {
      "first": jax.random.normal(first, (features, width))
      * math.sqrt(size / features),
      "kernels": jax.lax.map(lambda k: kernel_init(k, (width, width)), keys),
      "biases": math.sqrt(sigma_b2)
      * jax.random.normal(biases, (depth - 1, width)),
    }

  return init


def scaled(sigma_w2: float) -> Any:
  """Gaussian kernels of variance σ_w²/fan_in."""

  def init(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    fan_in = math.prod(shape[:-1])
    return math.sqrt(sigma_w2 / fan_in) * jax.random.normal(key, shape)

  return init


def list_of(
  shapes: Sequence[Sequence[int]], kernel_init: Any = None
) -> Callable[[jax.Array], list[jax.Array]]:
  """Kernels of these shapes, He unless given."""
  draw = kernel_init or scaled(2.0)

  def init(key: jax.Array) -> list[jax.Array]:
    keys = jax.random.split(key, len(shapes))
    return [draw(k, s) for k, s in zip(keys, shapes, strict=True)]

  return init


def plain(kernels: Sequence[jax.Array], x: jax.Array) -> jax.Array:
  """ReLU layers of any widths."""
  h = x @ kernels[0]
  for kernel in kernels[1:]:
    h = jax.nn.relu(h) @ kernel
  return h


def convolutional(kernels: Sequence[jax.Array], x: jax.Array) -> jax.Array:
  """3 × 3 convolutions, padded, ReLU."""
  names = ("NHWC", "HWIO", "NHWC")
  conv = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=names,
  )
  h = conv(x, kernels[0])
  for kernel in kernels[1:]:
    h = conv(jax.nn.relu(h), kernel)
  return h


def residual(params: Any, x: jax.Array) -> jax.Array:
  """Branches of two layers, each weighted by 1/√blocks."""
  weight = 1 / math.sqrt(len(params["in"]))

  def block(h: jax.Array, kernels: Any) -> tuple[jax.Array, None]:
    first, second = kernels
    return h + weight * jax.nn.relu(h @ first) @ second, None

  stacked = params["in"], params["out"]
  return jax.lax.scan(block, x @ params["first"], stacked)[0]


def residual_init(key: jax.Array) -> Any:
  """20 blocks of width 64."""
  names = ("first", "in", "out")
  keys = dict(zip(names, jax.random.split(key, 3), strict=True))
  normal, shape = jax.random.normal, (20, 64, 64)
  return {
    "first": normal(keys["first"], (64, 64)) / 8,
    "in": math.sqrt(2 / 64) * normal(keys["in"], shape),
    "out": normal(keys["out"], shape) / 8,
  }


def normalized(kernels: jax.Array, x: jax.Array) -> jax.Array:
  """GELU after a layer normalization, layer by layer."""

  def layer(h: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
    h = h - h.mean(-1, keepdims=True)
    h = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)
    return jax.nn.gelu(h) @ kernel, None

  return jax.lax.scan(layer, x, kernels)[0]


def stacked(sigma_w2: float, depth: int) -> Callable[[jax.Array], jax.Array]:
  """[depth, 64, 64]."""
  return lambda key: (
    math.sqrt(sigma_w2 / 64) * jax.random.normal(key, (depth, 64, 64))
  )


def half(init: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
  """The same parameters in bfloat16."""
  return lambda key: jax.tree.map(
    lambda leaf: leaf.astype(jnp.bfloat16), init(key)
  )


def healthy_networks() -> dict[str, Network]:
  """The 14 kinds."""
  leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.5)
  relu, he, x = mlp(jax.nn.relu), scaled(2.0), gaussians(16, 64)
  critical = initjax.meanfield.critical_point(jnp.tanh, 0.05)
  gelu = initjax.meanfield.half_stable_point(jax.nn.gelu)
  nn = initjax.initializers
  widths = (64, 512, 256, 128, 64, 32, 32, 64, 128, 256)
  pyramid = list_of(list(itertools.pairwise(widths)))
  low_rank = gaussians(16, 2) @ jax.random.normal(jax.random.key(5), (2, 64))
  images = gaussians(4, 8, 8, 16)
  ones = jax.nn.one_hot(jnp.arange(16) % 64, 64) * 8.0
  tanh = (critical.sigma_w2, critical.sigma_b2, critical.q)
  orthogonal = nn.orthogonal(math.sqrt(2))
  gain = initjax.gain(jax.nn.gelu) ** 2
  return {
    "conv": Network(convolutional, list_of([(3, 3, 16, 16)] * 10), (images,)),
    "residual": Network(residual, residual_init, (x,)),
    "pyramid": Network(plain, pyramid, (x,)),
    "batch 1": Network(relu, drawn(he, 20, 64), (x[:1],)),
    "one-hot": Network(relu, drawn(he, 20, 64), (ones,)),
    "low rank": Network(relu, drawn(he, 20, 64), (low_rank,)),
    "width 16": Network(relu, drawn(he, 10, 16), (x,)),
    "width 1024": Network(relu, drawn(nn.he_uniform(), 10, 1024), (x,)),
    "depth 200": Network(mlp(leaky), drawn(scaled(1.6), 200, 64), (x,)),
    "tanh": Network(
      mlp(jnp.tanh), drawn(scaled(tanh[0]), 50, 64, 64, *tanh[1:]), (x,)
    ),
    "gelu": Network(
      mlp(jax.nn.gelu),
      drawn(scaled(gelu.sigma_w2), 20, 64, 64, gelu.sigma_b2, gelu.q),
      (x,),
    ),
    "gelu, norm": Network(normalized, stacked(gain, 30), (x,)),
    "orthogonal": Network(relu, drawn(orthogonal, 50, 64), (x,)),
    "bfloat16": Network(
      relu, half(drawn(he, 20, 64)), (x.astype(jnp.bfloat16),)
    ),
  }
