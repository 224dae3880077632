"""One bad layer: what a layer does to sizes that its neighbours do not.

In a chain, what layer l adds to log₂ sizes is compared with what theory expects
for its input, forward and backward,

    r_l = log₂ q_l - log₂ K(q_{l-1}),  log₂ |g_{l-1}|² - log₂ |g_l|² - log₂ χ_l

less the median over layers, so that weights which are all too large are not a
finding here. To first order this is the whitened e = R⁻¹(d - μ), C = RRᵀ, in
units of R's diagonal; since the law's own maps are used, large steps cause no
error. Where a chain's layers scatter more than the law says (trained weights),
or where no law is known, their own scatter is used. A few layers alone tell too
little of that: a layer is odd there if its kernel is far from theirs, and the
signal follows.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, get_args

import numpy as np

from initjax.diagnosis._chain import Chain, sigma_w2
from initjax.diagnosis._law import one_layer
from initjax.diagnosis._pieces import Piece, Pieces
from initjax.diagnosis._spread import kappa
from initjax.diagnosis._tails import drawn_layer, tail
from initjax.meanfield import THEORY_FAILS
from initjax.measurement import Leaves, RowStatistics
from initjax.typing import Direction

_FALSE_ALARM = 0.0015  # of all rows and both directions; growth has as much
_NOTABLE = 1.5  # log₂ of the second moment; Xavier shrinks 1:4 layers by 1.32
_SUSPICIOUS = 3.0  # standard deviations by the law of first order
_FEWEST = 3  # steps, of which a median can be told from one odd step
_OWN_SCATTER = 1.5  # standard deviations of the law that are still the law's
_NORMAL = 1.4826  # standard deviation by median absolute deviation
_FREEDOM = 0.37  # of a median deviation, of each of its numbers
_FEW = 8  # steps, of which the scatter is hardly known
_FAR = 5.0  # log₂ of σ_w², where kernels are compared; and 4 deviations


class Innovation(NamedTuple):
  """One row that is off."""

  row: int
  bits: dict[str, float]
  """by direction, log₂ by which its step is off"""
  p: float
  law: str
  """which law says so"""
  is_fresh: bool
  """whether the law is that of fresh weights"""

  @property
  def most(self) -> float:
    """By how many bits it is off, either way."""
    return max(map(abs, self.bits.values()))


class Steps(NamedTuple):
  """Steps of one direction, between neighbours of a sequence."""

  rows: tuple[int, ...]
  """[steps]: the row of the later one, forward; it holds the kernel"""
  off: np.ndarray
  """[steps]: from what is expected, log₂"""
  std: np.ndarray
  """[steps]: by the law of first order, or a bound"""


def innovations(
  found: RowStatistics, parts: Pieces, leaves: Leaves
) -> Iterator[list[Innovation]]:
  """Of each piece those that are off, neighbours together."""
  each = _FALSE_ALARM / max(2 * len(found.rows), 1)
  seen: set[int] = set()
  for piece in parts.pieces:
    groups: list[tuple[list[Innovation], int, int]] = []
    for sequence in piece.sequences:
      odd = _of_sequence(found, piece, sequence, each)
      if piece.kind != "blocks":
        odd = _by_kernels(found, sequence, leaves) | odd
      new = {row: one for row, one in odd.items() if row not in seen}
      seen |= set(new)
      for group in _neighbours(new, sequence):
        at = sequence.index(group[0].row), sequence.index(group[-1].row)
        groups.append((group, sequence[at[0] - 1], sequence[at[1] + 1]))
    yield from _strongest(groups)


def _strongest(
  groups: list[tuple[list[Innovation], int, int]],
) -> Iterator[list[Innovation]]:
  """One for each block: that which is off by most, of those in its range.

  Of some that are off by as much it is the first whose signal is: a gradient
  tells of the kernels after it, and a stream carries a jump on.
  """
  groups.sort(key=lambda of: (not _is_forward(of[0]), -_most(of[0])))
  taken: list[tuple[int, int]] = []
  for group, low, high in groups:
    if any(a <= group[0].row <= b for a, b in taken):
      continue
    taken.append((low, high))
    alike = (
      other
      for other, *_ in groups
      if low <= other[0].row <= high
      and _is_forward(other)
      and _most(other) > _most(group) - _NOTABLE
    )
    yield min(alike, key=lambda other: other[0].row, default=group)


def _is_forward(group: list[Innovation]) -> bool:
  return any("forward" in one.bits for one in group)


def _most(group: list[Innovation]) -> float:
  return max(one.most for one in group)


def _of_sequence(
  found: RowStatistics, piece: Piece, sequence: tuple[int, ...], allowed: float
) -> dict[int, Innovation]:
  odd: dict[int, Innovation] = {}
  for direction in get_args(Direction):
    steps = _steps(found, piece, sequence, direction)
    if steps is None:
      continue
    scatter = _scatter(found, piece, steps, direction)
    for at, p, law, fresh in _unlikely(
      steps, scatter, piece.chain, found, direction
    ):
      row = steps.rows[at]
      if p >= allowed or row in (sequence[0], sequence[-1]):
        continue
      before = odd.get(row)
      bits = {direction: float(steps.off[at])} | (before.bits if before else {})
      least = min(p, before.p) if before else p
      odd[row] = Innovation(row, bits, least, law, fresh)
  return _spikes(odd, sequence) if piece.kind == "blocks" else odd


def _by_kernels(
  found: RowStatistics, sequence: tuple[int, ...], leaves: Leaves
) -> dict[int, Innovation]:
  """Of few layers: kernels far from the others', if the signal follows them."""
  rows = sequence[1:]
  sizes = found.log2_moments["forward"].mean(axis=0)[list(sequence)]
  kernels = np.array([_log2(sigma_w2(found.rows[at], leaves)) for at in rows])
  is_known = np.isfinite([*sizes, *kernels]).all()
  if not is_known or not _FEWEST <= len(rows) <= _FEW:
    return {}
  off, far = (each - np.median(each) for each in (np.diff(sizes), kernels))
  limit = max(_FAR, 4 * _NORMAL * float(np.median(abs(far))))
  odd: dict[int, Innovation] = {}
  for at, row in enumerate(rows[:-1]):
    least = min(abs(off[at]), abs(far[at]))
    if least > limit and off[at] * far[at] > 0:  # not if a factor undoes it
      p = math.erfc(least / _std(found, row, "forward") / math.sqrt(2))
      odd[row] = Innovation(row, {"forward": float(off[at])}, p, _KERNELS, True)
  return odd


def _steps(
  found: RowStatistics,
  piece: Piece,
  sequence: tuple[int, ...],
  direction: Direction,
) -> Steps | None:
  """By the chain's law, or else as they are; None where they are too few."""
  if piece.chain is not None:
    law = one_layer(piece.chain, found, direction)
    if law is not None:
      off, std = law
      return _checked(piece.chain.rows[1:], off, std)
    if direction == "backward":
      return None  # it comes back by other ways too
  bits = found.log2_moments[direction].mean(axis=0)
  if direction == "backward":
    bits = bits + np.log2(np.maximum(found.backward.size, 1))
  if piece.kind == "path":
    return None
  rows = list(sequence)
  if not np.isfinite(bits[rows]).all():
    return None
  off = np.diff(bits[rows]) * (1 if direction == "forward" else -1)
  std = np.array([_std(found, at, direction) for at in rows[1:]])
  return _checked(tuple(rows[1:]), off, std)


def _std(found: RowStatistics, row: int, direction: Direction) -> float:
  """Of what a layer does by chance to log₂ sizes: a bound."""
  op = found.rows[row].op
  return math.sqrt(2 * kappa(op, direction) / max(op.fan_in, 1)) / math.log(2)


def _checked(
  rows: tuple[int, ...], off: np.ndarray, std: np.ndarray
) -> Steps | None:
  if len(rows) < _FEWEST or not np.isfinite(off).all():
    return None
  return Steps(rows, off - np.median(off), std)


class Scatter(NamedTuple):
  """Of steps as they are, in standard deviations of the law."""

  size: float
  freedom: float
  """degrees of freedom by which it is known"""


def _scatter(
  found: RowStatistics, piece: Piece, steps: Steps, direction: Direction
) -> Scatter:
  """That of a sequence; if it is not the law's, of all of its blocks if larger.

  A few steps alone tell little of their scatter; those of all roles tell more.
  """
  own = _NORMAL * float(np.median(abs(steps.off / steps.std)))
  if own <= _OWN_SCATTER:
    return Scatter(own, math.inf)
  every = [_steps(found, piece, each, direction) for each in piece.sequences]
  known = [abs(each.off / each.std) for each in every if each is not None]
  together = _NORMAL * float(np.median(np.concatenate(known)))
  count = sum(each.size - 1 for each in known)
  return Scatter(max(own, together), max(1.0, _FREEDOM * count))


def _unlikely(
  steps: Steps,
  scatter: Scatter,
  chain: Chain | None,
  found: RowStatistics,
  direction: Direction,
) -> Iterator[tuple[int, float, str, bool]]:
  """Steps that stand out, their probability, and the law that says so."""
  sigmas = steps.off / steps.std
  stands_out = (abs(steps.off) > _NOTABLE) & (abs(sigmas) > _SUSPICIOUS)
  for at in np.flatnonzero(stands_out).tolist():
    if scatter.size > _OWN_SCATTER:
      p = _student(abs(sigmas[at]) / scatter.size, scatter.freedom)
      yield at, p, "the scatter of its neighbours", False
    elif chain is None:
      yield at, math.erfc(abs(sigmas[at]) / math.sqrt(2)), _BOUND, True
    else:
      p = _by_draws(steps, at, chain, found, direction)
      yield at, p, _POSITIONS if chain.has_positions else _WIDTHS, True


_BOUND = "a bound on what chance does at this width"
_KERNELS = "what chance does to a kernel that is drawn like its neighbours"
_WIDTHS = "what chance does at these widths"
_POSITIONS = (
  "what chance does to one position at these widths, a bound for averages"
)


def _student(t: float, freedom: float) -> float:
  from scipy import special

  return 2 * float(special.stdtr(freedom, -t))


def _by_draws(
  steps: Steps,
  at: int,
  chain: Chain,
  found: RowStatistics,
  direction: Direction,
) -> float:
  """Tails of the layer's own law; of the law of first order if unknown."""
  normal = math.erfc(abs(steps.off[at] / steps.std[at]) / math.sqrt(2))
  bits = found.log2_moments["forward"]
  if len(bits) > 1:
    return normal  # a mean over draws
  row = chain.rows[at]
  try:
    log2_q = float(np.logaddexp2(bits[0, row], _log2(chain.sigma_b2[at])))
    widths = chain.widths[at], chain.widths[at + 1]
    phi = chain.activations[at]
    drawn = drawn_layer(phi, round(log2_q, 1), -round(log2_q, 1), widths)
  except THEORY_FAILS:
    return normal
  own = drawn[direction == "backward"]
  own = own[np.isfinite(own)]
  if own.size < 100:
    return normal
  return 2 * tail(own, float(own.mean() + steps.off[at]))


def _log2(x: float) -> float:
  return math.log2(x) if x > 0 else -math.inf


def _spikes(
  found: dict[int, Innovation], sequence: tuple[int, ...]
) -> dict[int, Innovation]:
  """A block that is off changes two steps: to it and from it.

  A step at an end does not tell which of two blocks it is.
  """
  kept = dict(found)
  for before, at in itertools.pairwise(sequence):
    pair = found.get(before), found.get(at)
    if pair[0] is not None and pair[1] is not None and before in kept:
      kept.pop(at, None)
  kept.pop(sequence[1], None)
  return kept


def _neighbours(
  found: dict[int, Innovation], sequence: tuple[int, ...]
) -> Iterator[list[Innovation]]:
  """Those that follow each other, together: they may cancel."""
  group: list[Innovation] = []
  for row in sequence:
    if row in found:
      group.append(found[row])
    elif group:
      yield group
      group = []
  if group:
    yield group
