"""What the phase diagram consists of, in memory and in JSON."""

import math
from typing import Any, NamedTuple

import numpy as np

from experiments.phase_diagram.theory import CriticalLine, Plane

_DIGITS = 6  # of the theory's map in JSON


class Point(NamedTuple):
  """One measured point, and what theory says there."""

  sigma_w2: float
  sigma_b2: float
  phase: str
  """"ordered", "critical", "chaotic", or "none": no fixed point"""
  q: float = math.nan
  c: float = math.nan
  xi_c: float = math.nan
  """of theory"""
  measured_xi_c: float = math.nan
  error: float = math.nan
  """its standard error over networks"""
  note: str = ""
  """why there is no measured ξ_c; empty if there is"""
  deviation: np.ndarray | None = None
  """c_l - c* [depth, groups], mean over networks and pairs"""

  @property
  def sigmas(self) -> float:
    """By how many standard errors f'(c*) = exp(-1/ξ_c) is above theory.

    It is f'(c*) that is fitted; ξ_c is a curved function of it.
    """
    slope = math.exp(-1 / self.measured_xi_c)
    error = slope * self.error / self.measured_xi_c**2
    return (slope - math.exp(-1 / self.xi_c)) / error


class Diagram(NamedTuple):
  """All that one run gives."""

  plane: Plane
  line: CriticalLine
  points: list[Point]

  @property
  def fitted(self) -> list[Point]:
    """The points with a measured ξ_c."""
    return [point for point in self.points if not point.note]


def as_numbers(result: Diagram, groups: tuple[str, ...]) -> dict[str, Any]:
  """What goes to JSON: the map to six digits, the critical line within it."""
  plane = result.plane
  line = np.stack(result.line)[
    :, in_view(plane, result.line.sigma_w2, result.line.sigma_b2)
  ]
  return {
    "theory": {
      name: _rounded(values) for name, values in plane._asdict().items()
    },
    "critical_line": {
      "sigma_w2": _rounded(line[0]),
      "sigma_b2": _rounded(line[1]),
      "stable": line[2].astype(bool),
    },
    "groups": groups,
    "points": result.points,
  }


def in_view(plane: Plane, w: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Which (σ_w², σ_b²) lie on the map."""
  return (
    (w >= plane.sigma_w2[0])
    & (w <= plane.sigma_w2[-1])
    & (b >= plane.sigma_b2[0])
    & (b <= plane.sigma_b2[-1])
  )


def _rounded(values: np.ndarray) -> np.ndarray:
  short = [float(f"{x:.{_DIGITS}g}") for x in values.ravel()]
  return np.array(short).reshape(values.shape)
