"""Fans without the terms that are padding."""

import math

import numpy as np

from initjax.graph import _geometry
from initjax.graph._activations import unpadded
from initjax.graph._compat import Equation
from initjax.graph._geometry import Fans
from initjax.graph._primitives import LAYOUT
from initjax.graph._values import (
  Value,
)


def valid_fans(equation: Equation, signal: Value, fans: Fans) -> Fans | None:
  """Fans without padding, of a convolution or of a product of patches."""
  node = signal.node and signal.node.unmoved
  if "window_strides" in equation.params:
    shapes = _shapes(equation)
    around = _around(signal, shapes[0])
    return _geometry.valid_fans(equation.params, shapes, *around)
  if node is None or node.label != "patches":
    return None
  shapes = _shapes(node.equation)
  around = _around(node.operands[0], shapes[0])
  taps, feeds = _geometry.valid_fans(node.equation.params, shapes, *around)
  spec = node.equation.params["dimension_numbers"].rhs_spec
  window = math.prod(shapes[1][axis] for axis in spec[1:])
  features = shapes[1][spec[0]] / node.equation.params["feature_group_count"]
  return fans[0] * taps / window, fans[1] * feeds / features


def taps_of(equation: Equation, signal: Value) -> tuple[np.ndarray, ...]:
  """Along each axis of a convolution's window, which entry each tap meets.

  None are told where the border is more of the signal's own entries.
  """
  if "window_strides" not in equation.params:
    return ()
  shapes = _shapes(equation)
  zeros, own = _around(signal, shapes[0])
  pairs = zip(shapes[0], zeros, strict=True)
  if list(own) != [n - sum(around) for n, around in pairs]:
    return ()
  return _geometry.tap_entries(equation.params, shapes, zeros)


def _shapes(equation: Equation) -> list[tuple[int, ...]]:
  atoms = (*equation.invars[:2], equation.outvars[0])
  return [tuple(atom.aval.shape) for atom in atoms]


def _around(
  signal: Value, shape: tuple[int, ...]
) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
  """Zeros around a signal along each axis, and its shape without a border.

  A border may be more of its own entries, as in circular padding.
  """
  node, zeros = signal.node, [(0, 0)] * len(shape)
  if node is not None and node.label == "pad" and unpadded(node) is not node:
    config = node.equation.params["padding_config"]
    if all(low >= 0 and high >= 0 and not gap for low, high, gap in config):
      zeros = [(low, high) for low, high, _ in config]
      shape = tuple(node.equation.invars[0].aval.shape)
    return zeros, shape
  while node is not None and unpadded(node) is not node:
    shape = tuple(node.equation.invars[0].aval.shape)
    node = node.below[0]
    while node.label in LAYOUT and node.operands[0].node is not None:
      shape = tuple(node.equation.invars[0].aval.shape)
      node = node.operands[0].node
  return zeros, shape


def patch_overlap(signal: Value) -> float:
  """How many patches hold one element, where patches were extracted before."""
  node = signal.node and signal.node.unmoved
  if node is None or node.label != "patches":
    return 1
  params = node.equation.params
  shape = node.equation.invars[1].aval.shape
  window = [shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
  return math.prod(window) / math.prod(params["window_strides"])
