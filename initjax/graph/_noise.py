"""Reads what random numbers do: dropout, and normal noise."""

import dataclasses

from initjax.graph._primitives import IDENTITIES, LAYOUT
from initjax.graph._values import Node, Value

_ROUNDED = 0.02
"""By so much the smallest of uniform numbers is above -1, in bfloat16."""


@dataclasses.dataclass(frozen=True)
class Dropout:
  """An entry is kept with probability `rate`, otherwise 0."""

  kept: Value
  rate: float


def dropout(node: Node) -> Dropout | None:
  """What a selection by random numbers keeps, if the rest is 0."""
  if node.label != "select_n" or len(node.operands) != 3:
    return None
  mask, *cases = node.operands
  zeros = [case.scalar is not None and case.scalar == 0 for case in cases]
  if mask.node is None or not mask.node.noise or sum(zeros) != 1:
    return None
  below = _threshold(mask.node)
  if below is None:
    return None
  kept = cases[1] if zeros[0] else cases[0]
  return Dropout(kept, below if zeros[0] else 1 - below)


def _threshold(mask: Node) -> float | None:
  """p, where the mask is u < p of uniform random numbers u."""
  while mask.label in IDENTITIES and mask.operands[0].node is not None:
    mask = mask.operands[0].node
  if mask.label != "lt" or mask.operands[1].scalar is None:
    return None
  return float(mask.operands[1].scalar)


def is_erf_inv_of_uniform(node: Node) -> bool:
  """Whether it is erf⁻¹(u), u uniform in (-1, 1): a normal number over √2."""
  if not node.noise or node.label != "erf_inv" or not node.below:
    return False
  ends = _ends(node.below[0].unmoved)
  return ends is not None and all(
    abs(found - wanted) <= _ROUNDED
    for found, wanted in zip(ends, (-1.0, 1.0), strict=True)
  )


def _ends(node: Node) -> tuple[float, float] | None:
  """Between which numbers max(low, u·width + low) is, for u in (0, 1)."""
  numbers = []
  for label in ("max", "add", "mul", "sub"):
    scalars = [v.scalar for v in node.operands if v.scalar is not None]
    below = node.only_below({label} | LAYOUT)
    if node.label != label or below is None or len(scalars) != 1:
      return None
    numbers.append(float(scalars[0]))
    node = below.unmoved
  low, shift, width, one = numbers
  if node.label != "bitcast_convert_type" or (shift, one) != (low, 1.0):
    return None
  return low, low + width
