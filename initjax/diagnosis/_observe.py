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
from initjax.diagnosis._law import Drift, backward_drift, forward_drift
from initjax.graph import LinearOp
from initjax.measurement._leaves import arrays_of, check_arrays
from initjax.measurement._measure import measure
from initjax.measurement._report import SignalReport
from initjax.typing import Direction, Record

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
  """A report, and what follows from it before anybody judges."""

  report: SignalReport
  records: list[Record]
  bits: dict[str, np.ndarray]
  """by direction, log₂ second moments [draws, records]"""
  leaves: dict[str, np.ndarray]
  """parameters that have a gradient, by path, of the first draw"""
  chain: Chain | None
  """the model, if it is one whose signal and gradient arrive"""

  @property
  def ops(self) -> list[LinearOp]:
    """The operation of each record."""
    graph = self.report.graph
    return [graph.ops[index] for index, _ in graph.rows()]

  def drift(self, direction: str, target: float | None = None) -> Drift | None:
    """By the law of the model's own chain; None where there is none."""
    if self.chain is None:
      return None
    if direction == "backward":
      return self._backward_drift
    return self._forward_drift if target is None else self._towards(target)

  @functools.cached_property
  def _forward_drift(self) -> Drift | None:
    return self._towards(None)

  def _towards(self, target: float | None) -> Drift | None:
    assert self.chain is not None
    first = self.records[self.chain.rows[0]]
    return forward_drift(self.chain, self.bits["forward"], first, target)

  @functools.cached_property
  def _backward_drift(self) -> Drift | None:
    assert self.chain is not None
    sizes = [record["backward_size"] for record in self.records]
    return backward_drift(self.chain, self.bits, sizes)


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
  key = jax.random.key(0) if key is None else key
  if init is not None and draws is not None:
    keys = jax.random.split(key, draws)
    params = jax.jit(functools.partial(jax.lax.map, init))(keys)
  arguments = (params, inputs, key, cotangent)
  measured = functools.partial(
    _measure, fn, has_aux=has_aux, one=draws is None, norms=norms
  )
  report = execute(measured, *arguments)
  if draws is not None:
    params = jax.tree.map(lambda leaf: leaf[0], params)
  leaves = arrays_of(params)
  bits = _moments(report)
  arrived = all(np.isfinite(rows).all() for rows in bits.values())
  chain = chain_of(report.graph, leaves) if arrived else None
  return Observed(report, report.to_records(), bits, leaves, chain)


def _measure(
  fn: Callable[..., Any],
  params: Any,
  inputs: tuple[Any, ...],
  key: jax.Array,
  cotangent: Any,
  *,
  has_aux: bool,
  one: bool,
  norms: bool,
) -> SignalReport:
  """The report on one draw, or on all along the leading axis, in turn."""

  def run(params: Any) -> SignalReport:
    report = measure(
      fn,
      params,
      *inputs,
      key=key,
      cotangent=cotangent,
      has_aux=has_aux,
      detail=True,
    )
    return report if norms else dataclasses.replace(report, gradient_norms=None)

  return run(params) if one else jax.lax.map(run, params)


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


def _moments(report: SignalReport) -> dict[str, np.ndarray]:
  """By direction, log₂ second moments [draws, records]."""
  found: dict[str, np.ndarray] = {}
  for direction in DIRECTIONS:
    rows = jax.device_get(getattr(report, direction))
    columns = [
      np.atleast_1d(rows[index].log2_second_moment[(..., *repeat)])
      for index, repeat in report.graph.rows()
    ]
    both = np.stack(columns, axis=1) if columns else np.zeros((1, 0))
    found[direction] = both.astype(np.float64)
  return found
