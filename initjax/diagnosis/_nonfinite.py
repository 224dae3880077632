"""Verdicts on infinities and NaN: overflow, a pole, or ids beyond a table.

Numbers that grow past the range of a dtype and 0/0 look the same afterwards,
but need different fixes, so the first equation that produced them is located.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._sharding import fetched, is_here
from initjax.diagnosis._first_nan import Origin, first_nan
from initjax.diagnosis._fixes import fix
from initjax.diagnosis._observe import Observed
from initjax.diagnosis._signals import float_dtype, order, range_fix, row_name
from initjax.measurement import arrays_of, is_finite
from initjax.reports import NOUNS
from initjax.typing import Verdict


class _Seen(NamedTuple):
  """Where something is not finite, first."""

  direction: str
  path: str
  words: str
  rows: tuple[int, ...] = ()


def check_nonfinite(observed: Observed) -> Iterator[Verdict]:
  """The first infinity or NaN, in the direction in which it arises."""
  seen = _seen(observed)
  if seen is None:
    return
  origin = _origin_of(observed, seen)
  if origin is not None and origin.name == "gather":
    yield _beyond(seen, origin)
  elif origin is not None and not _is_overflow(origin):
    yield _at_pole(seen, origin)
  else:
    yield _overflow(observed, seen)


def _seen(observed: Observed) -> _Seen | None:
  """A row, or the gradient of a parameter; forward before backward."""
  found = observed.found
  for direction in NOUNS:
    of = found.along(direction)
    rows = [i for i in order(found, direction) if of.nonfinite[i] > 0]
    if rows:
      first = found.rows[rows[0]]
      words = (
        f"First infinite or NaN values at {row_name(first)}: "
        f"{of.nonfinite[rows[0]]:.0f} of {of.size[rows[0]]:.0f} entries"
      )
      return _Seen(direction, first.op.path, words, tuple(rows))
  norms = fetched(observed.report.gradient_norms or {})
  bad = [path for path, norm in norms.items() if not np.isfinite(norm).all()]
  if not bad:
    return None
  return _Seen("backward", bad[0], f"The gradient of {bad[0]} is not finite")


def _origin_of(observed: Observed, seen: _Seen) -> Origin | None:
  """None where it cannot be looked for, or what was given is not finite."""
  given = {**observed.leaves, **arrays_of(observed.call.inputs)}
  arrays = jax.tree.leaves((observed.call.params, observed.call.inputs))
  if not all(map(is_here, arrays)) or not all(map(is_finite, given.values())):
    return None
  return first_nan(observed.call, in_signal=seen.direction == "forward")


def _is_overflow(origin: Origin) -> bool:
  """Whether finite numbers became too large, rather than met a pole."""
  root = origin.root
  if root.equation is None or math.isnan(root.result):
    return False
  *_, last = root.operands or (math.nan,)
  poles = {"div": last, "log": last, "rsqrt": last, "log1p": last + 1}
  poles |= {"pow": root.operands[0] if root.operands else math.nan}
  poles |= {"integer_pow": last, "digamma": last, "lgamma": last}
  poles |= {name: abs(last) - 1 for name in ("atanh", "erf_inv")}
  return poles.get(root.name, math.nan) != 0


def _overflow(observed: Observed, seen: _Seen) -> Verdict:
  of = observed.found.along(seen.direction)
  dtype = (
    observed.leaves[seen.path].dtype
    if not seen.rows
    else float_dtype(observed.found.rows[seen.rows[0]].op)
  )
  finite = of.largest[of.nonfinite == 0]
  largest = ""
  if finite.size:
    largest = f"the largest magnitude elsewhere is {finite.max():.3g}, and "
  return Verdict(
    f"non-finite {NOUNS[seen.direction]}",
    "error",
    seen.path,
    f"{seen.words}; {largest}{dtype} holds up to "
    f"{float(jnp.finfo(dtype).max):.3g}.",
    range_fix(dtype, overflow=True),
    seen.rows,
  )


def _beyond(seen: _Seen, origin: Origin) -> Verdict:
  low, high, size = origin.operands
  wrong = high if high >= size else low
  return Verdict(
    "ids beyond the vocabulary",
    "error",
    seen.path,
    f"{seen.words}. A look-up asks for index {wrong:.0f} in a table of "
    f"{size:.0f} entries, where jnp.take returns NaN{_where(origin)}.",
    fix(
      f"assert ids.max() < {size:.0f}",
      "or use a larger table: it needs a row for each token of the "
      "tokenizer, including padding and special tokens",
    ),
    seen.rows,
  )


def _at_pole(seen: _Seen, origin: Origin) -> Verdict:
  """NaN that the range of no dtype makes, nor any initializer mends."""
  direction = "backward" if origin.in_gradient else "forward"
  going = "in the gradient" if origin.in_gradient else "in the forward pass"
  kind = "NaN" if math.isnan(origin.result) else "infinity"
  words = [f"{seen.words}. The first {kind} arises {going}: {_said(origin)}."]
  before = origin.before
  if before is not None and before.equation is not None:
    words.append(f"The infinity comes from {_said(before)}.")
  if before is not None and before.equation is None:
    words.append("The infinity is a constant of the model, such as a mask.")
  return Verdict(
    f"non-finite {NOUNS[direction]}",
    "error",
    seen.path,
    " ".join(words),
    _fix_of(origin),
    seen.rows,
  )


def _said(origin: Origin) -> str:
  """Such as `div`, 0 / 0 = NaN, at model.py:12 (`return x / x.sum()`)."""
  slope = f", the slope of `{origin.slope_of}`" if origin.slope_of else ""
  known = [_number(x) for x in origin.operands]
  sign = _SIGNS.get(origin.name)
  if sign and len(known) == 2:
    formula = f" {sign} ".join(known)
  else:
    formula = f"{origin.name}({', '.join(known)})"
  if any(map(math.isnan, origin.operands)):
    formula = ""
  shown = f", {formula} = {_number(origin.result)}" if formula else ""
  return f"`{origin.name}`{shown}{slope}{_where(origin)}"


_SIGNS = {"div": "/", "mul": "×", "add": "+", "sub": "-", "add_any": "+"}


def _number(x: float) -> str:
  return "NaN" if math.isnan(x) else f"{x:.3g}".replace("inf", "∞")


def _where(origin: Origin) -> str:
  line = origin.line
  return f", at {line.place} (`{line.text}`)" if line else ""


def _fix_of(origin: Origin) -> str:
  if origin.root.equation is None:
    return fix(
      "mask_value = jnp.finfo(x.dtype).min",
      "instead of -jnp.inf, since a whole row may be masked; or "
      "jax.nn.softmax(x, where=mask)",
    )
  if origin.in_gradient:
    return fix(
      "safe = jnp.where(x > 0, x, 1.0); y = jnp.where(x > 0, f(safe), 0.0)",
      "both are needed: a jnp.where around the result alone leaves 0 × ∞ in "
      "the gradient. Or stay away from the pole: jnp.sqrt(x + 1e-12), "
      "jnp.log(x + 1e-12)",
    )
  return fix(
    "",
    "stay away from the pole before applying the function: x / (norm + "
    "1e-6), jnp.log(jnp.maximum(x, 1e-12)), jnp.sqrt(jnp.maximum(x, 0.0))",
  )
