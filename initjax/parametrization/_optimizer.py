"""Runs any optax transformation as if the model itself had the multipliers.

u = b·tx.update(a·g, state, θ/b), with tx.init(θ/b). With b = a = c, this trains
θ/c in a model that multiplies it by c: exactly, whatever tx does.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import is_float, leaves_by_path, map_floats, paths_of
from initjax.parametrization._scaling import Steps
from initjax.typing import Numbers

Factors = Mapping[str, Numbers]


def scaled(tree: Any, factors: Factors) -> Any:
  """Every leaf of floats times its factor; those with factor 1 as they are.

  A tree of the parameters alone is known too, where paths begin with "params/".

  Raises:
    KeyError: for a leaf of which the plan knows nothing.
  """
  leaves, structure = jax.tree.flatten(tree)
  paths = paths_of(tree)
  return jax.tree.unflatten(
    structure,
    [
      times(leaf, factor_of(path, factors)) if is_float(leaf) else leaf
      for path, leaf in zip(paths, leaves, strict=True)
    ],
  )


def shifted(tree: Any, shifts: Factors) -> Any:
  """Every leaf of floats plus its shift."""

  def visit(path: str, leaf: Any) -> Any:
    shift = factor_of(path, shifts)
    return leaf + jnp.asarray(shift, leaf.dtype) if np.any(shift) else leaf

  return map_floats(visit, tree)


def inside(params: Any, steps: Mapping[str, Steps]) -> Any:
  """Parameters as the optimizer is given them."""
  moved = shifted(params, {path: each.shift for path, each in steps.items()})
  return scaled(moved, {p: each.parameter**-1 for p, each in steps.items()})


def outside(params: Any, steps: Mapping[str, Steps]) -> Any:
  """The reverse."""
  moved = scaled(params, {path: each.parameter for path, each in steps.items()})
  return shifted(moved, {path: -each.shift for path, each in steps.items()})


def factor_of(path: str, factors: Factors) -> Numbers:
  """By the path, with or without the collection before it."""
  found = factors.get(path, factors.get(f"params/{path}"))
  if found is None:
    known = ", ".join(list(factors)[:4])
    raise KeyError(
      f"the plan has no leaf {path!r}; it has {known}, … Pass the tree that "
      'mup was given, or its "params".'
    )
  return found


def times(leaf: Any, factor: Numbers) -> Any:
  """In the leaf's own dtype."""
  if isinstance(factor, np.ndarray):
    return leaf * jnp.asarray(factor, leaf.dtype)
  return leaf if factor == 1 else leaf * factor


def check_optimizer(tx: Any) -> None:
  """Raises TypeError unless it is a transformation."""
  if not (hasattr(tx, "init") and hasattr(tx, "update")):
    raise TypeError(
      "optimizer expects an optax transformation, such as optax.adam(1e-3); "
      f"got {tx!r:.60}."
    )


def wrapped(tx: Any, steps: Callable[[Any], dict[str, Steps]]) -> Any:
  """`tx` with each leaf's steps, as optax has it.

  Args:
    tx: a transformation.
    steps: of a tree of parameters or gradients, by path; called while tracing.
  """
  import optax

  tx = optax.with_extra_args_support(tx)

  def part(tree: Any, name: str) -> dict[str, Numbers]:
    return {path: getattr(each, name) for path, each in steps(tree).items()}

  def init(params: Any) -> Any:
    return tx.init(inside(params, steps(params)))

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, Any]:
    if params is not None:
      params = inside(params, steps(params))
    updates = scaled(updates, part(updates, "gradient"))
    found, state = tx.update(updates, state, params, **extra)
    return scaled(found, part(found, "update")), state

  return optax.GradientTransformationExtraArgs(init, update)


def stateless(factors: Factors) -> Any:
  """Updates times their factors."""
  import optax

  return optax.stateless(lambda updates, params: scaled(updates, factors))


def clipped(largest: float, factors: Factors) -> Any:
  """Clips by the norm of all gradients, each times its factor."""
  import optax

  def clip(updates: Any, params: Any) -> Any:
    norm = optax.tree.norm(scaled(updates, factors))
    factor = jnp.minimum(1.0, largest / jnp.maximum(norm, largest))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

  return optax.stateless(clip)


def shapes_of(tree: Any) -> Any:
  """The tree, its arrays abstract."""
  return jax.tree.map(
    lambda leaf: (
      jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_float(leaf) else leaf
    ),
    tree,
  )


def known_paths(tree: Any) -> set[str]:
  """Of its leaves of floats."""
  return {path for path, x in leaves_by_path(tree).items() if is_float(x)}
