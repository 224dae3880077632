"""Reads normalizations: x, centred or not, times 1/√(a mean over entries)."""

import math
from typing import NamedTuple

import numpy as np

from initjax.graph._features import features
from initjax.graph._primitives import LAYOUT, PSUMS
from initjax.graph._values import Node, Value

_NEARLY = 0.02
"""What divides a sum need not be its number of terms: one less, or rounded."""


class Normalization(NamedTuple):
  """A node that is a normalized signal."""

  inner: Node
  """what is normalized"""
  over: str
  """"units" of each sample, or "samples" """
  centred: bool
  """whether its mean is subtracted"""
  factor: float
  """root mean square of the quotient"""
  scales: tuple[Value, ...]
  """what else multiplies it"""
  channels: int
  """of the units, where positions are normalized with them; else 0"""
  counts: tuple[int, ...]
  """of samples, then of positions, that a statistic is taken over; () where it
  is of units, or how many is not known"""


class _Size(NamedTuple):
  """A factor · (Σ x²)^power, as far as it is followed."""

  node: Node
  power: float = 1.0
  factor: float = 1.0
  scales: tuple[Value, ...] = ()
  """what else multiplies it"""

  def at(self, node: Node) -> "_Size":
    """The same of what is below."""
    return self._replace(node=node)

  def times(self, number: float, power: float = 1.0) -> "_Size":
    """Where what is below is multiplied by a number, and raised to a power."""
    if number == 0:  # a size no more
      return self._replace(power=0.0)
    factor = self.factor * abs(number) ** self.power
    return self._replace(factor=factor, power=self.power * power)


def normalization(node: Node) -> Normalization | None:
  """Reads (x - mean(x)) · rsqrt(variance + ε) · scale; None if it is not."""
  if node.label not in ("mul", "div") or len(node.operands) != 2:
    return None
  first, second = (value.node for value in node.operands)
  if first is None or second is None:
    return None
  pairs = [(first, second)] + [(second, first)] * (node.label == "mul")
  for numerator, size in pairs:
    found = _of(numerator, size, -1.0 if node.label == "div" else 1.0)
    if found is not None:
      return found
  return None


def _of(numerator: Node, size: Node, power: float) -> Normalization | None:
  """Of a numerator, times a power of some size."""
  found = _statistic(size, power)
  if found is None:
    return None
  numerator, scales = _unscaled(numerator, found.node)
  inner, centred = _without_mean(numerator)
  reduction, units, others = found.node, list[float](), list[float]()
  while _is_reduction(reduction):  # one after another, as of a pmean
    for sizes, more in zip((units, others), _counted(reduction), strict=True):
      sizes += more
    last, found = reduction, _number_below(found.at(reduction.below[0]))
    reduction = found.node
  if not last.made_of(inner):
    return None
  number = math.prod(units + others)
  factor = found.factor / math.sqrt(number) if number else 1.0
  factor = factor if abs(factor - 1) >= _NEARLY else 1.0
  beside = math.prod(each for each in others if not math.isnan(each))
  counts = () if units or math.isnan(number) else tuple(map(int, others))
  return Normalization(
    inner,
    "units" if units else "samples",
    centred,
    factor,
    (*scales, *found.scales),
    int(math.prod(units)) if units and beside > 1 else 0,
    counts,
  )


def _counted(reduction: Node) -> tuple[list[float], list[float]]:
  """How many units a sum is over, and how many samples and positions."""
  assert reduction.equation is not None
  axes = reduction.equation.params["axes"]
  shape = reduction.equation.invars[0].aval.shape
  held = features(reduction.below[0], len(shape))
  # how many devices there are is not known
  sizes = {i: math.nan if isinstance(i, str) else shape[i] for i in axes}
  units = [size for i, size in sizes.items() if i in held]
  return units, [size for i, size in sizes.items() if i not in held]


def _is_reduction(node: Node) -> bool:
  sums = node.label.startswith("reduce_") or node.label in PSUMS
  return sums and node.equation is not None


def _statistic(node: Node, power: float) -> _Size | None:
  """Of 1/√(mean + ε), the sum that the mean is, and what multiplies it."""
  size, roots = _Size(node, power), 0
  while not _is_reduction(size.node):
    node, before = size.node, size.power
    below = _towards_reduction(node)
    if below is None or node.operation is not None:
      return None
    size = _step(size, below)
    roots += size.power != before
  return size if roots and size.power == -0.5 else None


def _step(size: _Size, below: Node) -> _Size:
  """What is below, and what multiplies it or raises it to a power."""
  node = size.node
  others = [value for value in node.operands if value.node is None]
  number = others[0].scalar if len(others) == 1 else None
  size, params = size.at(below), getattr(node.equation, "params", {})
  match node.label:
    case "rsqrt":
      return size.times(1.0, -0.5)
    case "sqrt":
      return size.times(1.0, 0.5)
    case "square":
      return size.times(1.0, 2.0)
    case "integer_pow":
      return size.times(1.0, float(params["y"]))
    case "pow" if number is not None:
      return size.times(1.0, float(number))
    case "mul" if number is not None:
      return size.times(float(np.abs(number)))
    case "mul" if others and size.power > 0:
      return size._replace(scales=(*size.scales, others[0]))
    case "div" if number and node.operands[1] is others[0]:
      return size.times(1 / float(np.abs(number)))
    case "div" if number is not None:
      return size.times(float(np.abs(number))).times(1.0, -1.0)
  return size


def _towards_reduction(node: Node, most: int = 12) -> Node | None:
  """The operand that holds the first sum over entries, a few nodes below."""
  below = node.below
  if len(below) == 1:
    return below[0]
  near = (each for each in below if _holds_reduction(each, most))
  return next(near, None)


def _holds_reduction(node: Node, most: int) -> bool:
  if _is_reduction(node):
    return True
  if most == 0 or node.operation is not None:
    return False
  return any(_holds_reduction(each, most - 1) for each in node.below)


def _number_below(size: _Size) -> _Size:
  """Past factors of what is summed."""
  while (below := size.node.only_below({"mul", "div"} | LAYOUT)) is not None:
    size = _step(size, below)
  return size


def _unscaled(node: Node, statistic: Node) -> tuple[Node, tuple[Value, ...]]:
  """A numerator without what multiplies all its samples.

  What multiplies it before the statistic is taken goes into both.
  """
  scales: tuple[Value, ...] = ()
  while not statistic.made_of(node):
    below = node.only_below({"mul", "neg"} | LAYOUT)
    if below is None:
      break
    scales += tuple(value for value in node.operands if value.node is None)
    node = below
  return node, scales


def _without_mean(node: Node) -> tuple[Node, bool]:
  """x and whether its mean is taken away, where the node is x - mean(x)."""
  if node.label != "sub":
    return node, False
  first, second = node.operands
  if first.node is None:
    return node, False
  if second.node is None:  # x - 0
    is_zero = second.scalar is not None and second.scalar == 0
    return (first.node, False) if is_zero else (node, False)
  is_mean = _is_mean(second.node)
  return (first.node, True) if is_mean else (node, False)


def _is_mean(node: Node) -> bool:
  """Whether it is a sum over entries, spread out and divided."""
  while (below := node.only_below({"div", "mul"} | LAYOUT)) is not None:
    node = below
  return _is_reduction(node)
