"""Measures a model once with its new kernels: what is off, where, and why.

One forward and one backward pass are compiled as one program. Zeros are not
judged, and neither is anything on placeholder inputs, since the weights are not
to blame there.
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
from initjax._statistics import Statistics, nan_is_unknown
from initjax.graph import LinearOp, Row, SignalGraph, Trace, fed_by
from initjax.measurement import has_equal_rows, measure_traced

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


class Passes(NamedTuple):
  """What was measured, [3, rows] each, operation by operation.

  log₂ second moments, and the numbers of entries: not finite ones, and all.
  """

  forward: jax.Array
  backward: jax.Array


class _Found(NamedTuple):
  """Of one direction, arrays over the rows in the order of execution."""

  bits: np.ndarray
  nonfinite: np.ndarray
  size: np.ndarray


def strays(
  traced: Trace, params: Any, inputs: Any, wanted: Wanted
) -> list[str]:
  """What is off, in a sentence each, for what `can_be_measured`.

  Raises:
    FloatingPointError: where signal or gradient are not finite.
  """
  with nan_is_unknown():
    passes = execute(functools.partial(passes_of, traced), params, inputs)
  return findings(traced.graph, passes, wanted)


def as_warning(verb: str, sentences: Sequence[str]) -> str:
  """One message of them all."""
  mark = "\n· " if len(sentences) > 1 else " "
  told = (mark + _sentence(text).rstrip() for text in sentences)
  return f"{verb}:{''.join(told)}"


def can_be_measured(traced: Trace, params: Any, inputs: Any) -> bool:
  """Whether all is concrete, and the inputs are more than placeholders.

  Arrays that are bound to different devices meet in no program.
  """
  leaves = jax.tree.leaves((params, inputs, traced.jaxpr.consts))
  abstract = (jax.ShapeDtypeStruct, jax.core.Tracer)
  if any(isinstance(leaf, abstract) for leaf in leaves):
    return False
  arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
  places = {frozenset(x.sharding.device_set) for x in arrays if x.committed}
  return len(places) <= 1 and not _is_placeholder(inputs)


def _is_placeholder(inputs: Any) -> bool:
  """Whether every array holds one number only, as zeros for a shape do."""
  numbers = [
    leaf
    for leaf in jax.tree.leaves(inputs)
    if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended)
  ]
  arrays = [x for x in numbers if np.size(x) > 1 and not is_key(x)]
  is_one = lambda x: has_equal_rows(x, tuple(range(np.ndim(x))))
  return bool(arrays) and all(map(is_one, arrays))


def passes_of(traced: Trace, params: Any, inputs: Any) -> Passes:
  """Forward alone, where no output has a gradient or a loop stops it."""
  try:
    report = measure_traced(traced, params, inputs)
  except (ValueError, NotImplementedError):
    report = measure_traced(traced, params, inputs, backward=False)
  return Passes(_joined(report.forward), _joined(report.backward))


def _joined(found: Sequence[Statistics]) -> jax.Array:
  kept = [(s.log2_second_moment, s.nonfinite, s.size) for s in found]
  flat = [jnp.stack([jnp.ravel(x) for x in each]) for each in kept]
  return jnp.concatenate(flat, axis=1)


def findings(graph: SignalGraph, passes: Passes, wanted: Wanted) -> list[str]:
  """A sentence for the signal, and one for the gradient, where it is off.

  Raises:
    FloatingPointError: where one of them is not finite.
  """
  starts = np.cumsum([0, *(math.prod(op.repeats) for op in graph.ops)])
  order = [
    starts[row.number] + np.ravel_multi_index(row.repeat, row.op.repeats)
    if row.repeat
    else starts[row.number]
    for row in graph.rows
  ]
  forward, backward = (
    _Found(*fetched(found).astype(float)[:, order]) for found in passes
  )
  for noun, found in (("signal", forward), ("gradient", backward)):
    rows = np.flatnonzero(found.nonfinite > 0)
    if rows.size:
      first = rows[0] if noun == "signal" else rows[-1]  # as it meets them
      said = _signal(graph.rows[: rows[0]], forward, wanted)
      raise FloatingPointError(
        f"{wanted.verb}: the {noun} is not finite at "
        f"{_named(graph.rows[first])}: {found.nonfinite[first]:.0f} of "
        f"{found.size[first]:.0f} entries. "
        f"{_sentence(next(said, wanted.why(first)))}{_REMEDY}"
      )
  return [
    *_signal(graph.rows, forward, wanted),
    *_gradient(graph.rows, forward, backward),
  ]


_REMEDY = (
  "Bound what grows before it is multiplied or exponentiated (exp(tanh(s)) for "
  "exp(s)), start the last kernel of such a branch at zero, or normalize what "
  "feeds it; where a slope is 0/0, as of √(x²) at 0, add a small number. "
  "check=False returns the parameters without this measurement."
)


def _sentence(text: str) -> str:
  return f"{text[0].upper()}{text[1:].rstrip('.')}. " if text else ""


def _signal(
  rows: Sequence[Row], found: _Found, wanted: Wanted
) -> Iterator[str]:
  """The first of these operations whose output is off, and the worst."""
  off = found.bits[: len(rows)] - wanted.bits[: len(rows)]
  low, high = np.array([_chance_of_units(row.op) for row in rows] or [(0, 0)]).T
  low, high = low[: len(rows)] - _FORWARD, high[: len(rows)] + _FORWARD
  far = np.isfinite(off) & ((off < low) | (off > high))
  strayed: list[int] = np.flatnonzero(far).tolist()
  if not strayed:
    return
  first, worst = strayed[0], max(strayed, key=lambda row: abs(off[row]))
  others = ""
  if worst != first:
    others = (
      f", and 2^{found.bits[worst]:.1f} at {_name(rows[worst])}, the worst of "
      f"{len(strayed)} rows"
    )
  reason = wanted.why(first) or _chance(rows[:first], off[first])
  yield (
    f"the signal's second moment is 2^{found.bits[first]:.1f} at "
    f"{_named(rows[first])}, where {2 ** wanted.bits[first]:.3g} was wanted"
    f"{others}" + f" ({reason})" * bool(reason)
  )


def _chance_of_units(op: LinearOp) -> tuple[float, float]:
  """log₂ bounds of a mean of squares over units of independent kernels."""
  from scipy.special import gammaincinv

  units = max(1.0, math.prod(op.shape) / max(1, _positions(op)))
  low, high = (
    math.log2(gammaincinv(units / 2, p) * 2 / units) for p in (_RARE, 1 - _RARE)
  )
  return low, high


def _positions(op: LinearOp) -> int:
  """Samples, and places of each."""
  return math.prod(op.shape[axis] for axis in op.axes.samples)


def _chance(before: Sequence[Row], off: float) -> str:
  """Whether kernels of these widths do that by chance, layer after layer."""
  added = sum(_KAPPA / max(row.op.fan_in, 1) for row in before)
  if abs(off) * math.log(2) < 3 * math.sqrt(added):
    return "as chance does at these widths and this depth"
  return ""


def _gradient(
  rows: Sequence[Row], signal: _Found, found: _Found
) -> Iterator[str]:
  """The gradient's sum of squares in the first quarter of rows and the last.

  Streams of residual branches add up as many gradients as there are branches;
  few units have more by chance; a norm makes it large where it makes a small
  signal large. What an average over positions shares out is not lost.
  """
  bits = found.bits + np.log2(np.maximum(found.size, 1))
  alive = np.flatnonzero(np.isfinite(bits)).tolist()
  quarter = -(-len(alive) // 4)
  if len(alive) < 2:
    return
  first, last = (
    max(part, key=lambda row: bits[row])
    for part in (alive[:quarter], alive[-quarter:])
  )
  change = bits[first] - bits[last]
  ops = [rows[row].op for row in (first, last)]
  places = [max(1, _positions(op)) for op in ops]
  shared = max(0.0, math.log2(places[0] / places[1]))
  chance = _chance_of_units(ops[0])[1] - _chance_of_units(ops[1])[0]
  most = math.log2(len(alive)) + chance + max(0.0, -signal.bits[first])
  if -_VANISHED - shared <= change <= most:
    return
  word = "explodes" if change > 0 else "vanishes"
  in_time = sum(rows[row].op.is_shared for row in alive) > len(alive) / 2
  yield (
    f"the gradient {word}{' over time' * in_time}: its sum of squares at "
    f"{_named(rows[first])} is 2^{change:.1f} times that at "
    f"{_name(rows[last])}"
  )


def _name(row: Row) -> str:
  repeats = ", ".join(map(str, row.repeat))
  inside = f", repeat {repeats}" if repeats else ""
  return f"{row.op.path or '(constant)'}{inside}"


def _named(row: Row) -> str:
  return f"{_name(row)}, fed by {fed_by(row.feed)}"
