"""Equations that no output of a function depends on.

A trace contains all that a function computed, even what it discarded. How a
parameter is used there does not matter.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from initjax.graph._compat import (
  Equation,
  open_jaxpr,
  scan_operands,
  sub_jaxprs,
)
from initjax.graph._place import Site
from initjax.graph._primitives import INLINED

Live = list[bool]
"""Of each input or output: whether it has a say in what is handed out."""


def dead_sites(jaxpr: Any) -> frozenset[Site]:
  """The sites of equations whose outputs reach no output of the jaxpr."""
  found: set[Site] = set()
  _inputs(found, jaxpr, [True] * len(open_jaxpr(jaxpr).jaxpr.outvars), ())
  return frozenset(found)


def _inputs(dead: set[Site], jaxpr: Any, outputs: Live, site: Site) -> Live:
  """Which inputs have a say in some outputs; notes what has none."""
  jaxpr = open_jaxpr(jaxpr).jaxpr
  live = _chosen(jaxpr.outvars, outputs)
  for index in reversed(range(len(jaxpr.eqns))):
    equation, here = jaxpr.eqns[index], (*site, index)
    wanted = [variable in live for variable in equation.outvars]
    if any(wanted):
      dead.discard(here)
      operands = _operands(dead, equation, wanted, here)
      live |= _chosen(equation.invars, operands)
    else:
      dead.add(here)
  return [variable in live for variable in jaxpr.invars]


def _chosen(atoms: Sequence[Any], which: Live) -> set[Any]:
  pairs = zip(atoms, which, strict=True)
  return {atom for atom, own in pairs if own and not hasattr(atom, "val")}


def _operands(
  dead: set[Site], equation: Equation, outputs: Live, site: Site
) -> Live:
  """Which operands of an equation have a say in some of its outputs."""
  name, params = equation.primitive.name, equation.params
  if name in INLINED or name == "shard_map":
    return _inputs(dead, sub_jaxprs(params)[0], outputs, site)
  if name == "cond":
    branches = [
      _inputs(dead, branch, outputs, (*site, number))
      for number, branch in enumerate(params["branches"])
    ]
    return [True, *map(any, zip(*branches, strict=True))]
  if name == "scan":
    consts, carry = scan_operands(params)
    body = lambda live: _inputs(dead, params["jaxpr"], live, site)
    return _of_loop(body, outputs, consts, carry)
  if name == "while":
    skipped, consts = params["cond_nconsts"], params["body_nconsts"]
    tested = _inputs(set(), params["cond_jaxpr"], [True], ())[skipped:]
    outputs = list(map(any, zip(outputs, tested, strict=True)))
    body = lambda live: _inputs(dead, params["body_jaxpr"], live, site)
    return [True] * skipped + _of_loop(body, outputs, consts, len(outputs))
  return [True] * len(equation.invars)


def _of_loop(
  body: Callable[[Live], Live], outputs: Iterable[bool], consts: int, carry: int
) -> Live:
  """Inputs of a loop: what its last repeats hand out, and what feeds those."""
  outputs = list(outputs)
  while True:
    inputs = body(outputs)
    carried = zip(inputs[consts:][:carry], outputs, strict=False)
    fed = [*map(any, carried), *outputs[carry:]]
    if fed == outputs:
      return [*inputs[:consts], *fed[:carry], *inputs[consts + carry :]]
    outputs = fed
