"""Names of leaves, and a key for each by its name."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Names = tuple[str, ...]


def names_of(path: tuple[Any, ...]) -> Names:
  """The names along a tree path; the `.value` of a box or Variable is none.

  >>> leaves = jax.tree_util.tree_leaves_with_path({"a": [1.0]})
  >>> names_of(leaves[0][0])
  ('a', '0')
  """
  key_str = jax.tree_util.keystr
  *_, last = (None, *path)
  boxed = isinstance(last, jax.tree_util.GetAttrKey) and last.name == "value"
  kept = path[:-1] if boxed and len(path) > 1 else path
  return tuple(key_str((part,), simple=True) for part in kept)


def key_of(key: jax.Array, names: Names) -> jax.Array:
  """A key that 64 bits of SHA-256 of the names set apart.

  The names are hashed one by one with their lengths, so that (ab, c) and
  (a, bc) differ. No other leaf has a say.
  """
  text = "".join(f"{len(name)}:{name}" for name in names)
  digest = hashlib.sha256(text.encode()).digest()
  for start in (0, 4):
    word = int.from_bytes(digest[start : start + 4], "little")
    key = jax.random.fold_in(key, jnp.uint32(word))
  return key


def is_float(leaf: Any) -> bool:
  """Whether a leaf is an array, or the shape of one, of real or complex."""
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def dtype_of(leaf: Any) -> Any:
  """The dtype that the leaf has in JAX: float32 for NumPy's float64 at x32."""
  return jax.dtypes.canonicalize_dtype(leaf.dtype)


def map_floats(fn: Callable[[Names, Any], Any], tree: Any) -> Any:
  """`fn(names, leaf)` for each leaf of floats; all others stay."""

  def visit(path: tuple[Any, ...], leaf: Any) -> Any:
    return fn(names_of(path), leaf) if is_float(leaf) else leaf

  return jax.tree_util.tree_map_with_path(visit, tree)
