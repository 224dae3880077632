"""What every recipe returns, and how it is made: by rules."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._paths import Where
from initjax.recipes._rules import RulesPlan, rules
from initjax.typing import DType, Initializer, OutSharding


class Recipe(NamedTuple):
  """New parameters, and what the forward pass must do with them."""

  params: Any
  multipliers: Mapping[str, Any]
  """of the forward pass, by the names that the recipe's docstring gives them:
  numbers, or arrays with a row for each branch"""
  plan: RulesPlan
  """which leaves were set or scaled, and by which rule"""


def by_rules(
  key: jax.Array | None,
  params: Any,
  pairs: Sequence[tuple[Where | None, Initializer | float]],
  *,
  multipliers: Mapping[str, Any] | None = None,
) -> Recipe:
  """A recipe of rules; those without a pattern are left out."""
  made = rules([(w, target) for w, target in pairs if w is not None])
  plan = made.plan(params)
  return Recipe(made.apply(key, params), multipliers or {}, plan)


def scaled(init: Initializer, factor: float) -> Initializer:
  """The initializer times a number; narrow dtypes are drawn in float32."""

  def draw(
    key: jax.Array,
    shape: Sequence[int],
    dtype: DType = None,
    out_sharding: OutSharding = None,
  ) -> jax.Array:
    dtype = jnp.dtype(jnp.result_type(float) if dtype is None else dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    placed = () if out_sharding is None else (out_sharding,)
    return (init(key, shape, wide, *placed) * factor).astype(dtype)

  return draw
