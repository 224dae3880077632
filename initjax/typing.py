"""The protocols and records that the whole package speaks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

__all__ = [
  "Activation",
  "DType",
  "Direction",
  "Initializer",
  "Numbers",
  "OutSharding",
  "Record",
  "Verdict",
]

DType = Any
"""Whatever `jnp.dtype` takes; None means the default float type."""

OutSharding = jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None
"""Where the result of an initializer shall live; None leaves it to JAX."""

Activation = Callable[[jax.Array], jax.Array]
"""An elementwise function such as `jax.nn.relu`."""

Direction = Literal["forward", "backward"]
"""The way that a signal takes, or its gradient."""

Numbers = float | np.ndarray
"""One number, or an array of them."""


@runtime_checkable
class Initializer(Protocol):
  """A pure function from a key and a shape to an array.

  The signature of `jax.nn.initializers.Initializer` and of Flax: positional
  `(key, shape, dtype)`, and `out_sharding` for a result born sharded.
  """

  def __call__(
    self,
    key: jax.Array,
    shape: Sequence[int],
    dtype: DType = None,
    out_sharding: OutSharding = None,
  ) -> jax.Array:
    """Draws an array of `shape`."""
    ...


Record = dict[str, Any]
"""One row of a report: plain numbers and strings by name."""


class Verdict(NamedTuple):
  """One finding about a model: what is wrong, why, and what mends it."""

  kind: str
  """what it is, such as "vanishing gradient" or "wrong fan" """
  severity: Literal["error", "warning", "note"]
  path: str
  """the parameter it concerns; "" for the model as a whole"""
  message: str
  """what was measured, against what, and the cause"""
  fix: str
  """what to paste or change"""
  rows: tuple[int, ...] = ()
  """which records show it, by their position in the report"""
