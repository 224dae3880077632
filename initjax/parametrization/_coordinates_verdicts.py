"""The findings of a coordinate check: what scales with width, and why."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from initjax.parametrization._coordinates_fit import (
  Exponents,
  Kind,
  bounds,
  judged,
)
from initjax.parametrization._coordinates_rows import Operation, Sizes
from initjax.parametrization._parametrization import Parametrization
from initjax.reports import short_paths
from initjax.typing import Verdict

_FIRST = 2
"""The first step that is judged: from a zero readout, others move with the
second."""
_MOST = 4
_NOUNS = ("signal", "change")


class Found(NamedTuple):
  """All that is known of a check before it is judged."""

  widths: tuple[int, ...]
  operations: tuple[Operation, ...]
  sizes: Sizes
  signal: Exponents
  change: Exponents

  @property
  def steps(self) -> int:
    """Of training."""
    return self.sizes.loss.shape[-1] - 1

  @property
  def kinds(self) -> list[Kind]:
    """Of each operation."""
    return [operation.kind for operation in self.operations]

  @property
  def first_judged(self) -> int:
    """The first step that is judged."""
    return min(_FIRST, self.steps)


def judgements(found: Found) -> dict[str, np.ndarray]:
  """By "signal" and "change", words for each step and row."""
  sides = zip(_NOUNS, (found.signal, found.change), strict=True)
  seeds = found.sizes.loss.shape[1]
  return {noun: judged(side, found.kinds, seeds) for noun, side in sides}


def verdicts_on(
  found: Found, plan: Parametrization | None
) -> tuple[Verdict, ...]:
  """The findings, the gravest first."""
  if not np.isfinite(found.sizes.loss).all():
    return (_diverged(found),)
  words = {
    noun: of_steps[found.first_judged :]
    for noun, of_steps in judgements(found).items()
  }
  if (words["change"] == "none").all():
    return (_unmoved(),)
  verdicts = [
    _outside(found, plan, side, words)
    for side in ("grows", "shrinks")
    if any((each == side).any() for each in words.values())
  ]
  verdicts.sort(key=lambda verdict: verdict.rows)  # what comes first, first
  return (*verdicts, *_unknown(found, words), *_incomplete(plan))


def _diverged(found: Found) -> Verdict:
  bad = ~np.isfinite(found.sizes.loss).all(axis=(1, 2))
  widths = ", ".join(
    str(w) for w, b in zip(found.widths, bad, strict=True) if b
  )
  return Verdict(
    "diverged",
    "error",
    "",
    f"The loss is not finite at width {widths}, so sizes cannot be compared.",
    "Take a smaller rate: a quarter of the best one at the base's width.",
  )


def _unmoved() -> Verdict:
  return Verdict(
    "no change",
    "warning",
    "",
    "No operation changed beyond rounding, so there is nothing to judge.",
    "Take a larger rate, or more steps.",
  )


def _outside(
  found: Found,
  plan: Parametrization | None,
  side: str,
  words: dict[str, np.ndarray],
) -> Verdict:
  """All operations that leave their bounds on one side, the first named."""
  outside = {noun: (each == side).any(axis=0) for noun, each in words.items()}
  rows = np.flatnonzero(outside["signal"] | outside["change"]).tolist()
  lines = [_line(found, row, side, words) for row in rows[:_MOST]]
  rest = len(rows) - _MOST
  more = [f"and {rest} more"] if rest > 0 else []
  first = found.operations[rows[0]]
  count = f"{len(rows)} of {len(found.operations)} operations"
  low, high, _ = bounds(first.kind)
  said = f"{count} leave what is accepted, {low:+.2f} to {high:+.2f}: "
  return Verdict(
    f"{side} with width",
    "error",
    first.path,
    said + "; ".join((*lines, *more)) + ". " + _cause(first, side),
    _fix(plan),
    tuple(rows),
  )


def _line(
  found: Found, row: int, side: str, words: dict[str, np.ndarray]
) -> str:
  """The exponent of an operation that is the furthest out."""
  operation = found.operations[row]
  name = short_paths(each.path for each in found.operations)[operation.path]
  low, high, _ = bounds(operation.kind)
  cells = []
  for noun, each in words.items():
    whole, error, last, last_error = getattr(found, noun)
    for step in np.flatnonzero(each[:, row] == side).tolist():
      at = step + found.first_judged, row
      said = f"at step {at[0]}"
      size = float(whole[at]), float(error[at])
      if low <= size[0] <= high:  # the last pair is what leaves it
        size = float(last[at]), float(last_error[at])
        said += " over the last two widths"
      cells.append((abs(size[0]), *size, noun, said))
  _, exponent, error_of_it, noun, said = max(cells)
  return (
    f"the {noun} of {name} goes as width^({exponent:+.2f} ± "
    f"{error_of_it:.2f}) {said}"
  )


_CAUSES = {
  ("scores", "grows"): "Scores of attention sum d terms that learn to agree: "
  "they need 1/d rather than 1/√d.",
  ("readout", "grows"): "A readout sums terms that learn to agree: its initial "
  "std, and Adam's rate, go as 1/fan_in; a readout tied to an embedding needs "
  "the factor 1/fan_in itself.",
  ("linear", "grows"): "Adam's rate of a kernel whose fan_in grows goes as "
  "1/fan_in, and its initial std as 1/√fan_in.",
  ("linear", "shrinks"): "Its initial std or its rate falls faster than width "
  "asks: an embedding starts at a std that does not depend on width.",
}


def _cause(operation: Operation, side: str) -> str:
  kind = operation.kind
  if kind == "linear" and operation.fan_out[0] == operation.fan_out[-1]:
    kind = "readout"
  cause = _CAUSES.get((kind, side))
  return cause or "Look at what feeds it, which is measured before it."


def _fix(plan: Parametrization | None) -> str:
  if plan is not None:
    return (
      "Use both the plan's init and its optimizer: plan.init(key) and "
      "plan.optimizer(tx). print(plan) shows each leaf's factors."
    )
  return (
    "plan = initjax.mup(fn, params, *inputs, base=(fn0, params0, *inputs0)); "
    "then plan.init(key) and plan.optimizer(tx)."
  )


def _unknown(found: Found, words: dict[str, np.ndarray]) -> Iterator[Verdict]:
  unsure = np.any(
    [(each == "unknown").any(axis=0) for each in words.values()], 0
  )
  rows = np.flatnonzero(unsure).tolist()
  if rows:
    names = [found.operations[row].path for row in rows]
    count = f"{len(rows)} of {len(found.operations)} operations"
    yield Verdict(
      "too uncertain",
      "warning",
      names[0],
      f"The exponents of {count} vary too much from seed to seed to be judged: "
      f"{', '.join(names[:_MOST])}.",
      "Take more seeds, or a larger batch.",
      tuple(rows),
    )


def _incomplete(plan: Parametrization | None) -> Iterator[Verdict]:
  lines: Sequence[str] = () if plan is None else plan.incomplete
  for line in lines:
    yield Verdict(
      "incomplete plan", "warning", "", f"The plan says: {line}.", line
    )
