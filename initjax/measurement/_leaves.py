"""Parameters by path, left in place, and the kernels among them as matrices."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import leaves_by_path
from initjax._sharding import is_one_piece, reduced
from initjax.graph import LinearOp, Scale, SignalGraph, entries_of, named_in
from initjax.measurement._reductions import (
  Array,
  fingerprints,
  in_double,
  row_moments,
  sample,
)

Leaves = Mapping[str, Array]
"""Parameters that have a gradient, by path: NumPy's, or what is split between
devices, where it is. Both are asked by `_reductions` alone."""
Known = Mapping[Any, Any]
"""These, and the inputs that are read as constants, by number."""


def arrays_of(tree: Any) -> dict[str, Array]:
  """The leaves that have a gradient, by path."""
  check_arrays(tree)
  return leaves_of(tree)


def leaves_of(tree: Any) -> dict[str, Any]:
  """The same; what has a shape alone stays as it is."""
  return {
    path: np.asarray(leaf) if _is_whole(leaf) else leaf
    for path, leaf in leaves_by_path(tree).items()
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  }


def _is_whole(leaf: Any) -> bool:
  return _has_values(leaf) and is_one_piece(leaf)


def check_arrays(tree: Any) -> None:
  """Raises a TypeError if a leaf is the shape of an array alone."""
  for path, leaf in leaves_by_path(tree).items():
    if isinstance(leaf, jax.ShapeDtypeStruct):
      raise TypeError(
        f"expected arrays, got {leaf} at {path}; initialize the parameters "
        "first, with model.init or init_variables, and pass actual inputs."
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

  def columns(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints [batch, out], and whether a column is not all 0."""
    found = fingerprints(self.leaf, self.ins, most)
    rest = [axis for axis in range(self.leaf.ndim) if axis not in self.ins]
    order = [rest.index(axis) for axis in (*self.batch, *self.outs)]
    groups = (self.batch, self.outs)
    sizes = [math.prod(self.leaf.shape[i] for i in axes) for axes in groups]
    prints, alive = (x.transpose(order).reshape(sizes) for x in found)
    return prints, alive


def matrices(x: Array, *groups: tuple[int, ...]) -> Array:
  """An array as [batch, in, out], by the axes of each."""
  sizes = [math.prod(x.shape[axis] for axis in axes) for axes in groups]
  return x.transpose([axis for axes in groups for axis in axes]).reshape(sizes)


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


def known_of(
  graph: SignalGraph, leaves: Mapping[str, Any], inputs: Any
) -> Known:
  """Parameters by path, and statistics among the inputs that have values."""
  given = jax.tree.leaves(inputs)
  abstract = (jax.ShapeDtypeStruct, jax.core.Tracer)
  concrete = {
    at: given[at]
    for at in graph.statistics
    if not isinstance(given[at], abstract)
  }
  return {**leaves, **concrete}


def mean_square_at(known: Known, scale: Scale) -> float:
  """E|w|² of a parameter, or what is computed of it; NaN if not known."""
  return _asked(_square_of, known, scale)


def shared_by_positions(known: Known, scale: Scale) -> float:
  """Of a bias E|w|², what all positions share: all, if it is a vector."""
  return _asked(_shared_of, known, scale)


def _asked(by: Callable[..., Array], known: Known, scale: Scale) -> float:
  names = tuple(sorted(named_in(scale), key=str))
  arrays = [known.get(name) for name in names]
  if not all(map(_has_values, arrays)):
    return math.nan  # abstract; or it has no gradient, as integers
  return float(reduced(by, *arrays, scale=scale, names=names))


def _has_values(leaf: Any) -> bool:
  return leaf is not None and not isinstance(leaf, jax.ShapeDtypeStruct)


def _square_of(
  *arrays: Array, scale: Scale, names: tuple[str | int, ...]
) -> Array:
  entries = entries_of(scale, dict(zip(names, arrays, strict=True)))
  return (abs(entries) ** 2).mean() if entries.size else np.zeros(())


def _shared_of(
  *arrays: Array, scale: Scale, names: tuple[str | int, ...]
) -> Array:
  entries = entries_of(scale, dict(zip(names, arrays, strict=True)))
  units = entries.shape[-1] if entries.ndim else 1
  rows = in_double(entries).reshape(-1, units)
  number, own = rows.shape[0], (abs(rows) ** 2).mean()
  if number < 2:
    return own
  return (number * (abs(rows.mean(axis=0)) ** 2).mean() - own) / (number - 1)


def is_random(leaf: Array, axes: tuple[int, ...] | None = None) -> bool:
  """Whether its entries look drawn: zeros and identities repeat theirs.

  16 bits hold few numbers, so many that are drawn agree; a sample tells, of
  what lies along these axes, or all.
  """
  seen = sample(leaf, 4096, axes)
  distinct = len({entry.tobytes() for entry in seen})
  return distinct > max(1, min(32, seen.size // 2))


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
  own = repeat if op.view.stacked and not op.is_shared else ()
  size, shift, count = _moments_at(leaf, own)
  if not math.isfinite(size) or not count:
    return math.nan
  if shift * op.fan_in > _SHIFT * size and shift * count > 16 * size:
    return math.nan
  return size * op.multiplier**2


def _moments_at(
  leaf: Array, repeat: tuple[int, ...]
) -> tuple[float, float, int]:
  """E|w|², |E w|² and the number of entries of one repeat.

  What devices hold parts of is not sliced: all its repeats are summed.
  """
  count = math.prod(leaf.shape[len(repeat) :])
  if not count:
    return 0.0, 0.0, 0
  if is_one_piece(leaf):
    size, shift = row_moments(leaf[repeat], 0)
  else:
    size, shift = (x[repeat] for x in row_moments(leaf, len(repeat)))
  return float(size), float(shift), count
