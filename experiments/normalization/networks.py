"""Plain ReLU networks with and without normalization, as pure functions.

x·W₁ = z₁, then z_{l+1} = φ(norm(z_l))·W_{l+1}, and a readout of φ(norm(z_L)).
There are no biases: a normalization over the batch would remove them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.common.networks import UNIT
from initjax import initializers

KINDS = ("batch", "layer", "none")
"""BatchNorm, LayerNorm, neither"""
MEASURED = (*KINDS, "linear")
"""and BatchNorm without a nonlinearity"""


class Params(NamedTuple):
  """A network of `depth` hidden layers and a readout."""

  first: jax.Array
  """[features, width]"""
  others: jax.Array
  """[depth - 1, width, width]"""
  readout: jax.Array
  """[width, classes]"""


def normalize(kind: jax.Array, z: jax.Array, epsilon: float) -> jax.Array:
  """(z - mean)/√(variance + ε) of each unit, or of each sample, or z.

  Statistics are those of the batch at hand, also when testing. `kind`, an index
  into `MEASURED`, is traced: one program serves all; z is [batch, width].
  """

  def over(axis: int, z: jax.Array) -> jax.Array:
    centered = z - z.mean(axis, keepdims=True)
    variance = (centered**2).mean(axis, keepdims=True)
    return centered * jax.lax.rsqrt(variance + epsilon)

  branches = (
    functools.partial(over, 0),
    functools.partial(over, 1),
    lambda z: z,
    functools.partial(over, 0),
  )
  return jax.lax.switch(kind, branches, z)


def activate(kind: jax.Array, z: jax.Array, epsilon: float) -> jax.Array:
  """φ(norm(z))."""
  z = normalize(kind, z, epsilon)
  return jnp.where(kind == MEASURED.index("linear"), z, jax.nn.relu(z))


def draw(
  key: jax.Array, *, features: int, depth: int, width: int, sigma_w: jax.Array
) -> Params:
  """Gaussian hidden kernels of variance σ_w²/fan_in; readout of 1/fan_in."""
  keys = jax.random.split(key, 3)
  stacked = initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
  return Params(
    sigma_w * UNIT(keys[0], (features, width), jnp.float32),
    sigma_w * stacked(keys[1], (depth - 1, width, width), jnp.float32),
    UNIT(keys[2], (width, 10), jnp.float32),
  )


def hidden(
  kind: jax.Array,
  params: Params,
  x: jax.Array,
  epsilon: float,
  nudges: jax.Array | None = None,
) -> jax.Array:
  """Activations [batch, width] of the last hidden layer.

  Nudges [depth, batch, width] are added to z: gradients with respect to them
  are those with respect to z.
  """
  depth = len(params.others) + 1
  if nudges is None:
    nudges = jnp.zeros((depth, 1, 1), x.dtype)

  def layer(
    z: jax.Array, given: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, None]:
    kernel, nudge = given
    return activate(kind, z, epsilon) @ kernel + nudge, None

  z = x @ params.first + nudges[0]
  z, _ = jax.lax.scan(layer, z, (params.others, nudges[1:]))
  return activate(kind, z, epsilon)
