"""Kernels of which only a part grows, because inputs are joined or outputs cut.

Examples are a growing signal beside a fixed one, and queries whose heads grow
in number, fused with the keys and values of few heads.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax.graph import Dataflow, LinearOp, Stream, output_parts
from initjax.parametrization._growth import Use
from initjax.parametrization._models import Models
from initjax.parametrization._rules import Width, role_of, width
from initjax.parametrization._scaling import Scaling, compact
from initjax.typing import Numbers


class Part(NamedTuple):
  """Entries along an axis of a kernel."""

  size: int
  growth: float


def with_parts(models: Models, row: Scaling, use: Use) -> Scaling:
  """A row whose factors differ along an axis of its kernel."""
  axis = _leaf_axis(use.op, use.op.axes.summed[-1:])
  parts = _pairs(_joined_sizes(use.op), _joined_sizes(use.base))
  if axis is not None and parts:
    every = [_width(part.growth, use.growth_out) for part in parts]
    grown = max(part.growth for part in parts)
    row = _with(row, axis, parts, every, "its input is joined of")
    return row._replace(growth_in=grown)
  axis = _leaf_axis(use.op, use.op.axes.free)
  parts = _pairs(
    _cut_sizes(models.flow, use.op), _cut_sizes(models.base_flow, use.base)
  )
  if axis is None or not parts:
    return row
  every = [_width(use.growth_in, part.growth) for part in parts]
  grown = max(part.growth for part in parts)
  row = _with(row, axis, parts, every, "its output is cut into")
  return row._replace(growth_out=grown)


def _width(growth_in: float, growth_out: float) -> Width:
  growth = growth_in * growth_out
  role = role_of(growth_in, growth_out, growth, interior=True)
  return width(role, growth_in, growth_out, growth)


def _pairs(own: list[int] | None, base: list[int] | None) -> list[Part]:
  """Parts with their growths; none if all grow alike."""
  if own is None or base is None or len(own) != len(base):
    return []
  parts = [Part(n, n / m) for n, m in zip(own, base, strict=True)]
  return parts if len({part.growth for part in parts}) > 1 else []


def _leaf_axis(op: LinearOp, places: Sequence[int]) -> int | None:
  """The axis of the leaf that is the only one of these axes of the kernel."""
  view = op.view
  if view is None or view.axes is None or view.leaf_shape is None:
    return None
  if op.kind not in ("dot", "convolution") or len(places) != 1:
    return None
  held = view.axes[places[0]]
  if len(held) != 1:
    return None
  same = view.leaf_shape[held[0]] == op.kernel_shape[places[0]]
  return held[0] if same else None


def _cut_sizes(flow: Dataflow, op: LinearOp) -> list[int] | None:
  """Parts of the output's features, where it is cut."""
  sizes = output_parts(flow, op.place.site)
  total = [op.kernel_shape[axis] for axis in op.axes.free]
  return sizes if sizes and [sum(sizes)] == total else None


def _joined_sizes(op: LinearOp) -> list[int] | None:
  """Features of each part of what feeds an operation, in order."""
  images = _joined(op.usual_feed.stream)
  if images is None or (op.kind == "dot" and len(op.axes.summed) > 1):
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


def _with(
  row: Scaling, axis: int, parts: list[Part], every: list[Width], said: str
) -> Scaling:
  """Factors of each part, as arrays along the axis."""
  fields: dict[str, Any] = {
    name: _along(row, axis, parts, [getattr(each, name) for each in every])
    for name in Width._fields
  }
  listed = ", ".join(f"{p.size} × {p.growth:.4g}" for p in parts)
  why = f"{said} parts that grow differently: {listed}"
  return row._replace(why=why, **fields)


def _along(
  row: Scaling, axis: int, parts: list[Part], numbers: list[float]
) -> Numbers:
  along = np.repeat(numbers, [part.size for part in parts])
  sizes = [-1 if i == axis else 1 for i in range(len(row.shape))]
  return compact(along.reshape(sizes))
