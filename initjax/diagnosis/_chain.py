"""Chains of layers: each operation reads an activation of the previous one."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from initjax.diagnosis._links import Links
from initjax.graph import PARTS, LinearOp, Row, SignalGraph
from initjax.measurement import Leaves, kernel_variance, mean_square_at
from initjax.typing import Activation

SHORTEST = 4
"""rows of a chain that has a law"""


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
  """Rows that follow each other, and what theory needs to know of them."""

  rows: tuple[int, ...]
  """of the report; a readout is left out: nobody asks of a last operation of
  another width that it keeps the size"""
  activations: tuple[Activation, ...]
  """φ between each of them and the next"""
  widths: tuple[int, ...]
  """units of each"""
  sigma_w2: tuple[float, ...]
  """variance of each kernel × fan_in; NaN if not known"""
  sigma_b2: np.ndarray
  """[rows]: mean square of the biases added to its output"""
  has_positions: bool
  """whether a second moment is an average over positions too"""
  returns: bool
  """whether the gradient comes back along it alone"""

  @property
  def length(self) -> int:
    """How many rows it has."""
    return len(self.rows)


def paths_of(links: Links) -> list[tuple[int, ...]]:
  """Covers all rows by the longest paths along links; each is in one path.

  A row with several readers goes on to the one from which most rows follow.
  """
  count = len(links.links)
  height, best = [1] * count, [-1] * count
  for at in reversed(range(count)):
    link = links.links[at]
    if link is not None and height[at] >= height[link.row]:
      height[link.row], best[link.row] = height[at] + 1, at
  found, seen = [], [False] * count
  for start in range(count):
    path, at = [], start
    while at >= 0 and not seen[at]:
      path.append(at)
      seen[at] = True
      at = best[at]
    if path:
      found.append(tuple(path))
  return found


def chain_of(
  path: Sequence[int], graph: SignalGraph, links: Links, leaves: Leaves
) -> Chain | None:
  """A path as a chain whose law is known; None if it has none."""
  ops = [graph.rows[at].op for at in path]
  if len(path) < SHORTEST or _shares_kernels(ops):
    return None
  if any(np.dtype(op.dtype).kind == "c" for op in ops):
    return None  # its law is that of real numbers
  activations, sigma_b2 = [], []
  for at in path[1:]:
    phi, link = graph.rows[at].feed.activation, links.links[at]
    if phi is None or link is None or not link.is_plain:
      return None
    activations.append(phi)
    biases = (term for term in link.stream if term.kind == "bias")
    squares = (mean_square_at(leaves, b.path) * b.factor**2 for b in biases)
    sigma_b2.append(sum(squares))
  if not np.isfinite(sigma_b2).all():
    return None
  widths = [units(op) for op in ops]
  count = len(ops) - (widths[-1] != widths[-2])
  inner = path[: count - 1]
  return Chain(
    tuple(path[:count]),
    tuple(activations[: count - 1]),
    tuple(widths[:count]),
    tuple(sigma_w2(graph.rows[at], leaves) for at in path[:count]),
    np.array([*sigma_b2, 0.0][:count]),
    any(op.kind == "convolution" for op in ops),
    links.are_known and all(links.readers[at] <= 1 for at in inner),
  )


def sigma_w2(row: Row, leaves: Leaves) -> float:
  """A kernel's variance × fan_in; NaN if it is not known."""
  return kernel_variance(row.op, row.repeat, leaves) * row.op.valid_fan_in


def _shares_kernels(ops: Sequence[LinearOp]) -> bool:
  """Whether layers are not independent: recurrent ones, tied kernels."""
  sites = {op.place.site: op for op in ops}
  whole = [op.path for op in sites.values() if not _takes_part(op)]
  return len(set(whole)) < len(whole) or any(op.is_shared for op in ops)


def _takes_part(op: LinearOp) -> bool:
  return op.view is not None and not PARTS.isdisjoint(op.view.steps)


def units(op: LinearOp) -> int:
  """Features of the output: positions that share a kernel count once."""
  if op.leaf_shape is None or not op.out_axes:
    return max(1, round(op.fan_out))
  return math.prod(op.leaf_shape[axis] for axis in op.out_axes)
