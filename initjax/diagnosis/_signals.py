"""Verdicts on single operations: what is broken, and where it starts.

Each check reads the records in order of execution and yields verdicts. A
verdict stands for all rows that show the same thing and names the first.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from initjax._activations import is_flat
from initjax.diagnosis._fixes import fix
from initjax.diagnosis._zero_kernels import meant_zeros
from initjax.graph import LinearOp, SignalGraph
from initjax.measurement._leaves import Leaves
from initjax.typing import Activation, Record, Verdict

Rows = Sequence[Record]
Ops = Sequence[LinearOp]
"""Of each row."""


_DIRECTIONS = (("forward", "signal"), ("backward", "gradient"))


def check_signals(
  rows: Rows, graph: SignalGraph, leaves: Leaves
) -> Iterator[Verdict]:
  """All checks of this module."""
  ops = [graph.ops[index] for index, _ in graph.rows()]
  for verdict in underflow(rows, ops):
    if verdict.kind.endswith("cut off"):
      direction = "forward" if "signal" in verdict.kind else "backward"
      meant = meant_zeros(rows, graph, leaves, direction)
      if meant.issuperset(verdict.rows):
        verdict = verdict._replace(severity="note")
    yield verdict
  for check in (nonfinite, dead_units, saturated, collapsed):
    yield from check(rows, ops)


def _first_path(rows: Rows, found: Sequence[int]) -> str:
  return str(rows[found[0]]["path"])


def _where(rows: Rows, index: int) -> str:
  """A row in words."""
  repeat = rows[index]["repeat"]
  inside = f", repeat {', '.join(map(str, repeat))}" if repeat else ""
  return f"{rows[index]['path'] or '(constant)'}{inside}"


def _number(found: Sequence[int]) -> str:
  return f"{len(found)} row{'s' * (len(found) > 1)}"


def nonfinite(rows: Rows, ops: Ops) -> Iterator[Verdict]:
  """The first infinity or NaN in either direction."""
  for direction, noun in _DIRECTIONS:
    order = range(len(rows)) if direction == "forward" else _reverse(rows)
    found = [i for i in order if rows[i][f"{direction}_nonfinite"] > 0]
    if not found:
      continue
    first, row = found[0], rows[found[0]]
    dtype = _dtype(ops[first])
    finite = (r for r in rows if r[f"{direction}_nonfinite"] == 0)
    largest = max((r[f"{direction}_largest"] for r in finite), default=None)
    seen = (
      ""
      if largest is None
      else (f"the largest magnitude elsewhere is {largest:.3g}, and ")
    )
    yield Verdict(
      f"non-finite {noun}",
      "error",
      str(row["path"]),
      f"{row[f'{direction}_nonfinite']:.0f} of {row[f'{direction}_size']:.0f} "
      "entries are infinite or NaN, for the first time, at "
      f"{_where(rows, first)}; {seen}{dtype} holds up to "
      f"{float(jnp.finfo(dtype).max):.3g}.",
      _range_fix(dtype, overflow=True),
      tuple(found),
    )
    if direction == "forward":
      return  # the gradient cannot be better


def _reverse(rows: Rows) -> range:
  return range(len(rows) - 1, -1, -1)


def _range_fix(dtype: Any, *, overflow: bool) -> str:
  if dtype == jnp.float16:
    return fix("dtype=jnp.bfloat16", "the exponents of float32, in 16 bits")
  if overflow:
    return fix(
      "kernel_init=initjax.initializers.activation_scaling(φ)",
      "or normalization; no narrower range is to blame",
    )
  return fix(
    "",
    "weights that keep the gradient's size (see the other verdicts); only "
    "float64 reaches further down than this dtype",
  )


def underflow(rows: Rows, ops: Ops) -> Iterator[Verdict]:
  """The first row of exact zeros after one that was alive."""
  for direction, noun in _DIRECTIONS:
    order = list(range(len(rows)) if direction == "forward" else _reverse(rows))
    order = [i for i in order if rows[i]["forward_size"] > 0]  # what was run
    alive = [i for i in order if not _all_zero(rows[i], direction)]
    zero = order[order.index(alive[-1]) + 1 :] if alive else order
    if (
      zero and alive and _is_near_zero(rows[alive[-1]], direction, ops[zero[0]])
    ):
      yield _underflown(rows, alive[-1], zero, direction, noun, ops[zero[0]])
    elif zero:
      yield _cut_off(rows, zero, direction, noun)


def _is_near_zero(row: Record, direction: str, op: LinearOp) -> bool:
  """Whether half of the exponents that the dtype has below 1 are used up."""
  return _log2_size(row, direction) < _log2_smallest(op) / 2


def _log2_size(row: Record, direction: str) -> float:
  return float(row[f"{direction}_log2_second_moment"]) / 2


def _log2_smallest(op: LinearOp) -> float:
  return math.log2(float(jnp.finfo(_dtype(op)).smallest_subnormal))


def _underflown(
  rows: Rows,
  before: int,
  zero: list[int],
  direction: str,
  noun: str,
  op: LinearOp,
) -> Verdict:
  """Zeros that rounding made."""
  dtype = _dtype(op)
  return Verdict(
    f"{noun} underflows to zero",
    "error",
    _first_path(rows, zero),
    f"Exactly 0 from {_where(rows, zero[0])} on; it was "
    f"2^{_log2_size(rows[before], direction):.0f} before, and {dtype} holds "
    f"nothing below 2^{_log2_smallest(op):.0f}.",
    _range_fix(dtype, overflow=False),
    tuple(zero),
  )


def _dtype(op: LinearOp) -> Any:
  """Of its output; an integer one is read as float32."""
  floating = jnp.issubdtype(op.dtype, jnp.inexact)
  return jnp.dtype(op.dtype if floating else jnp.float32)


def _all_zero(row: Record, direction: str) -> bool:
  """Also where no gradient comes at all, and so none was measured.

  Numbers of entries would not tell: above 2^24, float32 has not each of them.
  """
  return bool(row[f"{direction}_largest"] == 0)


def _cut_off(rows: Rows, zero: list[int], direction: str, noun: str) -> Verdict:
  """Zeros that no rounding made: a dead layer, or a kernel of zeros."""
  return Verdict(
    f"{noun} is cut off",
    "warning",
    _first_path(rows, zero),
    f"Exactly 0 in {_number(zero)}, from {_where(rows, zero[0])} on, and not "
    "by rounding: a kernel of zeros (as residual branches start with), units "
    "that are all dead, a stop_gradient, or a function of slope 0.",
    fix(
      "kernel_init=initjax.initializers.he_normal()",
      "nothing is to be done if it is a branch that shall start at zero",
    ),
    tuple(zero),
  )


def dead_units(rows: Rows, ops: Ops) -> Iterator[Verdict]:
  """More units at exactly 0 on every sample than chance explains."""
  found, worst, chance = [], 0.0, 0.0
  for index, row in enumerate(rows):
    units = row.get("units", math.nan)
    if not units > 0 or not is_flat(_fed_by(ops[index], row)):
      continue
    fraction = row["dead_units"] / units
    expected = _dead_by_chance(_source(rows, index, ops[index]))
    spread = math.sqrt(0.25 / units)
    if fraction > expected + 0.1 + 3 * spread:
      found.append(index)
      if fraction > worst:
        worst, chance = fraction, expected
  if found:
    yield Verdict(
      "dead units",
      "error" if worst > 0.9 else "warning",
      _first_path(rows, found),
      f"Up to {worst:.0%} of the units that feed it, in {_number(found)}, are "
      f"exactly 0 on every sample ({chance:.0%} would be by chance): they pass "
      "no gradient, and do not learn. Biases far below zero, or a step with "
      "too large a learning rate, do this.",
      fix(
        "bias_init=initjax.initializers.zeros",
        "or a smaller learning rate, or jax.nn.leaky_relu or jax.nn.elu",
      ),
      tuple(found),
    )


def _source(rows: Rows, index: int, op: LinearOp) -> Record:
  """The latest row whose output feeds this one; empty if there is none."""
  path = op.feed_at(rows[index]["repeat"]).source
  before = (row for row in reversed(rows[:index]) if row["path"] == path)
  return next(before, {})


def _dead_by_chance(source: Record) -> float:
  """P(all N of jointly normal numbers of correlation c are negative).

  ∫ Φ(-√c z / √(1-c))^N dN(z): deep rectifier networks bring c close to 1, and
  then half of the units are off on every sample, in good health.
  """
  from scipy.special import log_ndtr

  c, number = source.get("correlation", math.nan), source.get("samples", 1)
  c = min(max(c if math.isfinite(c) else 0.0, 0.0), 1 - 1e-9)
  z = np.linspace(-8, 8, 4001)
  all_off = max(number, 1) * log_ndtr(-math.sqrt(c / (1 - c)) * z)
  density = np.exp(all_off - z**2 / 2) / math.sqrt(2 * math.pi)
  return float(density.sum() * (z[1] - z[0]))


def _fed_by(op: LinearOp, row: Record) -> Activation | None:
  return op.feed_at(row["repeat"]).activation


def saturated(rows: Rows, ops: Ops) -> Iterator[Verdict]:
  """A bounded activation whose slope is nearly 0 on most of its inputs."""
  del ops
  found = []
  for index, row in enumerate(rows):
    steepest = _STEEPEST.get(row["fed_by"])
    slope = row.get("saturation", math.nan)
    if steepest and slope < 0.1 * steepest:
      found.append(index)
  if found:
    row = rows[found[0]]
    name = row["fed_by"]
    yield Verdict(
      "saturation",
      "warning",
      str(row["path"]),
      f"E|φ'| of the {name} that feeds it is {row['saturation']:.2g}, of at "
      f"most {_STEEPEST[name]:.2g}, in {_number(found)}: the gradient stops "
      "there. Its inputs are too large.",
      fix(
        "kernel_init=initjax.initializers.xavier_normal()",
        "or inputs of unit variance, or normalization before it",
      ),
      tuple(found),
    )


_STEEPEST = {  # max |φ'| of activations that saturate on both sides
  "tanh": 1.0,
  "sigmoid": 0.25,
  "soft_sign": 1.0,
  "erf": 2 / math.sqrt(math.pi),
  "hard_tanh": 1.0,
  "hard_sigmoid": 1 / 6,
}


# Samples differ by √(2(1 - c)) of their size: here by what bfloat16 resolves.
_ALIKE = float(jnp.finfo(jnp.bfloat16).eps) ** 2 / 2


def collapsed(rows: Rows, ops: Ops) -> Iterator[Verdict]:
  """All samples point the same way, though the inputs did not.

  What inputs feed directly tells of the inputs alone: all sentences may end
  with the same token.
  """
  known = [(i, row.get("correlation", math.nan)) for i, row in enumerate(rows)]
  known = [(i, c) for i, c in known if math.isfinite(c)]
  if not known or known[0][1] > 0.99:
    return
  found = [
    i
    for i, c in known
    if 1 - c < _ALIKE
    and ops[i].feed_at(rows[i]["repeat"]).reason not in ("input", "indices")
  ]
  if found:
    cosine = rows[found[0]]["correlation"]
    yield Verdict(
      "rank collapse",
      "warning",
      _first_path(rows, found),
      f"The mean cosine between two samples is {cosine:.6f} at "
      f"{_where(rows, found[0])} and was {known[0][1]:.2f} at first: "
      "what tells samples apart is less than bfloat16 resolves. Deep networks "
      "without normalization or residual branches do this.",
      fix(
        "",
        "residual branches, normalization, or fewer layers; for tanh-like "
        "activations larger weights, up to the edge of chaos",
      ),
      tuple(found),
    )
