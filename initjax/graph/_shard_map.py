"""Rebuilds a shard_map around what is measured inside.

Each device measures its own shards. Slots get a leading device axis on the way
in and results get one on the way out, where both are combined: a plain sum over
devices would be wrong for maxima. States are the same on all devices.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from initjax._sharding import unsplit
from initjax._statistics import Tally, over_devices
from initjax.graph._compat import manual_axes

Run = Callable[[list[Any], Any, Any], tuple[list[Any], Any, Any]]


def in_shards(
  run: Run, params: dict[str, Any], operands: list[Any], slots: Any, states: Any
) -> tuple[list[Any], Any, Any]:
  """`run` on every device, as the shard_map `params` say."""
  mesh, manual = params["mesh"], manual_axes(params)
  names = tuple(name for name in mesh.axis_names if name in manual)
  devices = math.prod(mesh.shape[name] for name in names)
  own, same = jax.sharding.PartitionSpec(names), jax.sharding.PartitionSpec()

  def on_device(operands: list[Any], slots: Any, states: Any) -> Any:
    slots = jax.tree.map(lambda leaf: leaf[0], slots)
    outputs, found, states = run(operands, slots, states)
    found = jax.tree.map(lambda leaf: leaf[None], found)
    return outputs, found, states

  sharded = jax.shard_map(
    on_device,
    mesh=mesh,
    in_specs=(list(params["in_specs"]), own, same),
    out_specs=(list(params["out_specs"]), own, same),
    axis_names=set(names),
    check_vma=params["check_vma"],
  )
  slots = _for_devices(devices, slots)
  if jax.sharding.AxisType.Explicit in mesh.axis_types:
    slots = jax.reshard(slots, jax.sharding.NamedSharding(mesh, own))
    states = jax.reshard(states, jax.sharding.NamedSharding(mesh, same))
  outputs, found, states = sharded(operands, slots, states)
  return outputs, _combined(found), states


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
    lambda node: over_devices(node) if is_tally(node) else unsplit(node)[0],
    found,
    is_leaf=is_tally,
  )
