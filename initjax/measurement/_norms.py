"""Norms of gradients: one for each parameter, however large its array."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._sharding import fetched
from initjax._statistics import Tally, functions_of, tally, unit

_SMALL = 2**14  # entries: arrays of one shape, as biases, are looked at as one


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Norms:
  """Euclidean norms of arrays: one array, for XLA's work grows with outputs."""

  numbers: Any
  """[..., arrays], float32"""
  paths: tuple[str, ...] = field(metadata={"static": True})
  """of these arrays"""

  def by_path(self) -> dict[str, jax.Array]:
    """The norm of each."""
    return {path: self.numbers[..., i] for i, path in enumerate(self.paths)}


def norms_of(leaves: Mapping[str, "jax.Array | Scaled"]) -> Norms:
  """Of arrays by path, without underflow; or from what is known of them.

  Small ones of one shape share what is compiled; large ones are not copied.
  """
  if not leaves:
    return norms_from({})
  groups: dict[Any, list[str]] = {}
  for path, leaf in leaves.items():
    alone = isinstance(leaf, Scaled) or leaf.size > _SMALL
    groups.setdefault(path if alone else jax.typeof(leaf), []).append(path)
  parts = [
    _scaled_together([leaves[path] for path in paths])
    for paths in groups.values()
  ]
  dtype = max((p.unit.dtype for p in parts), key=lambda kind: kind.itemsize)
  units, squares = (
    jnp.concatenate([numbers.astype(dtype) for numbers in column])
    for column in zip(*parts, strict=True)
  )
  order = [path for paths in groups.values() for path in paths]
  places = np.array([order.index(path) for path in leaves])
  norms = (units * jnp.sqrt(squares)).astype(jnp.float32)
  return Norms(norms[places], tuple(leaves))


def _scaled_together(arrays: "list[Any]") -> "Scaled":
  """Stacked; of one alone, which may be large, no copy is made."""
  (first, *others) = arrays
  if not others:
    one = first if isinstance(first, Scaled) else scaled(first)
    return Scaled(*(number[None] for number in one))
  return jax.vmap(scaled)(jnp.stack(arrays))


def norms_from(scales: Mapping[str, "Scaled | None"]) -> Norms:
  """From what is known of each array, by path; None of zeros."""
  known = fetched([(1.0, 0.0) if s is None else s for s in scales.values()])
  units, squares = np.array(known, float).reshape(-1, 2).T
  return Norms(np.float32(units * np.sqrt(squares)), tuple(scales))


class Scaled(NamedTuple):
  """What a norm follows from, of one array or, stacked, of several."""

  unit: Any
  """of about the largest magnitude"""
  squares: Any
  """Σ (x / unit)²"""


@jax.jit  # so that arrays of one shape are traced once
def scaled(x: jax.Array) -> Scaled:
  """Of one array."""
  return scaled_of(tally(x))


def scaled_of(found: Tally) -> Scaled:
  """Of an array whose sums were taken."""
  largest, _, squares, *_ = found.numbers
  return Scaled(unit(largest, functions_of(found.numbers)), squares)
