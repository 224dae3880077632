"""The forward pass in which every operation is rescaled as it is reached.

Alongside the arrays of the model, the pass carries what is known of each
factor: 0 until a live output has determined it. A factor determined inside a
call, a scan or a branch is known afterwards; a factor that a branch not taken
would have determined stays unknown.
"""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._statistics import varying_like, wide_dtype
from initjax.graph import (
  BY_DEVICE,
  FORWARD,
  LinearOp,
  Site,
  Slot,
  View,
  Visited,
  Visitor,
  run,
)
from initjax.model_init._factors import (
  APART,
  CLOSED,
  DEAD,
  DERIVED,
  ENTANGLED,
  NOT_RUN,
  POOLED,
  SHARED,
  Row,
  left_alone,
  propose,
  row_of,
  scaled,
)
from initjax.model_init._groups import Group
from initjax.model_init._tables import Beside
from initjax.typing import DType


class State(NamedTuple):
  """What is known of one group."""

  factor: jax.Array
  """0 until it is known"""
  total: jax.Array
  """of all its live uses, Σ of the statistic over the target"""
  uses: jax.Array
  """the number of those"""
  late: jax.Array
  """1 if zeros came before it was known, as at the start of a recurrence"""
  pooled: jax.Array
  """1 if it was found from all uses together"""


States = dict[int, State]
Rows = dict[Site, Row]


class Plan(NamedTuple):
  """What is to be done where."""

  ops: Mapping[Site, LinearOp]
  views: Mapping[Site, View]
  """of kernels that may be rescaled"""
  groups: tuple[Group, ...]
  statistic: str
  waiting: frozenset[Site] = frozenset()
  """look-ups of tables whose factor is found where they are read out"""
  positions: Mapping[Site, Beside] = MappingProxyType({})
  """look-ups that get the size of the tokens they are added to"""


def beginning(plan: Plan) -> States:
  """Nothing is known."""
  return {
    number: State(*(_full(group.shape, 0, group.dtype),) * 5)
    for number, group in enumerate(plan.groups)
  }


def _full(shape: tuple[int, ...], number: float, dtype: DType) -> jax.Array:
  """Of NumPy if it is one number, which becomes a literal of the program."""
  full: Any = jnp.full if shape else np.full
  return full(shape, number, dtype)


def all_passes(
  plan: Plan,
  jaxpr: Any,
  arguments: Sequence[jax.Array],
  target: float | jax.Array,
  *,
  tied: str,
) -> tuple[States, Rows]:
  """One pass, or as many as the rule for kernels of several uses requires."""
  again = plan._replace(waiting=frozenset())
  given = jaxpr, arguments, target
  states, rows = one_pass(plan, *given, beginning(plan))
  if plan.waiting:
    states, rows = one_pass(again, *given, found(plan, states, rows))
  if tied != "first" and _pools(plan):
    start = pooled(plan, states, every=tied == "pooled")
    states, rows = one_pass(again, *given, start)
  return states, rows


def one_pass(
  plan: Plan,
  jaxpr: Any,
  arguments: Sequence[jax.Array],
  target: float | jax.Array,
  states: States,
) -> tuple[States, Rows]:
  """What is known of the groups afterwards, and a row for every site."""
  own = frozenset(jax.sharding.get_abstract_mesh().manual_axes)
  visitor = Visitor(
    functools.partial(_visit, plan, target, own),
    {site: n for n, group in enumerate(plan.groups) for site in group.sites},
    {number: group.slicers for number, group in enumerate(plan.groups)},
  )
  slots = {site: Slot(None, _not_run(plan, site)) for site in plan.ops}
  _, rows, after = run(jaxpr, arguments, visitor, slots, states, enter=FORWARD)
  return {number: after[number] for number in states}, rows


def _visit(
  plan: Plan,
  target: float | jax.Array,
  outside: frozenset[str],
  visited: Visited,
  slot: Slot,
  state: State | None,
) -> tuple[list[jax.Array], Row, State | None]:
  """Devices along mesh axes that are not `outside` the pass act as one."""
  outputs, op = visited.outputs, plan.ops[visited.site]
  if visited.operands is None or not op.place.whole <= FORWARD:
    return outputs, slot.forward, state
  mesh = jax.sharding.get_abstract_mesh()
  axes = tuple(name for name in mesh.manual_axes if name not in outside)
  summed = tuple(axis for axis, _ in op.summed_over)
  whole = jax.lax.psum(outputs[0], summed) if summed else outputs[0]
  proposal = propose(whole, plan.statistic, target, axes)
  if visited.site in plan.waiting:
    proposal = proposal._replace(factor=jnp.zeros_like(proposal.factor))
  if state is None:
    code = ENTANGLED if visited.site in plan.views else DERIVED
    row = left_alone(proposal, code)
  else:
    outputs = list(outputs)
    outputs[0], row, state = _rescaled(outputs[0], proposal, state)
  return outputs, jax.tree.map(varying_like, row, slot.forward), state


@jax.jit  # so that a model of many sites is traced once for each shape
def _rescaled(
  output: jax.Array, proposal: Row, state: State
) -> tuple[jax.Array, Row, State]:
  row = row_of(proposal, state.factor.astype(proposal.factor.dtype))
  live = proposal.factor > 0
  factor = jnp.where(live | (state.factor > 0), row.factor, 0)
  early = (factor == 0) & (proposal.code == DEAD)
  excess = (row.factor / jnp.where(live, proposal.factor, 1)) ** 2
  state = State(
    factor.astype(state.factor.dtype),
    state.total + jnp.where(live, excess, 0).astype(state.total.dtype),
    state.uses + live.astype(state.uses.dtype),
    jnp.where(early, 1, state.late).astype(state.late.dtype),
    state.pooled,
  )
  is_pooled = (row.code == SHARED) & (state.pooled > 0)
  row = row._replace(code=jnp.where(is_pooled, POOLED, row.code))
  return scaled(output, row.factor), row, state


def _not_run(plan: Plan, site: Site) -> Row:
  """The row of an operation in a branch not taken, or that is not entered."""
  op = plan.ops[site]
  whole = op.place.whole - FORWARD
  code = (APART if whole == {BY_DEVICE} else CLOSED) if whole else NOT_RUN
  full = functools.partial(_full, op.repeats)
  dtype = wide_dtype(op.dtype)
  return Row(full(1, dtype), full(np.nan, dtype), full(code, np.int32))


def found(plan: Plan, states: States, rows: Rows) -> States:
  """The factors of tables that are read out, before they are looked up.

  Positions get what makes them as large as the tokens they are added to.
  """
  start = beginning(plan)
  number = {s: n for n, group in enumerate(plan.groups) for s in group.sites}
  for site in plan.waiting & number.keys():
    tokens, ratio = plan.positions.get(site, Beside(site, 1.0))
    if tokens not in number:
      continue
    own, factor = start[number[site]], states[number[tokens]].factor
    if tokens != site:
      bits = rows[tokens].log2_before - rows[site].log2_before
      factor = factor * ratio * jnp.exp2(bits / 2)
      factor = jnp.where(jnp.isfinite(factor), factor, 0)
    if np.shape(own.factor) == np.shape(factor):
      factor = factor.astype(own.factor.dtype)
      start[number[site]] = own._replace(factor=factor)
  return start


def _pools(plan: Plan) -> bool:
  """Whether a kernel is used several times, and no readout decides."""
  return any(
    group.shared and plan.waiting.isdisjoint(group.sites)
    for group in plan.groups
  )


def pooled(plan: Plan, states: States, *, every: bool) -> States:
  """Shared factors that give all live uses, taken together, the target.

  The mean over uses of the statistic, as it came out with the first factor.

  Args:
    plan: what was done.
    states: what was found.
    every: whether all of them; or else those of recurrences that begin with
      zeros, since their states are small at first.
  """
  start = beginning(plan)
  for number, group in enumerate(plan.groups):
    state = states[number]
    if not plan.waiting.isdisjoint(group.sites):
      start[number] = start[number]._replace(factor=state.factor)
    elif group.shared:
      mean = state.total / jnp.maximum(state.uses, 1)
      factor = state.factor / jnp.sqrt(jnp.where(mean > 0, mean, 1))
      chosen = jnp.ones_like(state.late) if every else state.late
      start[number] = start[number]._replace(
        factor=factor * chosen, pooled=chosen
      )
  return start
