"""Where and how a run goes: devices, what is done already, progress."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.runtime import checkpoints, progress, stop

AXIS = "runs"


def device_mesh(devices: list[Any] | None = None) -> Mesh:
  """All devices, along one axis: independent runs are spread over them."""
  return Mesh(np.array(devices or jax.devices()), (AXIS,))


@dataclasses.dataclass(frozen=True)
class Job:
  """What `run(config, job)` may use."""

  mesh: Mesh = dataclasses.field(default_factory=device_mesh)
  advance: progress.Advance = progress.silent
  """told of each item that is done, and how many there are"""
  kept: checkpoints.Kept | None = None
  """where done items are kept; nowhere if None"""
  instead: Callable[..., Any] | None = None
  """called in place of running what is spread, if given"""

  def map(
    self, function: Callable[[Any], Any], items: Iterable[Any]
  ) -> list[Any]:
    """[function(item) for item in items], as numpy; done items are kept.

    The function must depend on nothing but its item, and give a pytree of
    arrays; so a run that was stopped goes on after the last item done.
    """
    items = list(items)
    results = []
    for item in items:
      found, was_kept = self._item(function, item)
      results.append(found)
      self.advance(str(item), len(items), was_kept=was_kept)
    return results

  def _item(
    self, function: Callable[[Any], Any], item: Any
  ) -> tuple[Any, bool]:
    """What it gives, and whether that was kept by an earlier run."""
    label = str(item)
    if self.kept is None:
      return checkpoints.numbers(function(item), label), False
    number = next(self.kept.numbers)
    try:
      return checkpoints.load(self.kept, number, label), True
    except checkpoints.MissingError:
      found = checkpoints.numbers(function(item), label)
    checkpoints.save(self.kept, number, label, found)
    stop.check()
    if jax.process_count() > 1:
      point = next(self.kept.points)
      if self.kept.manager.reached_preemption(point):
        raise stop.Stopped
    return found, False

  def spread_all(
    self, calls: Mapping[str, tuple[Any, Any, Any]], seeds: int
  ) -> dict[str, Any]:
    """By name: `spread` of (function, batch, shared), each kept when done.

    The leading axis of runs comes back as two: [kinds, seeds, ...].
    """

    def call(name: str) -> Any:
      function, batch, shared = calls[name]
      return divided(self.spread(function, batch, shared), -1, seeds)

    return dict(zip(calls, self.map(call, calls), strict=True))

  def part(self, name: str) -> "Job":
    """For one experiment among several: its items are kept apart."""
    kept = self.kept
    if kept is not None:
      kept = checkpoints.part_of(kept, name)
    advance = functools.partial(self.advance, part=name)
    return dataclasses.replace(self, kept=kept, advance=advance)

  def undivided(self) -> "Job":
    """For what decomposes batches of matrices: on CPUs, on one of them.

    There the devices can wait for each other for ever: each wants the threads
    that all have in common.
    """
    if self.mesh.devices.flat[0].platform != "cpu":
      return self
    return dataclasses.replace(self, mesh=device_mesh(jax.local_devices()[:1]))

  def spread(self, function: Any, batch: Any, *shared: Any) -> Any:
    """A jitted function(batch, *shared), its runs spread over the devices.

    With several processes each must call it with the same arrays, and gets the
    whole result, as numpy.

    Args:
      function: jitted; all arrays in and out have a leading axis of runs.
      batch: arrays [runs, ...]; filled up to a multiple of the devices with
        copies of the last run, which are cut off again.
      *shared: what all runs share; copied to every device.
    """
    if self.instead is not None:
      return self.instead(function, batch, *shared)
    runs = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(runs) != 1:
      raise ValueError(f"wanted one number of runs, got {sorted(runs)}.")
    (count,) = runs
    missing = -count % self.mesh.size
    split, whole = (
      NamedSharding(self.mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ())
    )
    fill = functools.partial(_fill, missing)
    batch = _put(jax.tree.map(fill, batch), split)
    outputs = function(batch, *_put(shared, whole))
    return jax.tree.map(lambda leaf: leaf[:count], _gathered(outputs))


def joined(batches: Iterable[Any]) -> Any:
  """One batch of several, for `Job.spread`."""
  return jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves), *batches)


def divided(tree: Any, *shape: int) -> Any:
  """The leading axis of runs as several, [*shape, ...]."""
  return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)


def at(tree: Any, index: Any) -> Any:
  """What all leaves have there, along their leading axis."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def _fill(missing: int, leaf: Any) -> Any:
  """On one device, so that filling up is no business between devices."""
  if not missing:
    return leaf
  leaf = jax.device_put(leaf, jax.local_devices()[0])
  last = jax.numpy.repeat(leaf[-1:], missing, axis=0)
  return jax.numpy.concatenate([leaf, last])


def _put(tree: Any, sharding: NamedSharding) -> Any:
  """On the devices of all processes; each process has the whole arrays."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)
  return jax.tree.map(functools.partial(_make_global, sharding), tree)


def _make_global(sharding: NamedSharding, leaf: Any) -> jax.Array:
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    data = _make_global(sharding, jax.random.key_data(leaf))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
  local = np.asarray(leaf)
  return jax.make_array_from_callback(
    local.shape, sharding, lambda index: local[index]
  )


def _gathered(outputs: Any) -> Any:
  """Whole arrays in every process."""
  if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(outputs)):
    return outputs
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(outputs, tiled=True)
