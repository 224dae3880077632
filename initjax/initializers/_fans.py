"""Fans of a kernel, from its shape and the meaning of its axes."""

import functools
import math
from typing import Literal, NamedTuple, get_args

from initjax._checks import (
  Axes,
  axes_tuple,
  check_disjoint,
  positive_axes,
)

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
MODES = get_args(Mode)


class KernelAxes(NamedTuple):
  """Which axes of a kernel are inputs, outputs and batch.

  What is in none of them is the receptive field (the window of a convolution).
  """

  in_axis: tuple[int, ...]
  out_axis: tuple[int, ...]
  batch_axis: tuple[int, ...]


def kernel_axes(in_axis: Axes, out_axis: Axes, batch_axis: Axes) -> KernelAxes:
  """Checked axes; what cannot be right for any shape raises here."""
  axes = KernelAxes(
    axes_tuple("in_axis", in_axis),
    axes_tuple("out_axis", out_axis),
    axes_tuple("batch_axis", batch_axis),
  )
  _check_batch(axes)
  return axes


def _check_batch(axes: KernelAxes) -> None:
  """Raises if a batch axis is also an input or an output, or named twice.

  Inputs may be outputs: for `embedding_init` Flax names only `out_axis=0` of
  [vocabulary, features], and fan_in is then the number of features.
  """
  check_disjoint(in_axis=axes.in_axis, batch_axis=axes.batch_axis)
  check_disjoint(out_axis=axes.out_axis, batch_axis=axes.batch_axis)


@functools.lru_cache(maxsize=4096)
def check_kernel_shape(
  shape: tuple[int, ...], axes: KernelAxes, groups: int = 1
) -> None:
  """Raises a `ValueError` with a remedy if `shape` does not fit the axes."""
  if len(shape) < 2 and axes.in_axis == (-2,):
    raise ValueError(
      f"fans need a kernel of rank >= 2, got shape {shape}; for a bias use "
      "zeros or torch_linear_bias, otherwise name in_axis and out_axis."
    )
  named = axes._asdict().items()
  _check_batch(KernelAxes(*(positive_axes(*each, shape) for each in named)))
  outs = math.prod(shape[axis] for axis in axes.out_axis)
  if outs % groups:
    raise ValueError(
      f"the outputs of a grouped convolution are divisible by groups={groups}; "
      f"got {outs} in the shape {shape}, which is [*window, in/groups, out]."
    )


def fans(
  shape: tuple[int, ...], axes: KernelAxes, groups: int = 1
) -> tuple[float, float]:
  """(fan_in, fan_out): inputs and outputs, each times the receptive field.

  Of a grouped convolution the shape holds the inputs of one group, but the
  outputs of all: each input feeds those of its own group.

  >>> fans((3, 3, 16, 32), kernel_axes(-2, -1, ()))
  (144.0, 288.0)
  >>> fans((3, 3, 1, 32), kernel_axes(-2, -1, ()), groups=32)
  (9.0, 9.0)
  """
  check_kernel_shape(shape, axes, groups)
  in_size, out_size, batch_size = (
    math.prod(shape[axis] for axis in group) for group in axes
  )
  receptive_field = math.prod(shape) / (in_size * out_size * batch_size)
  return in_size * receptive_field, out_size * receptive_field / groups


def fan(
  mode: Mode, shape: tuple[int, ...], axes: KernelAxes, groups: int = 1
) -> float:
  """The n of Var W = scale / n."""
  fan_in, fan_out = fans(shape, axes, groups)
  return {
    "fan_in": fan_in,
    "fan_out": fan_out,
    "fan_avg": (fan_in + fan_out) / 2,
    "fan_geo_avg": math.sqrt(fan_in * fan_out),
  }[mode]
