"""`audit`: the moments of each leaf, and which leaves are copies of others."""

import math
import re
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._paths import is_float, leaves_by_path
from initjax.measurement import (
  EqualSlices,
  arrays_of,
  find_duplicates,
  find_equal_slices,
  mean_and_std,
)
from initjax.reports import (
  Note,
  TextTable,
  alike_names,
  leaf_table,
  number_column,
  short_paths,
)

_MOST = 4  # paths that are listed
_FAR = 5.0  # standard errors
_VALUES_ALONE = (
  "only values were looked at; diagnose(fn, params, x) shows how a model "
  "uses them"
)


class AuditRow(NamedTuple):
  """The moments of one leaf."""

  path: str
  shape: tuple[int, ...]
  dtype: str
  mean: float
  std: float
  expected_std: float | None
  """as given; None where nobody knows"""
  deviation: float | None
  """(std − expected) in standard errors of a Gaussian sample of this size"""


class Audit(NamedTuple):
  """All leaves of floats, and those that are copies of one another."""

  rows: tuple[AuditRow, ...]
  duplicates: tuple[tuple[str, ...], ...]
  """paths of leaves that are copies, or were drawn with one key"""
  not_looked_at: tuple[str, ...] = ()
  """paths of leaves that hold no numbers of floating point"""
  equal_slices: tuple[EqualSlices, ...] = ()
  """leaves with slices that repeat one another: layers, experts, members"""

  def __str__(self) -> str:
    return str(_audit_table(self))


def audit(params: Any, *, expected: Any = None) -> Audit:
  """Mean and standard deviation of each leaf, and what was drawn twice.

  `audit` is not given a function, so it says nothing about how a model uses the
  leaves: about fans, biases, or what is unused (see `diagnose`). It finds
  leaves that were drawn with the same key, whatever their shapes, scales and
  distributions, unless one was drawn in another precision (bfloat16, float64),
  transposed, or orthogonalized. It also finds equal slices, along any axis. A
  leaf with few distinct values (zeros, ones, an identity) is never reported as
  a duplicate. To know what an initializer promises, run it with another key:
  `expected=jax.tree.map(jnp.std, init_variables(other_key, model, x))`.

  Args:
    params: any pytree of arrays.
    expected: a tree of standard deviations with the structure of `params` or of
      a prefix of it; None where a value is unknown.

  Raises:
    ValueError: if `expected` has another structure.
    TypeError: if a leaf has no values.

  >>> import jax.numpy as jnp
  >>> found = audit({"a": jnp.arange(4.0), "b": 2 * jnp.arange(4.0)})
  >>> found.duplicates
  (('a', 'b'),)

  Reference: flax#2157, one cause of duplicates. The standard error of a
  standard deviation σ, estimated from n Gaussian numbers, is σ/√(2n).
  """
  stds = _expected(expected, params)
  found = leaves_by_path(params)
  for path, leaf in found.items():
    if isinstance(leaf, jax.ShapeDtypeStruct):
      raise TypeError(f"audit needs values, got {leaf} at {path}.")
  rows = tuple(
    _audit_row(path, leaf, std)
    for (path, leaf), std in zip(found.items(), stds, strict=True)
    if is_float(leaf)
  )
  arrays = arrays_of(params)
  repeated = tuple(each.paths for each in find_duplicates(arrays))
  slices = tuple(find_equal_slices(arrays))
  others = tuple(path for path, leaf in found.items() if not is_float(leaf))
  return Audit(rows, repeated, others, slices)


def _expected(expected: Any, params: Any) -> list[float | None]:
  found: list[float | None] = []
  is_none = lambda x: x is None

  def visit(std: float | None, part: Any) -> None:
    found.extend([std] * len(jax.tree.leaves(part)))

  try:
    jax.tree.map(visit, expected, params, is_leaf=is_none)
  except (ValueError, TypeError) as error:
    raise ValueError(
      "expected must be a tree of standard deviations like params, or a "
      f"prefix of it: {error}"
    ) from None
  return found


def _audit_row(path: str, leaf: jax.Array, std: float | None) -> AuditRow:
  mean, spread, deviation = math.nan, math.nan, None
  if leaf.size:
    mean, spread = mean_and_std(leaf)
  if std and leaf.size:
    deviation = (spread - std) / (std / math.sqrt(2 * leaf.size))
  shape, dtype = tuple(leaf.shape), str(leaf.dtype)
  return AuditRow(path, shape, dtype, mean, spread, std, deviation)


def _striking(found: Audit) -> set[int]:
  """Leaves that are shown beside the others like them: far off, or copies."""
  copies = {p for paths in found.duplicates[:_MOST] for p in paths[:2]}
  return _unlike(found.rows) | {
    at
    for at, row in enumerate(found.rows)
    if row.path in copies
    or not math.isfinite(row.std)
    or abs(row.deviation or 0.0) > _FAR
  }


def _unlike(rows: Sequence[AuditRow]) -> set[int]:
  """Of leaves whose std is not within a factor of 2 of others', the furthest.

  The others are those of the same shape, and path up to numbers.
  """
  groups: dict[Hashable, list[int]] = {}
  for at, row in enumerate(rows):
    kind = (re.sub(r"\d+", "#", row.path), row.shape)
    groups.setdefault(kind, []).append(at)
  bits: dict[int, float] = {}
  for group in groups.values():
    stds = np.array([rows[at].std for at in group])
    with np.errstate(divide="ignore", invalid="ignore"):
      off = abs(np.log2(stds / np.median(stds)))
    bits |= zip(group, off.tolist(), strict=True)
  far = sorted((at for at in bits if bits[at] > 1), key=lambda at: -bits[at])
  return set(far[:_MOST])


def _audit_table(found: Audit) -> TextTable:
  columns = (
    number_column("mean", "mean", 3, spans=True),
    number_column("std", "std", 3, spans=True),
    number_column("expected", "expected_std", 3, spans=True),
    number_column("off by", "deviation", 3, spans=True),
  )
  notes = [
    Note(f"copies, or drawn with one key: {', '.join(alike_names(paths))}")
    for paths in found.duplicates
  ]
  notes += [
    Note(f"{path}: of {count} slices along axis {axis}, {distinct} distinct")
    for path, axis, count, distinct in found.equal_slices
  ]
  names = list(short_paths(found.not_looked_at).values())
  if names:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    listed = ", ".join(names[:_MOST]) + more
    notes.append(Note(f"not looked at, since not floating point: {listed}"))
  notes.append(Note(_VALUES_ALONE, "dim"))
  return leaf_table(found.rows, columns, notes=notes, pinned=_striking(found))
