"""Fourier transforms of parameters: kernels of circular convolutions."""

import dataclasses
from collections.abc import Sequence

from initjax.graph._compat import Equation
from initjax.graph._moves import Shape
from initjax.graph._primitives import LAYOUT
from initjax.graph._values import Node, Value


@dataclasses.dataclass
class Spectra:
  """Of the parameters so far."""

  padded: dict[Value, Shape] = dataclasses.field(default_factory=dict)
  """of a parameter with a border: the shape before"""
  known: dict[Value, tuple[Shape, Shape]] = dataclasses.field(
    default_factory=dict
  )
  """of a transform: the shape before it, without a border, and which axes are
  transformed, counted from the last"""

  def note(self, equation: Equation, operand: Value, output: Value) -> None:
    """Keeps in mind what a transform of a parameter was taken of."""
    name, shape = equation.primitive.name, tuple(equation.invars[0].aval.shape)
    if name == "pad":
      self.padded[output] = shape
    elif name == "fft":
      self.known[output] = self.padded.get(operand, shape), _axes(equation)
    elif name in LAYOUT and operand in self.known:
      before, axes = self.known[operand]
      if name == "transpose":
        order = [axis - len(shape) for axis in equation.params["permutation"]]
        axes = tuple(order.index(axis) - len(shape) for axis in axes)
      self.known[output] = before, axes

  def convolved(
    self,
    inverse: Equation,
    orders: Sequence[Shape],
    kernel: Value,
    signal: Value,
  ) -> tuple[Shape, Value] | None:
    """The kernel's shape and the signal, if that is a circular convolution.

    Args:
      inverse: transform of the product.
      orders: of axes between the product and that, the last one first.
      kernel: a side of the product.
      signal: the other one.
    """
    shape, own = self.known.get(kernel, ((), ()))
    axes, node = _axes(inverse), signal.node
    for order in orders:
      axes = _before(axes, order)
    if own != axes or node is None:
      return None
    while node.label in LAYOUT and node.operands[0].node is not None:
      if node.label == "transpose":
        axes = _before(axes, node.equation.params["permutation"])
      node = node.operands[0].node
    return (shape, node.operands[0]) if _transforms(node, axes) else None


def _axes(transform: Equation) -> Shape:
  """What it transforms, counted from the last."""
  return tuple(range(-len(transform.params["fft_lengths"]), 0))


def _before(axes: Shape, order: Sequence[int]) -> Shape:
  """Where axes, counted from the last, were before they got another order."""
  return tuple(order[axis] - len(order) for axis in axes)


def _transforms(node: Node, axes: Shape) -> bool:
  return node.label == "fft" and axes == _axes(node.equation)
