"""Which entries of which parameters the kernel of each operation holds.

One walk over a jaxpr, beside that of the tracer, that follows every parameter
through views. It also notes which kernels are *entangled*: used in another way
than as a kernel, such as squared, where that use reaches an operation.
Rescaling these would change signals behind the back of the pass.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from initjax.graph._compat import open_jaxpr, scan_operands, sub_jaxprs
from initjax.graph._graph import LinearOp, Site
from initjax.graph._primitives import INDEXED, INLINED
from initjax.graph._signal_graph import Trace
from initjax.model_init._kernel_views import View, follow, leaf_view


class _Held(NamedTuple):
  """What the walk knows of an array."""

  view: View | None = None
  touched: frozenset[int] = frozenset()
  """leaves that went into it otherwise than as kernels"""
  constant: bool = False

  @property
  def spilled(self) -> frozenset[int]:
    """Leaves that go into whatever is computed of it."""
    return self.touched | (self.view.leaves if self.view else frozenset())


class Kernels(NamedTuple):
  """What the walk found."""

  views: dict[Site, View]
  """of operations whose kernel is a view of parameters"""
  reached: frozenset[Site]
  """operations that the walk met; others lie in calls run as a whole"""
  entangled: frozenset[int]
  """leaves that are used in another way, too"""


@dataclasses.dataclass
class _Walk:
  ops: Mapping[Site, LinearOp]
  views: dict[Site, View] = dataclasses.field(default_factory=dict)
  reached: set[Site] = dataclasses.field(default_factory=set)
  entangled: set[int] = dataclasses.field(default_factory=set)


def kernels_of(traced: Trace, paths: Sequence[str]) -> Kernels:
  """Follows the leaves of the parameters, named `paths`, to the operations."""
  ops = dict(zip(traced.sites, traced.graph.ops, strict=True))
  wanted = {path for op in ops.values() for path in op.paths}
  values = []
  for leaf, aval in enumerate(traced.jaxpr.in_avals):
    is_kernel = leaf < len(paths) and paths[leaf] in wanted
    floating = jnp.issubdtype(aval.dtype, jnp.inexact)
    view = leaf_view(leaf, aval.shape) if is_kernel and floating else None
    values.append(_Held(view))
  walk = _Walk(ops)
  _read(walk, traced.jaxpr, values, ())
  return Kernels(walk.views, frozenset(walk.reached), frozenset(walk.entangled))


def _read(
  walk: _Walk, jaxpr: Any, values: Sequence[_Held], place: Site
) -> list[_Held]:
  opened = open_jaxpr(jaxpr)
  known: dict[Any, _Held] = dict.fromkeys(
    opened.jaxpr.constvars, _Held(constant=True)
  )
  known.update(zip(opened.jaxpr.invars, values, strict=True))

  def look_up(atom: Any) -> _Held:
    return _Held(constant=True) if hasattr(atom, "val") else known[atom]

  for index, equation in enumerate(opened.jaxpr.eqns):
    operands = [look_up(atom) for atom in equation.invars]
    outputs = _read_equation(walk, equation, operands, (*place, index))
    known.update(zip(equation.outvars, outputs, strict=True))
  return [look_up(atom) for atom in opened.jaxpr.outvars]


def _read_equation(
  walk: _Walk, equation: Any, operands: list[_Held], site: Site
) -> list[_Held]:
  name = equation.primitive.name
  if site in walk.ops:
    return _read_operation(walk, equation, operands, site)
  if name in INLINED:
    (inner, *_) = sub_jaxprs(equation.params)
    return _read(walk, inner, operands, site)
  if name == "scan":
    return _read_scan(walk, equation, operands, site)
  if name == "cond":
    return _read_cond(walk, equation, operands, site)
  if name == "optimization_barrier":
    return operands
  views = _followed(equation, operands)
  if views is not None:
    return [_Held(view) for view in views]
  return _mixed(operands, len(equation.outvars))


def _followed(equation: Any, operands: list[_Held]) -> list[View] | None:
  """Views of the outputs, if all that is done is to move a kernel's entries."""
  if not all(held.constant or held.view for held in operands):
    indices = equation.primitive.name in INDEXED
    if not (indices and operands[0].view):
      return None
    if any(held.spilled for held in operands[1:]):
      return None
  if not any(held.view for held in operands):
    return None
  numbers = [getattr(atom, "val", None) for atom in equation.invars]
  return follow(equation, [held.view for held in operands], numbers)


def _mixed(operands: Sequence[_Held], outputs: int) -> list[_Held]:
  touched = frozenset[int]().union(*(held.spilled for held in operands))
  constant = all(held.constant for held in operands)
  return [_Held(None, touched, constant)] * outputs


def _read_operation(
  walk: _Walk, equation: Any, operands: list[_Held], site: Site
) -> list[_Held]:
  place = walk.ops[site].axes.kernel
  kernel, others = operands[place], list(operands)
  walk.reached.add(site)
  if kernel.view is not None:
    walk.views[site] = kernel.view
    del others[place]
  (output,) = _mixed(others, 1)
  walk.entangled |= output.touched
  return [output._replace(constant=False)] * len(equation.outvars)


def _read_scan(
  walk: _Walk, equation: Any, operands: list[_Held], site: Site
) -> list[_Held]:
  params = equation.params
  num_consts, num_carry = scan_operands(params)
  split = num_consts + num_carry
  consts, carry, xs = (
    operands[:num_consts],
    operands[num_consts:split],
    [_slice(held, site) for held in operands[split:]],
  )
  inner = open_jaxpr(params["jaxpr"]).jaxpr
  passed = zip(inner.invars[num_consts:split], inner.outvars, strict=False)
  kept = [given is returned for given, returned in passed]
  carry = [
    held if same else _Held(None, held.spilled)
    for held, same in zip(carry, kept, strict=True)
  ]
  while True:
    outputs = _read(walk, params["jaxpr"], [*consts, *carry, *xs], site)
    grown = [
      held if same else _Held(None, held.touched | after.spilled)
      for held, after, same in zip(carry, outputs, kept, strict=False)
    ]
    if grown == carry:
      break
    carry = grown
  ys = [_Held(None, held.spilled) for held in outputs[num_carry:]]
  return [*carry, *ys]


def _slice(held: _Held, scan: Site) -> _Held:
  if held.view is None:
    return held
  return held._replace(view=held.view.slice_of(scan))


def _read_cond(
  walk: _Walk, equation: Any, operands: list[_Held], site: Site
) -> list[_Held]:
  branches = [
    _read(walk, branch, operands[1:], (*site, number))
    for number, branch in enumerate(equation.params["branches"])
  ]
  return [
    _mixed([operands[0], *values], 1)[0]._replace(constant=False)
    for values in zip(*branches, strict=True)
  ]
