"""From measured second moments to growth per layer and a plain verdict."""

import math
from typing import NamedTuple

import numpy as np

from experiments._signal_theory import Band, Conditions, Law, band

_NORMAL_FLOATS = (
  240.0  # |log₂ second moment| below this: float32 is not strained
)


class Course(NamedTuple):
  """One direction of one pair; layers are listed first to last."""

  growth: float
  """measured factor of the second moment per layer; nan if it died at once"""
  growth_error: float
  """its standard error over seeds"""
  predicted_growth: float
  """the factor that theory gives over the same layers, at this width"""
  predicted_band: float
  """half the width of the band around it"""
  in_band: bool | None
  """whether the measurement lies in the band; None if there is none"""
  verdict: str
  """in plain words"""
  log2_second_moment: np.ndarray
  """[depth]: measured, mean over seeds; -inf: exact zero"""
  predicted_log2_second_moment: np.ndarray
  """[depth]: the middle of the band"""
  predicted_log2_band: np.ndarray
  """[depth]: half the width of the band"""


class Record(NamedTuple):
  """What one pair of activation and initializer did."""

  activation: str
  initializer: str
  log2_sigma_w2: float
  forward: Course
  backward: Course


def record(
  activation: str,
  initializer: str,
  log2_sigma_w2: float,
  signals: tuple[np.ndarray, np.ndarray],
  laws: tuple[Law, Law],
  healthy: tuple[Law, Law],
  conditions: Conditions,
  *,
  drift_is_bound: bool = False,
) -> Record:
  """Compares log₂ second moments [seeds, depth], both ways, with their laws.

  Args:
    activation: its name.
    initializer: likewise.
    log2_sigma_w2: log₂ of width · Var W.
    signals: measured, forward and backward.
    laws: of this pair.
    healthy: of the yardstick.
    conditions: of the run.
    drift_is_bound: see `band`.
  """
  forward, backward = (np.asarray(part, np.float64) for part in signals)
  forward_alive = _alive(forward)
  both_alive = forward_alive & _alive(backward)  # else φ' is that of zeros
  courses = [
    _course(
      measured,
      alive,
      law,
      yardstick,
      conditions,
      backward=is_backward,
      drift_is_bound=drift_is_bound,
    )
    for measured, alive, law, yardstick, is_backward in zip(
      (forward, backward),
      (forward_alive, both_alive),
      laws,
      healthy,
      (False, True),
      strict=True,
    )
  ]
  return Record(activation, initializer, log2_sigma_w2, *courses)


def _alive(log2_second_moments: np.ndarray) -> np.ndarray:
  """Layers [depth] in which no seed is dead, infinite or close to it."""
  alive: np.ndarray = abs(log2_second_moments) < _NORMAL_FLOATS  # not inf, NaN
  return np.asarray(alive.all(axis=0))


def _course(
  measured: np.ndarray,
  alive: np.ndarray,
  law: Law,
  healthy: Law,
  conditions: Conditions,
  *,
  backward: bool,
  drift_is_bound: bool = False,
) -> Course:
  """Growth over the layers that are alive, and the verdict over all."""

  def predict(start: int) -> Band:
    return band(
      law,
      start,
      mean[start],
      conditions,
      backward=backward,
      drift_is_bound=drift_is_bound,
    )

  with np.errstate(invalid="ignore"):
    mean = measured.mean(axis=0)
  growth = error = predicted = half_width = math.nan
  in_band = None
  layers = np.flatnonzero(alive)
  if layers.size >= 2:
    start, end = layers[[-1, 0]] if backward else layers[[0, -1]]
    steps = abs(end - start)
    bits = (measured[:, end] - measured[:, start]) / steps  # [seeds]
    growth = 2.0 ** bits.mean()
    error = growth * math.log(2) * bits.std(ddof=1) / math.sqrt(bits.size)
    expected = predict(start)
    predicted = 2.0 ** ((expected.middle[end] - mean[start]) / steps)
    half_width = predicted * math.log(2) * expected.half_width[end] / steps
    deviation = abs(mean[end] - expected.middle[end])
    in_band = bool(deviation <= expected.half_width[end])
  return Course(
    growth,
    error,
    predicted,
    half_width,
    in_band,
    _verdict(measured, healthy, conditions, backward=backward),
    mean,
    *predict(-1 if backward else 0),
  )


def _verdict(
  measured: np.ndarray,
  healthy: Law,
  conditions: Conditions,
  *,
  backward: bool,
) -> str:
  """One of stable, vanishes, explodes, zero, overflow; and how much or where.

  Stable is what stays in the band of a healthy network of this depth and width,
  or between that and no change at all.
  """
  travelled = measured[:, ::-1] if backward else measured
  seeds, depth = travelled.shape
  for lost, word in ((np.isneginf, "zero"), (_overflows, "overflow")):
    lost_seeds = lost(travelled).sum(axis=0)
    if 2 * lost_seeds[-1] > seeds:
      steps = int(np.argmax(2 * lost_seeds > seeds))
      layer = depth - steps if backward else steps + 1
      return f"{word} at {layer}"
  bits = (travelled[:, -1] - travelled[:, 0])[np.isfinite(travelled[:, -1])]
  total = bits.mean()
  start, end = (-1, 0) if backward else (0, -1)
  allowed = band(
    healthy, start, healthy.mean[start], conditions, backward=backward
  )
  drift = allowed.middle[end] - healthy.mean[start]
  chance = allowed.half_width[end]
  if min(drift, 0.0) - chance <= total <= max(drift, 0.0) + chance:
    return f"stable 2^{total:+.1f}"
  return f"{'explodes' if total > 0 else 'vanishes'} 2^{total:+.0f}"


def _overflows(x: np.ndarray) -> np.ndarray:
  return np.isposinf(x) | np.isnan(x)
