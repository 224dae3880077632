"""Whether leaves that a recipe will scale look as if it already had.

A recipe that multiplies sees numbers, not their history. But if all its kernels
are smaller than the others by one factor, to sampling error, it is no accident.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import Where, is_float, leaves_by_path, matches
from initjax.recipes._rules import Leaf

_ERRORS = 4  # standard errors of a ratio: by chance 6e-5
_ROUNDING = 1e-3


def scaled_before(
  params: Any, where: Where, factor: float, *, beside: Where = (), fan: bool
) -> float | None:
  """The size of the other kernels, if `where` names ones factor · that.

  Sizes are root mean squares, of √fan_in · kernel if `fan`; the others' is
  what half of their entries do not exceed. That of n Gaussian numbers has a
  relative standard error of 1/√(2n).

  Args:
    params: any tree.
    where: the kernels to be scaled.
    factor: by which.
    beside: kernels that are neither.
    fan: whether fans count, for kernels [*window, in, out].
  """
  named: list[tuple[float, int]] = []
  others: list[tuple[float, int]] = []
  for name, leaf in leaves_by_path(params).items():
    if not _is_kernel(leaf) or matches(beside, name, leaf):
      continue
    (named if matches(where, name, leaf) else others).append(_sized(leaf, fan))
  if not named or not others:
    return None
  usual, count = _usual(others)
  if not 0 < usual < math.inf:
    return None
  for size, entries in named:
    error = math.sqrt(1 / (2 * entries) + 1 / (2 * count))
    close = _ERRORS * error + _ROUNDING
    ratio = size / usual
    if abs(ratio / factor - 1) > close or abs(ratio - 1) <= close:
      return None
  return usual


def _is_kernel(leaf: Leaf) -> bool:
  """Whether a leaf has values, of floats, and two axes or more."""
  unknown = isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct))
  return is_float(leaf) and not unknown and leaf.ndim > 1 and leaf.size > 0


def _sized(leaf: jax.Array, fan: bool) -> tuple[float, int]:
  """Its size, and the number of its entries."""
  fan_in = math.prod(leaf.shape[:-1]) if fan else 1
  with jax.ensure_compile_time_eval():
    mean_square = float(_mean_square(leaf))
  return math.sqrt(mean_square * fan_in), leaf.size


def _usual(sizes: list[tuple[float, int]]) -> tuple[float, int]:
  """The median over all entries, and the entries of the leaf that has it."""
  ordered = sorted(sizes)
  passed = np.cumsum([count for _, count in ordered])
  return ordered[np.argmax(2 * passed >= passed[-1])]


@jax.jit
def _mean_square(x: jax.Array) -> jax.Array:
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return jnp.mean(jnp.abs(wide) ** 2)
