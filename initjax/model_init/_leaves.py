"""Carrying factors back from where kernels are used to the parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from initjax.model_init._kernel_views import View
from initjax.model_init._pass import Plan, States


def rescaled(plan: Plan, states: States, leaves: Sequence[Any]) -> list[Any]:
  """leaf · Lᵀ(factor) / Lᵀ(1), entry by entry; untouched entries stay.

  L is the view that makes the kernel, Lᵀ its transpose, so Lᵀ(1) counts how
  often an entry is used. Entries are multiplied in float32 or wider and rounded
  once.
  """
  weighted: dict[int, list[Any]] = {}
  for number, group in enumerate(plan.groups):
    state = states[number]
    factor = _or_one(state.factor)
    for site in group.sites:
      view = plan.kernels.views[site]
      for leaf, terms in _carried_back(view, factor, leaves).items():
        weighted.setdefault(leaf, []).append(terms)
  changed = list(leaves)
  for leaf, found in weighted.items():
    changed[leaf] = _multiplied(leaves[leaf], _factor_of(found))
  return changed


def _carried_back(
  view: View, factor: jax.Array, leaves: Sequence[Any]
) -> dict[int, tuple[jax.Array, jax.Array | None]]:
  """For each leaf Lᵀ(factor), and Lᵀ(1) unless that is 1 everywhere.

  One factor for all entries, each of them used once, needs no transpose.
  """
  like = {
    leaf: jax.ShapeDtypeStruct(jnp.shape(leaves[leaf]), factor.dtype)
    for leaf in view.leaves
  }
  once = view.distinct and _size(view, like) == sum(
    leaf.size for leaf in like.values()
  )
  if once and factor.ndim == 0:
    return dict.fromkeys(view.leaves, (factor, None))
  wanted = jax.eval_shape(view.build, like)
  back = jax.linear_transpose(view.build, like)
  lead = factor.reshape(factor.shape + (1,) * (len(wanted.shape) - factor.ndim))
  (sums,) = back(jnp.broadcast_to(lead, wanted.shape))
  if once:
    return {leaf: (total, None) for leaf, total in sums.items()}
  (counts,) = back(jnp.ones(wanted.shape, factor.dtype))
  return {leaf: (total, counts[leaf]) for leaf, total in sums.items()}


def _size(view: View, like: Mapping[int, Any]) -> int:
  """Entries of the kernel, in all repeats."""
  if view.moved:
    return int(jax.eval_shape(view.build, like).size)
  return sum(region.size for _, region in view.regions)


@jax.jit
def _or_one(factor: jax.Array) -> jax.Array:
  return jnp.where(factor > 0, factor, 1)


def _factor_of(terms: list[tuple[jax.Array, jax.Array | None]]) -> jax.Array:
  ((total, count), *others) = terms
  if not others and count is None:
    return total
  counts = [
    jnp.ones_like(total) if count is None else count for total, count in terms
  ]
  whole = sum(counts[1:], counts[0])
  total = sum((one for one, _ in others), total)
  return jnp.where(whole > 0, total / jnp.where(whole > 0, whole, 1), 1)


@jax.jit
def _multiplied(leaf: Any, factor: jax.Array) -> jax.Array:
  dtype = jnp.promote_types(leaf.dtype, factor.dtype)
  return (leaf.astype(dtype) * factor.astype(dtype)).astype(leaf.dtype)
