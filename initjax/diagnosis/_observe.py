"""One look at a model, for verdicts and for assertions: measured in detail."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import check_integer, check_key
from initjax._executables import execute
from initjax._paths import leaves_by_path
from initjax._statistics import nan_is_unknown
from initjax.diagnosis._chain import Chain, chain_of
from initjax.diagnosis._law import Drift, drift_of
from initjax.measurement import (
  RowStatistics,
  SignalReport,
  arrays_of,
  check_arrays,
  measure,
  row_statistics,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
  """A report, and what follows from it before anybody judges."""

  report: SignalReport
  found: RowStatistics
  """the report as arrays"""
  leaves: dict[str, np.ndarray]
  """parameters that have a gradient, by path, of the first draw"""
  chain: Chain | None
  """the model, if it is one whose signal and gradient arrive"""

  drifts: dict[tuple[str, float | None], Drift | None] = dataclasses.field(
    default_factory=dict
  )
  """what `drift` has found so far"""

  def drift(self, direction: str, target: float | None = None) -> Drift | None:
    """By the law of the model's own chain; None where there is none."""
    if self.chain is None:
      return None
    if (direction, target) not in self.drifts:
      drift = drift_of(self.chain, self.found, direction, target)
      self.drifts[direction, target] = drift
    return self.drifts[direction, target]


@nan_is_unknown()
def observe(
  fn: Callable[..., Any],
  params: Any,
  inputs: tuple[Any, ...],
  *,
  key: jax.Array | None = None,
  cotangent: Any = None,
  has_aux: bool = False,
  init: Callable[[jax.Array], Any] | None = None,
  draws: int | None = None,
  norms: bool = True,
) -> Observed:
  """Measures `fn` in detail, for one or several draws of the parameters.

  Without `norms` of parameters' gradients, these need not be computed.
  """
  draws = 8 if init is not None and draws is None else draws
  _check_draws(params, init, draws)
  if key is not None:
    check_key(key)
  if init is None:
    check_arrays(params)
  check_arrays(inputs)
  key = jax.random.key(0) if key is None else key
  if init is not None and draws is not None:
    keys = jax.random.split(key, draws)
    params = jax.jit(functools.partial(jax.lax.map, init))(keys)

  def one(params: Any, inputs: Any, key: jax.Array, cotangent: Any) -> Any:
    options = {"key": key, "cotangent": cotangent, "has_aux": has_aux}
    report = measure(fn, params, *inputs, **options, detail=True)
    return report if norms else dataclasses.replace(report, gradient_norms=None)

  def all_in_turn(params: Any, *others: Any) -> Any:
    return jax.lax.map(lambda params: one(params, *others), params)

  measured = one if draws is None else all_in_turn
  report = execute(measured, params, inputs, key, cotangent)
  if draws is not None:
    params = jax.tree.map(lambda leaf: leaf[0], params)
  leaves = arrays_of(params)
  found = row_statistics(report)
  arrived = all(np.isfinite(x).all() for x in found.log2_moments.values())
  chain = chain_of(report.graph, leaves) if arrived else None
  return Observed(report, found, leaves, chain)


def _check_draws(params: Any, init: Any, draws: int | None) -> None:
  """Raises unless `draws` is a number that the parameters fit."""
  if draws is None:
    return
  check_integer("draws", draws, low=1)
  if init is not None:
    return
  for path, leaf in leaves_by_path(params).items():
    if jnp.shape(leaf)[:1] != (draws,):
      raise ValueError(
        f"draws={draws} needs a leading axis of that length on every leaf of "
        f"params; {path} has shape {jnp.shape(leaf)}. "
        "Stack several draws, or give init=, a function of a key."
      )
