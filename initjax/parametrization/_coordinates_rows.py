"""The operations of a model at several widths, paired, with their sizes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from initjax.graph import (
  Dataflow,
  LinearOp,
  Product,
  Row,
  dataflow,
  factor_after,
  products,
)
from initjax.parametrization._coordinates_fit import Kind, without_rounding
from initjax.parametrization._coordinates_pass import (
  Course,
  Setup,
  measured_ops,
  repeat_factors,
)


class Operation(NamedTuple):
  """An operation at one repeat, at all widths."""

  path: str
  """of the parameter; of a product of two signals, what it is made of"""
  repeat: tuple[int, ...]
  kind: Kind
  fan_in: tuple[float, ...]
  """at each width"""
  fan_out: tuple[float, ...]


class Sizes(NamedTuple):
  """log₂ root mean squares [widths, seeds, steps + 1, operations].

  With the constants that the model multiplies them by, and as if it had the
  multipliers that parameters have absorbed.
  -inf for a signal that is 0, and a change at the level of rounding; NaN for
  what was not run, or is not finite.
  """

  signal: np.ndarray
  change: np.ndarray
  loss: np.ndarray
  """itself, not its logarithm: [widths, seeds, steps + 1]"""


class _Model(NamedTuple):
  """One width: what was built, and its rows."""

  setup: Setup
  course: Course
  rows: tuple[Row, ...]
  flow: Dataflow


def _model(setup: Setup, course: Course) -> _Model:
  """With every repeat of every operation and product, as they are run."""
  traced = course.traced
  ops = tuple(measured_ops(traced).values())
  rows = dataclasses.replace(traced.graph, ops=ops).rows
  return _Model(setup, course, rows, dataflow(traced.outputs))


def paired(
  widths: Sequence[int], setups: Sequence[Setup], courses: Sequence[Course]
) -> tuple[tuple[Operation, ...], Sizes]:
  """Operations by their place in the order of execution, and sizes.

  Raises:
    ValueError: if the models differ in more than sizes, or have no operation.
  """
  models = list(map(_model, setups, courses))
  if not models[0].rows:
    raise ValueError(
      "no linear operation of a parameter and data was found in "
      "loss(params, batch): pass all data in batch, not closed over."
    )
  for width, model in zip(widths[1:], models[1:], strict=True):
    _check_alike(widths[0], models[0].rows, width, model.rows)
  each = [_sizes(models[0], model) for model in models]
  sizes = Sizes(*map(np.stack, zip(*each, strict=True)))
  starts_at_0 = ~np.isfinite(sizes.signal[:, :, 0]).all(axis=(0, 1))
  pairs = zip(*(model.rows for model in models), strict=True)
  known = products(models[0].flow)
  operations = [
    _operation(pair, known.get(pair[0].op.place.site), starts_at_0=at_0)
    for pair, at_0 in zip(pairs, starts_at_0.tolist(), strict=True)
  ]
  return tuple(operations), sizes


def _check_alike(
  width: int, rows: Sequence[Row], other: int, others: Sequence[Row]
) -> None:
  own, found = (
    [(r.op.path, r.repeat) for r in each] for each in (rows, others)
  )
  if own != found:
    only = sorted({path or "a product" for path, _ in set(own) ^ set(found)})
    raise ValueError(
      f"build({width}) and build({other}) must be one model at two widths; "
      f"they have {len(own)} and {len(found)} operations"
      + (f", and differ in {', '.join(only[:4])}." if only else ".")
    )


def _operation(
  pair: Sequence[Row], product: Product | None, *, starts_at_0: bool
) -> Operation:
  first = pair[0].op
  has_softmax = product is not None and product.has_softmax
  path = first.path
  if first.origin == "data":
    noun = "scores" if has_softmax else "product"
    path = f"{noun} of {first.feed.source}" if first.feed.source else noun
  fan_in, fan_out = (
    tuple(getattr(row.op, side) for row in pair)
    for side in ("fan_in", "fan_out")
  )
  sums = fan_in[0] < fan_in[-1] and fan_out[0] == fan_out[-1]
  kind: Kind = "readout" if sums and not starts_at_0 else "linear"
  if first.origin == "data":
    kind = "scores" if has_softmax else "product"
  return Operation(path, pair[0].repeat, kind, fan_in, fan_out)


def _sizes(narrow: _Model, model: _Model) -> Sizes:
  """[seeds, steps + 1, rows] of one width."""
  statistics = {
    site: [tally.statistics() for tally in seen]
    for site, seen in model.course.seen.items()
  }
  columns = []
  for base, row in zip(narrow.rows, model.rows, strict=True):
    factor = np.log2(abs(_factor(narrow, base, model, row)) or 1.0)
    both = statistics[row.op.place.site]
    columns.append([_log2_size(one, row.repeat) + factor for one in both])
  signal, change = (np.stack(side, -1) for side in zip(*columns, strict=True))
  eps = np.array([_eps(row.op) for row in model.rows])
  changed = without_rounding(signal, change, eps)
  changed = np.where(np.isnan(change), np.nan, changed)
  return Sizes(signal, changed, model.course.losses)


def _log2_size(statistics: Any, repeat: tuple[int, ...]) -> np.ndarray:
  place: Any = (..., *repeat)
  moments, lost, size = (
    np.asarray(x)[place]
    for x in (
      statistics.log2_second_moment,
      statistics.nonfinite,
      statistics.size,
    )
  )
  return np.where((lost > 0) | (size == 0), np.nan, moments / 2)


def _factor(narrow: _Model, base: Row, model: _Model, row: Row) -> float:
  """What an output is to be multiplied by.

  By the model's own constants after it; with a plan, parameters have absorbed
  the growth of all constants, so those of the narrowest width stand for them.
  """
  after = factor_after(model.flow, row.op.place.site)
  if model.setup.plan is None or row.op.origin == "data":
    return after
  taken = repeat_factors(row.op, model.setup.plan)
  repeat = row.repeat if taken.ndim == len(row.repeat) else ()
  own = (base.op.multiplier or 1.0) / (row.op.multiplier or 1.0)
  start = factor_after(narrow.flow, base.op.place.site)
  return float(start * own / taken[repeat])


def _eps(op: LinearOp) -> float:
  is_float = jnp.issubdtype(op.dtype, jnp.inexact)
  return float(jnp.finfo(op.dtype).eps) if is_float else 0.0
