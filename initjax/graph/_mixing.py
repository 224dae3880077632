"""Reads what mixes the positions of a signal: pooling and attention."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from initjax.graph._constants import entries_in_place
from initjax.graph._features import features
from initjax.graph._mixture import Mixing, Window
from initjax.graph._values import Node

_HIDDEN = -1e4
"""A score of at most this is one that a mask put there."""


Pool = Literal["average", "maximum"]


class Attention(NamedTuple):
  """A product of softmax(scores) and values."""

  values: Node
  scores: Node
  """before the softmax, without their mask"""
  queries: Node
  keys: Node
  mixing: Mixing


def pooled(node: Node) -> tuple[Pool, Node, Mixing] | None:
  """What is pooled over positions: "average" (a sum of so many) or "maximum".

  Features are never pooled: those of one sample differ in their kernels.
  """
  equation = node.equation
  if equation is None or len(node.operands) != 1 or not node.below:
    return None
  if node.label not in _POOLS:
    return None
  shape = tuple(equation.invars[0].aval.shape)
  windows: tuple[Window, ...] = ()
  if node.label == "reduce_sum":
    pooled_axes = {*equation.params["axes"]}
    terms = float(math.prod(shape[axis] for axis in pooled_axes))
  else:
    every = _windows(equation.params, shape)
    pooled_axes = {i for i, each in enumerate(every) if each.size > 1}
    windows = tuple(every[axis] for axis in sorted(pooled_axes))
    terms = math.prod(map(_mean_terms, windows))
  held = features(node.below[0], len(shape))
  if not pooled_axes or not held.isdisjoint(pooled_axes):
    return None
  outputs = math.prod(equation.outvars[0].aval.shape)
  share = outputs / max(1, math.prod(shape))
  together = 1.0 if node.label == "reduce_sum" else 0.0
  mixing = Mixing((terms,), share, together, windows=windows)
  return _POOLS[node.label], node.below[0], mixing


_POOLS: dict[str, Pool] = {
  "reduce_sum": "average",
  "reduce_window_sum": "average",
  "reduce_window_max": "maximum",
}


def _windows(params: dict[str, Any], shape: Sequence[int]) -> list[Window]:
  """Along every axis."""
  names = ("window_dimensions", "window_strides", "padding", "window_dilation")
  per_axis = zip(*(params[name] for name in names), strict=True)
  found = []
  for n, (size, stride, (low, high), step) in zip(shape, per_axis, strict=True):
    outputs = (n + low + high - (size - 1) * step - 1) // stride + 1
    found.append(Window(n, max(1, outputs), size, stride, low, step))
  return found


def _mean_terms(window: Window) -> float:
  return float(window_matrix(window).sum() / window.outputs)


def window_matrix(window: Window) -> np.ndarray:
  """[outputs, entries]: which entry is in which window."""
  n, outputs, size, stride, low, step = window
  starts = np.arange(outputs)[:, None] * stride - low
  places = starts + np.arange(size) * step
  return (places[..., None] == np.arange(n)).any(axis=1).astype(float)


def attention(node: Node) -> Attention | None:
  """Reads softmax(q·k)·v, perhaps masked; None if the product is no such."""
  if not _is_dot(node):
    return None
  _, sides = _sides(node)
  for place, (weights, values) in enumerate((sides, sides[::-1])):
    found = softmax(weights)
    if found is None:
      continue
    scores, shape, axis = found
    below = _unmasked(scores, shape, axis)
    if below is None:
      return None
    product, mask = below
    pair = _product_below(product)
    if pair is None:
      return None
    queries = _free(node, place)
    mixing = _mixing(mask, shape[axis], queries, pair[2])
    if mixing is None:
      return None
    mixing = mixing._replace(values=_free(node, 1 - place))
    return Attention(values, product, pair[0], pair[1], mixing)
  return None


def _free(node: Node, place: int) -> int:
  """The size of what one side of a product hands on alone."""
  contract, batch = node.equation.params["dimension_numbers"]
  taken = {*contract[place], *batch[place]}
  shape = node.equation.invars[place].aval.shape
  return math.prod(n for axis, n in enumerate(shape) if axis not in taken)


def _is_dot(node: Node) -> bool:
  """Whether it is a matrix product of two signals."""
  name = getattr(node.equation, "primitive", None)
  is_dot = name is not None and name.name == "dot_general"
  return is_dot and node.label == "data product" and len(node.below) == 2


def _sides(node: Node) -> tuple[Any, tuple[Node, Node]]:
  """The axes of a product of data, and its operands in their order."""
  second, first = node.below
  return node.equation.params["dimension_numbers"], (first, second)


def softmax(node: Node) -> tuple[Node, tuple[int, ...], int] | None:
  """The scores of exp(scores - max)/Σ exp(...), their shape, and its axis."""
  node = node.unmoved
  if node.label != "div" or len(node.below) != 2:
    return None
  top, below = (each.unmoved for each in node.below)
  if (top.label, below.label) != ("exp", "reduce_sum") or len(top.below) != 1:
    return None
  if below.below[0].unmoved is not top:
    return None
  axes = below.equation.params["axes"]
  shape = tuple(below.equation.invars[0].aval.shape)
  scores = top.below[0].unmoved
  if scores.label == "sub" and len(scores.below) == 2:
    scores = scores.below[0].unmoved  # the largest is taken away
  return (scores, shape, int(axes[0])) if len(axes) == 1 else None


def _unmasked(
  scores: Node, shape: tuple[int, ...], axis: int
) -> tuple[Node, np.ndarray | None] | None:
  """Scores before their mask, and which of them are seen, the axis last."""
  if scores.label == "select_n" and scores.operands[0].node is None:
    which, *cases = scores.operands
    data = [case.node is not None for case in cases]
    if sum(data) != 1 or len(cases) != 2:
      return None
    hidden = entries_in_place(cases[1 - data.index(True)])
    mask = entries_in_place(which)
    if hidden is None or mask is None or (hidden > _HIDDEN).any():
      return None
    seen = mask.astype(bool) == data[1]
    below = cases[data.index(True)].node
  elif scores.label == "add" and len(scores.below) == 1:
    added = next(value for value in scores.operands if value.node is None)
    bias = entries_in_place(added)
    if bias is None or not ((bias == 0) | (bias <= _HIDDEN)).all():
      return None
    seen, below = bias == 0, scores.below[0]
  else:
    return scores, None
  assert below is not None
  rank = len(shape)
  seen = seen.reshape((1,) * (rank - seen.ndim) + seen.shape)
  return below, np.moveaxis(seen, axis, -1)


def _product_below(node: Node) -> tuple[Node, Node, int] | None:
  """Two signals of whose product scores are a function, and its terms."""
  while node.label != "data product":
    below = node.below
    if node.operation is not None or len(below) != 1:
      return None
    node = below[0]
  if not _is_dot(node):
    return None
  (contract, _), (first, second) = _sides(node)
  shape = node.equation.invars[0].aval.shape
  return first, second, math.prod(shape[axis] for axis in contract[0])


def _mixing(
  mask: np.ndarray | None, keys: int, queries: int, terms: int
) -> Mixing | None:
  """How uniform weights would mix."""
  ratio = queries / max(1, keys)
  if mask is None:
    return Mixing((float(keys),), ratio, 1 / keys, ratio**2, terms)
  own = _distinct(mask)
  if own.shape[-1] not in (1, keys):
    return None
  own = np.broadcast_to(own, (len(own), keys))
  found = _uniform(np.packbits(own, axis=-1).tobytes(), own.shape)
  if found is None:
    return None
  counts, overlap, columns = found
  columns *= (ratio * keys / len(own)) ** 2
  return Mixing(counts, ratio, overlap, columns, terms)


@functools.lru_cache(maxsize=16)
def _uniform(
  bits: bytes, shape: tuple[int, int]
) -> tuple[tuple[float, ...], float, float] | None:
  """Of a mask's uniform weights: numbers of keys, overlap, columns."""
  packed = np.frombuffer(bits, np.uint8).reshape(shape[0], -1)
  own = np.unpackbits(packed, axis=-1, count=shape[1]).astype(np.float32)
  counts = own.sum(axis=-1)
  if not counts.all():
    return None
  own /= counts[:, None]
  into, number = own.sum(axis=0, dtype=float), len(own)
  same = float((own**2).sum(dtype=float))
  columns = float((into**2).mean())
  if number == 1:  # the same for all queries
    return (float(counts[0]),), same, columns
  overlap = ((into**2).sum() - same) / (number * (number - 1))
  return tuple(counts.tolist()), float(overlap), columns


def _distinct(mask: np.ndarray) -> np.ndarray:
  """[queries, keys] of a mask that may be the same for samples and heads."""
  mask = np.ascontiguousarray(mask)
  for axis in range(mask.ndim - 1):
    if (mask == mask.take([0], axis)).all():
      mask = mask.take([0], axis)
  return mask.reshape(-1, mask.shape[-1])
