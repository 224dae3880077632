"""Arrays on several devices: placed like others, and read by every process."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def _is_explicit(sharding: Any) -> bool:
  named = isinstance(sharding, NamedSharding)
  return named and AxisType.Explicit in sharding.mesh.axis_types


def sharded_like(x: jax.Array, like: jax.Array) -> jax.Array:
  """`x`, split as `like` where an explicit mesh makes that a part of types."""
  traced = isinstance(like, jax.core.Tracer)
  sharding = jax.typeof(like).sharding if traced else like.sharding
  if not _is_explicit(sharding):
    return x
  return jax.reshard(x, sharding) if traced else jax.device_put(x, sharding)


def unsplit(x: jax.Array) -> jax.Array:
  """`x`, whole on each device of an explicit mesh."""
  if not _is_explicit(jax.typeof(x).sharding):
    return x
  return jax.reshard(x, PartitionSpec(*(None for _ in x.shape)))


def in_this_mesh(tree: Any) -> Any:
  """Arrays whole on each device, of types of the mesh that is set here.

  What is computed for an equation that has another mesh cannot meet the rest.
  """
  spec = lambda leaf: PartitionSpec(*(None for _ in leaf.shape))
  return jax.tree.map(lambda leaf: jax.reshard(leaf, spec(leaf)), tree)
