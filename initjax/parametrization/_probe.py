"""Finds what kind of optimizer an optax transformation is, by testing it.

Gradients and parameters of a small tree are scaled to see how the updates
respond. What does not change with the sign of the gradients, such as decay, is
removed first: o(g, θ) = (u(g, θ) - u(-g, θ))/2.

    o(s·g, θ) = s·o(g, θ)    SGD-like
    o(g, t·θ) = t·o(g, θ)    relative to parameters: Adafactor, LAMB, LARS
    neither                  Adam-like; of equal singular values: Muon

What `tx` holds may be traced, such as a rate that is mapped over: then numbers
stand in for it, small ones and large ones, and both must give the same answer.
"""

import concurrent.futures
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from initjax._paths import is_float, leaves_by_path, map_floats, paths_of
from initjax.parametrization._growth import pattern
from initjax.parametrization._muon import (
  LONG,
  Law,
  is_orthogonal,
  law_of,
  singular_values,
  small_shape,
)
from initjax.parametrization._scaling import Kind, Scaling

_GRADIENT = 1e-3
"""Small: what clips gradients leaves these alone; large against Adam's ε."""
_SCALE = 0.25
_SHAPES = ((2, 2), (LONG, 2), (2, LONG))
_MOST = 64
"""Steps until there is an update, as of MultiSteps."""
_STAND_INS = (1e-6, 0.5)
"""For numbers that are traced: what is a rate may be either."""


class Found(NamedTuple):
  """What a transformation is for one leaf."""

  kind: Kind
  law: Law = "out/in"
  """of Muon's own factor"""


class _Tried(NamedTuple):
  """A transformation, its update compiled."""

  init: Callable[..., Any]
  update: Callable[..., Any]


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
  alike = _alike(shapes, row_of)
  in_float64 = jax.dtypes.canonicalize_dtype("float64") == "float64"

  def asked() -> dict[str, Found]:
    with jax.enable_x64(in_float64):  # a setting of each thread
      return _asked(tx, shapes, alike, row_of)

  try:
    with concurrent.futures.ThreadPoolExecutor(1) as apart:  # from any trace
      return apart.submit(asked).result()
  except Exception as error:
    raise ValueError(
      "the optimizer could not be tried on a small tree of your parameters "
      f"({type(error).__name__}: {error}); say what it is: kind='adam', 'sgd', "
      "'parameter_scaled' or 'muon'."
    ) from error


def _alike(shapes: Any, row_of: Callable[[str], Scaling]) -> dict[str, str]:
  """For each leaf, the first of its pattern, rank and role."""
  first: dict[Any, str] = {}
  found = {}
  for path, leaf in leaves_by_path(shapes).items():
    if is_float(leaf):
      key = pattern(path), leaf.ndim, row_of(path).role
      found[path] = first.setdefault(key, path)
  return found


def _asked(
  tx: Any, shapes: Any, alike: dict[str, str], row_of: Callable[[str], Scaling]
) -> dict[str, Found]:
  """As it is; if it holds what is traced, with numbers in the place of that.

  Raises:
    ValueError: if these numbers decide what it is.
  """
  try:
    return _of_few(_Tried(tx.init, jax.jit(tx.update)), shapes, alike, row_of)
  except jax.errors.UnexpectedTracerError:
    found = [
      _of_few(
        _Tried(_concrete(tx.init, number), _concrete(tx.update, number)),
        shapes,
        alike,
        row_of,
      )
      for number in _STAND_INS
    ]
  if found[0] != found[1]:
    raise ValueError("it depends on numbers that are traced")
  return found[0]


def _concrete(fn: Callable[..., Any], number: float) -> Callable[..., Any]:
  """The function, `number` in the place of every traced array that it holds."""

  def call(*args: Any) -> Any:
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    known = [_stand_in(each, number) for each in closed.consts]
    run = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, known))
    return jax.tree.unflatten(
      jax.tree.structure(shape), run(*jax.tree.leaves(args))
    )

  return call


def _stand_in(constant: Any, number: float) -> Any:
  """An array like one that is traced: of `number`, or of 1 if of integers."""
  if not isinstance(constant, jax.core.Tracer):
    return constant
  if jax.dtypes.issubdtype(constant.dtype, jax.dtypes.prng_key):
    return jax.random.split(jax.random.key(0), constant.shape)
  value = number if is_float(constant) else 1
  return jax.numpy.full(constant.shape, value, constant.dtype)


def _of_few(
  tried: _Tried,
  shapes: Any,
  alike: dict[str, str],
  row_of: Callable[[str], Scaling],
) -> dict[str, Found]:
  """First with one leaf of those that are alike; what has masks wants all."""
  try:
    found = _found(tried, _without(shapes, set(alike.values())), row_of)
  except jax.errors.UnexpectedTracerError:
    raise
  except Exception:
    return _found(tried, shapes, row_of)
  return {path: found[other] for path, other in alike.items()}


def _without(shapes: Any, kept: set[str]) -> Any:
  """The tree, None for other leaves of floats."""
  leaves, structure = jax.tree.flatten(shapes)
  pairs = zip(paths_of(shapes), leaves, strict=True)
  return jax.tree.unflatten(
    structure,
    [x if path in kept or not is_float(x) else None for path, x in pairs],
  )


def _found(
  tx: _Tried, shapes: Any, row_of: Callable[[str], Scaling]
) -> dict[str, Found]:
  rows = {
    path: row_of(path)
    for path, leaf in leaves_by_path(shapes).items()
    if is_float(leaf) and leaf.ndim > 1
  }
  odd, by_gradient, by_parameter = _answers(tx, shapes, rows)
  found = {}
  for path, update in odd.items():
    kind = _kind(update, by_gradient[path], by_parameter[path])
    if kind == "adam" and path in rows and is_orthogonal(rows[path], update):
      kind = "muon"
    found[path] = Found(kind)
  muon = {p: rows[p] for p, each in found.items() if each.kind == "muon"}
  if muon:
    sizes = [_singular(tx, shapes, rows, s) for s in _SHAPES]
    for path in muon:
      found[path] = Found("muon", law_of(*(each[path] for each in sizes)))
  return found


def _singular(
  tx: _Tried, shapes: Any, rows: dict[str, Scaling], sizes: tuple[int, int]
) -> dict[str, float]:
  """The largest singular value of the updates of small kernels, by path."""
  like = {path: small_shape(row, sizes) for path, row in rows.items()}
  odd = _odd(
    tx,
    _drawn(shapes, _GRADIENT, "gradient", like),
    _drawn(shapes, 1.0, "", like),
  )
  return {p: float(singular_values(rows[p], odd[p])[0]) for p in rows}


def _answers(
  tx: _Tried, shapes: Any, rows: dict[str, Scaling]
) -> list[dict[str, np.ndarray]]:
  """o(g, θ), o(s·g, θ) and o(g, s·θ), by path."""
  like = {path: small_shape(row, (2, 2)) for path, row in rows.items()}
  small = _drawn(shapes, 1.0, "", like)
  gradients = _drawn(shapes, _GRADIENT, "gradient", like)
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
  return "adam"


def _drawn(
  shapes: Any, size: float, name: str, like: dict[str, tuple[int, ...]]
) -> Any:
  """Positive numbers, in a small array of each leaf's rank."""

  def draw(path: str, leaf: Any) -> Any:
    shape = tuple(min(n, 2) for n in leaf.shape)
    shape = like.get(path, shape)
    rng = np.random.default_rng(zlib.crc32(f"{path} {name}".encode()))
    return jax.numpy.asarray(rng.uniform(0.5, 1.5, shape) * size, "float32")

  return map_floats(draw, shapes)


def _times(tree: Any, factor: float) -> Any:
  return jax.tree.map(lambda x: x * factor if is_float(x) else x, tree)


def _odd(tx: _Tried, gradients: Any, params: Any) -> dict[str, np.ndarray]:
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


def _update(tx: _Tried, gradients: Any, params: Any) -> Any:
  """The first update that is not 0, after two steps at least."""
  state = tx.init(params)
  updates = gradients
  for step in range(_MOST):
    updates, state = tx.update(gradients, state, params)
    leaves = [np.asarray(x) for x in jax.tree.leaves(updates) if is_float(x)]
    if step and any(leaf.any() for leaf in leaves):
      return updates
  raise ValueError(f"it changes nothing in {_MOST} steps")
