"""What parameters are: the moments of each leaf, and which leaves repeat."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._paths import is_float, leaves_by_path
from initjax.reports._encoding import encoding_of_stdout, printable

_SAME = 1e-5  # 1 - cosine of leaves equal up to scale; rounding gives 1e-6


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
  """paths of leaves that are equal, or equal up to a factor"""

  def __str__(self) -> str:
    return printable("\n".join(_lines(self)), encoding_of_stdout())


def audit(params: Any, *, expected: Any = None) -> Audit:
  """Mean and standard deviation of each leaf, and leaves drawn twice.

  A leaf whose entries are all equal (zeros, ones) is nobody's duplicate. What
  an initializer promises is what it gives to another key:
  `expected=jax.tree.map(jnp.std, init_variables(other_key, model, x))`.

  Args:
    params: any pytree of arrays.
    expected: a tree of standard deviations like `params`, or a prefix of it;
      None where one is unknown.

  Raises:
    ValueError: if `expected` has another structure.

  >>> import jax.numpy as jnp
  >>> found = audit({"a": jnp.arange(4.0), "b": 2 * jnp.arange(4.0)})
  >>> found.duplicates
  (('a', 'b'),)

  Reference: flax#2157, one cause of duplicates. The standard error of a
  standard deviation σ of n Gaussian numbers is σ/√(2n).
  """
  stds = _expected(expected, params)
  leaves = {
    path: (np.asarray(leaf, np.float64), leaf, std)
    for (path, leaf), std in zip(
      leaves_by_path(params).items(), stds, strict=True
    )
    if is_float(leaf)
  }
  rows = tuple(_row(path, *leaf) for path, leaf in leaves.items())
  return Audit(rows, _duplicates({p: x for p, (x, _, _) in leaves.items()}))


def _expected(expected: Any, params: Any) -> list[float | None]:
  found: list[float | None] = []
  is_none = lambda x: x is None

  def visit(std: Any, part: Any) -> None:
    found.extend([std] * len(jax.tree.leaves(part)))

  try:
    jax.tree.map(visit, expected, params, is_leaf=is_none)
  except (ValueError, TypeError) as error:
    raise ValueError(
      "expected must be a tree of standard deviations like params, or a "
      f"prefix of it: {error}"
    ) from None
  return found


def _row(path: str, x: np.ndarray, leaf: Any, std: float | None) -> AuditRow:
  mean = float(x.mean()) if x.size else math.nan
  spread = float(x.std()) if x.size else math.nan
  deviation = None
  if std and x.size:
    deviation = (spread - std) / (std / math.sqrt(2 * x.size))
  shape, dtype = tuple(leaf.shape), str(leaf.dtype)
  return AuditRow(path, shape, dtype, mean, spread, std, deviation)


def _duplicates(leaves: dict[str, np.ndarray]) -> tuple[tuple[str, ...], ...]:
  """Groups of leaves of one shape whose directions agree."""
  groups: list[tuple[np.ndarray, list[str]]] = []
  for path, x in leaves.items():
    if x.size < 2 or (x == x.flat[0]).all() or not np.isfinite(x).all():
      continue
    scaled = x / abs(x).max()  # squares neither overflow nor underflow
    unit = scaled / np.linalg.norm(scaled)
    for other, members in groups:
      same = other.shape == unit.shape
      if same and abs(np.vdot(other, unit)) > 1 - _SAME:
        members.append(path)
        break
    else:
      groups.append((unit, [path]))
  return tuple(tuple(paths) for _, paths in groups if len(paths) > 1)


def _lines(found: Audit) -> Iterator[str]:
  cells: list[tuple[str, ...]] = [
    ("leaf", "shape", "dtype", "mean", "std", "expected", "off by")
  ]
  cells += map(_cells, found.rows)
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  for row in cells:
    padded = (x.ljust(n) for x, n in zip(row, widths, strict=True))
    yield "  ".join(padded).rstrip()
  for paths in found.duplicates:
    yield f"equal up to a factor: {', '.join(paths)}"


def _cells(row: AuditRow) -> tuple[str, ...]:
  known: Sequence[float | None] = (row.expected_std, row.deviation)
  numbers = (f"{row.mean:.3g}", f"{row.std:.3g}")
  extra = ("" if x is None else f"{x:.3g}" for x in known)
  shape = "×".join(map(str, row.shape)) or "scalar"
  return (row.path, shape, row.dtype, *numbers, *extra)
