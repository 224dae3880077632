"""Verdicts on single operations: what is broken, and where it starts.

Each check reads the rows in order of execution and yields verdicts. A verdict
stands for all rows that show the same thing and names the first.
"""

import bisect
import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from initjax._activations import is_flat
from initjax.diagnosis._fixes import fix
from initjax.diagnosis._unit_causes import why_alike, why_dead
from initjax.diagnosis._zero_kernels import meant_zeros
from initjax.graph import LinearOp, Row, Site, fed_by, terms_within
from initjax.measurement import Leaves, RowStatistics
from initjax.reports import NOUNS
from initjax.typing import Verdict


def check_signals(found: RowStatistics, leaves: Leaves) -> Iterator[Verdict]:
  """All checks of this module."""
  for direction in NOUNS:
    yield from zeros(found, leaves, direction)
  yield from saturated(found)
  yield from collapsed(found, leaves)
  yield from dead_units(found, leaves)


def row_name(row: Row) -> str:
  """Its path, and which repeat of a loop it is."""
  repeats = ", ".join(map(str, row.repeat))
  inside = f", repeat {repeats}" if repeats else ""
  return f"{row.op.path or '(constant)'}{inside}"


def _count(rows: Sequence[int]) -> str:
  return f"{len(rows)} row{'s' * (len(rows) > 1)}"


def order(found: RowStatistics, direction: str) -> range:
  """Rows in the order that the signal, or the gradient, takes them."""
  return range(len(found.rows))[:: 1 if direction == "forward" else -1]


def range_fix(dtype: np.dtype, *, overflow: bool) -> str:
  """What mends numbers that leave the range of a dtype, on either side."""
  if dtype == jnp.float16:
    return fix("dtype=jnp.bfloat16", "16 bits with the range of float32")
  if overflow:
    return fix(
      "kernel_init=initjax.initializers.activation_scaling(φ)",
      "or normalization; the dtype's range is not the cause",
    )
  return fix(
    "",
    "use weights that keep the gradient's size (see the other verdicts); only "
    "float64 reaches further down than this dtype",
  )


def zeros(
  found: RowStatistics, leaves: Leaves, direction: str
) -> Iterator[Verdict]:
  """The first row of exact zeros after one that was alive.

  Also where no gradient comes at all, and so none was measured.
  """
  of = found.along(direction)
  rows = [i for i in order(found, direction) if found.forward.size[i] > 0]
  alive = [i for i in rows if of.largest[i] != 0]
  lost = rows[rows.index(alive[-1]) + 1 :] if alive else rows
  if not lost:
    return
  first = found.rows[lost[0]]
  dtype = float_dtype(first.op)
  smallest = math.log2(float(jnp.finfo(dtype).smallest_subnormal))
  before = of.log2_second_moment[alive[-1]] / 2 if alive else math.nan
  # Rounding made them if half of the dtype's exponents below 1 were used up.
  if not before < smallest / 2:
    meant = meant_zeros(found, leaves, direction).issuperset(lost)
    yield _cut_off(first, direction, lost, meant)
    return
  yield Verdict(
    f"{NOUNS[direction]} underflows to zero",
    "error",
    first.op.path,
    f"Exactly 0 from {row_name(first)} on; it was 2^{before:.0f} before, and "
    f"{dtype} holds nothing below 2^{smallest:.0f}.",
    range_fix(dtype, overflow=False),
    tuple(lost),
  )


def float_dtype(op: LinearOp) -> np.dtype:
  """Of its output; an integer one is read as float32."""
  floating = jnp.issubdtype(op.dtype, jnp.inexact)
  return np.dtype(op.dtype if floating else np.float32)


def _cut_off(
  first: Row, direction: str, lost: list[int], meant: bool
) -> Verdict:
  """Zeros that no rounding made: a dead layer, or a kernel of zeros."""
  return Verdict(
    f"{NOUNS[direction]} is cut off",
    "note" if meant else "warning",
    first.op.path,
    f"Exactly 0 in {_count(lost)}, from {row_name(first)} on, and not by "
    "rounding. Possible causes: a kernel of zeros (residual branches often "
    "start with one), units that are all dead, a stop_gradient, or a function "
    "with zero slope.",
    fix(
      "kernel_init=initjax.initializers.he_normal()",
      "ignore this for a residual branch initialized to zero on purpose",
    ),
    tuple(lost),
  )


def dead_units(found: RowStatistics, leaves: Leaves) -> Iterator[Verdict]:
  """More units at exactly 0 on every sample than chance explains."""
  rows, worst, chance = [], 0.0, 0.0
  for index, row in enumerate(found.rows):
    units = found.detail.units[index]
    if not units > 0 or not is_flat(row.feed.activation):
      continue
    fraction = float(found.detail.dead_units[index] / units)
    expected = _dead_by_chance(found, index)
    if fraction > expected + 0.1 + 3 * math.sqrt(0.25 / units):
      rows.append(index)
      if fraction > worst:
        worst, chance = fraction, expected
  if rows:
    cause, mended = why_dead(found, leaves, rows[0])
    yield Verdict(
      "dead units",
      "error" if worst > 0.9 else "warning",
      found.rows[rows[0]].op.path,
      "Many of the units that feed it are 0 on every sample, so they pass no "
      f"gradient and cannot learn: up to {worst:.0%} in {_count(rows)}, where "
      f"chance explains {chance:.0%}. {cause}",
      mended,
      tuple(rows),
    )


def _dead_by_chance(found: RowStatistics, index: int) -> float:
  """P(all N of jointly normal numbers of correlation c are negative).

  ∫ Φ(-√c z / √(1-c))^N dN(z): deep rectifier networks bring c close to 1, and
  then half of the units are off on every sample, in good health. N and c are
  those of the latest row whose output feeds this one.
  """
  from scipy.special import log_ndtr

  path = found.rows[index].feed.source or ""
  c, number = 0.0, 1.0
  sources = found.graph.rows_by_path.get(path, [])
  before = bisect.bisect_left(sources, index)
  if before:
    latest = sources[before - 1]
    cosine = float(found.detail.correlation[latest])
    c = min(max(cosine if math.isfinite(cosine) else 0.0, 0.0), 1 - 1e-9)
    number = float(found.detail.samples[latest])
  # Given z, what the numbers share, each is off by itself: a plain sum over z
  # is exact to rounding for an integrand as smooth, and in logarithms Φ^N
  # does not underflow.
  z = np.linspace(-8, 8, 4001)
  all_off = max(number, 1) * log_ndtr(-math.sqrt(c / (1 - c)) * z)
  density = np.exp(all_off - z**2 / 2) / math.sqrt(2 * math.pi)
  return float(density.sum() * (z[1] - z[0]))


def saturated(found: RowStatistics) -> Iterator[Verdict]:
  """A bounded activation whose slope is nearly 0 on most of its inputs."""
  names = [fed_by(row.feed) for row in found.rows]
  steepest = np.array([_STEEPEST.get(name, math.nan) for name in names])
  slopes = found.detail.saturation
  rows = np.flatnonzero(slopes < 0.1 * steepest).tolist()
  if rows:
    name = names[rows[0]]
    yield Verdict(
      "saturation",
      "warning",
      found.rows[rows[0]].op.path,
      f"The {name} that feeds it is saturated in {_count(rows)}, because its "
      "inputs are too large: almost no gradient passes. Its mean slope is "
      f"{slopes[rows[0]]:.2g}, of at most {_STEEPEST[name]:.2g}.",
      fix(
        "kernel_init=initjax.initializers.xavier_normal()",
        "or inputs of unit variance, or normalization before it",
      ),
      tuple(rows),
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
_SIGNALS = ("output", "stream", "inner", "input", "unknown", "ones")
_ROUNDINGS = 32.0  # to which 1 - c of samples that are still told apart is more


def collapsed(found: RowStatistics, leaves: Leaves) -> Iterator[Verdict]:
  """All samples point the same way, though the inputs did not.

  Deep rectifier networks come so close in good health: it is a note where the
  model's own dtype still tells samples apart.

  What inputs feed directly tells of the inputs alone: all sentences may end
  with the same token. What positions alone feed, as learned queries, is the
  same for all samples.
  """
  cosine = found.detail.correlation
  finite = np.flatnonzero(np.isfinite(cosine)).tolist()
  shared = _of_positions(found)
  known = [i for i in finite if found.rows[i].op.place.site not in shared]
  alike = (i for i in known if 1 - cosine[i] < _ALIKE)
  rows = [i for i in alike if not found.rows[i].feed.from_outside]
  if rows and cosine[known[0]] <= 0.99:
    first = found.rows[rows[0]]
    cause, mended = why_alike(found, leaves)
    dtype = float_dtype(first.op)
    least = float((1 - cosine[rows]).min())
    apart = least > _ROUNDINGS * float(jnp.finfo(dtype).eps)
    yield Verdict(
      "rank collapse",
      "note" if apart else "warning",
      first.op.path,
      f"From {row_name(first)} on, all samples look alike: their mean cosine "
      f"is {cosine[rows[0]]:.6f} and was {cosine[known[0]]:.2f} at first, so "
      "they differ by less than bfloat16 resolves"
      f"{f', though not {dtype}' if apart else ''}. {cause}",
      mended,
      tuple(rows),
    )


def _of_positions(found: RowStatistics) -> set[Site]:
  """Operations that tables of positions feed, and nothing else."""
  alone: set[Site] = set()
  for row in found.rows:
    feed, site = row.op.usual_feed, row.op.place.site
    signals = [t for t in terms_within(feed.stream) if t.kind in _SIGNALS]
    shared = bool(signals) and all(t.site in alone for t in signals)
    if feed.reason == "positions" or shared:
      alone.add(site)
  return alone
