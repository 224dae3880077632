"""The gradient's second moments, back along the edges of a walk.

Where units were drawn, a unit whose φ' is large at one place has a large φ' at
the next, so E[δ²] is tracked unit by unit until an operation mixes units.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from initjax.propagation._borders import Profile, average_profile, mixed
from initjax.propagation._signals import DRAWN_ERROR, Batch, Edge, Signal


class Returned(NamedTuple):
  """What has come back to a signal from all that it feeds."""

  own: float | np.ndarray
  """E[δ²], of all units alike or of each that was drawn"""
  near: float | np.ndarray
  """E[δ·δ'] of two positions"""
  error: float
  """of log₂ E[δ²]"""
  profile: Profile = ()
  """of E[δ²] over the positions of a map"""
  shared: float | np.ndarray = 0.0
  """E[δ·δ'] of two samples"""


Gradients = dict[Signal, Returned]
"""Signals that nothing has come back to are not there."""


def mean_of(gradients: Gradients, signal: Signal) -> tuple[float, float]:
  """E[δ²] and its error in bits; NaN if nothing, or nothing known, came.

  The factor `raised` takes gradients to be independent of the kernels by whose
  sizes they are divided. How much they depend on these is not known: half of
  the factor's logarithm is stated, an order of magnitude and no bound.
  """
  found = gradients.get(signal)
  if found is None:
    return math.nan, math.nan
  error = found.error + DRAWN_ERROR * isinstance(found.own, np.ndarray)
  error += math.log2(signal.raised) / 2
  return float(np.mean(found.own)) * signal.raised, error


def gradients_of(tape: Sequence[Signal], last: Signal) -> Gradients:
  """Of all signals, for unit variance at the last.

  Backwards, all that a signal feeds has handed on its gradient before it. An
  operation's output that feeds nothing reaches another output, of which nobody
  knows what it is given.

  Args:
    tape: signals as they were made.
    last: of the output.
  """
  found: Gradients = {last: Returned(1.0, 0.0, 0.0)}
  for signal in reversed(tape):
    given = found.get(signal)
    if given is None:
      if signal.fan_in is None:
        continue  # its parts are fed to others, and not the whole
      given = found[signal] = Returned(math.nan, math.nan, math.nan)
    if signal.fan_in is not None:
      own, near = float(np.mean(given.own)), float(np.mean(given.near))
      error = mean_of(found, signal)[1] - math.log2(signal.raised) / 2
      shared = float(np.mean(given.shared))
      given = Returned(own, near, error, given.profile, shared)
    for edge in signal.edges:
      _add(found, edge.below, _through(edge, given))
  return found


def _through(edge: Edge, given: Returned) -> Returned:
  if edge.batch is not None:
    given = _without_mean(given, edge.batch)
  own: float | np.ndarray = edge.own
  near, shared = (
    edge.own if math.isnan(each) else each for each in (edge.near, edge.shared)
  )
  if edge.slopes is not None and _by_unit(edge, given):
    slopes = edge.slopes()
    if slopes is not None:
      own, near, shared = slopes
  uneven, profile = 1.0, given.profile
  if edge.taps:
    back = [matrix.T for matrix in edge.taps]
    uneven, profile = mixed(back, given.profile)
  crossed = edge.cross * given.near if edge.cross else 0.0
  lifted = edge.lift * given.own if edge.lift else 0.0
  return Returned(
    uneven * own * given.own + crossed,
    uneven * near * given.near + lifted,
    given.error + edge.error,
    profile,
    uneven * shared * given.shared,
  )


def _without_mean(given: Returned, batch: Batch) -> Returned:
  """δ - mean(δ) - h·mean(δ·h), over a batch and its positions.

  Of pairs, E[δ·δ'·h·h'] is E[δ·δ'] times E[h·h'], where φ' does not tell the
  sign of h, and 2/π more of it where it tells no more than that, as of relu.
  """
  own, near, shared = (
    float(np.mean(each)) for each in (given.own, given.near, given.shared)
  )
  entries = batch.samples * batch.positions
  pairs = np.array([batch.positions - 1, entries - batch.positions])
  if math.isinf(entries):
    return given
  pairs = pairs * [near, shared] / entries
  mean = batch.centred * (own / entries + pairs.sum())
  unsure = abs(pairs.sum()) / math.pi
  along = own / entries + pairs @ [batch.near, batch.shared]
  along += pairs.sum() / math.pi
  left = own - mean - along
  if not left > 0:
    return Returned(math.nan, math.nan, math.nan)
  return Returned(
    given.own * left / own,
    near - mean - along * batch.near,
    given.error + unsure / left / math.log(2),
    given.profile,
    shared - mean - along * batch.shared,
  )


def _by_unit(edge: Edge, given: Returned) -> bool:
  """Whether it matters which unit has which slope."""
  return isinstance(given.own, np.ndarray) or not edge.below.gaussian


def _add(found: Gradients, below: Signal, more: Returned) -> None:
  before = found.get(below)
  if before is None:
    found[below] = more
    return
  parts = float(np.mean(before.own)), float(np.mean(more.own))
  total = sum(parts)
  error = before.error * parts[0] + more.error * parts[1]
  found[below] = Returned(
    before.own + more.own,
    before.near + more.near,
    error / total if total else max(before.error, more.error),
    average_profile(
      [
        (each.profile, part)
        for each, part in zip((before, more), parts, strict=True)
      ]
    ),
    before.shared + more.shared,
  )
