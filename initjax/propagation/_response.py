"""Gaussian moments of an activation at any variance, or why it has none."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from initjax.meanfield._tables import _WINDOW, response_of
from initjax.typing import Activation

THEORY_FAILS = (
  ValueError,
  TypeError,
  ArithmeticError,
  NotImplementedError,
)
"""What theory raises of a function that has no moments, slope or scalar form;
it is silent then, and what was measured stands."""


class Moment(NamedTuple):
  """Of φ at one variance q."""

  log2_second_moment: float
  """log₂ E[φ²]"""
  slope: float
  """d log E[φ²]/d log q"""
  log2_derivative: float
  """log₂ E[φ'²]"""


@functools.lru_cache(maxsize=256)
def response(phi: Activation) -> Callable[[float], Moment]:
  """log₂ q -> moments of φ, tabulated once for each function.

  That a window of the table has none is found out once too: it takes seconds.
  """
  table = response_of(phi)
  failed: dict[int, str] = {}

  def at(log2_q: float) -> Moment:
    window = math.floor(log2_q / _WINDOW)
    if window in failed:
      raise ValueError(failed[window])
    try:
      found = table(log2_q)
    except THEORY_FAILS as error:
      failed[window] = str(error)
      raise
    return Moment(*(float(getattr(found, name)) for name in Moment._fields))

  return at
