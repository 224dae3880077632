"""Arrays on several devices: placed like others, and read by every process."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def is_here(x: Any) -> bool:
  """Whether it is of this process alone."""
  return not isinstance(x, jax.Array) or x.is_fully_addressable


def is_one_piece(x: Any) -> bool:
  """Whether a device of this process has all of it, or NumPy."""
  if not isinstance(x, jax.Array):
    return True
  return x.is_fully_addressable and x.is_fully_replicated


_SMALL = 1 << 18  # entries: more of them XLA sums faster than NumPy


def at_hand(x: Any) -> Any:
  """An array of NumPy, if that is this very memory and a small part of it.

  To compile a sum takes XLA a tenth of a second; NumPy begins at once.
  """
  if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array):
    return x
  if not is_one_piece(x) or x.size > _SMALL:
    return x
  devices: set[Any] = x.sharding.device_set
  is_near = {device.platform for device in devices} == {"cpu"}
  return np.asarray(x) if is_near else x


def fetched(numbers: Any) -> Any:
  """A tree of few numbers as arrays of NumPy, in every process.

  What may be as large as a parameter is to be `reduced` first.
  """
  return jax.tree.map(np.asarray, _everywhere(numbers))


def _everywhere(tree: Any) -> Any:
  """The leaves that are split between processes, whole in all of them."""
  leaves, structure = jax.tree.flatten(tree)
  apart = [
    at
    for at, leaf in enumerate(leaves)
    if not is_here(leaf) and not leaf.is_fully_replicated
  ]
  if apart:
    given = [_of_auto_mesh(leaves[at]) for at in apart]
    whole = _program(_unchanged, _mesh_of(given))(*given)
    for at, leaf in zip(apart, whole, strict=True):
      leaves[at] = leaf
  return jax.tree.unflatten(structure, leaves)


def _unchanged(*leaves: jax.Array) -> tuple[jax.Array, ...]:
  return leaves


def reduced(by: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
  """`by(*arrays)` as NumPy's numbers, from arrays wherever they are.

  What is in one piece is given as NumPy's. What is split between devices stays
  there: `by` is compiled for these, in double precision, and what it returns,
  which has to be small, goes to every process.

  Args:
    by: a function of a module, of arrays that have an `__array_namespace__`.
    *arrays: of one mesh, or of this process.
    **options: of `by`; hashable.
  """
  split = [x for x in arrays if not is_one_piece(x)]
  meshes = {getattr(x.sharding, "mesh", None) for x in split}
  is_apart = len(meshes) > 1 or None in meshes  # no program takes these
  if not split or (is_apart and all(map(is_here, arrays))):
    with np.errstate(invalid="ignore", over="ignore"):
      return by(*map(np.asarray, arrays), **options)
  given = [
    np.asarray(x) if is_one_piece(x) else _of_auto_mesh(x) for x in arrays
  ]
  mesh = _mesh_of([x for x in given if not is_one_piece(x)])
  with jax.enable_x64(True), jax.set_mesh(mesh):
    found = _program(by, mesh, *sorted(options.items()))(*given)
  return jax.tree.map(np.asarray, found)


def _mesh_of(arrays: list[Any]) -> Mesh:
  return arrays[0].sharding.mesh


@functools.lru_cache(maxsize=256)
def _program(by: Callable[..., Any], mesh: Mesh, *options: Any) -> Any:
  """`by`, whose results are whole on each device of the mesh."""
  everywhere = NamedSharding(mesh, PartitionSpec())
  run = functools.partial(by, **dict(options))
  return jax.jit(run, out_shardings=everywhere)


def _of_auto_mesh(x: jax.Array) -> jax.Array:
  """The same array, of a type that does not tell how it is split."""
  sharding: Any = x.sharding
  if not _is_explicit(sharding):
    return x
  mesh = sharding.mesh
  kinds = (AxisType.Auto,) * len(mesh.axis_names)
  own = Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)
  parts = [shard.data for shard in x.addressable_shards]
  where = NamedSharding(own, sharding.spec)
  return jax.make_array_from_single_device_arrays(x.shape, where, parts)


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
  sharding: Any = jax.typeof(x).sharding
  if not _is_explicit(sharding):
    return x
  whole = PartitionSpec(*(None for _ in x.shape))
  return jax.reshard(x, NamedSharding(sharding.mesh, whole))


def in_this_mesh(tree: Any) -> Any:
  """Arrays whole on each device, of types of the mesh that is set here.

  What is computed for an equation that has another mesh cannot meet the rest.
  """
  spec = lambda leaf: PartitionSpec(*(None for _ in leaf.shape))
  return jax.tree.map(lambda leaf: jax.reshard(leaf, spec(leaf)), tree)
