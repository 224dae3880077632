"""Initializers that mistake one axis for another: [in, out] on [out, in].

This can be known only if the tree holds the layers themselves (as in Equinox)
and the initializer is `variance_scaling` or is made from it. In all other
cases nothing is reported.
"""

import functools
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from initjax._paths import path_text
from initjax.initializers import MODES, KernelAxes, Mode, fan, kernel_axes
from initjax.typing import Initializer

_KNOWN = ("jax", "initjax")


class Layout(NamedTuple):
  """Which axes a layer's kernel has."""

  layer: str
  axes: KernelAxes


def layouts(tree: Any) -> dict[str, Layout]:
  """The layouts that are known, by the paths of the kernels."""
  equinox = sys.modules.get("equinox")
  if equinox is None:
    return {}
  kinds = (equinox.nn.Linear, equinox.nn.Conv)
  is_layer = lambda x: isinstance(x, kinds)
  found = {}
  for path, x in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_layer):
    if is_layer(x) and hasattr(x.weight, "shape"):
      own = path_text((*path, jax.tree_util.GetAttrKey("weight")))
      window = getattr(x, "num_spatial_dims", 0)
      batch = tuple(range(len(x.weight.shape) - window - 2))
      axes = KernelAxes((-1 - window,), (-2 - window,), batch)
      found[own] = Layout(type(x).__name__, axes)
  return found


def misread(
  init: Initializer | float, shape: tuple[int, ...], layout: Layout
) -> str | None:
  """What is wrong with the fans that the initializer counts, if it is."""
  found = set(_settings(init))
  if len(found) != 1:
    return None
  ((mode, axes),) = found
  try:
    read = fan(mode, shape, axes)
  except ValueError:  # that the initializer raises, too
    return None
  right = fan(mode, shape, layout.axes)
  if math.isclose(read, right):
    return None
  ((right_in,), (right_out,), batch) = layout.axes
  more = f", batch_axis={batch}" if batch else ""
  return (
    f"of shape {shape} with {mode} = {read:g}, as the initializer takes axis "
    f"{', '.join(map(str, axes.in_axis))} for the inputs; but in {layout.layer}"
    f" of Equinox that is axis {right_in}, and {mode} = {right:g}. Build it "
    f"with in_axis={right_in}, out_axis={right_out}{more}."
  )


def _settings(init: Any) -> Iterator[tuple[Mode, KernelAxes]]:
  """The mode and axes of each `variance_scaling` inside an initializer.

  Only what JAX and this package made is opened: a wrapper of the user's may
  turn the shape before.
  """
  held: dict[str, Any] = {}
  while isinstance(init, functools.partial):
    held |= init.keywords
    init = init.func
  if (getattr(init, "__module__", "") or "").split(".")[0] not in _KNOWN:
    return
  held |= getattr(init, "__dict__", {})
  cells = getattr(init, "__closure__", None) or ()
  if cells:
    names = init.__code__.co_freevars
    held |= zip(names, (cell.cell_contents for cell in cells), strict=True)
  if held.get("mode") in MODES and ("axes" in held or "in_axis" in held):
    named: Any = (held.get(f"{axis}_axis") for axis in ("in", "out", "batch"))
    yield held["mode"], held.get("axes") or kernel_axes(*named)
    return
  for value in held.values():
    if callable(value) and not isinstance(value, type):
      yield from _settings(value)
