"""One compilation for each distinct program and sharding."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from initjax.model_init import _blocks
from initjax.model_init._programs import Program, run

Shardings = tuple[Any, ...] | None
"""where each output shall live; None leaves it to JAX"""


@functools.lru_cache(maxsize=4096)
def compiled(program: Program, shardings: Shardings) -> Callable[..., Any]:
  """The program as a jitted function of its arguments."""
  one = shardings[0] if shardings and len(shardings) == 1 else None

  def draw(*arguments: Any) -> list[Any]:
    if not _blocks.is_chain(program, arguments):
      return run(program, arguments)
    if one is None:
      return [_whole(program, arguments)]
    return [_shards(program, arguments, one)]

  if shardings is None:
    return jax.jit(draw)
  return jax.jit(draw, out_shardings=list(shardings))


def _whole(program: Program, arguments: Sequence[Any]) -> jax.Array:
  aval = _blocks.out_aval(program)
  size = math.prod(aval.shape)

  def fill(start: Any, count: int) -> jax.Array:
    def bits(key: jax.Array, width: int) -> jax.Array:
      if count == size:  # compiles faster
        return jax.random.bits(key, (size,), f"uint{width}")
      positions = jnp.asarray(start, jnp.uint32) + _iota(count)
      return _blocks.bits_at(key, width, positions)

    return _blocks.flat(program, arguments, bits, count)

  return _blocks.in_blocks(fill, size, aval.dtype).reshape(aval.shape)


def _shards(
  program: Program, arguments: Sequence[Any], sharding: NamedSharding
) -> jax.Array:
  """Each device draws the elements that it holds."""
  aval = _blocks.out_aval(program)
  spec = tuple(sharding.spec) + (None,) * (len(aval.shape) - len(sharding.spec))
  local = sharding.shard_shape(aval.shape)

  def shard(*arguments: Any) -> jax.Array:
    places = [jax.lax.axis_index(names) if names else 0 for names in spec]

    def fill(start: Any, count: int) -> jax.Array:
      held = jnp.asarray(start, jnp.uint32) + _iota(count)
      positions = _global(held, places, local, aval.shape)

      def bits(key: jax.Array, width: int) -> jax.Array:
        return _blocks.bits_at(key, width, positions)

      return _blocks.flat(program, arguments, bits, count)

    drawn = _blocks.in_blocks(fill, math.prod(local), aval.dtype)
    return drawn.reshape(local)

  return jax.shard_map(
    shard,
    mesh=sharding.mesh,
    in_specs=PartitionSpec(),
    out_specs=sharding.spec,
    check_vma=False,
  )(*arguments)


def _iota(count: int) -> jax.Array:
  return jax.lax.iota(jnp.uint32, count)


def _global(
  held: jax.Array,
  places: Sequence[Any],
  local: Sequence[int],
  shape: Sequence[int],
) -> jax.Array:
  """Positions in the whole array of positions in a shard, both row-major.

  Axes that are not split join the axis before them: one division for each
  axis that is split, but for the first.
  """
  positions = jnp.zeros_like(held)
  inner, stride = 1, 1  # elements of the joined axes, in shard and whole
  for axis in reversed(range(len(shape))):
    inner *= local[axis]
    if local[axis] != shape[axis] or axis == 0:
      here = held if axis == 0 else held % jnp.uint32(inner)
      offset = jnp.asarray(places[axis], jnp.uint32) * jnp.uint32(inner)
      positions += (here + offset) * jnp.uint32(stride)
      held = held if axis == 0 else held // jnp.uint32(inner)
      stride *= inner // local[axis] * shape[axis]
      inner = 1
  return positions
