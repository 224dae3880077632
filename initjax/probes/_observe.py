"""One look at a model, for verdicts and for assertions: measured in detail."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import check_integer
from initjax.probes._law import Chain, Drift, chain_of, drifts
from initjax.probes._leaves import arrays_of
from initjax.probes._measure import measure
from initjax.probes._report import SignalReport
from initjax.tracing import LinearOp
from initjax.typing import Record

DIRECTIONS = ("forward", "backward")


class Observed(NamedTuple):
  """A report, and what follows from it before anybody judges."""

  report: SignalReport
  records: list[Record]
  bits: dict[str, np.ndarray]
  """by direction, log₂ second moments [draws, records]"""
  leaves: dict[str, np.ndarray]
  """parameters that have a gradient, by path, of the first draw"""
  chain: Chain | None
  independent: bool
  """whether the gradients of different samples started independently"""

  @property
  def ops(self) -> list[LinearOp]:
    """The operation of each record."""
    graph = self.report.graph
    return [graph.ops[index] for index, _ in graph.rows()]

  def drifts(self, target: float | None = None) -> dict[str, Drift] | None:
    """By direction; None where no law is known, or the signal is lost."""
    if self.chain is None:
      return None
    rows = list(self.chain.rows)
    if not all(np.isfinite(self.bits[d][:, rows]).all() for d in DIRECTIONS):
      return None
    return drifts(
      self.chain,
      self.bits,
      self.records,
      target=target,
      independent=self.independent,
    )


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
  draws = 8 if init is not None and draws is None else draws
  _check_draws(params, init, draws)
  key = jax.random.key(0) if key is None else key
  if init is not None and draws is not None:
    keys = jax.random.split(key, draws)
    params = jax.jit(functools.partial(jax.lax.map, init))(keys)
  arguments = (params, inputs, key, cotangent)
  flags = {"has_aux": has_aux, "one": draws is None}
  report = _measured(fn, *arguments, **flags)
  if draws is not None:
    params = jax.tree.map(lambda leaf: leaf[0], params)
  leaves = arrays_of(params)
  main = jax.eval_shape(fn, params, *inputs)
  main = main[0] if has_aux else main
  is_loss = [leaf.shape for leaf in jax.tree.leaves(main)] == [()]
  return Observed(
    report,
    report.to_records(),
    _moments(report),
    leaves,
    chain_of(report.graph, leaves),
    independent=cotangent is None and not is_loss,
  )


def _measured(
  fn: Callable[..., Any], *arguments: Any, **flags: bool
) -> SignalReport:
  """Compiled once for each function, if it can be told from others."""
  try:
    hash(fn)
  except TypeError:
    fn = functools.partial(fn)
  return _measure(fn, *arguments, **flags)


@functools.partial(jax.jit, static_argnames=("fn", "has_aux", "one"))
def _measure(
  fn: Callable[..., Any],
  params: Any,
  inputs: tuple[Any, ...],
  key: jax.Array,
  cotangent: Any,
  *,
  has_aux: bool,
  one: bool,
) -> SignalReport:
  """The report on one draw, or on all along the leading axis, in turn."""

  def run(params: Any) -> SignalReport:
    return measure(
      fn,
      params,
      *inputs,
      key=key,
      cotangent=cotangent,
      has_aux=has_aux,
      detail=True,
    )

  return run(params) if one else jax.lax.map(run, params)


def _check_draws(params: Any, init: Any, draws: int | None) -> None:
  """Raises unless `draws` is a number that the parameters fit."""
  if draws is None:
    return
  check_integer("draws", draws, low=1)
  if init is not None:
    return
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if jnp.shape(leaf)[:1] != (draws,):
      raise ValueError(
        f"draws={draws} needs a leading axis of that length on every leaf of "
        f"params; {jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}. "
        "Stack several draws, or give init=, a function of a key."
      )


def _moments(report: SignalReport) -> dict[str, np.ndarray]:
  """By direction, log₂ second moments [draws, records]."""
  found = {}
  for direction in DIRECTIONS:
    rows = jax.device_get(getattr(report, direction))
    columns = [
      np.atleast_1d(rows[index].log2_second_moment[(..., *repeat)])
      for index, repeat in report.graph.rows()
    ]
    both = np.stack(columns, axis=1) if columns else np.zeros((1, 0))
    found[direction] = both.astype(np.float64)
  return found
