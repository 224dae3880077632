"""The forward pass in which every operation is rescaled as it is reached.

Beside the arrays of the model, the pass carries what is known of each factor:
0 until a live output has determined it. It enters calls, scans and branches as
the model does; whatever is determined inside is known afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._statistics import wide
from initjax.graph._compat import open_jaxpr, scan_operands, sub_jaxprs
from initjax.graph._graph import LinearOp, Site
from initjax.graph._primitives import INLINED, JITS
from initjax.graph._replay import bind
from initjax.model_init._factors import (
  CLOSED,
  DERIVED,
  ENTANGLED,
  NOT_RUN,
  Row,
  left_alone,
  propose,
  row_of,
  scaled,
)
from initjax.model_init._groups import Group
from initjax.model_init._kernels import Kernels


class State(NamedTuple):
  """What is known of one group."""

  factor: jax.Array
  """0 until it is known"""
  total: jax.Array
  """of all its live uses, Σ of the statistic over the target"""
  uses: jax.Array
  """the number of those"""


States = dict[int, State]
Rows = dict[Site, Row]
Result = tuple[list[Any], States, Rows]


class Plan(NamedTuple):
  """What is to be done where."""

  ops: Mapping[Site, LinearOp]
  kernels: Kernels
  groups: tuple[Group, ...]
  statistic: str
  target: Any

  def number_of(self, site: Site) -> int | None:
    """The group of an operation, if it has one."""
    return next(
      (n for n, group in enumerate(self.groups) if site in group.sites), None
    )

  def inside(self, states: States, site: Site) -> States:
    """Of groups with operations at or inside an equation."""
    size = len(site)
    return {
      number: state
      for number, state in states.items()
      if any(s[:size] == site for s in self.groups[number].sites)
    }

  def sites_inside(self, site: Site) -> list[Site]:
    """Operations at or inside an equation."""
    return [one for one in self.ops if one[: len(site)] == site]


def beginning(plan: Plan) -> States:
  """Nothing is known."""
  return {
    number: State(*(jnp.zeros(group.shape, group.dtype),) * 3)
    for number, group in enumerate(plan.groups)
  }


def run(
  plan: Plan,
  jaxpr: Any,
  arguments: Sequence[Any],
  states: States,
  place: Site = (),
) -> Result:
  """Outputs of the rescaled model, what is known now, a row for every site."""
  opened = open_jaxpr(jaxpr)
  known = dict(zip(opened.jaxpr.constvars, opened.consts, strict=True))
  known.update(zip(opened.jaxpr.invars, arguments, strict=True))
  states, rows = dict(states), {}
  busy = {site[len(place)] for site in plan.sites_inside(place)}

  def look_up(atom: Any) -> Any:
    return atom.val if hasattr(atom, "val") else known[atom]

  for index, equation in enumerate(opened.jaxpr.eqns):
    operands = [look_up(atom) for atom in equation.invars]
    site = (*place, index)
    with equation.ctx.manager:
      if index in busy:
        given = plan.inside(states, site)
        outputs, found, more = _run(plan, equation, operands, given, site)
        states.update(found)
        rows.update(more)
      else:
        outputs = bind(equation, operands)
    known.update(zip(equation.outvars, outputs, strict=True))
  return [look_up(atom) for atom in opened.jaxpr.outvars], states, rows


def _run(
  plan: Plan, equation: Any, operands: list[Any], states: States, site: Site
) -> Result:
  """One equation that is an operation, or holds some."""
  if site in plan.ops:
    return _operation(plan, equation, operands, states, site)
  name = equation.primitive.name
  if name in INLINED:
    return _call(plan, equation, operands, states, site)
  rebuild = {"scan": _scan, "cond": _cond}.get(name)
  if rebuild is not None:
    return rebuild(plan, equation, operands, states, site)
  return bind(equation, operands), states, _blank(plan, site, CLOSED)


def _operation(
  plan: Plan, equation: Any, operands: list[Any], states: States, site: Site
) -> Result:
  outputs = bind(equation, operands)
  proposal = propose(outputs[0], plan.statistic, plan.target)
  number = plan.number_of(site)
  if number is None:
    code = ENTANGLED if site in plan.kernels.views else DERIVED
    return outputs, states, {site: left_alone(proposal, code)}
  state = states[number]
  row = row_of(proposal, state.factor.astype(proposal.factor.dtype))
  outputs[0] = scaled(outputs[0], row.factor)
  live = proposal.factor > 0
  factor = jnp.where(live | (state.factor > 0), row.factor, 0)
  excess = (row.factor / jnp.where(live, proposal.factor, 1)) ** 2
  state = State(
    factor.astype(state.factor.dtype),
    state.total + jnp.where(live, excess, 0).astype(state.total.dtype),
    state.uses + live.astype(state.uses.dtype),
  )
  return outputs, {number: state}, {site: row}


def _blank(plan: Plan, place: Site, code: int) -> Rows:
  """Rows of operations inside an equation that is not entered."""
  rows = {}
  for site in plan.sites_inside(place):
    op = plan.ops[site]
    around = op.place.scans
    shape = tuple(s.length for s in around if len(s.site) >= len(place))
    ones = jnp.ones(shape, wide(jnp.zeros((), op.dtype)).dtype)
    nothing = jnp.full_like(ones, jnp.nan)
    rows[site] = Row(ones, nothing, jnp.full(shape, code, jnp.int32))
  return rows


def _call(
  plan: Plan, equation: Any, operands: list[Any], states: States, site: Site
) -> Result:
  """Jit stays jit; rules for derivatives have no part in a forward pass."""
  (inner, *_) = sub_jaxprs(equation.params)

  def enter(operands: list[Any], states: States) -> Result:
    return run(plan, inner, operands, states, site)

  if equation.primitive.name in JITS:
    enter = jax.jit(enter, inline=equation.params["inline"])
  return enter(operands, states)


def _scan(
  plan: Plan, equation: Any, operands: list[Any], states: States, site: Site
) -> Result:
  """Factors of sliced kernels are sliced as they are; others are carried."""
  params = equation.params
  num_consts, num_carry = scan_operands(params)
  consts, rest = operands[:num_consts], operands[num_consts:]
  sliced = {n: s for n, s in states.items() if _slices(plan, n, site)}
  carried = {n: s for n, s in states.items() if n not in sliced}

  def body(carry: Any, x: Any) -> Any:
    (values, carried), (xs, sliced) = carry, x
    arguments = [*consts, *values, *xs]
    states = {**carried, **sliced}
    outputs, states, rows = run(plan, params["jaxpr"], arguments, states, site)
    after = [{n: states[n] for n in part} for part in (carried, sliced)]
    ys = (outputs[num_carry:], after[1], rows)
    return (outputs[:num_carry], after[0]), ys

  (carry, carried), (ys, sliced, rows) = jax.lax.scan(
    body,
    (rest[:num_carry], carried),
    (rest[num_carry:], sliced),
    length=params["length"],
    reverse=params["reverse"],
    unroll=params["unroll"],
  )
  return [*carry, *ys], {**carried, **sliced}, rows


def _slices(plan: Plan, number: int, scan: Site) -> bool:
  return scan in plan.groups[number].slicers


def _cond(
  plan: Plan, equation: Any, operands: list[Any], states: States, site: Site
) -> Result:
  """What the branch not taken would have determined stays unknown."""
  blank = _blank(plan, site, NOT_RUN)

  def branch(number: int, jaxpr: Any) -> Callable[..., Result]:
    place = (*site, number)

    def enter(operands: list[Any], states: States) -> Result:
      given = plan.inside(states, place)
      outputs, found, rows = run(plan, jaxpr, operands, given, place)
      return outputs, {**states, **found}, {**blank, **rows}

    return enter

  index, *others = operands
  choices = [
    branch(*numbered) for numbered in enumerate(equation.params["branches"])
  ]
  return jax.lax.switch(index, choices, others, states)


def pooled(plan: Plan, states: States) -> States:
  """Shared factors that give all live uses, taken together, the target.

  The mean over uses of the statistic, as it came out with the first factor.
  """
  start = beginning(plan)
  for number, group in enumerate(plan.groups):
    if group.shared:
      state = states[number]
      mean = state.total / jnp.maximum(state.uses, 1)
      factor = state.factor / jnp.sqrt(jnp.where(mean > 0, mean, 1))
      start[number] = start[number]._replace(factor=factor)
  return start
