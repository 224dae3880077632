"""Parameters as NumPy arrays: the kernels among them, as matrices."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import leaves_by_path
from initjax._sharding import fetched
from initjax.graph import LinearOp, Scale, SignalGraph, entries_of

Leaves = Mapping[str, np.ndarray]
"""Parameters that have a gradient, by path."""
Known = Mapping[Any, Any]
"""These, and the inputs that are read as constants, by number."""


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
  """The leaves that have a gradient, by path."""
  check_arrays(tree)
  return leaves_of(tree)


def leaves_of(tree: Any) -> dict[str, Any]:
  """The same; what has a shape alone stays as it is."""
  return {
    path: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else fetched(leaf)
    for path, leaf in leaves_by_path(tree).items()
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  }


def check_arrays(tree: Any) -> None:
  """Raises a TypeError if a leaf is the shape of an array alone."""
  for path, leaf in leaves_by_path(tree).items():
    if isinstance(leaf, jax.ShapeDtypeStruct):
      raise TypeError(
        f"wanted arrays, got {leaf} at {path}; draw parameters first, by "
        "model.init or init_variables, and pass inputs themselves."
      )


class KernelLeaf(NamedTuple):
  """A kernel whose axes could be followed."""

  op: LinearOp
  """its first use"""
  leaf: np.ndarray
  ins: tuple[int, ...]
  """axes that are summed"""
  outs: tuple[int, ...]
  """axes that become features"""
  batch: tuple[int, ...]
  """all others: stacked layers, heads, experts"""

  def matrices(self) -> np.ndarray:
    """Its values as [batch, in, out]."""
    leaf = self.leaf.transpose(*self.batch, *self.ins, *self.outs)
    groups = (self.batch, self.ins, self.outs)
    sizes = [math.prod(self.leaf.shape[i] for i in axes) for axes in groups]
    return in_double(leaf).reshape(sizes)


def kernel_leaves(graph: SignalGraph, leaves: Leaves) -> Iterator[KernelLeaf]:
  """Every kernel that is a parameter seen through views, once."""
  seen = set()
  for op in graph.ops:
    if op.origin != "parameter" or op.kind == "embedding" or op.path in seen:
      continue
    seen.add(op.path)
    leaf = leaves.get(op.path)
    if op.in_axes is not None and op.out_axes is not None and leaf is not None:
      used = (*op.in_axes, *op.out_axes)
      batch = tuple(axis for axis in range(leaf.ndim) if axis not in used)
      yield KernelLeaf(op, leaf, op.in_axes, op.out_axes, batch)


def in_double(leaf: np.ndarray) -> np.ndarray:
  """The leaf in float64 or complex128."""
  complex_or_real = np.complex128 if np.iscomplexobj(leaf) else np.float64
  return leaf.astype(complex_or_real)


def mean_square(leaf: np.ndarray) -> float:
  """E|w|²."""
  return float(np.mean(abs(in_double(leaf)) ** 2)) if leaf.size else 0.0


def known_of(
  graph: SignalGraph, leaves: Mapping[str, Any], inputs: Any
) -> Known:
  """Parameters by path, and statistics among the inputs that have values."""
  given = jax.tree.leaves(inputs)
  abstract = (jax.ShapeDtypeStruct, jax.core.Tracer)
  concrete = {
    at: fetched(given[at])
    for at in graph.statistics
    if not isinstance(given[at], abstract)
  }
  return {**leaves, **concrete}


def mean_square_at(known: Known, scale: Scale) -> float:
  """E|w|² of a parameter, or what is computed of it; NaN if not known."""
  try:
    return mean_square(entries_of(scale, known.__getitem__))
  except KeyError:  # it has no gradient, as integers
    return math.nan


def shared_by_positions(known: Known, scale: Scale) -> float:
  """Of a bias E|w|², what all positions share: all, if it is a vector."""
  try:
    entries = entries_of(scale, known.__getitem__)
  except KeyError:
    return math.nan
  units = entries.shape[-1] if entries.ndim else 1
  rows = in_double(entries).reshape(-1, units)
  number = len(rows)
  own = mean_square(rows)
  if number < 2:
    return own
  return (number * mean_square(rows.mean(axis=0)) - own) / (number - 1)


def is_random(leaf: np.ndarray) -> bool:
  """Whether its entries look drawn: zeros and identities repeat theirs.

  16 bits hold few numbers, so many that are drawn agree; a sample tells.
  """
  sample = leaf.ravel()[:: max(1, leaf.size // 4096)]
  distinct = len({entry.tobytes() for entry in sample})
  return distinct > max(1, min(32, sample.size // 2))


_SHIFT = 0.1  # of E[z²], by the mean of a kernel: not neglected if 4σ from 0


def kernel_variance(
  op: LinearOp, repeat: tuple[int, ...], leaves: Leaves
) -> float:
  """Variance of the kernel's entries, at one repeat; NaN if not known."""
  if len(op.paths) > 1:  # data choose one of them, each as often as another
    each = [dataclasses.replace(op, paths=(path,)) for path in op.paths]
    return sum(kernel_variance(o, repeat, leaves) for o in each) / len(each)
  leaf = leaves.get(op.path)
  if op.origin != "parameter" or op.view is None or leaf is None:
    return math.nan
  if op.view.stacked and not op.is_shared:
    leaf = leaf[repeat]
  if not np.isfinite(leaf).all() or not leaf.size:
    return math.nan
  size, shift = mean_square(leaf), abs(in_double(leaf).mean()) ** 2
  if shift * op.fan_in > _SHIFT * size and shift * leaf.size > 16 * size:
    return math.nan
  return size * op.multiplier**2
