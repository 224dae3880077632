"""How the line that fixes a model is written."""

import textwrap
from collections.abc import Sequence

from initjax.graph import LinearOp
from initjax.typing import Verdict

_WIDTH = 72  # fits a terminal of 80 columns, indented


def fix(code: str, remark: str) -> str:
  """Code to paste, and what else may help as a comment below it.

  >>> print(fix("kernel_init=he_normal()", "or normalization"))
  kernel_init=he_normal()
  # or normalization
  """
  below = textwrap.wrap(
    remark, _WIDTH, initial_indent="# ", subsequent_indent="# "
  )
  return "\n".join(filter(None, (code, *below)))


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
  batch = tuple(sorted({*range(rank)}.difference(ins, outs)))
  if not batch and outs == (rank - 1,):
    return ""
  from_the_end = [tuple(i - rank for i in axes) for axes in (ins, outs, batch)]
  in_axis, out_axis = (x[0] if len(x) == 1 else x for x in from_the_end[:2])
  return f"in_axis={in_axis}, out_axis={out_axis}, batch_axis={from_the_end[2]}"


def together(found: list[Verdict]) -> list[Verdict]:
  """The first of each fix; it says which others are mended by the same."""
  groups: dict[tuple[str, str], list[Verdict]] = {}
  for verdict in found:
    groups.setdefault((verdict.severity, verdict.fix), []).append(verdict)
  merged = []
  for first, *others in groups.values():
    more = (
      f" The same holds for {named([v.path for v in others])}."
      if others
      else ""
    )
    merged.append(first._replace(message=first.message + more))
  return merged


def named(paths: Sequence[str]) -> str:
  """The first of them, and how many more there are."""
  shown = ", ".join(paths[:4])
  return shown + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
