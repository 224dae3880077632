"""The plan of `auto_init` in words: what each row is given, and why."""

import math
from collections.abc import Sequence

from initjax.graph import fed_by
from initjax.model_init._assign import Assigned, Share
from initjax.model_init._draw import has_matrices
from initjax.model_init._plan import VariancePlan, VarianceRow
from initjax.reports import not_followed

_NOTE = 2.0  # times: what chance does in one layer grows so much
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
    fan = op.fan_in if direction == "forward" else op.fan_out
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
  return VariancePlan(tuple(rows), kept, _notes(assigned, direction))


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
    reasons.append(
      f"tied: its {tied} use decides ({', '.join(sorted(deciding))})"
    )
  if op.view is not None and op.view.choices > 1:
    reasons.append(f"one of {op.view.choices} kernels, chosen as it runs")
  if kernel.view is None:
    reasons.append(
      "computed from parameters (their scale may not matter): drawn as if used "
      "directly"
    )
  if distribution == "orthogonal" and not has_matrices(op, kernel.view):
    reasons.append("drawn normal, not orthogonal")
  return "; ".join(reasons)


# What theory says of the whole


def _notes(assigned: Assigned, direction: str) -> tuple[str, ...]:
  notes = [warning_of(assigned.shares, _NOTE)]
  if direction == "forward":
    notes.append(_gradient(assigned.shares))
  if assigned.graph.opaque:
    notes.append(
      f"{', '.join(assigned.graph.opaque)} could not be entered: what it does "
      "with parameters is not known, and they keep their values."
    )
  notes.append(not_followed(assigned.graph.not_followed))
  return tuple(note for note in notes if note)


def warning_of(shares: Sequence[Share], least: float = 10.0) -> str:
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


def _gradient(shares: Sequence[Share]) -> str:
  """Where the gradient grows or shrinks tenfold along a chain of layers."""
  logs = [abs(math.log(max(s.output.chi, 1e-300))) for s in shares]
  if max(logs) < math.log(10):
    return ""
  worst = shares[logs.index(max(logs))]
  op, total, layers = worst.row.op, worst.output.chi, worst.output.layers
  return (
    f"The gradient's second moment changes {total:.2g} times over {layers} "
    f"layers until {op.path}, {total ** (1 / max(layers - 1, 1)):.3f} times "
    f"per layer fed by {fed_by(worst.row.feed)} (χ₁): this keeps the signal, "
    "direction='backward' keeps the gradient."
  )
