"""Training at one width, with every signal compared to its start."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._executables import execute
from initjax._sharding import fetched
from initjax._statistics import Tally, empty_slot, tally, wide_dtype
from initjax.graph import (
  FORWARD,
  LinearOp,
  Site,
  Slot,
  Trace,
  Visited,
  Visitor,
  bind,
  run,
  trace,
)
from initjax.parametrization._parametrization import Parametrization

_SIDES = "start and now"


class Setup(NamedTuple):
  """Everything needed to train a model at one width."""

  loss: Callable[[Any, Any], Any]
  """loss(params, batch), a scalar"""
  init: Callable[[jax.Array], Any]
  """key → parameters, such as `plan.init`"""
  optimizer: Any
  """of optax, such as `plan.optimizer(optax.adam(1e-3))`"""
  batch: Any
  """arrays, the same at every step and every width"""
  plan: Parametrization | None = None
  """whose factors the parameters have absorbed: sizes are then given without
  them"""


class Seen(NamedTuple):
  """Of one operation: its output, and that minus what it was at the start."""

  signal: Tally
  change: Tally


class Course(NamedTuple):
  """How a model of one width trained."""

  traced: Trace
  losses: np.ndarray
  """[seeds, steps + 1]"""
  seen: dict[Site, Any]
  """`Seen` of arrays [seeds, steps + 1, *repeats, ...]"""


def measured_ops(traced: Trace) -> dict[Site, LinearOp]:
  """Operations and products of two signals, in order, where they are seen."""
  every = (*traced.graph.ops, *traced.graph.products)
  found = (op for op in every if not _by_device(op))
  return {op.place.site: op for op in sorted(found, key=_site)}


def left_out(traced: Trace) -> dict[str, str]:
  """Parameters that are not read, and those that each device uses by itself."""
  apart = (op for op in traced.graph.ops if _by_device(op))
  paths = (path for op in apart for path in op.paths)
  return {**traced.graph.not_followed, **dict.fromkeys(paths, "shard_map")}


def _by_device(op: LinearOp) -> bool:
  return "shard_map" in op.place.whole


def _site(op: LinearOp) -> Site:
  return op.place.site


def course(setup: Setup, keys: jax.Array, steps: int) -> Course:
  """Trains from each key at once: one program, a few steps."""
  draws = [setup.init(key) for key in keys]
  params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)
  traced = trace(setup.loss, draws[0], setup.batch)
  shape = jax.tree.leaves(traced.out_shape)
  if len(shape) != 1 or shape[0].shape != ():
    raise ValueError(
      "loss(params, batch) must be a scalar; got "
      f"{[leaf.shape for leaf in shape]}."
    )
  train = jax.vmap(_training(setup, traced, steps), in_axes=(0, None))
  losses, seen = fetched(execute(train, params, setup.batch))
  return Course(traced, np.asarray(losses), seen)


def _training(
  setup: Setup, traced: Trace, steps: int
) -> Callable[[Any, Any], Any]:
  """The losses and what is seen, before each step and after the last."""
  import optax

  tx, by_value = setup.optimizer, jax.value_and_grad(setup.loss)
  compare = _comparison(traced, setup.plan)

  def train(start: Any, batch: Any) -> Any:
    def step(carry: Any, _: None) -> Any:
      params, state = carry
      seen = compare(start, params, batch)
      loss, gradients = by_value(params, batch)
      updates, state = tx.update(gradients, state, params)
      return (optax.apply_updates(params, updates), state), (loss, seen)

    carry = start, tx.init(start)
    return jax.lax.scan(step, carry, length=steps + 1)[1]

  return train


def _comparison(
  traced: Trace, plan: Parametrization | None
) -> Callable[[Any, Any, Any], dict[Site, Seen]]:
  """Both parameter sets side by side, in one instrumented pass."""
  visitor, slots = _visitor(traced, plan)

  def compare(start: Any, params: Any, batch: Any) -> dict[Site, Seen]:
    def one(params: Any) -> dict[Site, Seen]:
      arguments = jax.tree.leaves((params, batch))
      return run(traced.jaxpr, arguments, visitor, slots, enter=FORWARD)[1]

    both = jax.tree.map(lambda *sides: jnp.stack(sides), start, params)
    found = jax.vmap(one, axis_name=_SIDES)(both)
    return jax.tree.map(lambda leaf: leaf[0], found)

  return compare


def _visitor(
  traced: Trace, plan: Parametrization | None
) -> tuple[Visitor, dict[Site, Slot]]:
  ops = measured_ops(traced)
  kernels = {site: feature_factors(op, plan) for site, op in ops.items()}

  def visit(visited: Visited, slot: Slot, _: None) -> Any:
    if visited.equation.primitive.name == "while":
      return visited.outputs, slot.forward, None
    site, output = visited.site, visited.outputs[0]
    factors = kernels[site]
    if factors is not None and visited.operands is not None:
      output = output / _at_output(ops[site], visited, factors)
    first, now = jax.lax.all_gather(output, _SIDES)
    wider = lambda x: x.astype(jnp.promote_types(x.dtype, wide_dtype(x.dtype)))
    seen = Seen(tally(now), tally(wider(now) - wider(first)))
    return visited.outputs, seen, None

  slots = {}
  for site, op in ops.items():
    blank = empty_slot(op.repeats, op.dtype)
    slots[site] = Slot(None, Seen(blank, blank))
  return Visitor(visit), slots


# What the parameters have absorbed


def absorbed(op: LinearOp, plan: Parametrization | None) -> np.ndarray:
  """c of each entry of an operation's kernel [*scans that slice it, ...]."""
  if plan is None or op.view is None:
    return np.ones(())
  rows = {path: _row(plan, path) for path in op.paths}
  found = {path: row.absorbed for path, row in rows.items() if row is not None}
  if all(np.ndim(c) == 0 for c in found.values()):
    return np.asarray(next(iter(found.values()), 1.0))
  leaves = {
    path: jnp.broadcast_to(jnp.asarray(found.get(path, 1.0)), shape)
    for path, shape in op.view.leaves.items()
  }
  try:
    return np.asarray(op.view.apply(leaves, fill=1))
  except ValueError:  # it cannot be told which part of the leaves it is
    return np.ones(())


def _row(plan: Parametrization, path: str) -> Any:
  names = (path, path.removeprefix("params/"), f"params/{path}")
  return next((plan.table[n] for n in names if n in plan.table), None)


def repeat_factors(op: LinearOp, plan: Parametrization | None) -> np.ndarray:
  """The one number that each repeat's kernel has absorbed; else 1."""
  entries = absorbed(op, plan)
  scans = 0 if op.view is None or not entries.ndim else len(op.view.scans)
  by_repeat = entries.reshape(*entries.shape[:scans], -1)
  is_one = (by_repeat == by_repeat[..., :1]).all()
  return by_repeat[..., 0] if is_one else np.ones(())


def feature_factors(
  op: LinearOp, plan: Parametrization | None
) -> np.ndarray | None:
  """The kernel of what was absorbed, if that differs within it."""
  entries = absorbed(op, plan)
  if not entries.ndim or op.view is None:
    return None
  own = entries.reshape(-1, *entries.shape[len(op.view.scans) :])
  varies = (own != own.reshape(-1)[0]).any() and (own == own[:1]).all()
  return own[0] if varies and own[0].shape == op.kernel_shape else None


def _at_output(
  op: LinearOp, visited: Visited, factors: np.ndarray
) -> jax.Array:
  """What each output has absorbed: the operation itself, of factors and ones.

  Indices of a look-up stay as they are.
  """
  assert visited.operands is not None
  ones = [
    jnp.ones_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x
    for x in visited.operands
  ]
  given, at = list(ones), op.axes.kernel
  given[at] = jnp.asarray(factors, ones[at].dtype)
  return bind(visited.equation, given)[0] / bind(visited.equation, ones)[0]
