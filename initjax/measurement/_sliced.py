"""Gradients of parameters that a scan slices, examined part by part.

As a whole, such a gradient is as large as the parameter. Each repeat's part of
it returns to one operand, where the same identity that measures signals takes
its sums; the scan then has no gradient to stack.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from initjax._paths import is_float
from initjax._statistics import Tally, empty_slot, tap, unit
from initjax.graph import Site, Slot, Trace, Use, Visited, Visitor, sliced_once
from initjax.measurement._norms import Scaled
from initjax.measurement._watch import Seen, Watch


def with_parts(
  traced: Trace, watched: Watch, count: int
) -> tuple[Watch, dict[int, Use]]:
  """The same, and where gradients of the first arguments arise in parts.

  None does where arguments differ between devices of a shard_map.
  """
  uses = dict(_uses(traced, watched, count))
  slots: dict[Site, Any] = {
    use.site: empty_slot(use.repeats, traced.jaxpr.in_avals[at].dtype)
    for at, use in uses.items()
  }
  nothing = Seen(None, None, {})

  def visit(visited: Visited, slot: Slot, state: Any) -> Any:
    if visited.site not in slots:
      return watched.visitor.visit(visited, slot, state)
    return [tap(visited.outputs[0], slot.backward)], nothing, state

  both = watched._replace(
    visitor=Visitor(visit),
    slots={**watched.slots, **slots},
    blanks={**watched.blanks, **dict.fromkeys(slots, nothing)},
  )
  return both, uses


def _uses(
  traced: Trace, watched: Watch, count: int
) -> Iterator[tuple[int, Use]]:
  avals = traced.jaxpr.in_avals
  if any(aval.manual_axis_type.varying for aval in avals):
    return
  for at, use in sliced_once(traced.jaxpr).items():
    if at < count and is_float(avals[at]) and use.site not in watched.blanks:
      yield at, use


def gradients_by_path(
  paths: Sequence[str],
  wholes: Mapping[int, jax.Array],
  parts: Mapping[int, Use],
  backward: Mapping[Site, Tally],
) -> dict[str, Any]:
  """Gradients, and of those that arose in parts what a norm follows from."""
  found: dict[str, Any] = {}
  for at, path in enumerate(paths):
    if at in parts:
      found[path] = _of_parts(backward[parts[at].site])
    elif is_float(wholes[at]):
      found[path] = wholes[at]
  return found


def _of_parts(parts: Tally) -> Scaled:
  """Of an array, from the tallies of its parts [..., 6]."""
  largest, squares = parts.numbers[..., 0], parts.numbers[..., 2]
  whole = unit(largest.max())
  return Scaled(whole, (squares * (unit(largest) / whole) ** 2).sum())
