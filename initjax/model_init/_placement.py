"""Where each leaf is placed, by a tree of shardings or the model's metadata."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def placements(
  shardings: Any, tree: Any, paths: Sequence[str]
) -> list[NamedSharding | None]:
  """A sharding, or None, for each array of the tree, in order."""
  leaves = [x for x in jax.tree.leaves(tree) if _is_shape(x)]
  if shardings is None:
    return [None] * len(leaves)
  if isinstance(shardings, Mesh):
    shardings = _metadata(shardings, tree)
  spread = _spread(shardings, tree)
  for sharding, leaf, path in zip(spread, leaves, paths, strict=True):
    _check_sharding(sharding, leaf, path)
  return spread


def _is_shape(leaf: object) -> bool:
  return isinstance(leaf, jax.ShapeDtypeStruct)


def _is_sharding(leaf: object) -> bool:
  return leaf is None or isinstance(leaf, jax.sharding.Sharding)


def _spread(shardings: Any, tree: Any) -> list[NamedSharding | None]:
  """The shardings of a prefix of the tree, one for each array."""
  try:
    spread = jax.tree.broadcast(shardings, tree, is_leaf=_is_sharding)
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(
      "shardings must be a tree of NamedSharding with the structure of the "
      "variables or of a prefix, or a Mesh for the model's own partitioning "
      f"metadata: {error}"
    ) from None
  found = jax.tree.leaves(spread, is_leaf=_is_sharding)
  pairs = zip(found, jax.tree.leaves(tree), strict=True)
  return [sharding for sharding, leaf in pairs if _is_shape(leaf)]


def _metadata(mesh: Mesh, tree: Any) -> Any:
  """The model's own partitioning on a mesh; what has none is replicated."""
  nnx, linen = map(sys.modules.get, ("flax.nnx", "flax.linen"))
  replicated = NamedSharding(mesh, PartitionSpec())
  if nnx is not None and isinstance(tree, nnx.State):
    shardings = nnx.get_named_sharding(tree, mesh)
  elif linen is not None:
    shardings = linen.get_sharding(tree, mesh)
  else:
    return replicated
  return jax.tree.map(
    lambda x: replicated if x is None else x, shardings, is_leaf=_is_sharding
  )


def _check_sharding(
  sharding: object, leaf: jax.ShapeDtypeStruct, name: str
) -> None:
  if sharding is None:
    return
  if not isinstance(sharding, NamedSharding):
    raise ValueError(
      f"the sharding of {name} must be a NamedSharding; got {sharding!r}."
    )
  if len(sharding.spec) > len(leaf.shape):
    raise ValueError(
      f"{name} of shape {leaf.shape} has fewer axes than {sharding.spec}."
    )
  for size, axes in zip(leaf.shape, sharding.spec, strict=False):
    listed = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    devices = math.prod(sharding.mesh.shape[axis] for axis in listed)
    if size % devices:
      raise ValueError(
        f"{name} of shape {leaf.shape} cannot be split as {sharding.spec}: "
        f"{size} is not a multiple of the {devices} devices along {axes!r}; "
        "pad the axis or leave it whole."
      )
