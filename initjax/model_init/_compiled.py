"""One compilation for each distinct program and sharding."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from initjax.model_init import _blocks
from initjax.model_init._programs import Program, run

Shardings = tuple[NamedSharding | None, ...] | None
"""where each output shall live; None leaves it to JAX"""


@functools.lru_cache(maxsize=4096)
def compiled(
  program: Program, shardings: Shardings
) -> Callable[..., list[jax.Array]]:
  """The program as a jitted function of its arguments."""
  one = shardings[0] if shardings and len(shardings) == 1 else None

  def draw(*arguments: jax.Array) -> list[jax.Array]:
    if not _blocks.is_chain(program, arguments):
      return run(program, arguments)
    shape = _blocks.out_aval(program).shape
    if one is None:
      return [_filled(program, arguments, shape, lambda held: held)]
    return [_shards(program, arguments, shape, one)]

  if shardings is None:
    return jax.jit(draw)
  return jax.jit(draw, out_shardings=list(shardings))


def _filled(
  program: Program,
  arguments: Sequence[jax.Array],
  shape: tuple[int, ...],
  positions: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """A part of the output, whose elements have these positions in the whole."""
  aval = _blocks.out_aval(program)

  def fill(start: int | jax.Array, count: int) -> jax.Array:
    held = jnp.asarray(start, jnp.uint32) + jax.lax.iota(jnp.uint32, count)
    places = positions(held)

    def bits(key: jax.Array, width: int) -> jax.Array:
      if count == math.prod(aval.shape):  # compiles faster
        return jax.random.bits(key, (count,), f"uint{width}")
      return _blocks.bits_at(key, width, places)

    return _blocks.flat(program, arguments, bits, count)

  return _blocks.in_blocks(fill, math.prod(shape), aval.dtype).reshape(shape)


def _shards(
  program: Program,
  arguments: Sequence[jax.Array],
  shape: tuple[int, ...],
  sharding: NamedSharding,
) -> jax.Array:
  """Each device draws the elements that it holds."""
  spec = tuple(sharding.spec) + (None,) * (len(shape) - len(sharding.spec))
  local = sharding.shard_shape(shape)

  def shard(*arguments: jax.Array) -> jax.Array:
    places = [jax.lax.axis_index(names) if names else 0 for names in spec]
    positions = lambda held: _global(held, places, local, shape)
    return _filled(program, arguments, local, positions)

  return jax.shard_map(
    shard,
    mesh=sharding.mesh,
    in_specs=PartitionSpec(),
    out_specs=sharding.spec,
    check_vma=False,
  )(*arguments)


def _global(
  held: jax.Array,
  places: Sequence[int | jax.Array],
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
