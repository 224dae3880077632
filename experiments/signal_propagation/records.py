"""From measured second moments to growth per layer and a plain verdict."""

import functools
import math
from typing import NamedTuple

import numpy as np

from experiments.signal_propagation.theory import Band, Conditions, Law, band

_NORMAL_FLOATS = 240.0
"""|log₂ second moment| below which float32 is not strained"""


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

  `healthy` are the laws of the yardstick; for `drift_is_bound` see `band`.
  """
  forward, backward = (np.asarray(part, np.float64) for part in signals)
  forward_alive = _alive(forward)
  both_alive = forward_alive & _alive(backward)  # else φ' is that of zeros
  there, back = zip(laws, healthy, strict=True)
  course = functools.partial(
    _course, conditions=conditions, drift_is_bound=drift_is_bound
  )
  signal = course(forward, forward_alive, *there, backward=False)
  gradient = course(backward, both_alive, *back, backward=True)
  return Record(activation, initializer, log2_sigma_w2, signal, gradient)


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
  with np.errstate(invalid="ignore"):
    mean = measured.mean(axis=0)

  options = {"backward": backward, "drift_is_bound": drift_is_bound}
  predict = lambda start: band(law, start, mean[start], conditions, **options)
  layers = np.flatnonzero(alive)
  growth: _Growth = (math.nan,) * 4 + (None,)
  if layers.size >= 2:
    start, end = layers[[-1, 0]] if backward else layers[[0, -1]]
    growth = _growth(measured, start, end, predict(start))
  return Course(
    *growth,
    _verdict(measured, healthy, conditions, backward=backward),
    mean,
    *predict(-1 if backward else 0),
  )


_Growth = tuple[float, float, float, float, bool | None]
"""The first five of a course"""


def _growth(
  measured: np.ndarray, start: int, end: int, expected: Band
) -> _Growth:
  """Per layer from `start` to `end`, measured and expected."""
  first, last = measured[:, start], measured[:, end]
  steps = abs(end - start)
  bits = (last - first) / steps  # [seeds]
  growth = 2.0 ** bits.mean()
  predicted = 2.0 ** ((expected.middle[end] - first.mean()) / steps)
  half_width = expected.half_width[end]
  return (
    growth,
    growth * math.log(2) * bits.std(ddof=1) / math.sqrt(bits.size),
    predicted,
    predicted * math.log(2) * half_width / steps,
    bool(abs(last.mean() - expected.middle[end]) <= half_width)
    if np.isfinite(half_width)
    else None,
  )


def _verdict(
  measured: np.ndarray, healthy: Law, conditions: Conditions, *, backward: bool
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
