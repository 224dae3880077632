"""`measure` in detail, with one compiled program for each kind of layer.

As one program, a model takes XLA longer the deeper it is, and several times as
long if everything in it is measured. Here its segments run one after another,
forward and then backward, and equal segments share one compiled program. The
inputs of a segment are kept for its backward pass, which recomputes all of it
but its operation, which comes last. At most one gradient of a large parameter
is held at a time.

Operations return arrays, which are summed outside the segments: by one program
for each shape, or, if an array is small and local, by NumPy without
compilation.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._executables import placement, prepared
from initjax._paths import is_float, paths_of
from initjax._sharding import at_hand
from initjax._statistics import Tally, tally, tally_in_numpy
from initjax.graph import (
  LinearOp,
  Segment,
  Site,
  Slot,
  Trace,
  Visited,
  Visitor,
  cut,
  run,
)
from initjax.measurement._norms import (
  Norms,
  Scaled,
  norms_from,
  scaled,
  scaled_of,
)
from initjax.measurement._watch import Seen, Watch, looks_at, sums_of, watch

Start = Callable[[list[Any]], dict[int, jax.Array]]
"""From a model's outputs, flat, to the gradients of some of them, by number."""


class Passes(NamedTuple):
  """What the two passes gave."""

  found: dict[Site, Seen]
  backward: dict[Site, Any]
  """by site, the tally of its gradient"""
  norms: Norms


class _State(NamedTuple):
  """What is known while the segments run; most of it changes."""

  ops: Mapping[Site, LinearOp]
  watched: Watch
  values: dict[Any, Any]
  """of variables"""
  moving: set[Any]
  """variables that a gradient may reach"""
  gradients: dict[Any, jax.Array]
  """of variables, as far as they are summed"""
  programs: dict[Hashable, Callable[..., Any]]
  """by the kind of a segment and of its arguments"""


def passes_by_segments(
  traced: Trace, params: Any, inputs: Any, start: Start
) -> Passes | None:
  """Both passes; None where hardly any two segments are equal."""
  watched = watch(traced, detail=True)
  model = cut(traced.jaxpr, watched.blanks, watched.slots)
  kinds = [
    (segment.kind, looks_at(traced, watched, segment.sites))
    for segment in model.segments
  ]
  if 2 * len(set(kinds)) > len(kinds) or traced.jaxpr.effects:
    return None
  given = [*model.constants, *jax.tree.leaves((params, inputs))]
  values = dict(zip(model.invars, given, strict=True))
  own = model.invars[len(model.constants) :]
  named = zip(own, paths_of(params), strict=False)
  paths = {var: path for var, path in named if is_float(var.aval)}
  state = _State(traced.ops, watched, values, set(paths), {}, {})
  found: dict[Site, Seen] = {}
  for segment, kind in zip(model.segments, kinds, strict=True):
    found |= _forward(state, segment, kind)
  outputs = [x.val if hasattr(x, "val") else values[x] for x in model.outputs]
  for number, gradient in start(outputs).items():
    _add(state, model.outputs[number], gradient)
  backward: dict[Site, Any] = {}
  scales: dict[str, Scaled | None] = dict.fromkeys(paths.values())
  for segment, kind in zip(model.segments[::-1], kinds[::-1], strict=True):
    backward |= _backward(state, segment, kind)
    whole = paths.keys() & segment.first_read & state.gradients.keys()
    scales |= {paths[var]: _norm(state.gradients.pop(var)) for var in whole}
  alone = paths.keys() & state.gradients.keys()  # outputs, and nothing else
  scales |= {paths[var]: _norm(state.gradients.pop(var)) for var in alone}
  return Passes(found, backward, norms_from(scales))


def _forward(
  state: _State, segment: Segment, kind: Hashable
) -> dict[Site, Seen]:
  """Runs a segment; what its sites hand out."""
  watched = state.watched
  blanks = {own: watched.blanks[site] for own, site in segment.sites.items()}
  moving, still = _arguments(state, segment)
  slots = _slots(state, segment)

  def program(moving: Any, still: Any, slots: Any) -> Any:
    return _run(watched, segment, {**moving, **still}, slots)

  outputs, seen = _call(state, kind, program, moving, still, slots)
  state.values.update(zip(segment.outvars, outputs, strict=True))
  if moving or not state.ops.keys().isdisjoint(segment.sites.values()):
    state.moving.update(v for v in segment.outvars if is_float(v.aval))
  found = {own: _renumbered(one, blanks[own]) for own, one in seen.items()}
  for own in _handing_out(state, segment):
    found[own] = _summed(state, state.ops[segment.sites[own]], found[own])
  return {segment.sites[own]: one for own, one in found.items()}


def _renumbered(seen: Seen, blank: Seen) -> Seen:
  """What a site has seen, with its own numbers: its program may be another's.

  Programs are shared by segments of a kind, whose operations have others.
  """
  slopes = [slope for _, slope in sorted(seen.slopes.items())]
  own = sorted(blank.slopes)
  return seen._replace(slopes=dict(zip(own, slopes, strict=True)))


def _handing_out(state: _State, segment: Segment) -> list[Site]:
  """Operations outside of loops and devices, whose arrays are handed out."""
  ops = {own: state.ops.get(site) for own, site in segment.sites.items()}
  return [
    own
    for own, op in ops.items()
    if op is not None and len(own) == 1
    if not (op.place.whole or op.place.scans or op.summed_over)
  ]


def _summed(state: _State, op: LinearOp, seen: Seen) -> Seen:
  """What it is with the sums of the arrays that a site has handed out."""
  output, signal = at_hand(seen.tally.numbers), at_hand(seen.detail)
  if isinstance(output, np.ndarray) and isinstance(signal, np.ndarray):
    with np.errstate(all="ignore"):
      found, detail = sums_of(op, output, signal, tally_in_numpy)
    return Seen(found, detail, seen.slopes)
  program = lambda output, signal: sums_of(op, output, signal, tally)
  arrays = seen.tally.numbers, seen.detail
  found, detail = _call(state, (op.kind, op.axes), program, *arrays)
  return Seen(found, detail, seen.slopes)


def _tally(state: _State, gradient: jax.Array) -> Tally:
  near = at_hand(gradient)
  if isinstance(near, np.ndarray):
    return tally_in_numpy(near)
  return _call(state, "tally", tally, gradient)


def _norm(gradient: jax.Array) -> Scaled:
  near = at_hand(gradient)
  if isinstance(near, np.ndarray):
    return scaled_of(tally_in_numpy(near))
  return scaled(gradient)


def _backward(
  state: _State, segment: Segment, kind: Hashable
) -> dict[Site, Any]:
  """Runs a segment again and back; the tallies of its sites' gradients."""
  slots = _slots(state, segment)
  moving, still = _arguments(state, segment)
  tallies = slots | _tallies(state, segment)
  wanted = {
    i: state.gradients.pop(var)
    for i, var in enumerate(segment.outvars)
    if var in state.gradients
  }
  if wanted and (moving or slots):

    def program(moving: Any, still: Any, slots: Any, wanted: Any) -> Any:
      def outputs(moving: Any, slots: Any) -> Any:
        given = {**moving, **still}
        found, _ = _run(state.watched, segment, given, slots)
        return {i: found[i] for i in wanted}

      return jax.vjp(outputs, moving, slots)[1](wanted)

    arguments = (moving, still, slots, wanted)
    gradients, found = _call(state, kind, program, *arguments)
    tallies |= found
    for i, gradient in gradients.items():
      _add(state, segment.invars[i], gradient)
  for var in segment.outvars:
    del state.values[var]
  return {segment.sites[own]: found for own, found in tallies.items()}


def _tallies(state: _State, segment: Segment) -> dict[Site, Any]:
  """Of the gradients at what hands out arrays: what later segments gave it."""
  tallies = {}
  for own in _handing_out(state, segment):
    gradient = state.gradients.get(segment.eqns[own[0]].outvars[0])
    blank = state.watched.slots[segment.sites[own]]
    tallies[own] = blank if gradient is None else _tally(state, gradient)
  return tallies


def _run(
  watched: Watch,
  segment: Segment,
  given: dict[int, Any],
  slots: dict[Site, Any],
) -> tuple[list[Any], dict[Site, Seen]]:
  """A segment by itself, whose sites are watched as those of the model are."""

  def visit(visited: Visited, slot: Slot, state: Any) -> Any:
    whole = visited._replace(site=segment.sites[visited.site])
    return watched.visitor.visit(whole, slot, state)

  all_slots = {
    own: Slot(slots.get(own), watched.blanks[site])
    for own, site in segment.sites.items()
  }
  arguments = [given[i] for i in range(len(segment.invars))]
  outputs, seen, _ = run(segment, arguments, Visitor(visit), all_slots)
  return outputs, seen


def _slots(state: _State, segment: Segment) -> dict[Site, Any]:
  slots, apart = state.watched.slots, _handing_out(state, segment)
  return {
    own: slots[site]
    for own, site in segment.sites.items()
    if site in slots and own not in apart
  }


def _arguments(state: _State, segment: Segment) -> tuple[dict[int, Any], Any]:
  """Values of what a segment reads, by number: moving, and all others."""
  given = dict(enumerate(segment.invars))
  moving = {i: state.values[v] for i, v in given.items() if v in state.moving}
  return moving, {i: state.values[given[i]] for i in given if i not in moving}


def _call(
  state: _State, kind: Hashable, program: Callable[..., Any], *arguments: Any
) -> Any:
  """Runs a program, or another that was prepared for a segment of this kind."""
  leaves, structure = jax.tree.flatten(arguments)
  types = tuple((jax.typeof(leaf), placement(leaf)) for leaf in leaves)
  key = (kind, structure, types)
  if key not in state.programs:
    state.programs[key] = prepared(program, *arguments)
  return state.programs[key](*arguments)


def _add(state: _State, var: Any, gradient: jax.Array) -> None:
  known = state.gradients.get(var)
  state.gradients[var] = gradient if known is None else known + gradient
