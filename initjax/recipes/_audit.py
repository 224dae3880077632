"""What parameters are: the moments of each leaf, and which leaves repeat."""

import math
from typing import Any, NamedTuple

import jax

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
  leaf_table,
  number_column,
  short_paths,
)

_MOST = 4  # paths that are listed
_VALUES_ALONE = (
  "only values were looked at; how a model uses them, diagnose(fn, params, x) "
  "tells"
)


class AuditRow(NamedTuple):
  """One leaf."""

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
  """All leaves of floats, and those that are one another's copies."""

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

  It is given no function, and so says nothing of how a model uses them: of
  fans, biases, or what is unused (see `diagnose`). Leaves that were drawn with
  one key are found whatever their shapes, scales and laws, but not where one
  was drawn in another width (bfloat16, float64), transposed, or orthogonalized;
  slices that are equal, along every axis. A leaf of few values (zeros, ones, an
  identity) is nobody's duplicate. What an initializer promises is what
  it gives to another key:
  `expected=jax.tree.map(jnp.std, init_variables(other_key, model, x))`.

  Args:
    params: any pytree of arrays.
    expected: a tree of standard deviations like `params`, or a prefix of it;
      None where one is unknown.

  Raises:
    ValueError: if `expected` has another structure.
    TypeError: if a leaf has no values.

  >>> import jax.numpy as jnp
  >>> found = audit({"a": jnp.arange(4.0), "b": 2 * jnp.arange(4.0)})
  >>> found.duplicates
  (('a', 'b'),)

  Reference: flax#2157, one cause of duplicates. The standard error of a
  standard deviation σ of n Gaussian numbers is σ/√(2n).
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


def _audit_table(found: Audit) -> TextTable:
  columns = (
    number_column("mean", "mean", 3),
    number_column("std", "std", 3),
    number_column("expected", "expected_std", 3),
    number_column("off by", "deviation", 3),
  )
  notes = [
    Note(f"copies, or drawn with one key: {', '.join(paths)}")
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
    notes.append(Note(f"not looked at, no floating point: {listed}"))
  notes.append(Note(_VALUES_ALONE, "dim"))
  return leaf_table(found.rows, columns, notes=notes)
