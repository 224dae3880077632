"""`measure` in detail, where one program for each kind of layer is enough.

As one program, a model takes XLA as long as it is deep, and several times as
long where everything in it is watched. Here its segments run one after another,
forward and then backward, and those that are equal share what is compiled. What
a segment reads is kept for its way back, on which all but its operation, which
comes last, is computed again. No more than one gradient of a large parameter is
held at a time.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax

from initjax._executables import placement, prepared
from initjax._paths import is_float, paths_of
from initjax.graph import Segment, Site, Slot, Trace, Visited, Visitor, cut, run
from initjax.measurement._norms import Norms, Scaled, norms_from, scaled
from initjax.measurement._watch import Seen, Watch, looks_at, watch

Start = Callable[[list[Any]], dict[int, jax.Array]]
"""From a model's outputs, flat, to the gradients of some of them, by number."""


class Passes(NamedTuple):
  """What the two passes gave."""

  found: dict[Site, Seen]
  backward: dict[Site, Any]
  """by site, the tally of its gradient"""
  norms: Norms


class _State(NamedTuple):
  """What is known while the segments run; all of it changes."""

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
  state = _State(watched, values, set(paths), {}, {})
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
    scales |= {paths[var]: scaled(state.gradients.pop(var)) for var in whole}
  alone = paths.keys() & state.gradients.keys()  # outputs, and nothing else
  scales |= {paths[var]: scaled(state.gradients.pop(var)) for var in alone}
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
  if moving or slots:
    state.moving.update(v for v in segment.outvars if is_float(v.aval))
  # Of another segment of this kind, the sites have other numbers.
  found = jax.tree.unflatten(jax.tree.structure(blanks), jax.tree.leaves(seen))
  return {segment.sites[own]: one for own, one in found.items()}


def _backward(
  state: _State, segment: Segment, kind: Hashable
) -> dict[Site, Any]:
  """Runs a segment again and back; the tallies of its sites' gradients."""
  slots = _slots(state, segment)
  moving, still = _arguments(state, segment)
  wanted = {
    i: state.gradients.pop(var)
    for i, var in enumerate(segment.outvars)
    if var in state.gradients
  }
  tallies = slots
  if wanted:

    def program(moving: Any, still: Any, slots: Any, wanted: Any) -> Any:
      def outputs(moving: Any, slots: Any) -> Any:
        given = {**moving, **still}
        found, _ = _run(state.watched, segment, given, slots)
        return {i: found[i] for i in wanted}

      return jax.vjp(outputs, moving, slots)[1](wanted)

    arguments = (moving, still, slots, wanted)
    gradients, tallies = _call(state, kind, program, *arguments)
    for i, gradient in gradients.items():
      _add(state, segment.invars[i], gradient)
  for var in segment.outvars:
    del state.values[var]
  return {segment.sites[own]: tallies[own] for own in slots}


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
  slots = state.watched.slots
  return {
    own: slots[site] for own, site in segment.sites.items() if site in slots
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
