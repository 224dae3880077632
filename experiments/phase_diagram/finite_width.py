"""What finite width does to the measured slope, and what is left without it.

Of a network of width n the slope is log s = -1/ξ_c + b/n + O(1/n²). Two widths
n < m tell b from both, and the slope at infinite width:

    b = n·(log s_n + 1/ξ_c),   log s = (m·log s_m - n·log s_n)/(m - n)
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.phase_diagram.records import Diagram, Point
from experiments.runtime.experiment import Claim

SOURCE = "Schoenholz et al. 2017, Eq. 9"


class Shift(NamedTuple):
  """b of the points of one phase, by each width: [widths, points]."""

  value: np.ndarray
  error: np.ndarray
  """its standard error"""

  def mean(self) -> tuple[np.ndarray, np.ndarray]:
    """Over points, each by its precision, and its standard error: [widths]."""
    weights = self.error**-2
    total = weights.sum(1)
    return (weights * self.value).sum(1) / total, total**-0.5


def measured_at_all(diagram: Diagram, phase: str = "") -> list[Point]:
  """Points with a ξ_c at every width, of one phase if one is named."""
  return [
    point
    for point in diagram.points
    if point.by_width
    and all(not found.note for found in point.by_width)
    and phase in ("", point.phase)
  ]


def shift(diagram: Diagram, phase: str) -> Shift:
  """b of each point of a phase."""
  points = measured_at_all(diagram, phase)
  shape = (-1, len(diagram.widths))
  logs, errors = (np.array(x).reshape(shape).T for x in _log_slopes(points))
  theory = np.array([-1 / point.xi_c for point in points])
  widths = np.array(diagram.widths)[:, None]
  return Shift(widths * (logs - theory), widths * errors)


def _log_slopes(points: list[Point]) -> tuple[list[list[float]], ...]:
  fits = [point.by_width for point in points]
  return (
    [[-1 / found.xi_c for found in point] for point in fits],
    [[found.error / found.xi_c**2 for found in point] for point in fits],
  )


def extrapolated(diagram: Diagram) -> tuple[np.ndarray, np.ndarray]:
  """Errors by which log s at infinite width is above theory, and P(< 2).

  The probability that Student's t law gives to two standard errors; its degrees
  of freedom are those of Welch and Satterthwaite.
  """
  points = measured_at_all(diagram)
  narrow, wide = diagram.widths[0], diagram.widths[-1]
  weights = np.array([-narrow, wide]) / (wide - narrow)
  logs, errors = (np.array(x)[:, [0, -1]] for x in _log_slopes(points))
  theory = np.array([-1 / point.xi_c for point in points])
  parts = (weights * errors) ** 2
  variance = parts.sum(1)
  freedom = variance**2 / (parts**2).sum(1) * (diagram.seeds - 1)
  sigmas = (logs @ weights - theory) / np.sqrt(variance)
  return sigmas, 1 - 2 * stats.t.sf(2, freedom)


def claims(diagram: Diagram) -> list[Claim]:
  """The bias goes as 1/n, and without it ξ_c is that of the correlation map."""
  if len(diagram.widths) < 2 or not measured_at_all(diagram):
    return []
  return [*_same_shift(diagram), _share(diagram)]


def _same_shift(diagram: Diagram) -> list[Claim]:
  found = shift(diagram, "chaotic")
  if not found.value.size:
    return []
  mean, error = found.mean()
  least, *_, most = diagram.widths
  name = f"n·Δlog s, chaotic: at n = {most} as at {least}"
  source = "finite width, to first order in 1/n"
  why = "two standard errors of the difference"
  first, last = float(mean[0]), float(mean[-1])
  both = float(2 * np.hypot(error[0], error[-1]))
  return [Claim(source, name, first, last, both, "consistency", why)]


def _share(diagram: Diagram) -> Claim:
  sigmas, chance = extrapolated(diagram)
  spread = math.sqrt((chance * (1 - chance)).sum()) / len(chance)
  law, share = float(chance.mean()), float((abs(sigmas) < 2).mean())
  name = "share of ξ_c, width → ∞, within two standard errors"
  why = "binomial; a point is within by Student's t law"
  return Claim(SOURCE, name, law, share, 3 * spread, "law", why)
