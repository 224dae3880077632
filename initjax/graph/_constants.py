"""The entries of constants: masks, angles of positions, numbers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from initjax.graph._primitives import LAYOUT, PURE_ARRAYS
from initjax.graph._values import Node, Value

_LARGEST = 1 << 24
"""What has more entries is not looked at."""
_KNOWN = PURE_ARRAYS | LAYOUT
FUNCTIONS: dict[str, Callable[..., Any]] = {
  "abs": np.abs,
  "add": np.add,
  "cos": np.cos,
  "div": np.divide,
  "eq": np.equal,
  "exp": np.exp,
  "expm1": np.expm1,
  "integer_pow": np.power,
  "log": np.log,
  "log1p": np.log1p,
  "logistic": lambda x: 1 / (1 + np.exp(-x)),
  "max": np.maximum,
  "min": np.minimum,
  "mul": np.multiply,
  "neg": np.negative,
  "pow": np.power,
  "select_n": lambda where, off, on: np.where(where, on, off),
  "rsqrt": lambda x: 1 / np.sqrt(x),
  "sin": np.sin,
  "sqrt": np.sqrt,
  "square": np.square,
  "sub": np.subtract,
  "tanh": np.tanh,
}
_EXACT: dict[str, Callable[..., Any]] = {
  "add": np.add,
  "and": np.bitwise_and,
  "eq": np.equal,
  "ge": np.greater_equal,
  "gt": np.greater,
  "le": np.less_equal,
  "lt": np.less,
  "mul": np.multiply,
  "ne": np.not_equal,
  "not": np.invert,
  "or": np.bitwise_or,
  "select_n": FUNCTIONS["select_n"],
  "sub": np.subtract,
}
"""The same in NumPy as in JAX, whatever the type."""


def entries_in_place(value: Value) -> np.ndarray | None:
  """The entries of a constant, computed of constants alone; None if unknown.

  Axes along which it was spread out may have size 1, or be left out if all are.
  """
  if value.kind != "constant" or value.touched:
    return None
  if value.scalar is not None or value.array is not None:
    known = value.scalar if value.array is None else value.array
    abstract = isinstance(known, jax.core.Tracer | jax.ShapeDtypeStruct)
    return None if abstract else np.asarray(known)
  made = value.made
  if made is None or made.equation is None or made.label not in _KNOWN:
    return None
  if made.label == "iota":
    return _iota(made.equation)
  given = [entries_in_place(each) for each in made.operands]
  known_entries = [each for each in given if each is not None]
  if len(known_entries) < len(given) or len(made.equation.outvars) > 1:
    return None
  return _step(made, known_entries)


def _iota(equation: Any) -> np.ndarray:
  shape, axis = equation.params["shape"], equation.params["dimension"]
  places = np.arange(shape[axis]).astype(equation.params["dtype"])
  return places.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _step(made: Node, given: list[np.ndarray]) -> np.ndarray | None:
  """One equation."""
  params, atoms = made.equation.params, made.equation.invars
  if made.label == "broadcast_in_dim":
    if not given[0].ndim:
      return given[0]
    shape = [1] * len(params["shape"])
    for place, size in zip(
      params["broadcast_dimensions"], given[0].shape, strict=True
    ):
      shape[place] = size
    return given[0].reshape(shape)
  if made.label == "convert_element_type":
    return given[0].astype(params["new_dtype"])
  if made.label in _EXACT:
    return np.asarray(_EXACT[made.label](*given))
  sizes = [math.prod(atom.aval.shape) for atom in atoms]
  if max(sizes, default=0) > _LARGEST:
    return None
  full = [
    np.broadcast_to(each, atom.aval.shape)
    for each, atom in zip(given, atoms, strict=True)
  ]
  try:
    with jax.ensure_compile_time_eval():
      return np.asarray(made.equation.primitive.bind(*full, **params))
  except (RuntimeError, TypeError, ValueError):  # of meshes, of odd types
    return None
