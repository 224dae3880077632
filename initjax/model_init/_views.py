"""How the operand of a linear operation is made of leaves, entry by entry.

A view moves entries and does nothing else: it slices, transposes, reshapes,
concatenates. Casts and constant factors on the way are left out, since they do
not say where an entry comes from. Applied to indices, it tells which entries of
the leaf a use sees.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax.graph._graph import Site
from initjax.graph._primitives import IDENTITIES, JOINS, PARTS, SCALES
from initjax.graph._values import Made, Value, size_of

_MOVES = IDENTITIES | PARTS | JOINS


class View(NamedTuple):
  """Entries of leaves, arranged as an operand."""

  apply: Callable[[Mapping[str, Any]], jax.Array]
  """leaves by path -> [*repeats of `scans`, *operand]"""
  paths: tuple[str, ...]
  scans: tuple[Site, ...] = ()
  """those of which each repeat sees a slice of its own, in order of axes"""
  steps: str = ""
  """the moves, as text"""
  part: str = ""
  """the same up to the last that leaves entries out; "" if all are seen"""
  multiplier: float = 1.0
  """constant factor between the leaf and the operand"""


def view_of(value: Value) -> View | None:
  """The view that `value` is; None if it is more than a view."""
  made = value.made
  if made is None:
    if value.derived or len(value.paths) != 1:
      return None
    (path,) = value.paths
    return View(lambda leaves: leaves[path], (path,))
  given = [operand for operand in made.operands if operand.paths]
  below = [view for view in map(view_of, given) if view is not None]
  if len(below) < len(given) or len({view.scans for view in below}) != 1:
    return None
  if made.scan is not None:
    (inner,) = below
    return inner._replace(scans=(*inner.scans, made.scan))
  others = [operand for operand in made.operands if not operand.paths]
  if any(other.scalar is None for other in others):
    return None
  name = made.equation.primitive.name
  if name in SCALES and len(below) == 1:
    return _scaled(name, made.operands, below[0])
  same = len({view.multiplier for view in below}) == 1
  return _moved(made, below) if name in _MOVES and same else None


def _scaled(name: str, operands: tuple[Value, ...], view: View) -> View | None:
  """The view times a number, for those equations that do nothing else."""
  numbers = [size_of(each.scalar) for each in operands if not each.paths]
  if name in ("neg", "convert_element_type"):
    return view
  if name == "div" and operands[0].paths and numbers[0]:
    return view._replace(multiplier=view.multiplier / numbers[0])
  if name == "mul":
    return view._replace(multiplier=view.multiplier * numbers[0])
  return None


def _moved(made: Made, below: list[View]) -> View:
  """One more step; repeats of scans lie before its axes."""
  scans = below[0].scans

  def apply(leaves: Mapping[str, Any]) -> jax.Array:
    step: Callable[..., Any] = lambda *given: _bind(made, given)
    for _ in scans:
      step = jax.vmap(step)
    moved: jax.Array = step(*(view.apply(leaves) for view in below))
    return moved

  numbers = [str(operand.scalar) for operand in made.operands]
  name, params = made.equation.primitive.name, made.equation.params
  before = "|".join(view.steps for view in below)
  steps = f"{before} {name} {params} {numbers} {made.output}"
  paths = tuple(dict.fromkeys(path for view in below for path in view.paths))
  is_part = name in PARTS
  part = steps if is_part else "|".join(filter(None, (v.part for v in below)))
  return View(apply, paths, scans, steps, part, below[0].multiplier)


def _bind(made: Made, given: Any) -> Any:
  """The equation's output for the leaves' entries and its constants."""
  entries = iter(given)
  operands = [
    next(entries)
    if operand.paths
    else jnp.full(atom.aval.shape, operand.scalar, atom.aval.dtype)
    for operand, atom in zip(made.operands, made.equation.invars, strict=True)
  ]
  primitive = made.equation.primitive
  params = dict(primitive.get_bind_params(made.equation.params))
  if "fill_value" in params:  # NaN is no index
    params["fill_value"] = 0
  outputs = primitive.bind(*operands, **params)
  return outputs[made.output] if primitive.multiple_results else outputs
