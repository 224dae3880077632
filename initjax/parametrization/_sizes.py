"""The sizes at which the leaves of the base start."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from initjax.parametrization._models import Models
from initjax.parametrization._parametrization import Parametrization
from initjax.parametrization._rescale import measurable, sizes, sizes_of_draw


def with_sizes(
  plan: Parametrization,
  models: Models,
  base_init: Callable[[jax.Array], Any] | None,
) -> Parametrization:
  """The plan, with what is known of the base's sizes.

  Measured on `base_init(key)`, or else on concrete parameters of the base.
  """
  if base_init is not None:
    found = sizes_of_draw(base_init, jax.random.key(0))
  elif measurable(models.base_params):
    found = sizes(models.base_params)
  else:
    return plan
  rows = []
  for row in plan.rows:
    path = models.pairs[row.path].base_path
    std = found.get(path, found.get(path.removeprefix("params/")))
    rows.append(row._replace(std=std))
  return dataclasses.replace(plan, rows=tuple(rows))
