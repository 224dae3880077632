"""The keys from which draws start: as the model derives them, or by path."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import key_of
from initjax.graph import KEYS, Aval, bind
from initjax.model_init._expressions import (
  Application,
  Constant,
  Expression,
  Input,
  Out,
  Test,
  inputs_of,
  nodes,
)


def key_test(outputs: Sequence[Expression], num_keys: int) -> Test:
  """Tells the values that are keys, derived from the first inputs alone."""
  found: set[Application] = set()

  def is_key(value: Expression) -> bool:
    if isinstance(value, Input):
      return value.place < num_keys
    return isinstance(value, Out) and value.node in found

  for node in nodes(outputs):
    given = [x for x in node.operands if not isinstance(x, Constant)]
    if node.name in KEYS and given and all(map(is_key, given)):
      found.add(node)
  return is_key


def derived(
  wanted: Sequence[Expression], keys: Sequence[jax.Array]
) -> dict[Expression, jax.Array]:
  """The keys as the model derives them, each step taken once."""
  known: dict[Expression, jax.Array] = {
    Input(i): key for i, key in enumerate(keys)
  }

  def get(value: Expression) -> np.ndarray | jax.Array:
    return value.value if isinstance(value, Constant) else known[value]

  for node in nodes(wanted):
    results = bind(node.eqn, [get(value) for value in node.operands])
    known |= {Out(node, i): result for i, result in enumerate(results)}
  return known


def by_path(
  wanted: Sequence[Expression], path: str, keys: Sequence[jax.Array]
) -> dict[Expression, jax.Array]:
  """Keys for the draws of one leaf that depend on its path alone.

  The n-th key that the leaf draws from becomes
  `fold_in(key_of(root, path), n)`, split if it is an array of keys; the root
  is the first of the given keys that the model derives it from.
  """
  found: dict[Expression, jax.Array] = {}
  for place, value in enumerate(wanted):
    root = keys[min(inputs_of([value])).place]
    aval = value.aval if isinstance(value, Out) else root
    typed = jnp.issubdtype(root.dtype, jax.dtypes.prng_key)
    root = root if typed else jax.random.wrap_key_data(root)
    key = jax.random.fold_in(key_of(root, path), place)
    found[value] = _shaped(key, aval)
  return found


def _shaped(key: jax.Array, aval: Aval | jax.Array) -> jax.Array:
  typed = jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)
  shape = aval.shape if typed else aval.shape[:-1]
  keys = jax.random.split(key, shape) if shape else key
  return keys if typed else jax.random.key_data(keys)
