"""How the line that mends a model is written."""

import textwrap
from typing import Any

from initjax.graph import LinearOp

_WIDTH = 72  # fits a terminal of 80 columns, indented


def fix(code: str = "", remark: str = "") -> str:
  """Code to paste, and what else may help as a comment below it.

  >>> print(fix("kernel_init=he_normal()", "or normalization"))
  kernel_init=he_normal()
  # or normalization
  """
  lines = [code] if code else []
  lines += textwrap.wrap(
    remark, _WIDTH, initial_indent="# ", subsequent_indent="# "
  )
  return "\n".join(lines)


def initializer(
  rule: str, arguments: str, op: LinearOp, remark: str = ""
) -> str:
  """A kernel_init with the axes that this operation's kernel needs."""
  stacked = op.view is not None and bool(op.view.scans)
  transposed = (op.in_axes, op.out_axes) == ((1,), (0,))
  if stacked:
    remark = f"with batch_axis=0 if all layers are drawn as one array; {remark}"
  axes = named_axes(op) if transposed and not stacked else ""
  given = ", ".join(filter(None, (arguments, axes)))
  code = f"kernel_init=initjax.initializers.{rule}({given})"
  return fix(code, remark.removesuffix("; "))


def named_axes(op: LinearOp) -> str:
  """in_axis, out_axis and batch_axis of a kernel; empty if they are JAX's own.

  JAX's own are the last two, and a window before them.
  """
  shape, ins, outs = op.leaf_shape, op.in_axes, op.out_axes
  if shape is None or ins is None or outs is None:
    return ""
  rank = len(shape)
  used = {*ins, *outs}
  batch = tuple(axis - rank for axis in range(rank) if axis not in used)
  if not batch and outs == (rank - 1,):
    return ""
  return (
    f"in_axis={_from_the_end(ins, rank)}, "
    f"out_axis={_from_the_end(outs, rank)}, batch_axis={batch}"
  )


def _from_the_end(axes: tuple[int, ...], rank: int) -> Any:
  """Axes counted from the end; a single one without its tuple."""
  counted = tuple(axis - rank for axis in axes)
  return counted[0] if len(counted) == 1 else counted
