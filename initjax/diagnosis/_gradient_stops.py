"""Why a parameter gets no gradient, even after the others have moved.

A `stop_gradient` is in its way, or it does not lead to an output that has a
gradient; it is an expert that no sample reached, or in a branch not taken.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from initjax._executables import execute, fresh_jaxpr
from initjax._paths import leaves_by_path
from initjax._sharding import fetched
from initjax.diagnosis._observe import Call, Observed
from initjax.graph import (
  WITH_RULES,
  Slot,
  Visited,
  Visitor,
  equations,
  open_jaxpr,
  run,
)
from initjax.measurement import gradient_of


def behind_stops(call: Call, paths: Sequence[str]) -> list[str]:
  """Those that get a gradient where every stop_gradient lets it pass."""
  jaxpr, shape = fresh_jaxpr(call.fn, call.params, *call.inputs)
  slots = {
    site: Slot(None, None)
    for site, equation in equations(jaxpr, WITH_RULES)
    if equation.primitive.name == "stop_gradient"
  }
  if not slots:
    return []

  def visit(
    visited: Visited, slot: Slot, state: None
  ) -> tuple[list[Any], None, None]:
    return list(visited.operands or visited.outputs), None, state

  def unstopped(params: Any, *inputs: Any) -> Any:
    given = jax.tree.leaves((params, inputs))
    outputs, *_ = run(jaxpr, given, Visitor(visit), slots)
    return jax.tree.unflatten(jax.tree.structure(shape), outputs)

  def gradients(params: Any, inputs: Any, key: Any, cotangent: Any) -> Any:
    options = {**call.options, "key": key, "cotangent": cotangent}
    found = leaves_by_path(gradient_of(unstopped, params, inputs, **options))
    return [(found[path] != 0).any() for path in paths]

  others = (call.inputs, call.options["key"], call.options["cotangent"])
  passes = fetched(execute(gradients, call.params, *others))
  return [path for path, has in zip(paths, passes, strict=True) if has]


def leading_nowhere(call: Call, paths: Sequence[str]) -> list[str]:
  """Those whose gradient JAX knows to be 0, whatever the numbers are."""

  def gradients(params: Any, *inputs: Any) -> Any:
    found = leaves_by_path(gradient_of(call.fn, params, inputs, **call.options))
    return [found[path] for path in paths]

  jaxpr, _ = fresh_jaxpr(gradients, call.params, *call.inputs)
  zeros = [
    equation.outvars[0]
    for _, equation in equations(jaxpr, frozenset())
    if equation.primitive.name == "broadcast_in_dim"
    and getattr(equation.invars[0], "val", None) == 0
  ]
  known = {id(variable) for variable in zeros}
  outputs = open_jaxpr(jaxpr).jaxpr.outvars
  pairs = zip(paths, outputs, strict=True)
  return [
    path
    for path, out in pairs
    if id(out) in known or getattr(out, "val", None) == 0
  ]


def unreached(observed: Observed, paths: Sequence[str]) -> list[str]:
  """Those that no sample meets, beside others of their kind that some do.

  Experts have one name but for numbers, and one source.
  """
  found = observed.found
  uses = [(p, i) for i, row in enumerate(found.rows) for p in row.op.paths]

  def kind(path: str, row: int) -> tuple[str, str | None]:
    return re.sub(r"\d+", "#", path), found.rows[row].feed.source

  backward = found.backward.largest
  alive = {kind(p, i) for p, i in uses if backward[i] > 0 and p not in paths}
  gone = {p for p, i in uses if p in paths and kind(p, i) in alive}
  return _with_modules(gone, paths)


def not_run(observed: Observed, paths: Sequence[str]) -> list[str]:
  """Those of branches that were not taken: their rows say so."""
  found = observed.found
  uses = [(p, i) for i, row in enumerate(found.rows) for p in row.op.paths]
  run = {path for path, i in uses if found.forward.size[i] > 0}
  return _with_modules({path for path, _ in uses} - run, paths)


def _with_modules(some: set[str], paths: Sequence[str]) -> list[str]:
  """Some of these paths, and what is in the same modules, such as biases."""
  modules = {path.rpartition("/")[0] for path in some} - {""}
  return [p for p in paths if p in some or p.rpartition("/")[0] in modules]
