"""Where and how a run goes: devices, what is done already, progress."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "runs"


def device_mesh(devices: list[Any] | None = None) -> Mesh:
  """All devices, along one axis: independent runs are spread over them."""
  return Mesh(np.array(devices or jax.devices()), (AXIS,))


@dataclasses.dataclass(frozen=True)
class Job:
  """What `run(config, job)` may use."""

  mesh: Mesh = dataclasses.field(default_factory=device_mesh)
  advance: Callable[[str, int], None] = lambda label, total: None
  """told of each item that is done, and how many there are"""

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
      results.append(jax.tree.map(np.asarray, function(item)))
      self.advance(str(item), len(items))
    return results

  def part(self, name: str) -> "Job":
    """For one experiment among several: its items are kept apart."""
    del name
    return self

  def spread(self, function: Any, batch: Any, *shared: Any) -> Any:
    """A jitted function(batch, *shared), its runs spread over the devices.

    Args:
      function: jitted; all arrays in and out have a leading axis of runs.
      batch: arrays [runs, ...]; filled up to a multiple of the devices with
        copies of the last run, which are cut off again.
      *shared: what all runs share; copied to every device.
    """
    runs = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(runs) != 1:
      raise ValueError(f"wanted one number of runs, got {sorted(runs)}.")
    (count,) = runs
    missing = -count % self.mesh.size
    split, whole = (
      NamedSharding(self.mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ())
    )
    fill = functools.partial(_fill, missing)
    batch = jax.device_put(jax.tree.map(fill, batch), split)
    outputs = function(batch, *jax.device_put(shared, whole))
    return jax.tree.map(lambda leaf: leaf[:count], outputs)


def _fill(missing: int, leaf: Any) -> Any:
  if not missing:
    return leaf
  last = jax.numpy.repeat(leaf[-1:], missing, axis=0)
  return jax.numpy.concatenate([leaf, last])
