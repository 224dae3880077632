"""Carrying factors back from where kernels are used to the parameters."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from initjax.graph import View
from initjax.model_init._pass import Plan, States

Term = tuple[jax.Array | int, jax.Array | int]
"""Lᵀ(factor) and Lᵀ(1) of one use; numbers where all entries have the same."""


def rescaled(
  plan: Plan, states: States, leaves: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """leaf · Lᵀ(factor) / Lᵀ(1), entry by entry, of the leaves of kernels.

  L is the view that makes the kernel, Lᵀ its transpose, so Lᵀ(1) counts how
  often an entry is used. Entries are multiplied in float32 or wider and rounded
  once.
  """
  terms: dict[str, list[Term]] = {}
  for number, group in enumerate(plan.groups):
    factor = _or_one(states[number].factor)
    for site in group.sites:
      back = _carried_back(plan.views[site], factor)
      for path, term in back.items():
        terms.setdefault(path, []).append(term)
  return {path: _multiplied(leaves[path], terms[path]) for path in terms}


@jax.jit
def _or_one(factor: jax.Array) -> jax.Array:
  return jnp.where(factor > 0, factor, 1)


def _carried_back(view: View, factor: jax.Array) -> dict[str, Term]:
  """The terms of each leaf.

  One factor for all entries, each of them used once, needs no transpose.
  """
  # Lᵀ sends a number at an entry of the kernel to the entry of the leaf that it
  # was taken from, where what several uses send adds up.
  like = {
    leaf: jax.ShapeDtypeStruct(shape, factor.dtype)
    for leaf, shape in view.leaves.items()
  }
  once = view.distinct and view.size == sum(leaf.size for leaf in like.values())
  if once and factor.ndim == 0:
    return dict.fromkeys(view.leaves, (factor, 1))
  wanted = jax.eval_shape(view.apply, like)
  back = jax.linear_transpose(view.apply, like)
  lead = factor.reshape(factor.shape + (1,) * (len(wanted.shape) - factor.ndim))
  (sums,) = back(jnp.broadcast_to(lead, wanted.shape))
  if once:
    return {leaf: (total, 1) for leaf, total in sums.items()}
  (counts,) = back(jnp.ones(wanted.shape, factor.dtype))
  return {leaf: (total, counts[leaf]) for leaf, total in sums.items()}


@jax.jit
def _multiplied(leaf: jax.Array, terms: Sequence[Term]) -> jax.Array:
  total = sum(total for total, _ in terms)
  count = sum(count for _, count in terms)
  factor = jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 1)
  dtype = jnp.promote_types(leaf.dtype, factor.dtype)
  return (leaf.astype(dtype) * factor.astype(dtype)).astype(leaf.dtype)
