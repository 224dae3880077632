"""One detailed measurement of a model, for verdicts and for assertions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._checks import check_integer, check_key
from initjax._executables import execute
from initjax._paths import leaves_by_path
from initjax._statistics import nan_is_unknown
from initjax.diagnosis._chain import Chain
from initjax.diagnosis._innovations import Innovation, innovations
from initjax.diagnosis._law import Drift, drift_of
from initjax.diagnosis._pieces import Pieces, pieces_of
from initjax.measurement import (
  Leaves,
  RowStatistics,
  SignalReport,
  arrays_of,
  check_arrays,
  measure,
  measure_detail,
  row_statistics,
)


class Call(NamedTuple):
  """What was measured, of the first draw, to be asked again."""

  fn: Callable[..., Any]
  params: Any
  inputs: tuple[Any, ...]
  options: dict[str, Any]
  """`key`, `cotangent`, `has_aux`"""


class Observed(NamedTuple):
  """A report, and what follows from it before anybody judges."""

  report: SignalReport
  found: RowStatistics
  """the report as arrays"""
  leaves: Leaves
  """parameters that have a gradient, by path, of the first draw"""
  parts: Pieces
  """what of the model is judged together"""
  drift: Callable[[Chain, str, float | None], Drift | None]
  """of a chain in a direction, with or without a target, by its law"""
  odd: Callable[[], list[list[Innovation]]]
  """single layers that are off, neighbours together"""
  call: Call

  @property
  def chains(self) -> list[Chain]:
    """Those of its parts whose law is known."""
    return [part.chain for part in self.parts.pieces if part.chain]


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
) -> Observed:
  """Measures `fn` in detail, for one or several draws of the parameters."""
  if draws is not None:
    check_integer("draws", draws, low=1)
  check_arrays(inputs)
  if key is not None:
    check_key(key)
  if init is None:
    _check_draws(params, draws)
    check_arrays(params)
  else:
    draws = draws or 8
    keys = jax.random.split(jax.random.key(0) if key is None else key, draws)
    params = jax.jit(functools.partial(jax.lax.map, init))(keys)

  options = {"key": key, "cotangent": cotangent, "has_aux": has_aux}
  if draws is None:
    report = measure_detail(fn, params, *inputs, **options)
  else:
    report = _in_turn(fn, params, inputs, key, cotangent, has_aux)
    params = jax.tree.map(lambda leaf: leaf[0], params)
  return observed_of(report, Call(fn, params, inputs, options))


def observed_of(report: SignalReport, call: Call) -> Observed:
  """What follows from a report in detail, and the call that it is of."""
  leaves = arrays_of(call.params)
  found = row_statistics(report)
  parts = pieces_of(report.graph, leaves)
  drift = functools.cache(
    lambda chain, *options: drift_of(chain, found, *options)
  )
  odd = functools.cache(lambda: list(innovations(found, parts, leaves)))
  return Observed(report, found, leaves, parts, drift, odd, call)


def _in_turn(
  fn: Any, params: Any, inputs: Any, key: Any, cotangent: Any, has_aux: bool
) -> SignalReport:
  """Of several draws of the parameters, one after another."""

  def in_turn(params: Any, inputs: Any, key: Any, cotangent: Any) -> Any:
    options = {"key": key, "cotangent": cotangent, "has_aux": has_aux}
    one = lambda params: measure(fn, params, *inputs, **options, detail=True)
    return jax.lax.map(one, params)

  return execute(in_turn, params, inputs, key, cotangent)


def _check_draws(params: Any, draws: int | None) -> None:
  for path, leaf in leaves_by_path(params).items():
    if draws is not None and jnp.shape(leaf)[:1] != (draws,):
      raise ValueError(
        f"draws={draws} needs a leading axis of that length on every leaf of "
        f"params; {path} has shape {jnp.shape(leaf)}. Stack several draws, or "
        "pass init=, a function of a key."
      )
