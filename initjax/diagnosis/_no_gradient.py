"""Parameters that get no gradient, on this batch and after the others moved.

A kernel of zeros hides the gradient of everything before it until it has moved
itself. Zeros are therefore excused, unless two of them hide each other. With S₀
the parameters whose gradient is nonzero,

    θ ← θ - 0.1 |θ| g / |g|  for those in S,   S ← S ∪ {those with g ≠ 0}

until nothing is added, at most three times. This runs only if some gradient is
exactly 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._executables import execute
from initjax._paths import leaves_by_path
from initjax._sharding import fetched
from initjax.diagnosis._fixes import fix, named
from initjax.diagnosis._gradient_stops import (
  behind_stops,
  leading_nowhere,
  not_run,
  unreached,
)
from initjax.diagnosis._observe import Call, Observed
from initjax.measurement import gradient_of, is_zero
from initjax.typing import Verdict

_ROUNDS = 3
_STEP = 0.1  # of a parameter's size
_SIZE = 0.1  # root mean square of one that is 0 throughout, for that step


def still(observed: Observed) -> list[str]:
  """Parameters whose gradient is exactly 0 in every draw; none if not known."""
  norms = fetched(observed.report.gradient_norms or {})
  return [
    path
    for path, norm in norms.items()
    if not np.any(norm) and observed.leaves[path].size
  ]


def check_no_gradient(observed: Observed) -> Iterator[Verdict]:
  """Trainable parameters that stay without a gradient, by their cause."""
  norms = fetched(observed.report.gradient_norms or {})
  unused = set(observed.report.graph.unused)
  trained = _trained(observed.call.params, [*norms])
  asked = [p for p in still(observed) if p in trained and p not in unused]
  if not asked or not all(np.isfinite(norm).all() for norm in norms.values()):
    return
  moved = _moved(observed.call)
  dead = [path for path in asked if path not in moved]
  if not dead:
    return
  for why, those in _by_cause(observed, dead).items():
    if why == "":
      yield _without_gradient(observed, those)
    elif why != _NOT_RUN:
      message, remark = _CAUSES[why]
      said = f"{message}: {named(those)}."
      yield Verdict("no gradient", "warning", those[0], said, fix("", remark))


def _by_cause(observed: Observed, dead: Sequence[str]) -> dict[str, list[str]]:
  """Each under the first cause that it has, or none, ""."""
  causes: dict[str, list[str]] = {"": [*dead]}
  checks = {
    _STOPPED: lambda paths: behind_stops(observed.call, paths),
    _NOWHERE: lambda paths: leading_nowhere(observed.call, paths),
    _UNREACHED: lambda paths: unreached(observed, paths),
    _NOT_RUN: lambda paths: not_run(observed, paths),
  }
  for why, check in checks.items():
    found = check(causes[""])
    causes[why] = found
    causes[""] = [path for path in causes[""] if path not in found]
  return {why: paths for why, paths in causes.items() if paths}


_STOPPED, _NOWHERE, _UNREACHED = "stop_gradient", "no way", "no sample"
_NOT_RUN = "not run"  # the rows say so
_CAUSES = {
  _STOPPED: (
    "Some parameters get no gradient, because a stop_gradient blocks it",
    "ignore this if they are frozen on purpose, as a teacher or a target "
    "network is; otherwise remove jax.lax.stop_gradient",
  ),
  _NOWHERE: (
    "Some parameters get no gradient, because what they compute reaches no "
    "output, or reaches it only through rounding, a comparison or argmax",
    "use what they compute, or remove them; auxiliary outputs have no gradient",
  ),
  _UNREACHED: (
    "Some parameters get no gradient, because no sample of this batch reached "
    "these experts",
    "use a larger batch, or a router that balances its experts",
  ),
}
"""What is said of each, and what helps."""


def _trained(params: Any, paths: Sequence[str]) -> set[str]:
  """Of the variables of a linen module, those in the collection "params"."""
  collections = isinstance(params, Mapping) and "params" in params
  return {p for p in paths if not collections or p.startswith("params/")}


def _moved(call: Call) -> set[str]:
  """The paths of all parameters that get a gradient, sooner or later."""
  paths = [*leaves_by_path(call.params)]
  has_aux = call.options["has_aux"]

  def step(params: Any, moved: Any, inputs: Any, key: Any, given: Any) -> Any:
    options = {"key": key, "cotangent": given, "has_aux": has_aux}
    gradients = gradient_of(call.fn, params, inputs, **options)
    flat, structure = jax.tree.flatten(params)
    pairs = list(zip(flat, jax.tree.leaves(gradients), strict=True))
    moved = moved | jnp.stack([_is_any(leaf, g) for leaf, g in pairs])
    after = [_step(leaf, g, moved[i]) for i, (leaf, g) in enumerate(pairs)]
    return jax.tree.unflatten(structure, after), moved

  params, moved = call.params, np.zeros(len(paths), bool)
  others = (call.inputs, call.options["key"], call.options["cotangent"])
  for _ in range(_ROUNDS + 1):
    before = moved
    params, moved = execute(step, params, moved, *others)
    moved = fetched(moved)
    if before.any() and (moved == before).all():
      break
  return {path for path, has in zip(paths, moved, strict=True) if has}


def _is_any(leaf: jax.Array, gradient: jax.Array) -> jax.Array:
  if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
    return jnp.zeros((), bool)
  return (gradient != 0).any()


def _step(leaf: Any, gradient: jax.Array, moves: jax.Array) -> Any:
  """One step of a tenth of the parameter's own size, against the gradient."""
  if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
    return leaf
  dtype = leaf.dtype if leaf.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
  wide, g = leaf.astype(dtype), gradient.astype(dtype)
  tiny = float(jnp.finfo(dtype).tiny)
  unit = g / jnp.maximum(abs(g).max(initial=0), tiny).astype(dtype)
  size = _root_mean_square(wide)
  length = _STEP * jnp.where(size > 0, size, _SIZE)
  length /= jnp.maximum(_root_mean_square(unit), tiny)
  moved = wide - length.astype(dtype) * unit
  return jnp.where(moves, moved, wide).astype(leaf.dtype)


def _root_mean_square(x: jax.Array) -> jax.Array:
  return jnp.sqrt((abs(x) ** 2).sum() / max(x.size, 1))


def _without_gradient(observed: Observed, paths: Sequence[str]) -> Verdict:
  """An error, unless it concerns vectors alone, such as a mask's token."""
  leaves = {path: observed.leaves[path] for path in paths}
  matrices = [
    path for path, leaf in leaves.items() if sum(n > 1 for n in leaf.shape) > 1
  ]
  zeros = [path for path in matrices if is_zero(leaves[path])]
  cause, mended = _OFF, _REACH
  if len(zeros) > 1:
    cause, mended = _HIDDEN.format(named(zeros)), _DRAWN
  return Verdict(
    "no gradient",
    "error" if matrices else "warning",
    paths[0],
    "Some parameters get no gradient on this batch, even after the others "
    f"have moved: {named(paths)}. {cause}",
    mended,
  )


_OFF = (
  "Units that are off on all samples, or a function with zero slope, cause "
  "this."
)
_REACH = fix(
  "bias_init=initjax.initializers.zeros",
  "or smaller weights; or a batch that reaches these parameters",
)
_HIDDEN = (
  "Several are 0 throughout ({}): each hides the other's gradient, so that "
  "neither moves."
)
_DRAWN = fix(
  "kernel_init=initjax.initializers.lecun_normal()",
  "for one of the two, as in LoRA; the other may start at zero",
)
