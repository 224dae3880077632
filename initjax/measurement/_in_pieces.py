"""`measure` in detail, where one program for each kind of layer is enough.

As one program, a model takes XLA as long as it is deep, and several times as
long where everything in it is watched. Here its pieces run one after another,
forward and then backward, and those that are equal share what is compiled. What
a piece reads is kept for its way back, on which all but its operation, which
comes last, is computed again. No more than one gradient of a large parameter is
held at a time.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax

from initjax._executables import placement, prepared
from initjax._paths import is_float, paths_of
from initjax.graph import Piece, Site, Slot, Trace, Visited, Visitor, cut, run
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
  """What is known while the pieces run; all of it changes."""

  watched: Watch
  values: dict[Any, Any]
  """of variables"""
  moving: set[Any]
  """variables that a gradient may reach"""
  gradients: dict[Any, jax.Array]
  """of variables, as far as they are summed"""
  programs: dict[Hashable, Callable[..., Any]]
  """by the kind of a piece and of its arguments"""


def passes_in_pieces(
  traced: Trace, params: Any, inputs: Any, start: Start
) -> Passes | None:
  """Both passes; None where hardly any two pieces are equal."""
  watched = watch(traced, detail=True)
  model = cut(traced.jaxpr, watched.blanks, watched.slots)
  kinds = [
    (piece.kind, looks_at(traced, watched, piece.sites))
    for piece in model.pieces
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
  for piece, kind in zip(model.pieces, kinds, strict=True):
    found |= _forward(state, piece, kind)
  outputs = [x.val if hasattr(x, "val") else values[x] for x in model.outputs]
  for number, gradient in start(outputs).items():
    _add(state, model.outputs[number], gradient)
  backward: dict[Site, Any] = {}
  scales: dict[str, Scaled | None] = dict.fromkeys(paths.values())
  for piece, kind in zip(model.pieces[::-1], kinds[::-1], strict=True):
    backward |= _backward(state, piece, kind)
    whole = paths.keys() & piece.first_read & state.gradients.keys()
    scales |= {paths[var]: scaled(state.gradients.pop(var)) for var in whole}
  alone = paths.keys() & state.gradients.keys()  # outputs, and nothing else
  scales |= {paths[var]: scaled(state.gradients.pop(var)) for var in alone}
  return Passes(found, backward, norms_from(scales))


def _forward(state: _State, piece: Piece, kind: Hashable) -> dict[Site, Seen]:
  """Runs a piece; what its sites hand out."""
  watched = state.watched
  blanks = {own: watched.blanks[site] for own, site in piece.sites.items()}
  moving, still = _arguments(state, piece)
  slots = _slots(state, piece)

  def program(moving: Any, still: Any, slots: Any) -> Any:
    return _run(watched, piece, {**moving, **still}, slots)

  outputs, seen = _call(state, kind, program, moving, still, slots)
  state.values.update(zip(piece.outvars, outputs, strict=True))
  if moving or slots:
    state.moving.update(v for v in piece.outvars if is_float(v.aval))
  # Of another piece of this kind, the sites have other numbers.
  found = jax.tree.unflatten(jax.tree.structure(blanks), jax.tree.leaves(seen))
  return {piece.sites[own]: one for own, one in found.items()}


def _backward(state: _State, piece: Piece, kind: Hashable) -> dict[Site, Any]:
  """Runs a piece again and back; the tallies of its sites' gradients."""
  slots = _slots(state, piece)
  moving, still = _arguments(state, piece)
  wanted = {
    i: state.gradients.pop(var)
    for i, var in enumerate(piece.outvars)
    if var in state.gradients
  }
  tallies = slots
  if wanted:

    def program(moving: Any, still: Any, slots: Any, wanted: Any) -> Any:
      def outputs(moving: Any, slots: Any) -> Any:
        given = {**moving, **still}
        found, _ = _run(state.watched, piece, given, slots)
        return {i: found[i] for i in wanted}

      return jax.vjp(outputs, moving, slots)[1](wanted)

    arguments = (moving, still, slots, wanted)
    gradients, tallies = _call(state, kind, program, *arguments)
    for i, gradient in gradients.items():
      _add(state, piece.invars[i], gradient)
  for var in piece.outvars:
    del state.values[var]
  return {piece.sites[own]: tallies[own] for own in slots}


def _run(
  watched: Watch, piece: Piece, given: dict[int, Any], slots: dict[Site, Any]
) -> tuple[list[Any], dict[Site, Seen]]:
  """A piece by itself, whose sites are watched as those of the model are."""

  def visit(visited: Visited, slot: Slot, state: Any) -> Any:
    whole = visited._replace(site=piece.sites[visited.site])
    return watched.visitor.visit(whole, slot, state)

  all_slots = {
    own: Slot(slots.get(own), watched.blanks[site])
    for own, site in piece.sites.items()
  }
  arguments = [given[i] for i in range(len(piece.invars))]
  outputs, seen, _ = run(piece, arguments, Visitor(visit), all_slots)
  return outputs, seen


def _slots(state: _State, piece: Piece) -> dict[Site, Any]:
  slots = state.watched.slots
  return {
    own: slots[site] for own, site in piece.sites.items() if site in slots
  }


def _arguments(state: _State, piece: Piece) -> tuple[dict[int, Any], Any]:
  """Values of what a piece reads, by number: moving, and all others."""
  given = dict(enumerate(piece.invars))
  moving = {i: state.values[v] for i, v in given.items() if v in state.moving}
  return moving, {i: state.values[given[i]] for i in given if i not in moving}


def _call(
  state: _State, kind: Hashable, program: Callable[..., Any], *arguments: Any
) -> Any:
  """Runs a program, or another that was prepared for a piece of this kind."""
  leaves, structure = jax.tree.flatten(arguments)
  types = tuple((jax.typeof(leaf), placement(leaf)) for leaf in leaves)
  key = (kind, structure, types)
  if key not in state.programs:
    state.programs[key] = prepared(program, *arguments)
  return state.programs[key](*arguments)


def _add(state: _State, var: Any, gradient: jax.Array) -> None:
  known = state.gradients.get(var)
  state.gradients[var] = gradient if known is None else known + gradient
