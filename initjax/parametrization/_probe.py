"""What kind of optimizer an optax transformation is: asked of itself.

Gradients and parameters of a small tree are scaled, and it is seen how its
updates answer. What does not change with the sign of gradients, as decay, is
taken away first: o(g, θ) = (u(g, θ) - u(-g, θ))/2.

    o(s·g, θ) = s·o(g, θ)    SGD-like
    o(g, t·θ) = t·o(g, θ)    relative to parameters: Adafactor, LAMB, LARS
    neither                  Adam-like; of equal singular values: Muon
"""

import concurrent.futures
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._paths import is_float, leaves_by_path, map_floats
from initjax.parametrization._muon import (
  LONG,
  Law,
  largest_singular,
  law_of,
  small_shape,
)
from initjax.parametrization._scaling import Kind, Scaling

_GRADIENT = 1e-3
"""Small: what clips gradients leaves these alone; large against Adam's ε."""
_SCALE = 0.25
_SHAPES = ((2, 2), (LONG, 2), (2, LONG))
_MOST = 64
"""Steps until there is an update, as of MultiSteps."""


class Found(NamedTuple):
  """What a transformation is for one leaf."""

  kind: Kind
  law: Law = "out/in"
  """of Muon's own factor"""


def kinds(
  tx: Any, shapes: Any, row_of: Callable[[str], Scaling]
) -> dict[str, Found]:
  """What it is for each leaf, by path.

  Args:
    tx: a transformation.
    shapes: the tree that it will be given, perhaps abstract.
    row_of: a leaf's row, by its path.

  Raises:
    ValueError: if it cannot be run, or never updates anything.
  """
  try:
    with concurrent.futures.ThreadPoolExecutor(1) as apart:  # from any trace
      return apart.submit(_asked, tx, shapes, row_of).result()
  except Exception as error:
    raise ValueError(
      "the optimizer could not be tried on a small tree of your parameters "
      f"({type(error).__name__}: {error}); say what it is: kind='adam', 'sgd', "
      "'parameter_scaled' or 'muon'."
    ) from error


def _asked(
  tx: Any, shapes: Any, row_of: Callable[[str], Scaling]
) -> dict[str, Found]:
  odd, by_gradient, by_parameter = _answers(tx, shapes)
  found = {
    path: Found(_kind(update, by_gradient[path], by_parameter[path]))
    for path, update in odd.items()
  }
  muon = {p: row_of(p) for p, each in found.items() if each.kind == "muon"}
  if muon:
    sizes = [_singular(tx, shapes, muon, s) for s in _SHAPES]
    for path in muon:
      law = law_of(*(each[path] for each in sizes))
      found[path] = Found("muon", law)
  return found


def _singular(
  tx: Any, shapes: Any, rows: dict[str, Scaling], sizes: tuple[int, int]
) -> dict[str, float]:
  """The largest singular value of the updates of small kernels, by path."""
  like = {path: small_shape(row, sizes) for path, row in rows.items()}
  odd = _odd(
    tx,
    _drawn(shapes, _GRADIENT, "gradient", like),
    _drawn(shapes, 1.0, "", like),
  )
  return {path: largest_singular(row, odd[path]) for path, row in rows.items()}


def _answers(tx: Any, shapes: Any) -> list[dict[str, np.ndarray]]:
  """o(g, θ), o(s·g, θ) and o(g, s·θ), by path."""
  small = _drawn(shapes, 1.0)
  gradients = _drawn(shapes, _GRADIENT, "gradient")
  return [
    _odd(tx, gradients, small),
    _odd(tx, _times(gradients, _SCALE), small),
    _odd(tx, gradients, _times(small, _SCALE)),
  ]


def _kind(
  update: np.ndarray, by_gradient: np.ndarray, by_parameter: np.ndarray
) -> Kind:
  """By how the norms of updates answer."""
  size = float(np.linalg.norm(update))
  if not size or not math.isfinite(size):
    return "adam"  # as a leaf that is frozen
  powers = [
    math.log(max(float(np.linalg.norm(other)), 1e-30) / size) / math.log(_SCALE)
    for other in (by_gradient, by_parameter)
  ]
  if powers[0] > 0.5:
    return "sgd"
  if powers[1] > 0.5:
    return "parameter_scaled"
  return "muon" if _is_orthogonal(update) else "adam"


def _is_orthogonal(update: np.ndarray) -> bool:
  """Whether a kernel's update has singular values alike.

  Gradients are positive, so signs alone have rank 1.
  """
  if update.ndim < 2:
    return False
  values = np.linalg.svd(update.reshape(-1, *update.shape[-2:])[0])[1]
  return len(values) > 1 and bool(values[-1] > 0.4 * values[0])


def _drawn(shapes: Any, size: float, name: str = "", like: Any = None) -> Any:
  """Positive numbers, in a small array of each leaf's rank."""

  def draw(path: str, leaf: Any) -> Any:
    shape = tuple(min(n, 2) for n in leaf.shape)
    shape = (like or {}).get(path, shape)
    rng = np.random.default_rng(zlib.crc32(f"{path} {name}".encode()))
    return jax.numpy.asarray(rng.uniform(0.5, 1.5, shape) * size, "float32")

  return map_floats(draw, shapes)


def _times(tree: Any, factor: float) -> Any:
  return jax.tree.map(lambda x: x * factor if is_float(x) else x, tree)


def _odd(tx: Any, gradients: Any, params: Any) -> dict[str, np.ndarray]:
  """The part of updates that turns its sign with gradients."""
  one, other = (
    leaves_by_path(_update(tx, _times(gradients, sign), params))
    for sign in (1.0, -1.0)
  )
  return {
    path: (np.asarray(one[path], float) - np.asarray(other[path], float)) / 2
    for path in one
    if is_float(one[path])
  }


def _update(tx: Any, gradients: Any, params: Any) -> Any:
  """The first update that is not 0, after two steps at least."""
  state = tx.init(params)
  updates = gradients
  for step in range(_MOST):
    updates, state = tx.update(gradients, state, params)
    leaves = [np.asarray(x) for x in jax.tree.leaves(updates) if is_float(x)]
    if step and any(leaf.any() for leaf in leaves):
      return updates
  raise ValueError(f"it changes nothing in {_MOST} steps")
