"""Running a traced model again, with something done at every linear operation.

`replay` binds each equation as it was and rebuilds the calls that hold sites:
jit as jit, remat as remat with its policy, scan, cond and shard_map. What is
done at a site may hand out a pytree (forward statistics); inside a scan these
come out stacked, one for each repeat. Each site is given a slot, sliced
likewise, whose gradient can carry what is measured going backward.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax.graph._compat import open_jaxpr, scan_operands, sub_jaxprs
from initjax.graph._graph import Site
from initjax.graph._primitives import CALLS, JITS, REMAT
from initjax.graph._shard_map import in_shards


class Visited(NamedTuple):
  """An equation that was run, at a site."""

  site: Site
  operands: list[Any] | None
  """None where several equations were run as one, and this is the last"""
  outputs: list[Any]


class Slot(NamedTuple):
  """What a site is given; under scans with their leading axes."""

  backward: Any
  """to be differentiated with respect to; None if nothing is"""
  forward: Any
  """zeros of the structure of what the site hands out, for where it is not
  run"""


Visit = Callable[[Visited, Slot], tuple[list[Any], Any]]
"""Returns new outputs, and what to hand out."""

Slots = Mapping[Site, Slot]
Found = dict[Site, Any]


def replay(
  visit: Visit,
  jaxpr: Any,
  arguments: Sequence[Any],
  slots: Slots,
  place: Site = (),
) -> tuple[list[Any], Found]:
  """Outputs of `jaxpr`, and what its sites (the keys of `slots`) handed out."""
  opened = open_jaxpr(jaxpr)
  known = dict(zip(opened.jaxpr.constvars, opened.consts, strict=True))
  known.update(zip(opened.jaxpr.invars, arguments, strict=True))
  found: Found = {}

  def look_up(atom: Any) -> Any:
    return atom.val if hasattr(atom, "val") else known[atom]

  inside = _by_equation(slots, len(place))
  for index, equation in enumerate(opened.jaxpr.eqns):
    operands = [look_up(atom) for atom in equation.invars]
    with equation.ctx.manager:
      if index in inside:
        outputs, more = _replay_equation(
          visit, equation, operands, inside[index], (*place, index)
        )
        found.update(more)
      else:
        outputs = bind(equation, operands)
    known.update(zip(equation.outvars, outputs, strict=True))
  return [look_up(atom) for atom in opened.jaxpr.outvars], found


def bind(equation: Any, operands: Sequence[Any]) -> list[Any]:
  """The equation as it was."""
  params = equation.primitive.get_bind_params(equation.params)
  outputs = equation.primitive.bind(*operands, **params)
  return list(outputs) if equation.primitive.multiple_results else [outputs]


def _by_equation(slots: Slots, depth: int) -> dict[int, dict[Site, Slot]]:
  """The slots of sites at or inside each equation of one jaxpr."""
  found: dict[int, dict[Site, Slot]] = {}
  for site, slot in slots.items():
    found.setdefault(site[depth], {})[site] = slot
  return found


def _skipped(slots: Slots) -> Found:
  """What sites hand out that were not run."""
  return {
    site: jax.tree.map(jnp.zeros_like, slot.forward)
    for site, slot in slots.items()
  }


def _replay_equation(
  visit: Visit, equation: Any, operands: list[Any], slots: Slots, site: Site
) -> tuple[list[Any], Found]:
  if site in slots:
    outputs = bind(equation, operands)
    outputs, handed = visit(Visited(site, operands, outputs), slots[site])
    return outputs, {site: handed}
  rebuild = _REBUILD.get(equation.primitive.name, _replay_whole)
  return rebuild(visit, equation, operands, slots, site)


def _replay_whole(
  visit: Visit, equation: Any, operands: list[Any], slots: Slots, site: Site
) -> tuple[list[Any], Found]:
  """A call with a derivative rule of its own: one site, at its output.

  A while loop has no gradient; nothing is measured inside.
  """
  del site
  outputs = bind(equation, operands)
  if equation.primitive.name == "while":
    return outputs, _skipped(slots)
  last = max(slots)
  outputs, handed = visit(Visited(last, None, outputs), slots[last])
  return outputs, {**_skipped(slots), last: handed}


def _replay_call(
  visit: Visit, equation: Any, operands: list[Any], slots: Slots, site: Site
) -> tuple[list[Any], Found]:
  """Jit stays jit, remat stays remat with the same policy."""
  (inner, *_) = sub_jaxprs(equation.params)

  def run(operands: list[Any], slots: Slots) -> tuple[list[Any], Found]:
    return replay(visit, inner, operands, slots, site)

  params = equation.params
  if equation.primitive.name in REMAT:
    run = jax.checkpoint(
      run, policy=params["policy"], prevent_cse=params["prevent_cse"]
    )
  elif equation.primitive.name in JITS:
    run = jax.jit(run, inline=params["inline"])
  return run(operands, slots)


def _replay_scan(
  visit: Visit, equation: Any, operands: list[Any], slots: Slots, site: Site
) -> tuple[list[Any], Found]:
  params = equation.params
  num_consts, num_carry = scan_operands(params)
  consts, rest = operands[:num_consts], operands[num_consts:]

  def body(carry: list[Any], x: tuple[list[Any], Slots]) -> Any:
    xs, sliced = x
    arguments = [*consts, *carry, *xs]
    outputs, found = replay(visit, params["jaxpr"], arguments, sliced, site)
    return outputs[:num_carry], (outputs[num_carry:], found)

  carry, (ys, found) = jax.lax.scan(
    body,
    rest[:num_carry],
    (rest[num_carry:], slots),
    length=params["length"],
    reverse=params["reverse"],
    unroll=params["unroll"],
  )
  return [*carry, *ys], found


def _replay_cond(
  visit: Visit, equation: Any, operands: list[Any], slots: Slots, site: Site
) -> tuple[list[Any], Found]:
  """Every branch hands out all sites; those of the others were not run."""
  branches = equation.params["branches"]

  def branch(number: int) -> Callable[..., tuple[list[Any], Found]]:
    place = (*site, number)

    def run(operands: list[Any], slots: Slots) -> tuple[list[Any], Found]:
      own = _by_equation(slots, len(site)).get(number, {})
      outputs, found = replay(visit, branches[number], operands, own, place)
      return outputs, {**_skipped(slots), **found}

    return run

  index, *others = operands
  choices = [branch(number) for number in range(len(branches))]
  return jax.lax.switch(index, choices, others, slots)


def _replay_shard_map(
  visit: Visit, equation: Any, operands: list[Any], slots: Slots, site: Site
) -> tuple[list[Any], Found]:
  def run(operands: list[Any], slots: Slots) -> tuple[list[Any], Found]:
    return replay(visit, equation.params["jaxpr"], operands, slots, site)

  return in_shards(run, equation.params, operands, slots)


_REBUILD: dict[str, Callable[..., tuple[list[Any], Found]]] = {
  **dict.fromkeys((*CALLS, *REMAT), _replay_call),
  "scan": _replay_scan,
  "cond": _replay_cond,
  "shard_map": _replay_shard_map,
}
