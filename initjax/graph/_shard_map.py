"""Rebuilding a shard_map around what is measured inside.

Each device measures its own shards. Slots get a leading device axis on the way
in, what is handed out gets one on the way out, and both are combined there: a
sum over devices is wrong for maxima.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from initjax._statistics import Tally, over_devices
from initjax.graph._compat import manual_axes

Run = Callable[[list[Any], Any], tuple[list[Any], Any]]


def in_shards(
  run: Run, params: dict[str, Any], operands: list[Any], slots: Any
) -> tuple[list[Any], Any]:
  """`run(operands, slots)` on every device, as the shard_map `params` say."""
  mesh, manual = params["mesh"], manual_axes(params)
  names = tuple(name for name in mesh.axis_names if name in manual)
  devices = math.prod(mesh.shape[name] for name in names)
  own = jax.sharding.PartitionSpec(names)

  def on_device(operands: list[Any], slots: Any) -> tuple[list[Any], Any]:
    outputs, found = run(operands, jax.tree.map(lambda leaf: leaf[0], slots))
    found = jax.tree.map(lambda leaf: leaf[None], found)
    return outputs, found

  sharded = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(list(params["in_specs"]), own),
    out_specs=(list(params["out_specs"]), own),
    axis_names=set(names),
    check_vma=params["check_vma"],
  )
  slots = _for_devices(devices, slots)
  if jax.sharding.AxisType.Explicit in mesh.axis_types:
    slots = jax.reshard(slots, jax.sharding.NamedSharding(mesh, own))
  outputs, found = sharded(operands, slots)
  return outputs, _combined(found)


def _for_devices(devices: int, slots: Any) -> Any:
  """A copy for each device, whose gradients are combined as tallies are."""

  @jax.custom_vjp
  def copies(slots: Any) -> Any:
    return jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (devices, *leaf.shape)), slots
    )

  copies.defvjp(
    lambda slots: (copies(slots), None), lambda _, found: (_combined(found),)
  )
  return copies(slots)


def _combined(found: Any) -> Any:
  """Tallies of all devices; other numbers are the same on each."""
  is_tally = lambda node: isinstance(node, Tally)
  return jax.tree.map(
    lambda node: over_devices(node) if is_tally(node) else node[0],
    found,
    is_leaf=is_tally,
  )
