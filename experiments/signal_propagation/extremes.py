"""Two laws beside the table: how networks differ, and thousands of layers."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.networks import UNIT
from experiments.runtime.experiment import Claim
from experiments.runtime.job import Job
from initjax import initializers, meanfield

CHANNELS, SIDE = 8, 8
"""of the convolutional networks, and of their images"""


@functools.partial(jax.jit, static_argnames=("depth", "width"))
def relu_log_sizes(keys: jax.Array, *, depth: int, width: int) -> jax.Array:
  """ln of |z|² after `depth` ReLU layers over |z|² before: [networks].

  One input; kernels of variance 2/n, drawn where they are used.
  """

  def one(key: jax.Array) -> jax.Array:
    start, key = jax.random.split(key)

    def layer(carry: Any, key: jax.Array) -> tuple[Any, None]:
      z, log_size = carry
      kernel = 2**0.5 * UNIT(key, (width, width), jnp.float32)
      z = jax.nn.relu(z) @ kernel
      size = (z**2).mean()
      return (z / jnp.sqrt(size), log_size + jnp.log(size)), None

    z = jax.random.normal(start, (width,))
    z = z / jnp.sqrt((z**2).mean())
    keys = jax.random.split(key, depth)
    return jax.lax.scan(layer, (z, jnp.zeros(())), keys)[0][1]

  return jax.lax.map(one, keys, batch_size=16)


@functools.partial(jax.jit, static_argnames=("depth",))
def convolved(keys: jax.Array, *, depth: int) -> jax.Array:
  """log₂ growth of signal and of gradient: [networks, 2].

  `depth` linear 3 × 3 convolutions with circular padding, delta-orthogonal.
  """
  init = initializers.delta_orthogonal()

  def one(key: jax.Array) -> jax.Array:
    *ends, key = jax.random.split(key, 3)

    def layer(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
      x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
      kernel = init(key, (3, 3, CHANNELS, CHANNELS), jnp.float32)
      form = ("NHWC", "HWIO", "NHWC")
      y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=form, precision="highest"
      )
      return y, None

    def network(x: jax.Array) -> jax.Array:
      return jax.lax.scan(layer, x, jax.random.split(key, depth))[0]

    x, cotangent = (
      jax.random.normal(end, (1, SIDE, SIDE, CHANNELS)) for end in ends
    )
    y, back = jax.vjp(network, x)
    pairs = (y, x), (back(cotangent)[0], cotangent)
    return jnp.stack([jnp.log2((a**2).sum() / (b**2).sum()) for a, b in pairs])

  return jax.lax.map(one, keys)


def measure(
  key: jax.Array, networks: int, depth: int, width: int, layers: int, job: Job
) -> dict[str, Any]:
  """Both, and how large they were."""
  keys = jax.random.split(key, (2, networks))
  sizes = functools.partial(relu_log_sizes, depth=depth, width=width)
  deep = functools.partial(convolved, depth=layers)

  def at(name: str) -> Any:
    if name == "log_sizes":
      return job.spread(sizes, keys[0])
    return job.undivided().spread(deep, keys[1, :2])

  names = ("log_sizes", "convolved")
  found = dict(zip(names, job.map(at, names), strict=True))
  return {"depth": depth, "width": width, "layers": layers, **found}


def claims(found: dict[str, Any]) -> list[Claim]:
  """5·L/n, and nothing lost in thousands of layers."""
  return [_variance(found), _thousands(found)]


def _variance(found: dict[str, Any]) -> Claim:
  """Three standard deviations of a variance; and the next order in 1/n.

  A network of which no unit is alive has no logarithm and is left out: one in
  2^n layers.
  """
  sizes = np.asarray(found["log_sizes"])
  sizes = sizes[np.isfinite(sizes)]
  depth, width = found["depth"], found["width"]
  published, ours = 5 * depth / width, float(np.var(sizes, ddof=1))
  exact = meanfield.relu_log_norm(depth, width).std ** 2
  chance = 3 * exact * math.sqrt(2 / max(len(sizes) - 1, 1))
  source = "Hanin and Nica 2020, Theorem 1 (5·Σ1/n)"
  networks = f"ReLU networks, {depth} layers of width {width}"
  name = f"variance of ln |z|² over {networks}"
  error = chance + exact - published
  why = "and what the exact law has beyond the first order in 1/n"
  return Claim(source, name, published, ours, error, "law", why)


def _thousands(found: dict[str, Any]) -> Claim:
  """Roundings of a layer's sums and of its kernel, each way by chance."""
  layers = found["layers"]
  rounding = 8 * 2.0**-23 * math.sqrt(CHANNELS) * math.sqrt(layers)
  away = float(np.abs(found["convolved"]).max())
  name = f"log₂ growth of signal and gradient, {layers} delta-orthogonal layers"
  claim = Claim("Xiao et al. 2018, §4", name, 0.0, away, 0.0)
  return claim.allowing(rounding, "roundings, as a random walk")
