"""Random arrays drawn flat and in blocks, with the values of jax.random.

With partitionable threefry keys, the bits of an element depend only on the key
and on the element's position: bits[i] = threefry(key, i). A chain of
elementwise operations on random bits can therefore be computed for any part of
an array: one block at a time, or, on each device, only the shard that it holds.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from initjax.graph import BLOCKWISE, RESHAPES, Aval, bind
from initjax.model_init._expressions import Out
from initjax.model_init._programs import Instruction, Program, Reference
from initjax.typing import DType

BLOCK = 2**18
"""elements in a block"""
LARGE = 2**21
"""elements above which an array is drawn in blocks"""

_PARTITIONABLE = "jax_threefry_partitionable"
Bits = Callable[[jax.Array, int], jax.Array]
"""random bits of a key, of a width, for the positions wanted"""


def is_chain(program: Program, arguments: Sequence[jax.Array]) -> bool:
  """Whether the one output is elementwise in random bits of its own size.

  Beside them, in single numbers, which may be drawn as well.
  """
  if len(program.outs) != 1 or program.outs[0][0] != "node":
    return False
  size = math.prod(out_aval(program).shape)
  keys = [x for x in arguments if str(x.dtype).startswith("key<")]
  return (
    1 < size < 2**32
    and bool(getattr(jax.config, _PARTITIONABLE))
    and bool(keys)
    and all(x.shape == () and str(x.dtype) == "key<fry>" for x in keys)
    and all(x.size == 1 for x in arguments)
    and all(_is_link(step, size) for step in program.steps)
  )


def out_aval(program: Program) -> Aval:
  """Shape and dtype of the first output, the result of a step."""
  _, step, index = program.outs[0]
  return program.steps[step].node.avals[index]


def _is_link(step: Instruction, size: int) -> bool:
  """All shapes are the whole array, or one number; order is kept."""
  node, aval = step.node, step.node.avals[0]
  if step.body or len(node.avals) > 1:
    return False
  if node.name == "reshape" and node.eqn.params["dimensions"]:
    return False  # it transposes first
  if math.prod(aval.shape) not in (1, size):
    return False
  if node.name == "random_bits":
    return True
  if node.name == "bitcast_convert_type":
    given = [x.aval.shape for x in node.operands if isinstance(x, Out)]
    return {math.prod(aval.shape)} == set(map(math.prod, given))
  return node.name in RESHAPES | BLOCKWISE


def flat(
  program: Program, arguments: Sequence[jax.Array], bits: Bits, count: int
) -> jax.Array:
  """The chain on `count` positions, whose bits are given."""
  size = math.prod(out_aval(program).shape)
  scalars = [x if x.shape == () else jnp.reshape(x, ()) for x in arguments]
  results: list[jax.Array] = []

  def get(place: Reference) -> jax.Array:
    if place[0] == "number":
      return jnp.reshape(place[-1].value, ())
    return results[place[1]] if place[0] == "node" else scalars[place[1]]

  for step in program.steps:
    operands = [get(place) for place in step.places]
    whole = math.prod(step.node.avals[0].shape) == size
    if step.node.name == "random_bits":
      width = step.node.eqn.params["bit_width"]
      if whole:
        result = bits(operands[0], width)
      else:  # one number that all elements share
        result = jax.random.bits(operands[0], (), f"uint{width}")
    elif step.node.name in RESHAPES:
      result = operands[0]
    else:
      shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in operands))
      wide = [jnp.broadcast_to(x, shape) for x in operands]
      (result,) = bind(step.node.eqn, wide)
    results.append(jnp.broadcast_to(result, (count,)) if whole else result)
  return results[program.outs[0][1]]


def in_blocks(
  fill: Callable[[int | jax.Array, int], jax.Array], size: int, dtype: DType
) -> jax.Array:
  """`fill(start, count)` into every part of an array; the last overlaps."""
  if size <= LARGE:
    return fill(0, size)

  def one(block: jax.Array, buffer: jax.Array) -> jax.Array:
    start = jnp.minimum(block * BLOCK, size - BLOCK)
    part = fill(start, BLOCK)
    return jax.lax.dynamic_update_slice(buffer, part, (start,))

  buffer = jnp.zeros((size,), dtype)
  return jax.lax.fori_loop(0, -(-size // BLOCK), one, buffer)


def bits_at(key: jax.Array, width: int, positions: jax.Array) -> jax.Array:
  """The bits that `jax.random.bits` gives these elements of a large array."""
  from jax.extend.random import threefry_2x32

  key_data = jax.random.key_data(key)
  counts = jnp.concatenate([jnp.zeros_like(positions), positions])
  pair = (key_data[0], key_data[1])
  hashed = threefry_2x32(pair, counts)
  high, low = jnp.split(hashed, 2)
  dtype = jnp.dtype(f"uint{width}")
  if width == 64:
    return high.astype(dtype) << 32 | low.astype(dtype)
  return (high ^ low).astype(dtype)
