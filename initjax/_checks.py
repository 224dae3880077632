"""Argument checks, with one wording for every error of the package.

A `check_*` returns nothing and raises with three parts: what was wanted, what
came, and (where it is not obvious) what to do.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeGuard

import jax
import numpy as np

Axes = int | Iterable[int]

_RAW_SIZES = (2, 4)  # of the keys of threefry and of rbg, without their type


def type_of(value: object) -> str:
  """How an error names what came: a `repr` may hold addresses, or pages."""
  return value.__name__ if isinstance(value, type) else type(value).__name__


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
  """Raises unless `value` is one of `choices`."""
  if value not in choices:
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"{name} must be one of {listed}; got {value!r}.")


def check_number(
  name: str, value: object, *, low: float = -math.inf, open_low: bool = False
) -> None:
  """Raises unless `value` is a finite number above `low`; tracers pass."""
  if isinstance(value, jax.core.Tracer):
    return
  try:
    if isinstance(value, str | bytes):
      raise TypeError
    number = float(value)  # type: ignore[arg-type]
  except (TypeError, ValueError):
    raise ValueError(f"{name} must be a number; got {value!r}.") from None
  above = number > low if open_low else number >= low
  if not (math.isfinite(number) and above):
    bound = "" if low == -math.inf else f" {'>' if open_low else '>='} {low:g}"
    raise ValueError(f"{name} must be a finite number{bound}; got {value!r}.")


def check_numbers(
  name: str, value: Any, *, low: float = -math.inf, open_low: bool = False
) -> None:
  """`check_number` of every entry, for a number or an array of them."""
  is_array = isinstance(value, (list, tuple, np.ndarray, jax.Array))
  if isinstance(value, jax.core.Tracer) or not is_array or np.ndim(value) == 0:
    check_number(name, value, low=low, open_low=open_low)
    return
  for entry in np.ravel(value):
    check_number(f"each entry of {name}", entry, low=low, open_low=open_low)


def check_bound(name: str, value: Any) -> None:
  """Raises unless `value` is a real number, infinite or not, or an array."""
  if isinstance(value, (np.ndarray, jax.Array)):  # tracers are, too
    return
  try:
    check_number(name, value)
  except ValueError:
    if not isinstance(value, (float, np.floating)):
      raise


def check_integer(name: str, value: object, *, low: int) -> None:
  """Raises unless `value` is an integer of at least `low`."""
  if not _is_integer(value) or operator.index(value) < low:
    raise ValueError(f"{name} must be an integer >= {low}; got {value!r}.")


def _is_integer(value: Any) -> TypeGuard[SupportsIndex]:
  """Python's, NumPy's and JAX's integers; a bool is a slip."""
  try:
    operator.index(value)
  except TypeError:
    return False
  return not isinstance(value, bool)


def is_key(value: Any) -> bool:
  """Whether `value` is one key of `jax.random`, typed or raw."""
  dtype, shape = (getattr(value, name, None) for name in ("dtype", "shape"))
  if dtype is None or not isinstance(shape, tuple):  # nnx.Rngs has any name
    return False
  if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    return shape == ()
  return dtype == np.uint32 and len(shape) == 1 and shape[0] in _RAW_SIZES


def check_key(key: Any) -> None:
  """Raises a `TypeError` unless `key` is one key, concrete or traced."""
  if not is_key(key):
    shape, dtype = (getattr(key, name, None) for name in ("shape", "dtype"))
    came = f"{dtype}{list(shape)}" if isinstance(shape, tuple) else repr(key)
    if "\n" in came:
      came = type(key).__name__
    raise TypeError(f"expected one key, such as jax.random.key(0); got {came}.")


def axes_tuple(name: str, axes: Axes) -> tuple[int, ...]:
  """One axis or several, in any iterable, as a tuple of integers.

  >>> axes_tuple("in_axis", -2), axes_tuple("in_axis", np.arange(2))
  ((-2,), (0, 1))
  """
  listed: list[Any] = [axes] if _is_integer(axes) else _listed(axes)
  if not all(map(_is_integer, listed)):
    raise ValueError(
      f"{name} must be an axis or a sequence of axes; got {axes!r}."
    )
  return tuple(operator.index(axis) for axis in listed)


def one_axis(name: str, axis: int) -> int:
  """`axis` as Python's integer; raises if it is none, or several."""
  axes = axes_tuple(name, axis)
  if len(axes) != 1:
    raise ValueError(f"{name} must be one axis; got {axis!r}.")
  return axes[0]


def _listed(value: Any) -> list[Any]:
  """What `value` holds, or `value` alone where it is no iterable."""
  try:
    return list(value)
  except TypeError:
    return [value]


def check_disjoint(**groups: tuple[int, ...]) -> None:
  """Raises if an axis is named twice, in one group or in two.

  The groups of an operation whose inputs are also its outputs (JAX's spelling
  of an embedding) overlap rightly: check each of them against the batch axes.
  """
  seen: dict[int, str] = {}
  for name, axes in groups.items():
    for axis in axes:
      if seen.get(axis) == name:
        raise ValueError(f"{name}={axes} holds axis {axis} twice.")
      if axis in seen:
        raise ValueError(
          f"{seen[axis]} and {name} overlap: both hold axis {axis}; a batch "
          "axis tells independent kernels apart, so it cannot be an axis of "
          "one of them."
        )
      seen[axis] = name


def positive_axes(
  name: str, axes: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
  """`axes` counted from the front of `shape`; raises if one is outside it."""
  rank = len(shape)
  for axis in axes:
    if not -rank <= axis < rank:
      raise ValueError(
        f"{name}={axis} is outside the shape {shape} of rank {rank}."
      )
  return tuple(axis % rank for axis in axes)
