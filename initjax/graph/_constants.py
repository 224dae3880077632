"""The entries of constants: masks, angles of positions, numbers."""

import math

import jax
import numpy as np

from initjax.graph._primitives import LAYOUT, PURE_ARRAYS
from initjax.graph._values import Value

_LARGEST = 1 << 24
"""What has more entries is not looked at."""
_KNOWN = PURE_ARRAYS | LAYOUT


def entries_in_place(value: Value) -> np.ndarray | None:
  """The entries of a constant, computed of constants alone; None if unknown."""
  if value.kind != "constant" or value.touched:
    return None
  if value.scalar is not None or value.array is not None:
    known = value.scalar if value.array is None else value.array
    abstract = isinstance(known, jax.core.Tracer | jax.ShapeDtypeStruct)
    return None if abstract else np.asarray(known)
  made = value.made
  if made is None or made.equation is None:
    return None
  outputs = made.equation.outvars
  size = math.prod(outputs[0].aval.shape)
  if made.label not in _KNOWN or len(outputs) > 1 or size > _LARGEST:
    return None
  given = []
  for each, atom in zip(made.operands, made.equation.invars, strict=True):
    entries = entries_in_place(each)
    if entries is None:
      return None
    # a number is one whatever shape it was spread out to
    given.append(np.broadcast_to(entries, atom.aval.shape))
  try:
    with jax.ensure_compile_time_eval():
      found = made.equation.primitive.bind(*given, **made.equation.params)
  except (RuntimeError, TypeError, ValueError):  # of meshes, of odd types
    return None
  return np.asarray(found)
