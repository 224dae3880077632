"""The plan of `auto_init` in words: what each row is given, and why."""

import math
from collections.abc import Sequence

from initjax.graph import LinearOp, SignalGraph, fed_by
from initjax.model_init._assign import Kernel, Share, Table
from initjax.model_init._draw import Draw
from initjax.model_init._plan import VariancePlan, VarianceRow

_WARN = 10.0  # times: what chance does in one layer grows so much
_NOTE = 2.0
_REMEDIES = (
  "calibrate (it holds for the draw at hand), "
  "initjax.meanfield.half_stable_point, normalization before the activations, "
  "residual branches, or relu"
)


def plan_of(
  graph: SignalGraph,
  kernels: Sequence[Kernel],
  shares: Sequence[Share],
  table: Table,
  kept: tuple[str, ...],
  *,
  direction: str,
  distribution: str,
  tied: str,
) -> VariancePlan:
  """The plan, from what the rows asked for and were given."""
  rows = []
  for share in shares:
    op, kernel = graph.ops[share.op], kernels[share.op]
    given = _given(share, kernel, op, table)
    fan = op.fan_in if direction == "forward" else op.fan_out
    gain = None
    if given is not None:
      gain = abs(op.multiplier) * math.sqrt(given * fan)
    rows.append(
      VarianceRow(
        op.path,
        share.repeat,
        op.kind,
        op.kernel_shape,
        op.fan_in,
        op.fan_out,
        _fed_by(op, share),
        share.fed.second_moment,
        gain,
        None if given is None else math.sqrt(given),
        _why(share, kernel, op, table, graph, given, distribution, tied),
      )
    )
  notes = _notes(graph, shares, direction)
  return VariancePlan(tuple(rows), kept, tuple(notes))


def _given(
  share: Share, kernel: Kernel, op: LinearOp, table: Table
) -> float | None:
  """In the end: a row may be run before it is decided."""
  own = kernel.repeat(op, share.repeat)
  found = [table[key].at(own) for key in kernel.keys]
  return sum(found) / len(found) if found else None


def _fed_by(op: LinearOp, share: Share) -> str:
  return (
    "indices" if op.kind == "embedding" else fed_by(op.feed_at(share.repeat))
  )


def _why(
  share: Share,
  kernel: Kernel,
  op: LinearOp,
  table: Table,
  graph: SignalGraph,
  given: float | None,
  distribution: str,
  tied: str,
) -> str:
  if given is None:
    why = "a constant of the function, cannot be set"
    if op.origin != "constant":
      why = "made of smaller parameters, which keep their values"
    return f"{why}: unit second moment assumed of its output"
  reasons = [share.fed.doubt] if share.fed.doubt else []
  if share.wanted is None:
    reasons.append("fed by zeros, so another use decides, or 1/fan")
  elif abs(given - share.wanted) > 1e-6 * share.wanted:
    deciding = {graph.ops[table[key].index].path for key in kernel.keys}
    reasons.append(
      f"tied: its {tied} use decides ({', '.join(sorted(deciding))})"
    )
  if kernel.view is None:
    reasons.append(
      "computed from parameters (their scale may not matter): drawn as if used "
      "directly"
    )
  undecided = Draw(op, kernel, table[kernel.keys[0]], "")
  if distribution == "orthogonal" and not undecided.is_matrix(distribution):
    reasons.append("drawn normal, not orthogonal")
  return "; ".join(reasons)


# What theory says of the whole


def warning_of(graph: SignalGraph, shares: Sequence[Share]) -> str:
  """What to warn of before the kernels are drawn; "" if nothing."""
  return _unstable(graph, shares, _WARN)


def _notes(
  graph: SignalGraph, shares: Sequence[Share], direction: str
) -> list[str]:
  notes = [_unstable(graph, shares, _NOTE), _gradient(graph, shares, direction)]
  if graph.opaque:
    notes.append(
      f"{', '.join(graph.opaque)} could not be entered: what it does with "
      "parameters is not known, and they keep their values."
    )
  return [note for note in notes if note]


def _unstable(graph: SignalGraph, shares: Sequence[Share], least: float) -> str:
  worst = max(shares, key=lambda share: share.output.stretch, default=None)
  if worst is None or worst.output.stretch < least:
    return ""
  steepest = max(shares, key=lambda share: share.fed.steepness)
  op = graph.ops[steepest.op]
  return (
    f"The forward length map is unstable: fed by {_fed_by(op, steepest)}, a "
    f"layer multiplies a relative deviation of the second moment by "
    f"{steepest.fed.steepness:.3f}, and the model by "
    f"{worst.output.stretch:.2g} until {graph.ops[worst.op].path}. "
    f"Chance alone will move the signal. What helps: {_REMEDIES}."
  )


def _gradient(
  graph: SignalGraph, shares: Sequence[Share], direction: str
) -> str:
  """Where the gradient grows or shrinks tenfold along a chain of layers."""
  if direction == "backward":
    return ""
  logs = [abs(math.log(max(s.output.chi, 1e-300))) for s in shares]
  if not logs or max(logs) < math.log(_WARN):
    return ""
  worst = shares[logs.index(max(logs))]
  total, layers = worst.output.chi, worst.output.layers
  op = graph.ops[worst.op]
  return (
    f"The gradient's second moment changes {total:.2g} times over {layers} "
    f"layers until {op.path}, {total ** (1 / max(layers - 1, 1)):.3f} times "
    f"per layer fed by {_fed_by(op, worst)} (χ₁): this keeps the signal, "
    "direction='backward' keeps the gradient."
  )
