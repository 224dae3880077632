"""A model as a chain: each operation fed by an activation of the one before."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from initjax.graph import PARTS, LinearOp, SignalGraph, Site, Stream
from initjax.measurement import Leaves, kernel_variance, mean_square_at
from initjax.typing import Activation


class Chain(NamedTuple):
  """Rows that follow each other, and what theory needs to know of them."""

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

  @property
  def length(self) -> int:
    """How many of the model's rows it has, from the first on."""
    return len(self.widths)


def chain_of(graph: SignalGraph, leaves: Leaves) -> Chain | None:
  """The model as a chain, its readout left out; None if it is none.

  Nobody asks of a last operation of another width that it keeps the size.
  """
  rows = graph.rows
  ops = [row.op for row in rows]
  if any(np.dtype(op.dtype).kind == "c" for op in ops):
    return None  # its law is that of real numbers
  is_short = len(rows) < 4
  if is_short or graph.products or _shares_kernels(graph):
    return None
  if graph.opaque or graph.not_followed:
    return None
  activations, sigma_b2 = [], []
  for before, row in itertools.pairwise(rows):
    phi, stream = row.feed.activation, row.feed.stream or ()
    if phi is None or not _is_output(stream, before.op.place.site):
      return None
    activations.append(phi)
    biases = (term for term in stream if term.kind == "bias")
    squares = (mean_square_at(leaves, b.path) * b.factor**2 for b in biases)
    sigma_b2.append(sum(squares))
  if not np.isfinite(sigma_b2).all():
    return None
  widths = [_units(op) for op in ops]
  count = len(ops) - (widths[-1] != widths[-2])
  return Chain(
    tuple(activations[: count - 1]),
    tuple(widths[:count]),
    tuple(
      kernel_variance(op, repeat, leaves) * op.valid_fan_in
      for _, op, repeat in rows[:count]
    ),
    np.array([*sigma_b2, 0.0][:count]),
    any(op.kind == "convolution" for op in ops),
  )


def _shares_kernels(graph: SignalGraph) -> bool:
  """Whether layers are not independent: recurrent ones, tied kernels."""
  whole = [
    op.path
    for op in graph
    if op.view is None or PARTS.isdisjoint(op.view.steps)
  ]
  return len(set(whole)) < len(whole) or any(op.is_shared for op in graph)


def _is_output(stream: Stream, site: Site) -> bool:
  """Whether it is the output of the operation at `site`, plus biases."""
  plain = lambda term: term.kind == "bias" and term.path and not term.scales
  terms = [term for term in stream if not plain(term)]
  if len(terms) != 1 or terms[0].factor ** 2 != 1 or terms[0].scales:
    return False
  return (terms[0].kind, terms[0].site) == ("output", site)


def _units(op: LinearOp) -> int:
  """Features of the output: positions that share a kernel count once."""
  if op.leaf_shape is None or not op.out_axes:
    return max(1, round(op.fan_out))
  return math.prod(op.leaf_shape[axis] for axis in op.out_axes)
