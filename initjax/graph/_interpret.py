"""Runs a traced model again, with something done at every site.

`run` binds each equation as it was and rebuilds the calls that hold sites:
jit as jit, remat as remat with its policy, scan, cond and shard_map. A
site's visitor may return a pytree (forward statistics); inside a scan these are
stacked, one for each repeat. Each site is given a slot, sliced likewise, whose
gradient can carry what is measured in the backward pass. Sites may also share
states, which are read and changed in the order of execution.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.sharding import get_abstract_mesh

from initjax._sharding import in_this_mesh
from initjax.graph._compat import (
  Equation,
  open_jaxpr,
  scan_operands,
  sub_jaxprs,
)
from initjax.graph._place import Site
from initjax.graph._primitives import CALLS, JITS, REMAT, RULES
from initjax.graph._shard_map import in_shards


class Visited(NamedTuple):
  """An equation that was run, at a site."""

  site: Site
  equation: Equation
  operands: list[Any] | None
  """None where a call was run as a whole, and this is the last site in it"""
  outputs: list[Any]


class Slot(NamedTuple):
  """What a site is given; under scans with their leading axes."""

  backward: Any
  """to be differentiated with respect to; None if nothing is"""
  forward: Any
  """what the site hands out where it is not run"""


State = Any
Slots = Mapping[Site, Slot]
States = Mapping[Any, State]
Result = tuple[list[Any], dict[Site, Any], dict[Hashable, State]]
"""Outputs, what sites handed out, and the states afterwards."""

WITH_RULES = CALLS | REMAT | {"scan", "cond", "shard_map"}
"""What is entered so that every derivative rule is kept."""
FORWARD = WITH_RULES | RULES
"""What is entered where no derivative is taken, and states are kept."""


class Visitor(NamedTuple):
  """What is done at the sites, and which states they share."""

  visit: Callable[[Visited, Slot, State], tuple[list[Any], Any, State]]
  """returns new outputs, what to hand out, and the site's state afterwards"""
  state_of: Mapping[Site, Hashable] = MappingProxyType({})
  """of sites that have one; several may share it"""
  slicers: Mapping[Hashable, frozenset[Site]] = MappingProxyType({})
  """scans that slice a state; from repeat to repeat of others it is carried"""


class _Inside(NamedTuple):
  """Slots and states of the sites in a jaxpr, beside the operands."""

  slots: Slots
  states: States


def run(
  jaxpr: Any,
  arguments: Sequence[Any],
  visitor: Visitor,
  slots: Slots,
  states: States | None = None,
  *,
  enter: frozenset[str] = WITH_RULES,
  place: Site = (),
) -> Result:
  """Runs `jaxpr`, and visits its sites: the keys of `slots`.

  Args:
    jaxpr: of a model, closed or not.
    arguments: its inputs, flat.
    visitor: what is done at a site.
    slots: of every site.
    states: by name; those in `visitor.state_of`.
    enter: calls that are rebuilt around the sites in them; any other is bound
      as it is and visited once, as the last site in it.
    place: position of `jaxpr` within the whole model.
  """
  opened = open_jaxpr(jaxpr)
  known = dict(zip(opened.jaxpr.constvars, opened.consts, strict=True))
  known.update(zip(opened.jaxpr.invars, arguments, strict=True))
  found: dict[Site, Any] = {}
  states = dict(states or {})

  def look_up(atom: Any) -> Any:
    return atom.val if hasattr(atom, "val") else known[atom]

  busy = _by_equation(slots, len(place))
  for index, equation in enumerate(opened.jaxpr.eqns):
    operands = [look_up(atom) for atom in equation.invars]
    if index in busy:
      call = _Call(equation, (*place, index), visitor, enter)
      outputs, more, after = _in_its_mesh(call, operands, busy[index], states)
      found.update(more)
      states.update(after)
    else:
      outputs = bind(equation, operands)
    known.update(zip(equation.outvars, outputs, strict=True))
  return [look_up(atom) for atom in opened.jaxpr.outvars], found, states


def equations(
  jaxpr: Any, enter: frozenset[str], place: Site = ()
) -> Iterator[tuple[Site, Equation]]:
  """Every equation that `run` binds as it is, in the order of execution.

  A scan of no repeat is one.
  """
  for index, equation in enumerate(open_jaxpr(jaxpr).jaxpr.eqns):
    site, name = (*place, index), equation.primitive.name
    if name not in enter or equation.params.get("length") == 0:
      yield site, equation
    elif name == "cond":
      for number, branch in enumerate(equation.params["branches"]):
        yield from equations(branch, enter, (*site, number))
    else:
      yield from equations(sub_jaxprs(equation.params)[0], enter, site)


def equations_around(jaxpr: Any, site: Site) -> Iterator[Equation]:
  """The calls around a site, outermost first, and its own equation."""
  equation = open_jaxpr(jaxpr).jaxpr.eqns[site[0]]
  yield equation
  if len(site) > 1 and equation.primitive.name == "cond":
    branch = equation.params["branches"][site[1]]
    yield from equations_around(branch, site[2:])
  elif len(site) > 1:
    yield from equations_around(sub_jaxprs(equation.params)[0], site[1:])


def _in_its_mesh(
  call: "_Call", operands: list[Any], slots: Slots, states: States
) -> Result:
  """Runs an equation; what crosses into a mesh of its own changes its type."""
  inside, mesh = call.part(_Inside(slots, states)), get_abstract_mesh()
  with call.equation.ctx.manager:
    if get_abstract_mesh() == mesh:
      return _run_equation(call, operands, inside)
    inside = _Inside(*in_this_mesh(tuple(inside)))
    outputs, found, after = _run_equation(call, operands, inside)
  return outputs, *in_this_mesh((found, after))


def bind(equation: Equation, operands: Sequence[Any]) -> list[jax.Array]:
  """What the equation computes of other operands."""
  primitive = equation.primitive
  with equation.ctx.manager:
    outputs = primitive.bind(
      *operands, **primitive.get_bind_params(equation.params)
    )
  return list(outputs) if primitive.multiple_results else [outputs]


def _by_equation(slots: Slots, depth: int) -> dict[int, dict[Site, Slot]]:
  """The slots of sites at or inside each equation of one jaxpr."""
  found: dict[int, dict[Site, Slot]] = {}
  for site, slot in slots.items():
    found.setdefault(site[depth], {})[site] = slot
  return found


def _not_run(slots: Slots) -> dict[Site, Any]:
  return {site: slot.forward for site, slot in slots.items()}


class _Call(NamedTuple):
  """An equation with sites, and how they are visited."""

  equation: Equation
  site: Site
  visitor: Visitor
  enter: frozenset[str]

  def part(self, inside: _Inside) -> _Inside:
    """The slots, and of the states those that their sites share."""
    slots, states = inside
    names = {self.visitor.state_of.get(site) for site in slots}
    return _Inside(slots, {n: states[n] for n in states if n in names})

  def run(
    self, jaxpr: Any, operands: list[Any], inside: _Inside, *branch: int
  ) -> Result:
    """A jaxpr of this equation."""
    place = (*self.site, *branch)
    return run(
      jaxpr, operands, self.visitor, *inside, enter=self.enter, place=place
    )


def _run_equation(call: _Call, operands: list[Any], inside: _Inside) -> Result:
  name = call.equation.primitive.name
  own = [s for s in inside.slots if s[:-1] == call.site and s[-1] < 0]
  if own:
    return _run_operands(call, operands, inside, own)
  if call.site in inside.slots or name not in call.enter:
    return _run_whole(call, operands, inside)
  return _REBUILD.get(name, _run_call)(call, operands, inside)


def _run_operands(
  call: _Call, operands: list[Any], inside: _Inside, own: Sequence[Site]
) -> Result:
  """Operands that are sites themselves, and then the equation."""
  slots, states, handed = dict(inside.slots), dict(inside.states), {}
  operands = list(operands)
  for site in own:
    at, name = -1 - site[-1], call.visitor.state_of.get(site)
    visited = Visited(site, call.equation, [], operands[at : at + 1])
    found, handed[site], state = call.visitor.visit(
      visited, slots.pop(site), states.get(name)
    )
    operands[at] = found[0]
    states.update({} if name is None else {name: state})
  if not slots:
    return bind(call.equation, operands), handed, states
  outputs, more, after = _run_equation(call, operands, _Inside(slots, states))
  return outputs, {**handed, **more}, after


def _run_whole(call: _Call, operands: list[Any], inside: _Inside) -> Result:
  """One site: the equation itself, or the last one in a call."""
  slots, states = inside
  outputs = bind(call.equation, operands)
  last = max(slots)
  seen = operands if last == call.site else None
  visited = Visited(last, call.equation, seen, outputs)
  name = call.visitor.state_of.get(last)
  outputs, handed, state = call.visitor.visit(
    visited, slots[last], states.get(name)
  )
  after = {} if name is None else {name: state}
  return outputs, {**_not_run(slots), last: handed}, {**states, **after}


def _run_call(call: _Call, operands: list[Any], inside: _Inside) -> Result:
  """Jit stays jit, remat stays remat with the same policy."""
  (inner, *_) = sub_jaxprs(call.equation.params)
  name, params = call.equation.primitive.name, call.equation.params

  def enter(operands: list[Any], inside: _Inside) -> Result:
    return call.run(inner, operands, inside)

  if name in REMAT:
    enter = jax.checkpoint(
      enter, policy=params["policy"], prevent_cse=params["prevent_cse"]
    )
  elif name in JITS:
    enter = jax.jit(enter, inline=params["inline"])
  return enter(operands, inside)


def _run_scan(call: _Call, operands: list[Any], inside: _Inside) -> Result:
  params, slicers = call.equation.params, call.visitor.slicers
  num_consts, num_carry = scan_operands(params)
  consts, rest = operands[:num_consts], operands[num_consts:]
  slots, states = inside
  sliced = {n: s for n, s in states.items() if call.site in slicers[n]}
  carried = {n: s for n, s in states.items() if n not in sliced}

  def body(carry: Any, x: Any) -> Any:
    (values, carried), (xs, slots, sliced) = carry, x
    arguments = [*consts, *values, *xs]
    outputs, found, after = call.run(
      params["jaxpr"], arguments, _Inside(slots, {**carried, **sliced})
    )
    changed = {name: after[name] for name in sliced}
    kept = {name: after[name] for name in carried}
    return (outputs[:num_carry], kept), (outputs[num_carry:], found, changed)

  (carry, carried), (ys, found, sliced) = jax.lax.scan(
    body,
    (rest[:num_carry], carried),
    (rest[num_carry:], slots, sliced),
    length=params["length"],
    reverse=params["reverse"],
    unroll=params["unroll"],
  )
  return [*carry, *ys], found, {**carried, **sliced}


def _run_cond(call: _Call, operands: list[Any], inside: _Inside) -> Result:
  """Every branch hands out all sites, and all states."""

  def branch(number: int, jaxpr: Any) -> Callable[..., Result]:
    def run(operands: list[Any], inside: _Inside) -> Result:
      slots, states = inside
      own = _by_equation(slots, len(call.site)).get(number, {})
      part = call.part(_Inside(own, states))
      outputs, found, after = call.run(jaxpr, operands, part, number)
      return outputs, {**_not_run(slots), **found}, {**states, **after}

    return run

  index, *others = operands
  choices = [
    branch(*each) for each in enumerate(call.equation.params["branches"])
  ]
  return jax.lax.switch(index, choices, others, inside)


def _run_shard_map(call: _Call, operands: list[Any], inside: _Inside) -> Result:
  """States are to be the same on every device."""
  params = call.equation.params

  def run(operands: list[Any], slots: Slots, states: States) -> Result:
    return call.run(params["jaxpr"], operands, _Inside(slots, states))

  return in_shards(run, params, operands, *inside)


_REBUILD: dict[str, Callable[[_Call, list[Any], _Inside], Result]] = {
  "scan": _run_scan,
  "cond": _run_cond,
  "shard_map": _run_shard_map,
}
