"""A job: batches spread over eight devices, items as numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runtime.job import AXIS, Job, at, device_mesh, divided


@jax.jit
def scaled(batch, shared):
  noise = jax.vmap(jax.random.normal)(batch["key"])
  return {"values": batch["x"] @ shared, "noise": noise}


@pytest.mark.parametrize("runs", [1, 5, 8, 13])
def test_spreading_changes_nothing(runs):
  batch = {
    "x": jnp.arange(3.0 * runs).reshape(runs, 3),
    "key": jax.random.split(jax.random.key(0), runs),
  }
  shared = jnp.eye(3)[:, :2]
  found = Job().spread(scaled, batch, shared)
  expected = scaled(batch, shared)
  assert found["values"].shape == (runs, 2)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_runs_lie_on_all_devices():
  seen = []

  def look(batch):
    seen.append(batch.sharding)
    return batch

  Job().spread(look, jnp.ones((9, 2)))
  assert seen[0].spec == jax.sharding.PartitionSpec(AXIS)
  assert len(seen[0].device_set) == 8
  few = Job(mesh=device_mesh(jax.devices()[:2]))
  few.spread(look, jnp.ones((9, 2)))
  assert len(seen[1].device_set) == 2


def test_runs_are_cut_into_kinds_and_seeds():
  found = divided({"x": np.arange(12).reshape(6, 2)}, 3, -1)
  assert found["x"].shape == (3, 2, 2)
  np.testing.assert_array_equal(at(found, 1)["x"], [[4, 5], [6, 7]])


def test_batches_of_two_sizes_are_refused():
  with pytest.raises(ValueError, match=r"one number of runs, got \[2, 3\]"):
    Job().spread(lambda x: x, (jnp.ones(2), jnp.ones((3, 1))))


def test_map_gives_numpy_and_tells_of_every_item():
  told = []
  job = Job(
    advance=lambda label, total, part="", was_kept=False: told.append(
      (label, part, was_kept)
    )
  )
  found = job.map(lambda x: {"square": jnp.square(x)}, iter([1.0, 3.0]))
  assert [type(item["square"]) for item in found] == [np.ndarray] * 2
  assert [float(item["square"]) for item in found] == [1.0, 9.0]
  job.part("kaiming").map(jnp.square, [2])
  assert told == [
    ("1.0", "", False), ("3.0", "", False), ("2", "kaiming", False),
  ]  # fmt: skip


def test_what_decomposes_matrices_runs_on_one_cpu_with_the_same_result():
  singular = jax.jit(jax.vmap(lambda x: jnp.linalg.svd(x, compute_uv=False)))
  matrices = jax.random.normal(jax.random.key(0), (5, 4, 3))
  alone = Job().undivided()
  assert Job().mesh.size == 8
  assert alone.mesh.size == 1
  found = alone.spread(singular, matrices)
  assert found.devices() == {jax.devices()[0]}
  expected = np.linalg.svd(np.asarray(matrices, np.float64), compute_uv=False)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
