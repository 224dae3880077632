"""A model with its new kernels, measured once: what is off, where, and why.

One pass forward and backward, compiled as one program. What is zero is not
judged, nor anything on inputs that are placeholders: weights are innocent.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import is_key
from initjax._executables import execute
from initjax._sharding import fetched
from initjax._statistics import nan_is_unknown
from initjax.graph import LinearOp, Row, Trace, fed_by
from initjax.measurement import (
  RowStatistics,
  SignalReport,
  measure_traced,
  row_statistics,
)

_FORWARD = 3.0
"""log₂ of a second moment: more is off"""
_VANISHED = 10.0
"""log₂ of a gradient's sum of squares"""
_RARE = 1e-3
"""Few units may be that unlikely"""
_KAPPA = 5.0
"""of one layer's chance: E[φ⁴]/E[φ²]² - 1 of ReLU, an upper bound"""


class Wanted(NamedTuple):
  """What was to come out."""

  verb: str
  """that set the kernels"""
  bits: np.ndarray
  """[rows]: log₂ second moment of each operation; NaN where nothing is said"""
  why: Callable[[int], str]
  """what else may be the reason at a row, such as what was assumed; or "" """


@nan_is_unknown()
def strays(
  traced: Trace, params: Any, inputs: Any, wanted: Wanted
) -> list[str]:
  """What is off, in a sentence each, for what `can_be_measured`.

  Raises:
    FloatingPointError: where signal or gradient are not finite.
  """
  measured = functools.partial(report_of, traced)
  return findings(execute(measured, params, inputs), wanted)


def as_warning(verb: str, sentences: Sequence[str]) -> str:
  """One message of them all."""
  mark = "\n· " if len(sentences) > 1 else " "
  return f"{verb}:" + "".join(mark + _sentence(text) for text in sentences)


def can_be_measured(traced: Trace, params: Any, inputs: Any) -> bool:
  """Whether all is concrete, and the inputs are more than placeholders."""
  leaves = jax.tree.leaves((params, inputs, traced.jaxpr.consts))
  abstract = (jax.ShapeDtypeStruct, jax.core.Tracer)
  if any(isinstance(leaf, abstract) for leaf in leaves):
    return False
  return not _is_placeholder(inputs)


def _is_placeholder(inputs: Any) -> bool:
  """Whether every array holds one number only, as zeros for a shape do."""
  numbers = [
    leaf
    for leaf in jax.tree.leaves(inputs)
    if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended)
  ]
  arrays = [fetched(x) for x in numbers if np.size(x) > 1 and not is_key(x)]
  return bool(arrays) and all((x == x.flat[0]).all() for x in arrays)


def report_of(traced: Trace, params: Any, inputs: Any) -> SignalReport:
  """Forward alone, where no output has a gradient or a loop stops it."""
  try:
    return measure_traced(traced, params, inputs)
  except (ValueError, NotImplementedError):
    return measure_traced(traced, params, inputs, backward=False)


def findings(report: SignalReport, wanted: Wanted) -> list[str]:
  """A sentence for the signal, and one for the gradient, where it is off.

  Raises:
    FloatingPointError: where one of them is not finite.
  """
  found = row_statistics(report)
  _check_finite(found, wanted)
  return [*_signal(found, wanted), *_gradient(found)]


def _check_finite(found: RowStatistics, wanted: Wanted) -> None:
  for noun in ("signal", "gradient"):
    forward = noun == "signal"
    of = found.forward if forward else found.backward
    rows = [i for i, count in enumerate(of.nonfinite) if count > 0]
    if not rows:
      continue
    first = rows[0] if forward else rows[-1]  # in the order that it takes them
    reasons = next(_signal(found, wanted, rows[0]), "") or wanted.why(first)
    raise FloatingPointError(
      f"{wanted.verb}: the {noun} is not finite at {_name(found.rows[first])}, "
      f"{_feed(found.rows[first])}: {of.nonfinite[first]:.0f} of "
      f"{of.size[first]:.0f} entries. {_sentence(reasons)} {_REMEDY}"
    )


_REMEDY = (
  "Bound what grows before it is multiplied or exponentiated (exp(tanh(s)) for "
  "exp(s)), start the last kernel of such a branch at zero, or normalize what "
  "feeds it; check=False returns the parameters without this measurement."
)


def _sentence(text: str) -> str:
  return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def _signal(
  found: RowStatistics, wanted: Wanted, before: int | None = None
) -> Iterator[str]:
  """The first operation whose output is off, of those before a row."""
  off = found.forward.log2_second_moment - wanted.bits
  bounds = [_chance_of_units(row.op) for row in found.rows]
  low, high = np.array(bounds).reshape(-1, 2).T
  stray = np.isfinite(off) & ((off < low) | (off > high))
  rows = np.flatnonzero(stray[:before]).tolist()
  if not rows:
    return
  first, worst = rows[0], max(rows, key=lambda row: abs(off[row]))
  others = ""
  if worst != first:
    others = (
      f", and {_bits(found, worst)} at {_name(found.rows[worst])}, the worst "
      f"of {len(rows)} rows"
    )
  reason = wanted.why(first) or _chance(found, first, off[first])
  yield (
    f"the signal's second moment is {_bits(found, first)} at "
    f"{_name(found.rows[first])}, {_feed(found.rows[first])}, where "
    f"{2 ** wanted.bits[first]:.3g} was wanted{others}"
    + f" ({reason})"
    * bool(reason)
  )


def _bits(found: RowStatistics, row: int) -> str:
  return f"2^{found.forward.log2_second_moment[row]:.1f}"


def _chance_of_units(op: LinearOp) -> tuple[float, float]:
  """log₂ bounds of a mean of squares over units of independent kernels."""
  from scipy.special import gammaincinv

  units = max(1.0, math.prod(op.shape) / max(1, _positions(op)))
  low, high = (
    math.log2(gammaincinv(units / 2, p) * 2 / units) for p in (_RARE, 1 - _RARE)
  )
  return low - _FORWARD, high + _FORWARD


def _positions(op: LinearOp) -> int:
  """Samples, and places of each."""
  return math.prod(op.shape[axis] for axis in op.axes.samples)


def _chance(found: RowStatistics, row: int, off: float) -> str:
  """Whether kernels of these widths do that by chance, layer after layer."""
  added = sum(_KAPPA / max(r.op.fan_in, 1) for r in found.rows[:row])
  if abs(off) * math.log(2) < 3 * math.sqrt(added):
    return "as chance does at these widths and this depth"
  return ""


def _gradient(found: RowStatistics) -> Iterator[str]:
  """The gradient's sum of squares in the first quarter of rows and the last.

  Streams of residual branches add up as many gradients as there are branches.
  What an average over positions shares out among these is not lost.
  """
  of = found.backward
  bits = of.log2_second_moment + np.log2(np.maximum(of.size, 1))
  rows = np.flatnonzero(np.isfinite(bits)).tolist()
  if len(rows) < 2:
    return
  quarter = -(-len(rows) // 4)
  first, last = (
    max(part, key=lambda row: bits[row])
    for part in (rows[:quarter], rows[-quarter:])
  )
  change = bits[first] - bits[last]
  ops = [found.rows[row].op for row in (first, last)]
  shared = math.log2(max(1.0, _positions(ops[0]) / max(1, _positions(ops[1]))))
  if -_VANISHED - shared <= change <= _FORWARD + math.log2(len(rows)):
    return
  word = "explodes" if change > 0 else "vanishes"
  in_time = sum(found.rows[row].op.is_shared for row in rows) > len(rows) / 2
  yield (
    f"the gradient {word}{' over time' * in_time}: its sum of squares at "
    f"{_name(found.rows[first])} is 2^{change:.1f} times that at "
    f"{_name(found.rows[last])}, {_feed(found.rows[last])}"
  )


def _name(row: Row) -> str:
  repeats = ", ".join(map(str, row.repeat))
  inside = f", repeat {repeats}" if repeats else ""
  return f"{row.op.path or '(constant)'}{inside}"


def _feed(row: Row) -> str:
  return f"fed by {fed_by(row.feed)}"
