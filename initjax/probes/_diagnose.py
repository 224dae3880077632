"""`diagnose`: what is wrong with a model, why, and the line that mends it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import check_integer
from initjax.probes._growth import check_growth, walk
from initjax.probes._leaves import arrays_of
from initjax.probes._measure import measure
from initjax.probes._parameters import check_parameters, check_values
from initjax.probes._report import SignalReport
from initjax.probes._signals import check_signals
from initjax.tracing import SignalGraph
from initjax.typing import Record, Verdict

_RANK = {"error": 0, "warning": 1, "note": 2}


def diagnose(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  key: jax.Array | None = None,
  cotangent: Any = None,
  has_aux: bool = False,
  init: Callable[[jax.Array], Any] | None = None,
  draws: int | None = None,
) -> SignalReport:
  """`measure` with verdicts: exploding, vanishing, dead, saturated, ...

  Each verdict says what was measured against what, its cause, and what to
  paste or change. Growth is called sick only beyond what chance does at these
  widths: over a single draw by the law of finite width, over several by how
  they scatter. Runs `fn` itself, under jit; not to be called inside jit.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`.
    params: any pytree of arrays; ignored where `init` is given.
    *inputs: the other arguments of `fn`.
    key: for the random cotangent, and for `init`.
    cotangent: gradient with respect to the outputs, of their structure.
    has_aux: whether `fn` returns `(outputs, aux)`.
    init: from a key to parameters, for several draws.
    draws: how many `init` draws (8 if None); without `init`, the length of
      the leading axis of every leaf of `params`.

  Returns:
    A report with `verdicts`, worst first; `print` it, or `to_html`, `plot`.

  Raises:
    TypeError: if `fn` is not callable.
    ValueError: if no output can be differentiated, or leaves of `params` do
      not have a leading axis of length `draws`.

  >>> def deep(kernels, x):
  ...   layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
  ...   return jax.lax.scan(layer, x, kernels)[0]
  >>> xavier = jax.nn.initializers.xavier_normal(batch_axis=0)
  >>> kernels = xavier(jax.random.key(0), (50, 64, 64))
  >>> report = diagnose(deep, kernels, jnp.ones((8, 64)))
  >>> [verdict.kind for verdict in report.verdicts]
  ['vanishing signal', 'vanishing gradient']
  >>> print(report.verdicts[0].cure)
  kernel_init=initjax.initializers.he_normal()
  # with batch_axis=0 if all layers are drawn as one array

  Reference: Glorot and Bengio 2010; He et al. 2015; Hanin and Nica 2020.
  """
  draws = 8 if init is not None and draws is None else draws
  _check_draws(params, init, draws)
  key = jax.random.key(0) if key is None else key
  if init is not None and draws is not None:
    keys = jax.random.split(key, draws)
    params = jax.jit(functools.partial(jax.lax.map, init))(keys)
  run = functools.partial(
    measure, fn, key=key, cotangent=cotangent, has_aux=has_aux, detail=True
  )
  report = _measured(run, params, inputs, one=draws is None)
  if draws is not None:
    params = jax.tree.map(lambda leaf: leaf[0], params)
  bits = _moments(report)
  report = dataclasses.replace(report, bands=_bands(report.graph, bits))
  verdicts = _verdicts(report, bits, params, inputs)
  return dataclasses.replace(report, verdicts=verdicts)


def _measured(
  run: Callable[..., SignalReport], params: Any, inputs: Any, *, one: bool
) -> SignalReport:
  """The report on one draw, or on all along the leading axis, in turn."""
  if one:
    return jax.jit(run)(params, *inputs)
  return jax.jit(
    lambda params, *inputs: jax.lax.map(lambda p: run(p, *inputs), params)
  )(params, *inputs)


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


def _verdicts(
  report: SignalReport, bits: dict[str, np.ndarray], params: Any, inputs: Any
) -> tuple[Verdict, ...]:
  rows = report.to_records()
  leaves = arrays_of(params)
  found = [
    *check_values("parameter", leaves),
    *check_values("input", arrays_of(inputs)),
    *check_growth(rows, bits, report.graph, leaves),
    *check_signals(rows, report.graph, leaves),
    *check_parameters(report.graph, leaves),
  ]
  found = [_with_rows(verdict, rows) for verdict in found]
  return tuple(sorted(found, key=lambda verdict: _RANK[verdict.severity]))


def _with_rows(verdict: Verdict, rows: list[Record]) -> Verdict:
  """What concerns a parameter concerns the rows that use it."""
  if verdict.rows or not verdict.path:
    return verdict
  uses = (i for i, row in enumerate(rows) if row["path"] == verdict.path)
  return verdict._replace(rows=tuple(uses))


def _moments(report: SignalReport) -> dict[str, np.ndarray]:
  """By direction, log₂ second moments [draws, rows]."""
  found = {}
  for direction in ("forward", "backward"):
    rows = jax.device_get(getattr(report, direction))
    columns = [
      np.atleast_1d(rows[index].log2_second_moment[(..., *repeat)])
      for index, repeat in report.graph.rows()
    ]
    both = np.stack(columns, axis=1) if columns else np.zeros((1, 0))
    found[direction] = both.astype(np.float64)
  return found


def _bands(graph: SignalGraph, bits: dict[str, np.ndarray]) -> tuple[Any, ...]:
  """What a healthy chain may show, from where it starts; for chains alone."""
  if not _is_chain(graph):
    return ()
  ops = [graph.ops[index] for index, _ in graph.rows()]
  both = []
  for direction, step in (("forward", 1), ("backward", -1)):
    start = bits[direction][:, ::step][:, 0].mean()
    chance = walk(ops[::step], direction)
    middle, margin = start + chance.drift, 3 * chance.spread
    band = np.stack([middle - margin, middle + margin], axis=1)[::step]
    both.append([(low, high) for low, high in band.tolist()])
  return tuple(zip(*both, strict=True))


def _is_chain(graph: SignalGraph) -> bool:
  """Whether each operation is fed by the one before it, and by that alone."""
  for before, op in zip(graph.ops[:-1], graph.ops[1:], strict=True):
    if op.source != before.path or op.kind == "embedding":
      return False
  return all(len(op.place.scans) <= 1 for op in graph.ops) and bool(graph.ops)
