"""A function's Jacobian as two products that neither overflow nor underflow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import type_of
from initjax._paths import is_float
from initjax._sharding import sharded_like, unsplit

_SIZES = (-0.6, -0.3, 0.0, 0.3, 0.6)  # of a vector's log₂, in maximal exponents
_EXTREME = 0.8

Product = Callable[[jax.Array], jax.Array]


class Linearized(NamedTuple):
  """J/2^log2_scale, by products with vectors of its smaller and larger side."""

  from_small: Product
  """J if there are fewer inputs than outputs, else Jᵀ"""
  to_small: Product
  """its transpose"""
  shape: tuple[int, int]
  """(outputs, inputs) of J"""
  dtype: Any
  """of the vectors: float32 or wider"""
  log2_scale: jax.Array
  """an integer that leaves the entries of J·v near 1"""

  @property
  def size(self) -> int:
    """Number of singular values: the smaller of inputs and outputs."""
    return min(self.shape)


def linearize(
  fn: Callable[[jax.Array], Any], x: jax.Array, key: jax.Array
) -> Linearized:
  """The Jacobian of `fn` at `x`, over all real floating outputs.

  A tangent enters with the size 2^(-g/2) and leaves with 2^(g/2), where 2^g
  is the gain of the whole: halfway between the ends of the range of floats.

  Raises:
    ValueError: if no output is real floating numbers.
  """
  outputs, pull_back = jax.vjp(lambda x: _real_outputs(fn(x)), x)
  sizes = [leaf.size for leaf in outputs]
  dtypes = [leaf.dtype for leaf in (x, *outputs)]
  maxexp = min(jnp.finfo(dtype).maxexp for dtype in dtypes)
  dtype = jnp.float64 if jnp.dtype("float64") in dtypes else jnp.float32

  def pull(u: jax.Array) -> jax.Array:  # Jᵀ·u
    parts = jnp.split(u, np.cumsum(sizes)[:-1])
    like = [
      sharded_like(part.reshape(leaf.shape).astype(leaf.dtype), leaf)
      for part, leaf in zip(parts, outputs, strict=True)
    ]
    return unsplit(pull_back(like)[0]).ravel().astype(dtype)

  shape = (sum(sizes), x.size)
  _, push_back = jax.vjp(pull, jnp.zeros(shape[0], dtype))
  push = lambda v: push_back(v)[0]  # J·v
  log2_gain = _log2_gain(push, jax.random.normal(key, (x.size,), dtype), maxexp)
  bound = round(_EXTREME * maxexp)
  half = jnp.clip(jnp.round(log2_gain / 2), -bound, bound)
  both = (pull, push) if shape[0] <= shape[1] else (push, pull)
  there, back = (_scaled_product(product, half) for product in both)
  return Linearized(there, back, shape, dtype, 2 * half)


def checked_input(inputs: tuple[Any, ...]) -> jax.Array:
  """The only input as an array, or a ValueError that says what came instead."""
  leaves = jax.tree.leaves(inputs)
  if len(leaves) != 1 or isinstance(leaves[0], str | bytes):
    given = ", ".join(map(type_of, inputs)) or "none"
    raise ValueError(
      f"x must be one array; got {given}. Close over the other inputs of the "
      "model: lambda params, x: model(params, x, mask)."
    )
  x = jnp.asarray(leaves[0])
  if x.size == 0:
    raise ValueError(f"x is empty; got {x.dtype}{list(x.shape)}.")
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      "x must hold real floating-point numbers, so that outputs can be "
      f"differentiated with respect to it; got {x.dtype}{list(x.shape)}. For "
      "token ids, pass their embeddings instead."
    )
  return x


def _real_outputs(outputs: Any) -> list[jax.Array]:
  leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(outputs)]
  found = [leaf for leaf in leaves if is_float(leaf) and leaf.size > 0]
  kinds = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]
  if not found or any(jnp.iscomplexobj(leaf) for leaf in found):
    raise ValueError(
      "fn must return real floating-point numbers, which can be "
      f"differentiated; got {kinds}. Return the logits, or the real and "
      "imaginary parts."
    )
  return found


def _log2_gain(push: Product, vector: jax.Array, maxexp: int) -> jax.Array:
  """log₂ of the size of J·v over that of v; 0 if J is 0.

  Taken from the largest of several multiples of v that does not overflow: it
  is the last to underflow between the layers.
  """
  sizes = jnp.round(jnp.array(_SIZES, vector.dtype) * maxexp)
  images = jax.vmap(lambda size: push(vector * jnp.exp2(size)))(sizes)
  largest = abs(images).max(-1)
  usable = jnp.isfinite(largest) & (largest > 0)
  best = jnp.argmax(jnp.where(usable, sizes, -jnp.inf))
  gain = jnp.log2(largest[best]) - sizes[best]
  return jnp.where(usable[best], gain, 0)


def _scaled_product(product: Product, half: jax.Array) -> Product:
  """The product divided by 2^(2·half), one half before and one after."""
  factor = jnp.exp2(-half)
  return lambda vector: product(vector * factor) * factor
