"""What claims of several experiments have in common."""

from typing import Any

from experiments.common.plots import mean_and_two_errors
from experiments.runtime.experiment import Claim


def of_mean(source: str, quantity: str, published: Any, values: Any) -> Claim:
  """The mean of independent networks, and two errors."""
  ours = mean_and_two_errors(values)
  return Claim(source, quantity, float(published), *ours)


def shifted(claim: Claim, width: int, shift: float) -> Claim:
  """Published for infinite width, of which `width` is off by up to `shift`."""
  why = f"a width of {width} shifts it by up to {shift:.2g}"
  return claim.allowing(shift, why)
