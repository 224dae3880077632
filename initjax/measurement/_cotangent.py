"""The gradient given to a model, and the gradient it causes at parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from initjax._paths import is_float
from initjax._sharding import sharded_like
from initjax._statistics import varying_like, wide_dtype


def gradient_of(
  fn: Callable[..., Any],
  params: Any,
  inputs: tuple[Any, ...],
  *,
  key: jax.Array | None = None,
  cotangent: Any = None,
  has_aux: bool = False,
) -> Any:
  """The gradient with respect to `params`, from what `measure` starts with."""

  def main(params: Any) -> list[jax.Array]:
    outputs = fn(params, *inputs)
    return differentiable(outputs[0] if has_aux else outputs)

  outputs, pull_back = jax.vjp(main, params)
  return pull_back(cotangent_of(outputs, cotangent, key))[0]


def differentiable(outputs: Any) -> list[jax.Array]:
  """The leaves that have a gradient."""
  leaves = jax.tree.leaves(outputs)
  found = list(filter(is_float, leaves))
  if not found:
    kinds = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]
    raise ValueError(
      f"measure needs an output that can be differentiated; got {kinds}. "
      "Return the logits or the loss; for other outputs beside them, return "
      "(outputs, aux) and set has_aux=True."
    )
  return found


def cotangent_of(
  outputs: list[jax.Array], cotangent: Any, key: jax.Array | None
) -> list[jax.Array]:
  """The gradient to start with, leaf by leaf."""
  if cotangent is not None:
    given = differentiable(cotangent)
    wanted = [leaf.shape for leaf in outputs]
    if [leaf.shape for leaf in given] != wanted:
      raise ValueError(
        f"cotangent must have the same shapes as the outputs, {wanted}; got "
        f"{[leaf.shape for leaf in given]}."
      )
    return [
      sharded_like(new.astype(leaf.dtype), leaf)
      for new, leaf in zip(given, outputs, strict=True)
    ]
  if len(outputs) == 1 and outputs[0].shape == ():
    return [jnp.ones_like(outputs[0])]
  key = jax.random.key(0) if key is None else key
  keys = jax.random.split(key, len(outputs))
  return list(map(_random_cotangent, keys, outputs))


def _random_cotangent(key: jax.Array, like: jax.Array) -> jax.Array:
  """Numbers with E|x|² = 1; complex ones have a random phase."""
  dtype = like.dtype if jnp.iscomplexobj(like) else wide_dtype(like.dtype)
  noise = jax.random.normal(key, like.shape, dtype).astype(like.dtype)
  return sharded_like(varying_like(noise, like), like)
