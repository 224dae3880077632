"""Leaves are born sharded, with the same values on every mesh."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from initjax.model_init import init_variables

KEY = jax.random.key(0)
X = np.ones((2, 16), np.float32)
MESHES = {
  "one": ((1, 1), ("data", "model")),
  "2x4": ((2, 4), ("data", "model")),
  "8": ((1, 8), ("data", "model")),
}


def mesh(name):
  shape, axes = MESHES[name]
  devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
  return Mesh(devices, axes)


def boxed(init=None, names=("data", "model")):
  return nn.with_partitioning(init or nn.initializers.lecun_normal(), names)


class Model(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(24, kernel_init=boxed())(x)
    x = nn.Dense(16, kernel_init=boxed(names=(None, "model")))(x)
    orthogonal = boxed(nn.initializers.orthogonal(), (None, "model"))
    return nn.Dense(16, kernel_init=orthogonal)(x)


@functools.cache
def wanted():
  return Model().init(KEY, X)


@pytest.mark.parametrize("name", MESHES)
def test_values_do_not_depend_on_the_mesh(name):
  found = init_variables(KEY, Model(), X, shardings=mesh(name))
  where = nn.get_sharding(wanted(), mesh(name))["params"]["Dense_0"]["kernel"]
  kernel = found["params"]["Dense_0"]["kernel"].value
  assert kernel.sharding.is_equivalent_to(where, 2)
  both = jax.device_get((nn.unbox(found), nn.unbox(wanted())))
  # XLA contracts a·b + c otherwise in another loop: one rounding
  jax.tree.map(
    lambda x, y: np.testing.assert_array_max_ulp(x, y, 2),
    *(variables["params"]["Dense_0"] for variables in both),
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),  # QR, rounded
    *both,
  )


def test_positions_of_every_partition():
  """Uniform numbers name their position: all must be in place."""
  draw = lambda key: jax.random.uniform(key, (8, 16, 4))
  for spec in (
    ("data",), (None, "model"), (("data", "model"),), (None, "data", "model")
  ):  # fmt: skip
    sharding = NamedSharding(mesh("2x4"), PartitionSpec(*spec))
    found = init_variables(KEY, draw, shardings=sharding)
    np.testing.assert_array_equal(found, draw(KEY))
    assert found.sharding.is_equivalent_to(sharding, 3)


def test_no_device_holds_the_whole():
  draw = lambda key: jax.random.normal(key, (2**13, 2**13))
  sharding = NamedSharding(mesh("2x4"), PartitionSpec("data", "model"))
  program = jax.jit(lambda key: init_variables(key, draw, shardings=sharding))
  compiled = program.lower(KEY).compile()
  memory = compiled.memory_analysis()
  part = 4 * 2**26 // 8
  assert memory.output_size_in_bytes == part
  assert memory.temp_size_in_bytes <= 0.5 * part  # a block is 1/32 of it
  assert "all-gather" not in compiled.as_text()


def test_nnx_metadata():
  init = nnx.with_partitioning(nnx.initializers.normal(), (None, "model"))
  build = lambda rngs: nnx.Linear(16, 8, kernel_init=init, rngs=rngs)
  with jax.set_mesh(mesh("2x4")):
    found = init_variables(nnx.Rngs(0), build, shardings=mesh("2x4"))
    wanted = build(nnx.Rngs(0))
  kernel = found.kernel[...]
  np.testing.assert_array_equal(kernel, wanted.kernel[...])
  assert kernel.sharding.spec == PartitionSpec(None, "model")


def test_errors_come_early():
  to = lambda *spec: NamedSharding(mesh("2x4"), PartitionSpec(*spec))
  draw = lambda key: {"w": jax.random.normal(key, (6, 4))}
  for shardings, message in (
    ({"w": to("model")}, "not a multiple of the 4 devices"),
    ({"w": to(None, None, "model")}, "fewer axes"),
    ({"v": to()}, "structure of the variables"),
    ({"w": "model"}, "must be a NamedSharding"),
  ):
    with pytest.raises(ValueError, match=message):
      init_variables(KEY, draw, shardings=shardings)
