"""Inputs that are used once, with the operand and the loops that use them.

The gradient of such an input is what returns to that one operand. For an array
that a scan slices, each repeat's part can be examined as it arises, whereas the
whole gradient would be as large as the input.
"""

from typing import Any, NamedTuple

from initjax.graph._compat import open_jaxpr, scan_operands, sub_jaxprs
from initjax.graph._place import Site
from initjax.graph._primitives import JITS, REMAT


class Use(NamedTuple):
  """Where an input is used."""

  site: Site
  """of the operand"""
  repeats: tuple[int, ...]
  """lengths of the scans that slice it on its way there, outermost first"""


def sliced_once(jaxpr: Any) -> dict[int, Use]:
  """By number, the inputs that scans slice, each part of which is used once."""
  opened = open_jaxpr(jaxpr).jaxpr
  found = ((at, _use(opened, at, ())) for at in range(len(opened.invars)))
  return {at: use for at, use in found if use is not None and use.repeats}


def _use(jaxpr: Any, number: int, place: Site) -> Use | None:
  """Of one input of an open jaxpr; None if it has several, or none."""
  var = jaxpr.invars[number]
  uses = [
    (index, at)
    for index, equation in enumerate(jaxpr.eqns)
    for at, atom in enumerate(equation.invars)
    if atom is var
  ]
  if len(uses) != 1 or any(out is var for out in jaxpr.outvars):
    return None
  ((index, at),) = uses
  equation = jaxpr.eqns[index]
  name, params = equation.primitive.name, equation.params
  inside = (*place, index)
  if name == "scan" and params["length"]:
    if at < sum(scan_operands(params)):
      return None  # the sum over repeats is not known in any of them
    found = _use(open_jaxpr(params["jaxpr"]).jaxpr, at, inside)
    if found is None:
      return None
    return found._replace(repeats=(params["length"], *found.repeats))
  if name in JITS | REMAT:
    return _use(open_jaxpr(sub_jaxprs(params)[0]).jaxpr, at, inside)
  return None if name == "while" else Use((*inside, -1 - at), ())
