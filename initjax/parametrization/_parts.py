"""Kernels of a signal that is joined of parts, of which only some grow."""

import math
from typing import Any, NamedTuple

import numpy as np

from initjax.graph import LinearOp, Stream
from initjax.parametrization._growth import Use
from initjax.parametrization._rules import role_of, width
from initjax.parametrization._scaling import Scaling, compact
from initjax.typing import Numbers


class Part(NamedTuple):
  """Rows of a kernel."""

  size: int
  growth: float


def parts_of(use: Use) -> tuple[int, list[Part]] | None:
  """The axis of the leaf along which parts lie, and these; None if alike."""
  axis = _joined_axis(use.op)
  if axis is None:
    return None
  own, base = _sizes(use.op), _sizes(use.base)
  if own is None or base is None or len(own) != len(base):
    return None
  parts = [Part(n, n / m) for n, m in zip(own, base, strict=True)]
  return None if len({part.growth for part in parts}) < 2 else (axis, parts)


def _joined_axis(op: LinearOp) -> int | None:
  """Of the leaf: the one that holds the features that are summed."""
  view = op.view
  if view is None or view.axes is None or not op.axes.summed:
    return None
  if op.kind not in ("dot", "convolution"):
    return None
  if op.kind == "dot" and len(op.axes.summed) > 1:
    return None
  place = op.axes.summed[-1]
  held = view.axes[place]
  if len(held) != 1 or view.leaf_shape is None:
    return None
  shapes = view.leaf_shape[held[0]], op.kernel_shape[place]
  return held[0] if shapes[0] == shapes[1] else None


def _sizes(op: LinearOp) -> list[int] | None:
  """Features of each part of what feeds an operation, in order."""
  images = _joined(op.usual_feed.stream)
  if images is None:
    return None
  total = op.kernel_shape[op.axes.summed[-1]]
  sizes = [weight * total for weight in images]
  whole = [round(size) for size in sizes]
  near = all(abs(n - size) < 1e-3 for n, size in zip(whole, sizes, strict=True))
  return whole if near and sum(whole) == total and min(whole) > 0 else None


def _joined(stream: Stream | None) -> list[float] | None:
  """Shares of the parts of a stream, perhaps normalized."""
  if stream is None or len(stream) != 1:
    return None
  (term,) = stream
  if term.kind == "normalized":
    return _joined(term.inner)
  if term.kind != "parts":
    return None
  return [image.weight for image in term.images]


def with_parts(row: Scaling, use: Use) -> Scaling:
  """A row whose factors differ between the rows of its kernel."""
  found = parts_of(use)
  if found is None:
    return row
  axis, parts = found
  every = []
  for part in parts:
    others = use.growth / use.growth_in
    growth = part.growth * others
    role = role_of(part.growth, use.growth_out, growth, interior=False)
    every.append(width(role, part.growth, use.growth_out, growth))
  fields: dict[str, Any] = {
    name: _along(row, axis, parts, [getattr(each, name) for each in every])
    for name in every[0]._fields
  }
  said = ", ".join(f"{p.size} × {p.growth:.4g}" for p in parts)
  why = f"its input is joined of parts that grow differently: {said}"
  grown = max(part.growth for part in parts)
  role = role_of(grown, use.growth_out, use.growth, interior=False)
  return row._replace(role=role, growth_in=grown, why=why, **fields)


def _along(
  row: Scaling, axis: int, parts: list[Part], numbers: list[float]
) -> Numbers:
  along = np.repeat(numbers, [part.size for part in parts])
  sizes = [-1 if i == axis else 1 for i in range(len(row.shape))]
  assert math.prod(along.shape) == row.shape[axis]
  return compact(along.reshape(sizes))
