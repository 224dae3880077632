"""What `measure` does at the sites of a model."""

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._statistics import (
  Tally,
  empty_slot,
  spread,
  tally,
  tap,
  varying_like,
  varying_zeros,
)
from initjax.graph import (
  Feed,
  LinearOp,
  Site,
  Slot,
  Trace,
  Visited,
  Visitor,
)
from initjax.measurement._detail import LENGTH, detail_sums, mean_slope

Slopes = dict[tuple[int, bool], jax.Array]
"""E|φ'| by operation, and whether it feeds its later repeats."""


class Seen(NamedTuple):
  """What a site hands out.

  Where it has no slot for what goes back, arrays whose sums are still to be
  taken: its output in place of a tally, and for detail the signal it was fed.
  """

  tally: Any
  detail: Any
  slopes: Slopes


class Watch(NamedTuple):
  """How a model is watched."""

  visitor: Visitor
  """what to do at the sites"""
  slots: dict[Site, Any]
  """of operations, for what is measured going backward"""
  blanks: dict[Site, Seen]
  """what sites hand out if they are not run"""
  sources: dict[Site, dict[tuple[int, bool], Feed]]
  """where the arguments of activations arise that are to be watched"""


def watch(traced: Trace, detail: bool) -> Watch:
  """The sites of a model, and what is done there."""
  ops = traced.ops
  sources = _feeds_by_site(traced.graph.ops) if detail else {}
  # so that an activation of many operations is traced once for each shape
  slope = functools.cache(
    lambda phi: jax.jit(functools.partial(mean_slope, phi), inline=True)
  )

  def visit(
    visited: Visited, slot: Slot, state: None
  ) -> tuple[list[Any], Seen, None]:
    op = ops.get(visited.site)
    in_loop = op is not None and "while" in op.place.whole
    if in_loop or visited.equation.primitive.name == "while":
      return visited.outputs, slot.forward, state  # it has no gradient
    still = jax.lax.stop_gradient(list(visited.outputs))
    feeds = sources.get(visited.site, {}).items()
    slopes = {at: slope(f.activation)(still[f.output]) for at, f in feeds}
    return *_seen_at(op, slopes, visited, slot), state

  avals = traced.jaxpr.in_avals
  varying = {ax for aval in avals for ax in aval.manual_axis_type.varying}
  slots = {
    site: empty_slot(op.repeats, op.dtype, varying) for site, op in ops.items()
  }
  nothing = functools.partial(_nothing_seen, varying=varying, detail=detail)
  blanks = {
    site: nothing(ops.get(site), slots.get(site), sources.get(site, {}))
    for site in {**ops, **sources}
  }
  return Watch(Visitor(visit), slots, blanks, sources)


def _nothing_seen(
  op: LinearOp | None,
  slot: Any,
  feeds: dict[tuple[int, bool], Feed],
  varying: set[str],
  detail: bool,
) -> Seen:
  """What a site hands out that is not run."""
  slopes = {
    at: varying_zeros(feed.place.repeats if feed.place else (), varying)
    for at, feed in feeds.items()
  }
  more = None
  if detail and op is not None:
    more = varying_zeros((*op.repeats, LENGTH), varying)
  return Seen(slot, more, slopes)


def _feeds_by_site(
  ops: tuple[LinearOp, ...],
) -> dict[Site, dict[tuple[int, bool], Feed]]:
  """Where the arguments of activations arise that are to be watched."""
  found: dict[Site, dict[tuple[int, bool], Feed]] = {}
  for index, op in enumerate(ops):
    for later, feed in ((False, op.feed), (True, op.later_feed)):
      if feed is None or feed.activation is None or feed.place is None:
        continue
      if not feed.place.closed:
        found.setdefault(feed.place.site, {})[index, later] = feed
  return found


def _seen_at(
  op: LinearOp | None, slopes: Slopes, visited: Visited, slot: Slot
) -> tuple[list[Any], Seen]:
  outputs = list(visited.outputs)
  if op is None:
    return outputs, Seen(None, None, slopes)
  if slot.backward is None:
    handed = jax.lax.stop_gradient((outputs[0], _signal(op, visited.operands)))
    return outputs, Seen(Tally(handed[0]), handed[1], slopes)
  seen, copies = _summed(op, jax.lax.stop_gradient(outputs[0]))
  if jnp.issubdtype(seen.dtype, jnp.inexact):
    outputs[0] = tap(outputs[0], slot.backward)
  found, more = tally(seen), None
  if slot.forward.detail is not None:
    signal = jax.lax.stop_gradient(_signal(op, visited.operands))
    more = detail_sums(op, signal, seen, found.numbers[0])
    more = varying_like(more, slot.forward.detail)
  tallied = spread(found.shared(copies), slot.forward.tally)
  return outputs, Seen(tallied, more, slopes)


def _signal(op: LinearOp, operands: list[Any] | None) -> Any:
  """The operand that is no kernel; None if it is not at hand."""
  index = 1 - op.axes.kernel
  if operands is None or op.place.closed or index >= len(operands):
    return None  # a site that is an operand has none, nor has a lone table
  return operands[index]


def sums_of(
  op: LinearOp, output: Any, signal: Any, by: Callable[[Any], Tally]
) -> tuple[Tally, Any]:
  """The tally and the detail of what an operation has handed out."""
  found = by(output)
  return found, detail_sums(op, signal, output, found.numbers[0])


def partial_sums(op: LinearOp) -> dict[str, int]:
  """Axes of the mesh, and sizes, along which devices have other terms."""
  whole = op.place.whole <= {"shard_map"}  # else the sum may be in the call
  return dict(op.summed_over) if whole else {}


def _summed(op: LinearOp, output: jax.Array) -> tuple[jax.Array, int]:
  """The terms of all devices, and how many have them unknown to JAX."""
  sizes = partial_sums(op)
  known = jax.typeof(output).manual_axis_type.varying
  copies = math.prod(n for axis, n in sizes.items() if axis not in known)
  return jax.lax.psum(output, tuple(sizes)) if sizes else output, copies


def looks_at(
  traced: Trace, watched: Watch, sites: Mapping[Site, Site]
) -> Hashable:
  """What is done at these sites, equal where one program can do it."""
  return tuple(
    (_op_at(traced.ops.get(site)), *_feeds_at(watched.sources.get(site, {})))
    for _, site in sorted(sites.items())
  )


def _op_at(op: LinearOp | None) -> Hashable:
  if op is None:
    return None
  axes, place = op.axes, op.place
  seen = (axes.units, axes.samples, axes.kernel, op.repeats, str(op.dtype))
  return (op.kind, *seen, place.whole, op.summed_over)


def _feeds_at(feeds: Mapping[tuple[int, bool], Feed]) -> Iterator[Hashable]:
  for _, feed in sorted(feeds.items(), key=lambda item: item[0]):
    repeats = feed.place.repeats if feed.place else ()
    yield feed.activation, feed.output, repeats
