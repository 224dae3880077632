"""The plan of `auto_init` in words: what each row is given, and why."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from initjax.graph import fed_by
from initjax.measurement import arrays_of, mean_square
from initjax.model_init._assign import Assigned, Share
from initjax.model_init._draw import has_matrices
from initjax.model_init._measured import Wanted
from initjax.model_init._plan import VariancePlan, VarianceRow
from initjax.model_init._tables import decided_by_readout
from initjax.reports import not_followed

_NOTE, _GRAVE = 2.0, 10.0  # times: what chance does in one layer grows so much
_GRAVE_BITS = 10.0  # log₂ of what a gradient's second moment changes
_CHAOTIC = 100.0
"""times that gradients grow under unit signals. In `experiments.own_init`, 40
layers of tanh (591 times) learn worse from these, 40 of gelu (15) better."""
_GROWS = 1.5  # d log E[φ²]/d log q: of exp and x² it is 2
_KEPT = "this keeps the signal, direction='backward' keeps the gradient."
_UNITS = (
  "unit signals are chaotic, and such models learn worse from them than from "
  "auto_init, which then lets neither signal nor gradient grow."
)
_REMEDIES = (
  "calibrate (it holds for the draw at hand), "
  "initjax.meanfield.half_stable_point, normalization before the activations, "
  "residual branches, or relu"
)


def plan_of(
  assigned: Assigned,
  kept: tuple[str, ...],
  *,
  direction: str,
  distribution: str,
  tied: str,
) -> VariancePlan:
  """The plan, from what the rows asked for and were given."""
  rows = []
  for share in assigned.shares:
    row, given = share.row, assigned.given(share.row)
    op = row.op
    fan = op.fan_out if direction == "backward" else op.fan_in
    gain = None
    if given is not None:
      gain = abs(op.multiplier) * math.sqrt(given * fan)
    rows.append(
      VarianceRow(
        op.path,
        row.repeat,
        op.kind,
        op.kernel_shape,
        op.fan_in,
        op.fan_out,
        op.valid_fan_in,
        op.valid_fan_out,
        fed_by(row.feed),
        share.fed.second_moment,
        gain,
        None if given is None else math.sqrt(given),
        _why(assigned, share, given, distribution, tied),
      )
    )
  return VariancePlan(tuple(rows), kept, _notes(assigned))


def _why(
  assigned: Assigned,
  share: Share,
  given: float | None,
  distribution: str,
  tied: str,
) -> str:
  op, kernel = share.row.op, assigned.kernels[share.row.number]
  if given is None:
    why = "a constant of the function, cannot be set"
    if op.origin != "constant":
      why = "made of parameters that are no kernels, which keep their values"
    return f"{why}: unit second moment assumed of its output"
  reasons = [share.fed.doubt] if share.fed.doubt else []
  if share.wanted is None:
    reasons.append("fed by zeros, so another use decides, or 1/fan")
  elif abs(given - share.wanted) > 1e-6 * share.wanted:
    found = [assigned.table[key].index for key in kernel.keys]
    deciding = {assigned.graph.ops[index].path for index in found}
    use = f"{tied} use"
    if tied == "readout":
      use = "readout" if op.kind == "embedding" else "first use"
    reasons.append(f"tied: its {use} decides ({', '.join(sorted(deciding))})")
  if op.place.site in assigned.positions:
    reasons.append("positions of the size of the tokens they are added to")
  if op.view is not None and op.view.choices > 1:
    reasons.append(f"one of {op.view.choices} kernels, chosen as it runs")
  if kernel.view is None:
    reasons.append(
      "computed from parameters: these are drawn as if used directly, so what "
      "comes out need not have unit second moment, unless it is normalized"
    )
  if distribution == "orthogonal" and not has_matrices(op, kernel.view):
    reasons.append("drawn normal, not orthogonal")
  return "; ".join(reasons)


def wanted_of(
  assigned: Assigned,
  inputs: Any,
  second_moment: float,
  *,
  distribution: str,
  tied: str,
) -> Wanted:
  """What was to come out: unit size, or what keeping the gradient makes of it.

  Args:
    assigned: what the rows are given.
    inputs: all arrays that the model takes beside its parameters.
    second_moment: that was assumed of these.
    distribution: of the entries.
    tied: which use decides.
  """
  shares, data = assigned.shares, ""
  sizes = [mean_square(leaf) for leaf in arrays_of(inputs).values()]
  odd = [x for x in sizes if not (x == 0 or 1 / 4 < x / second_moment < 4)]
  if odd:
    data = (
      f"an input has the second moment {odd[0]:.3g}, where second_moment="
      f"{second_moment:g} was taken"
    )

  def why(row: int) -> str:
    share, given = shares[row], assigned.given(shares[row].row)
    own = _why(assigned, share, given, distribution, tied)
    return "; ".join(filter(None, (own, data)))

  planned = np.array([share.output.size for share in shares])
  if assigned.direction == "forward":
    decided = decided_by_readout(assigned.graph) if tied == "readout" else ()
    units = [share.row.op.place.site not in decided for share in shares]
    planned = np.where(units & (planned > 0), 1.0, planned)
  planned = np.where(planned > 0, planned, np.nan)  # a branch of zeros
  return Wanted("auto_init", np.log2(planned), why)


# What theory says of the whole


def _notes(assigned: Assigned) -> tuple[str, ...]:
  notes = [*_of_theory(assigned, _NOTE, math.log2(10))]
  if assigned.direction == "balanced":
    notes.append(_BALANCED.format(assigned.growth))
  if assigned.graph.opaque:
    notes.append(
      f"{', '.join(assigned.graph.opaque)} could not be entered: what it does "
      "with parameters is not known, and they keep their values."
    )
  notes.append(not_followed(assigned.graph.not_followed))
  return tuple(note for note in notes if note)


_BALANCED = (
  "With unit signals the gradient's second moment would grow {:.2g} times "
  "along a chain of layers: neither grows now, and the signal shrinks; "
  "direction='forward' keeps the signal."
)


def warnings_of(assigned: Assigned) -> list[str]:
  """Those of the plan's notes that are grave enough to be said unasked."""
  return [*_of_theory(assigned, _GRAVE, _GRAVE_BITS)]


def warnings_of_units(assigned: Assigned) -> list[str]:
  """Where unit signals let the gradient grow, of those of "forward"."""
  grown = [share for share in assigned.shares if share.output.chi > _CHAOTIC]
  return [_gradient(grown, 0.0, _UNITS)] if grown else []


def _of_theory(assigned: Assigned, least: float, bits: float) -> Iterator[str]:
  """What is unstable; the gradient, unless it is what is kept."""
  shares = assigned.shares
  notes = [_unstable(shares, least), _assumed_and_grown(shares)]
  if assigned.direction == "forward":
    notes.append(_gradient(shares, bits))
  yield from filter(None, notes)


def _unstable(shares: Sequence[Share], least: float) -> str:
  """What to say if chance grows `least` times; "" if it does not."""
  worst = max(shares, key=lambda share: share.output.stretch)
  if worst.output.stretch < least:
    return ""
  steepest = max(shares, key=lambda share: share.fed.steepness)
  return (
    f"The forward length map is unstable: fed by {fed_by(steepest.row.feed)}, "
    "a layer multiplies a relative deviation of the second moment by "
    f"{steepest.fed.steepness:.3f}, and the model by "
    f"{worst.output.stretch:.2g} until {worst.row.op.path}. "
    f"Chance alone will move the signal. What helps: {_REMEDIES}."
  )


def _assumed_and_grown(shares: Sequence[Share]) -> str:
  """What is assumed of a signal before a function that grows fast."""
  grown = [s for s in shares if s.fed.doubt and s.fed.steepness >= _GROWS]
  if not grown:
    return ""
  op, fed = grown[0].row.op, grown[0].fed
  return (
    f"{op.path} is fed by {fed_by(grown[0].row.feed)}, which multiplies a "
    f"relative error of the second moment by {fed.steepness:.3g}, and that is "
    f"a guess ({fed.doubt}). What helps: {_REMEDIES}."
  )


def _gradient(shares: Sequence[Share], bits: float, advice: str = _KEPT) -> str:
  """Where the gradient grows or shrinks that much along a chain of layers."""
  logs = [abs(math.log2(max(s.output.chi, 1e-300))) for s in shares]
  if max(logs) < bits:
    return ""
  worst = shares[logs.index(max(logs))]
  op, total, layers = worst.row.op, worst.output.chi, worst.output.layers
  return (
    f"The gradient's second moment changes {total:.2g} times over {layers} "
    f"layers until {op.path}, {total ** (1 / max(layers - 1, 1)):.3f} times "
    f"per layer fed by {fed_by(worst.row.feed)} (χ₁): {advice}"
  )
