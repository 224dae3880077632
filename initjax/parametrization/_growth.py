"""How a model grows from its base: true fans, by use, at two sizes."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax

from initjax._paths import is_float
from initjax.graph import Dataflow, LinearOp, Trace, View

Shape = tuple[int, ...]
_NUMBER = re.compile(r"\d+")


class Use(NamedTuple):
  """One use of a leaf as (a part of) a kernel, here and in the base."""

  path: str
  op: LinearOp
  base: LinearOp
  growth_in: float
  """of fan_in: 1 if it does not grow"""
  growth_out: float
  growth: float
  """of the entries that one repeat of the operation uses"""


class Pair(NamedTuple):
  """A leaf of the model, and the one of the base that it is compared with."""

  path: str
  base_path: str
  shape: Shape
  base_shape: Shape
  dtype: str


def pattern(path: str) -> str:
  """A path without its numbers: layers that are alike have one pattern.

  >>> pattern("params/Block_12/Dense_0/kernel")
  'params/Block_#/Dense_#/kernel'
  """
  return _NUMBER.sub("#", path)


def pairs(leaves: dict[str, Any], base: dict[str, Any]) -> dict[str, Pair]:
  """For each leaf of floats, the same of the base, by path.

  Where the model has more layers, layers match by their paths without numbers;
  where these leave several shapes, as of Dense_0, Dense_1, …, a leaf goes with
  the base's of the shape that comes at the same place among new ones.

  Raises:
    ValueError: for leaves that the base, or the model, does not have; for ranks
      that differ.
  """
  groups, known = _by_pattern(leaves), _by_pattern(base)
  _raise_unmatched(
    [path for name in groups.keys() - known.keys() for path in groups[name]],
    [path for name in known.keys() - groups.keys() for path in known[name]],
  )
  matched: dict[str, str] = {}
  for name, group in groups.items():
    matched |= _matched(group, known[name], leaves, base)
  return {
    path: _pair(path, matched[path], leaf, base[matched[path]])
    for path, leaf in leaves.items()
  }


def _by_pattern(leaves: Iterable[str]) -> dict[str, list[str]]:
  """Paths that differ in numbers alone, in the order of these."""
  found: dict[str, list[str]] = {}
  for path in leaves:
    found.setdefault(pattern(path), []).append(path)
  numbers = lambda path: [int(number) for number in _NUMBER.findall(path)]
  return {name: sorted(group, key=numbers) for name, group in found.items()}


def _matched(
  group: Sequence[str],
  known: Sequence[str],
  leaves: dict[str, Any],
  base: dict[str, Any],
) -> dict[str, str]:
  """Of one pattern: by path, or else by which new shape it is."""
  if set(group) == set(known):
    return {path: path for path in group}
  first, other = (
    list(dict.fromkeys(tuple(tree[path].shape) for path in paths))
    for paths, tree in ((group, leaves), (known, base))
  )
  if len(first) != len(other):
    raise ValueError(
      f"{pattern(group[0])} has shapes {first}, and {other} in the base, whose "
      "number of layers differs: which layers are alike cannot be told. Name "
      "layers, or put each into a module of its own."
    )
  places = {tuple(base[path].shape): path for path in known}
  return {
    path: places[other[first.index(tuple(leaves[path].shape))]]
    for path in group
  }


def _pair(path: str, other: str, leaf: Any, known: Any) -> Pair:
  shapes = tuple(leaf.shape), tuple(known.shape)
  if len(shapes[0]) != len(shapes[1]):
    raise ValueError(
      f"{path} has shape {shapes[0]}, and in the base {other} has {shapes[1]}: "
      "the base must be the same model, narrower."
    )
  return Pair(path, other, *shapes, str(leaf.dtype))


def _raise_unmatched(missing: Sequence[str], extra: Sequence[str]) -> None:
  if missing or extra:
    lists = (("the base", missing), ("the model", extra))
    said = (f"{who} lacks {', '.join(some[:6])}" for who, some in lists if some)
    raise ValueError(
      f"{'; '.join(said)}: leaves are matched by path, so model and base must "
      "be the same code at two widths."
    )


def check_inputs(inputs: Any, base: Any) -> None:
  """Raises unless inputs are of one shape, but for features (the last axis)."""
  own, other = (jax.tree.leaves(each) for each in (inputs, base))
  shapes = [[tuple(jax.numpy.shape(x)) for x in each] for each in (own, other)]
  same_number = len(own) == len(other)
  floats = [
    len(s) > 1 and is_float(x) for s, x in zip(shapes[0], own, strict=True)
  ]
  if same_number and all(
    a == b or (wide and a[:-1] == b[:-1])
    for a, b, wide in zip(*shapes, floats, strict=True)
  ):
    return
  raise ValueError(
    f"inputs have shapes {shapes[0]}, those of the base {shapes[1]}: only the "
    "width may differ; give both the same batch, length and image."
  )


def ratio(numbers: Iterable[float], base: Iterable[float]) -> float:
  """Of two products: 1.0 exactly if they are the same."""
  own, other = math.prod(numbers), math.prod(base)
  return 1.0 if own == other else own / max(other, 1)


def uses(trace: Trace, base: Trace, pairs: dict[str, Pair]) -> list[Use]:
  """Every use of a leaf as a kernel, with its growth.

  Raises:
    ValueError: if the base uses a leaf otherwise; if the numbers of rows of a
      table, or of experts to choose from, differ.
  """
  known: dict[str, list[LinearOp]] = {}
  for op in base.graph.ops:
    for path in op.paths:
      known.setdefault(path, []).append(op)
  found, counts = [], dict.fromkeys(pairs, 0)
  for op in trace.graph.ops:
    for path in op.paths:
      if path not in pairs:
        continue
      others = known.get(pairs[path].base_path, [])
      number, counts[path] = counts[path], counts[path] + 1
      if not others:
        raise ValueError(f"the base does not use {path} as a kernel.")
      found.append(_use(path, op, others[min(number, len(others) - 1)]))
  return found


def _use(path: str, op: LinearOp, base: LinearOp) -> Use:
  if op.kind != base.kind or len(op.kernel_shape) != len(base.kernel_shape):
    raise ValueError(f"{path} is used as {op!r}, and in the base as {base!r}.")
  _check_rows(path, op, base)
  own, other = _own_view(path, op.view), _own_view(path, base.view)
  joined = own is not op.view and own is not None and other is not None
  if joined and own is not None and other is not None:
    sizes = [
      ratio(
        (own.shape[axis] for axis in axes), (other.shape[axis] for axis in axes)
      )
      for axes in (op.axes.summed, op.axes.free)
    ]
  else:
    sizes = [
      ratio([op.fan_in], [base.fan_in]),
      ratio([op.fan_out], [base.fan_out]),
    ]
  shapes = [
    view.shape if view is not None and not view.computed else each.kernel_shape
    for view, each in ((own, op), (other, base))
  ]
  return Use(path, op, base, sizes[0], sizes[1], ratio(*shapes))


def _own_view(path: str, view: View | None) -> View | None:
  """A leaf's part of kernels that are joined along an axis; else the view."""
  if view is not None and isinstance(view.move, int):
    own = [each for each in view.below if each.paths == (path,)]
    return own[0] if len(own) == 1 else view
  return view


def _check_rows(path: str, op: LinearOp, base: LinearOp) -> None:
  if op.kind == "embedding":
    rows = [
      math.prod(each.kernel_shape[axis] for axis in each.axes.summed)
      for each in (op, base)
    ]
    if rows[0] != rows[1]:
      raise ValueError(
        f"{path} has {rows[0]} rows, and {rows[1]} in the base: a vocabulary "
        "or a length is not a width; give both models the same."
      )
  choices = [1 if o.view is None else o.view.choices for o in (op, base)]
  if choices[0] != choices[1]:
    raise ValueError(
      f"{path} is chosen among {choices[0]}, and {choices[1]} in the base: "
      "the number of experts is not a width; give both models the same."
    )


def own_axes(path: str, op: LinearOp | None, flow: Dataflow) -> set[int] | None:
  """Axes of a leaf that one repeat of the scans around its use sees.

  None if all of them are.
  """
  views = [] if op is None or op.view is None else [op.view]
  views += flow.parameters.get(path, [])
  for view in views:
    if view.scans and view.axes is not None and view.paths == (path,):
      return {axis for held in view.axes for axis in held}
  return None


def vector_growth(pair: Pair, axes: set[int] | None) -> float:
  """Of the entries that one repeat sees."""
  kept = range(len(pair.shape)) if axes is None else sorted(axes)
  return ratio(
    (pair.shape[axis] for axis in kept),
    (pair.base_shape[axis] for axis in kept),
  )
