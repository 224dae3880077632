"""Primitives that move entries, on NumPy and JAX arrays alike.

A step takes an array with leading axes of scans, their number, and which of the
equation's outputs is wanted. NumPy arrays are viewed, never copied.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

Step = Callable[[Any, int, int], Any]
Params = dict[str, Any]


def _reshape(x: Any, lead: int, shape: Sequence[int]) -> Any:
  """Raises ValueError where NumPy would have to copy."""
  whole = (*x.shape[:lead], *shape)
  if isinstance(x, np.ndarray):
    return x.reshape(whole, copy=False)
  return x.reshape(whole)


def _index(*index: Any) -> Step:
  """Of the axes behind the leading ones."""
  return lambda x, lead, output: x[(slice(None),) * lead + index]


def _reshaped(params: Params, outputs: Sequence[Any]) -> Step:
  del params
  return lambda x, lead, output: _reshape(x, lead, outputs[output].shape)


def _transpose(params: Params, outputs: Sequence[Any]) -> Step:
  del outputs
  order = params["permutation"]
  return lambda x, lead, output: x.transpose(
    (*range(lead), *(lead + axis for axis in order))
  )


def _broadcast(params: Params, outputs: Sequence[Any]) -> Step:
  shape, places = outputs[0].shape, params["broadcast_dimensions"]

  def step(x: Any, lead: int, output: int) -> Any:
    del output
    own = dict(zip(places, x.shape[lead:], strict=True))
    x = _reshape(x, lead, [own.get(axis, 1) for axis in range(len(shape))])
    library = np if isinstance(x, np.ndarray) else jnp
    return library.broadcast_to(x, (*x.shape[:lead], *shape))

  return step


def _reverse(params: Params, outputs: Sequence[Any]) -> Step:
  axes = params["dimensions"]
  rank = len(outputs[0].shape)
  return _index(
    *(slice(None, None, -1 if a in axes else 1) for a in range(rank))
  )


def _slice(params: Params, outputs: Sequence[Any]) -> Step:
  strides = params["strides"] or (1,) * len(outputs[0].shape)
  bounds = (params["start_indices"], params["limit_indices"], strides)
  return _index(*map(slice, *bounds))


def _split(params: Params, outputs: Sequence[Any]) -> Step:
  del outputs
  ends = np.cumsum(params["sizes"]).tolist()
  starts = [0, *ends]
  before = (slice(None),) * params["axis"]

  def step(x: Any, lead: int, output: int) -> Any:
    part = slice(starts[output], ends[output])
    return _index(*before, part)(x, lead, output)

  return step


def _unstack(params: Params, outputs: Sequence[Any]) -> Step:
  axis = params["axis"] % (len(outputs[0].shape) + 1)
  before = (slice(None),) * axis
  return lambda x, lead, output: _index(*before, output)(x, lead, output)


def dynamic_slice(
  params: Params, starts: Sequence[Any], shape: Sequence[int]
) -> Step:
  """With known starts, which are moved so that the slice lies inside."""
  index = []
  for start, size, whole in zip(
    starts, params["slice_sizes"], shape, strict=True
  ):
    first = min(max(int(start), 0), whole - size)
    index.append(slice(first, first + size))
  return _index(*index)


STEPS: dict[str, Callable[[Params, Sequence[Any]], Step]] = {
  "broadcast_in_dim": _broadcast,
  "expand_dims": _reshaped,
  "reshape": _reshaped,
  "rev": _reverse,
  "slice": _slice,
  "split": _split,
  "squeeze": _reshaped,
  "transpose": _transpose,
  "unstack": _unstack,
}
