"""`calibrate`: unit second moment at every operation, in one forward pass."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._checks import check_choice, check_number
from initjax._executables import execute
from initjax._paths import is_float, leaves_by_path, paths_of
from initjax._statistics import nan_is_unknown
from initjax.graph import SignalGraph, Trace, as_function, trace, with_advice
from initjax.model_init._auto_init import assigned_to
from initjax.model_init._calibration import READ_OUT, Calibration
from initjax.model_init._factors import CALIBRATED, REASONS
from initjax.model_init._groups import calibrated_views, groups_of
from initjax.model_init._leaves import rescaled
from initjax.model_init._measured import (
  Wanted,
  as_warning,
  can_be_measured,
  findings,
  passes_of,
)
from initjax.model_init._pass import Plan, all_passes
from initjax.model_init._reasons import warnings_of_units
from initjax.model_init._tables import decided_by_readout, positions_of
from initjax.reports import not_followed


@with_advice
def calibrate(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  target: float | jax.Array = 1.0,
  statistic: str = "second_moment",
  tied: str = "readout",
  check: bool = True,
) -> tuple[Any, Calibration]:
  """Rescales every kernel so that its output has the desired second moment.

  This takes one forward pass. The output of a linear operation, before its
  bias, is proportional to its kernel. So at each operation

      factor = √(target / statistic(output)),

  the output is multiplied by this factor, and the same pass continues. Each
  factor is carried back to the parameters, entry by entry, through the
  transpose of the view L that made the kernel:

      leaf ← leaf · Lᵀ(factor) / Lᵀ(1),

  so stacked layers get one factor for each repeat of their scan, and the slices
  of a fused kernel get one each. An operation is a matrix product, a
  convolution or an embedding look-up that uses a parameter. It has one factor
  for its whole output, even if that holds several heads or experts. Parameters
  that are not kernels, such as biases, keep their values.

  Afterwards, the statistic of every operation equals the target up to rounding,
  except where `info.skipped` gives a reason:

  - A kernel that is used several times (tied, in overlapping slices, or the
    same at every repeat of a scan) has one factor, which later uses must share.
    It is determined by the first use whose output is not zero or, with
    "pooled", by all live uses together, whose pooled statistic then equals the
    target. With "readout", the first use that is not a look-up counts, if there
    is one: logits then meet the target, and positions become as large as the
    tokens to which they are added; and kernels of a recurrence that begins with
    zeros, whose state is small at first, are pooled. "pooled" and "readout"
    require a second pass in models with such kernels. Either result is exact if
    that pass does not change the signals, as behind a norm.
  - The factor is 1 where there is nothing to divide by: where an output is
    zero, not finite or, for the variance, constant; and in branches not taken.
  - The factor is 1 where a kernel is not a view of parameters, as under weight
    standardisation; where a parameter reaches an operation in another way as
    well; and inside while loops and hand-written kernels.

  The result is measured in the same program, forward and backward. A warning
  reports what deviates from the target, and a gradient that explodes or
  vanishes. Nothing is measured inside `jit`, or on placeholders (inputs with
  the same number throughout).

  `calibrate` works inside `jit` and `vmap`, and on sharded parameters, which
  stay sharded. Inside a `shard_map`, all devices act as one: a kernel that is
  split between them has one factor. In branches that each device chooses for
  itself, kernels keep factor 1.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: any pytree of arrays. If `fn` is a module that holds its parameters,
      omit `params` and pass the inputs directly.
    *inputs: the other arguments of `fn`: a batch of data, keys.
    target: the desired statistic, in squared units of the signal.
    statistic: "second_moment", E[x²], or "variance", E[(x − E x)²], over all
      entries of the output.
    tied: "first", "pooled" or "readout", for kernels that are used several
      times.
    check: whether to measure the result, which costs about one gradient.

  Returns:
    The parameters, or a new module that holds them if one was given, and a
    `Calibration` with factors, the statistics before, and the reasons for what
    was skipped; it prints as a table.

  Raises:
    TypeError: if `fn` is neither a function nor a module.
    ValueError: if the target is not positive, an array is abstract, or no
      parameter is used in a linear operation.
    FloatingPointError: if the signal or the gradient is not finite.

  Warns:
    UserWarning: if the measured signal or gradient is out of range; and if, by
      theory, unit signals let the gradient's second moment grow more than 100
      times along a chain of layers, as in 40 layers of tanh, which then learn
      worse than from `auto_init`.

  Reference: the goal is that of LSUV, Mishkin & Matas (2016), "All you need is
  a good init", algorithm 1, which takes at least one forward pass per layer.

  >>> import jax.numpy as jnp
  >>> def mlp(params, x):
  ...   return jax.nn.relu(x @ params["first"]) @ params["second"]
  >>> params = {"first": jnp.ones((3, 8)), "second": jnp.ones((8, 2))}
  >>> params, info = calibrate(mlp, params, jnp.ones((5, 3)))
  >>> [(op.path, round(op.before, 4)) for op in info.operations]
  [('first', 9.0), ('second', 64.0)]
  >>> mlp(params, jnp.ones((1, 3)))
  Array([[1., 1.]], dtype=float32)
  """
  check_number("target", target, low=0.0, open_low=True)
  check_choice("statistic", statistic, ("second_moment", "variance"))
  check_choice("tied", tied, ("first", "pooled", "readout"))
  fn, params, inputs, as_given = as_function(fn, params, inputs)
  _check_concrete(params, inputs)
  given = leaves_by_path(params)
  params = jax.tree.map(_in_jax, params)
  structure = jax.tree.structure(params)
  traced = trace(fn, params, *inputs)
  plan = _plan(traced, params, statistic, tied)

  check = check and can_be_measured(traced, params, (inputs, target))

  def program(params: Any, inputs: Any, target: float | jax.Array) -> Any:
    leaves = leaves_by_path(params)
    flat = [*leaves.values(), *jax.tree.leaves(inputs)]
    states, rows = all_passes(plan, traced.jaxpr, flat, target, tied=tied)
    ordered = tuple(rows[site] for site in traced.ops)
    changed = rescaled(plan, states, leaves)
    after = jax.tree.unflatten(structure, [*{**leaves, **changed}.values()])
    passes = passes_of(traced, after, inputs) if check else None
    return changed, ordered, passes

  with nan_is_unknown():
    changed, rows, passes = execute(program, params, inputs, target)
  after = jax.tree.unflatten(structure, [*{**given, **changed}.values()])
  info = Calibration(rows, traced.graph, statistic, tied)
  if check:
    said = findings(traced.graph, passes, _wanted(info, target))
    is_unit = statistic == "second_moment" and (np.asarray(target) == 1).all()
    if is_unit and not said:
      said = _of_units(traced.graph, params, inputs)
    if said:
      warnings.warn(as_warning("calibrate", said), stacklevel=3)
  return as_given(after), info


def _of_units(
  graph: SignalGraph, params: Any, inputs: tuple[Any, ...]
) -> list[str]:
  """What theory expects of gradients where signals have unit size."""
  rules = {"direction": "forward", "tied": "readout"}
  return warnings_of_units(assigned_to(graph, params, inputs, 1.0, rules))


def _wanted(info: Calibration, target: float | jax.Array) -> Wanted:
  """The target, where that is a second moment of what is not zero."""
  operations = info.operations
  known = info.statistic == "second_moment"
  bits = math.log2(float(target)) if known else math.nan
  reasons = [
    "" if op.reason == REASONS[CALIBRATED] else op.reason for op in operations
  ]
  wanted = [math.nan if why == READ_OUT else bits for why in reasons]
  return Wanted("calibrate", np.array(wanted), reasons.__getitem__)


_NO_KERNEL = (
  "calibrate expected a function that uses parameters in matrix products, "
  "convolutions or embedding look-ups, but got one that does not. Pass the "
  "parameters to rescale as the first argument: fn(params, *inputs)."
)
_NO_INPUT = (
  "calibrate expected the data among its arguments, but got params alone. "
  "Data that fn closes over are constants, and their products with kernels "
  "are not a signal; let fn take the data, fn(params, x), and call "
  "calibrate(fn, params, x)."
)


def _plan(traced: Trace, params: Any, statistic: str, tied: str) -> Plan:
  paths = paths_of(params)
  if not traced.ops:
    alone = len(traced.jaxpr.in_avals) == len(paths)
    missed = not_followed(traced.graph.not_followed)
    why = _NO_INPUT if alone else _NO_KERNEL
    raise ValueError(why + f" {missed}." * bool(missed))
  ops = traced.ops
  views = calibrated_views(traced, paths)
  groups = groups_of(ops, views, traced.entangled)
  plan = Plan(ops, views, groups, statistic)
  if tied != "readout":
    return plan
  lookups = frozenset(s for s, op in ops.items() if op.kind == "embedding")
  waiting = lookups & decided_by_readout(traced.graph)
  outside = {site for site in waiting if not ops[site].repeats}
  positions = {
    site: beside
    for site, beside in positions_of(traced.graph).items()
    if {site, beside.tokens} <= outside
  }
  return plan._replace(waiting=waiting, positions=positions)


def _in_jax(leaf: object) -> Any:
  """NumPy's float64 becomes what it is in the pass."""
  numpy = is_float(leaf) and isinstance(leaf, np.ndarray)
  return jnp.asarray(leaf) if numpy else leaf


def _check_concrete(params: Any, inputs: Any) -> None:
  for name, tree in (("params", params), ("inputs", inputs)):
    for path, leaf in leaves_by_path(tree).items():
      if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
          f"calibrate needs values, got {leaf} at {path} of {name}; initialize "
          "it first, for instance by auto_init."
        )
