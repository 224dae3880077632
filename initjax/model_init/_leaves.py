"""Carrying factors back from where kernels are used to the parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from initjax.graph._view import View
from initjax.model_init._pass import Plan, States


def rescaled(
  plan: Plan, states: States, leaves: Mapping[str, Any]
) -> dict[str, Any]:
  """leaf · Lᵀ(factor) / Lᵀ(1), entry by entry; untouched entries stay.

  L is the view that makes the kernel, Lᵀ its transpose, so Lᵀ(1) counts how
  often an entry is used. Entries are multiplied in float32 or wider and rounded
  once.
  """
  weighted: dict[str, list[Any]] = {}
  for number, group in enumerate(plan.groups):
    state = states[number]
    factor = _or_one(state.factor)
    for site in group.sites:
      view = plan.kernels.views[site]
      for leaf, terms in _carried_back(view, factor).items():
        weighted.setdefault(leaf, []).append(terms)
  changed = dict(leaves)
  for leaf, found in weighted.items():
    changed[leaf] = _multiplied(leaves[leaf], _factor_of(found))
  return changed


def _carried_back(
  view: View, factor: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array | None]]:
  """For each leaf Lᵀ(factor), and Lᵀ(1) unless that is 1 everywhere.

  One factor for all entries, each of them used once, needs no transpose.
  """
  like = {
    leaf: jax.ShapeDtypeStruct(shape, factor.dtype)
    for leaf, shape in view.leaves.items()
  }
  once = view.distinct and view.size == sum(leaf.size for leaf in like.values())
  if once and factor.ndim == 0:
    return dict.fromkeys(view.leaves, (factor, None))
  wanted = jax.eval_shape(view.apply, like)
  back = jax.linear_transpose(view.apply, like)
  lead = factor.reshape(factor.shape + (1,) * (len(wanted.shape) - factor.ndim))
  (sums,) = back(jnp.broadcast_to(lead, wanted.shape))
  if once:
    return {leaf: (total, None) for leaf, total in sums.items()}
  (counts,) = back(jnp.ones(wanted.shape, factor.dtype))
  return {leaf: (total, counts[leaf]) for leaf, total in sums.items()}


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
