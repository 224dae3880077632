"""The gradient's second moments, back along the edges of a walk.

Where units were drawn, a unit whose φ' is large at one place has a large φ' at
the next: then E[δ²] is followed unit by unit, until an operation mixes units.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from initjax.propagation._borders import Profile, average_profile, mixed
from initjax.propagation._signals import DRAWN_ERROR, Edge, Signal


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


Gradients = dict[Signal, Returned]
"""Signals that nothing has come back to are not there."""


def mean_of(gradients: Gradients, signal: Signal) -> tuple[float, float]:
  """E[δ²] and its error in bits; NaN if nothing, or nothing known, came."""
  found = gradients.get(signal)
  if found is None:
    return math.nan, math.nan
  drawn = DRAWN_ERROR * isinstance(found.own, np.ndarray)
  return float(np.mean(found.own)), found.error + drawn


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
      if not signal.is_output:
        continue  # its parts are fed to others, and not the whole
      given = found[signal] = Returned(math.nan, math.nan, math.nan)
    if signal.is_output:
      own, near = float(np.mean(given.own)), float(np.mean(given.near))
      error = mean_of(found, signal)[1]
      given = Returned(own, near, error, given.profile)
    for edge in signal.edges:
      _add(found, edge.below, _through(edge, given))
  return found


def _through(edge: Edge, given: Returned) -> Returned:
  own: float | np.ndarray = edge.own
  near: float | np.ndarray = edge.own if math.isnan(edge.near) else edge.near
  if edge.slopes is not None and _by_unit(edge, given):
    slopes = edge.slopes()
    if slopes is not None:
      own, near = slopes
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
  )
