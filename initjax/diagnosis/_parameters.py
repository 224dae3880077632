"""Verdicts based on the values of the parameters, without running the model.

Each check takes the graph and the leaves by path, wherever they are, and yields
verdicts. A leaf with one value throughout (zeros, ones) is not a mistake and is
skipped, unless equal columns are what is being checked.
"""

import functools
import math
from collections.abc import Iterator

from initjax.diagnosis._fixes import fix, named, named_axes, together
from initjax.gains import gain
from initjax.graph import LinearOp, SignalGraph
from initjax.meanfield import THEORY_FAILS
from initjax.measurement import (
  KernelLeaf,
  Leaves,
  has_equal_rows,
  is_finite,
  kernel_leaves,
  mean_square,
)
from initjax.reports import not_followed
from initjax.typing import Activation, Verdict

_FEW = 8  # along each axis: columns that differ there need no closer look


def check_values(noun: str, leaves: Leaves) -> Iterator[Verdict]:
  """Infinities and NaN in what is given, before anything is computed."""
  bad = [path for path, x in leaves.items() if not is_finite(x)]
  if bad:
    yield Verdict(
      f"non-finite {noun}",
      "error",
      bad[0] if noun == "parameter" else "",
      f"The {noun}s hold infinities or NaN, which spread to everything that is "
      f"computed from them: {named(bad)}.",
      fix("", f"find out where this {noun} comes from"),
    )


def check_parameters(graph: SignalGraph, leaves: Leaves) -> Iterator[Verdict]:
  """All checks of this module."""
  found = list(kernel_leaves(graph, leaves))
  symmetric = functools.partial(symmetric_units, others=found)
  for check in (wrong_fan, symmetric):
    yield from together([v for kernel in found for v in check(kernel)])
  yield from unused(graph, leaves)
  yield from missed(graph)
  yield from not_entered(graph)


def symmetric_units(
  kernel: KernelLeaf, others: list[KernelLeaf]
) -> Iterator[Verdict]:
  """Columns that equal another, of units that also feed what follows alike."""
  after = [k for k in others if k.op.source == kernel.op.path]
  after += [k for k in [kernel] if k.op.place.scans]  # the layer above
  if not after:
    return  # outputs: what tells them apart is the target
  twins, units = _twins(kernel)
  if not twins or not is_finite(kernel.leaf):
    return
  alike = all(has_equal_rows(k.leaf, k.ins) for k in after)
  future = "differ only once the weights that read them set them apart."
  if alike:
    future = "get the same gradient and stay equal forever."
  yield Verdict(
    "symmetric units",
    "error" if alike else "warning",
    kernel.op.path,
    f"{twins} of its {units} columns repeat another: these units compute the "
    f"same and {future} A constant initializer causes this.",
    fix(
      "kernel_init=initjax.initializers.he_normal()",
      "or any other random initializer",
    ),
  )


def _twins(kernel: KernelLeaf) -> tuple[int, int]:
  """How many columns repeat another, more than chance does, and of how many.

  In the layer that has most. Few entries may agree by chance; then half of all
  columns must.
  """
  sizes = (kernel.leaf.shape[axis] for axis in kernel.ins)
  fan_in, most = math.prod(sizes), (0, 0)
  if all(len(set(layer)) == len(layer) for layer in kernel.columns(_FEW)[0]):
    return most
  for layer, alive in zip(*kernel.columns(), strict=True):
    units = len(layer)
    twins = int(alive.sum()) - len(set(layer[alive]))
    if fan_in >= 8 or 2 * twins > units:
      most = max(most, (twins, units))
  return most


def wrong_fan(kernel: KernelLeaf) -> Iterator[Verdict]:
  """A variance that fits a fan read off the shape, and not the true one."""
  op, scales = kernel.op, _scales(kernel.op)
  average = (op.fan_in + op.fan_out) / 2  # Xavier's
  # PyTorch's and Equinox's; and what is left of fan_in without padding
  true_fans = (op.fan_in, average, 3 * op.fan_in, op.valid_fan_in)
  if any(_rule_for(kernel, fan, scales) for fan in true_fans):
    return
  # What JAX takes for fan_in: all axes but the last; also of one layer.
  shape = kernel.leaf.shape
  layer = [math.prod(shape[1:-1])] if 0 in kernel.batch else []
  for assumed in (math.prod(shape[:-1]), *layer):
    rule = _rule_for(kernel, assumed, scales)
    off = op.fan_in / max(assumed, 1)
    if rule and abs(math.log(off)) > math.log(1.2):
      yield Verdict(
        "wrong fan",
        "error" if abs(math.log2(off)) > 2 else "warning",
        op.path,
        f"Its fan was read off its shape, {shape}, and is not the true one: "
        f"its variance is {scales[rule]:.3g}/{assumed}, as if {assumed} terms "
        f"were summed, where the operation sums {op.fan_in:g}. The variance of "
        f"its output is {off:.3g} times what was intended.",
        _fan_fix(kernel, rule, scales[rule], assumed),
      )
      return


def _scales(op: LinearOp) -> dict[str, float]:
  """Variance × fan of the common rules."""
  scales = {"lecun_normal": 1.0, "he_normal": 2.0}
  if op.activation is not None:
    scales["activation_scaling"] = _needed(op.activation)
  return scales


def _rule_for(
  kernel: KernelLeaf, fan: float, scales: dict[str, float]
) -> str | None:
  """The rule whose variance this is, if `fan` were the fan.

  Within five standard errors; None if there are too few entries to tell.
  """
  error = 5 * math.sqrt(2 / max(kernel.leaf.size, 1)) + 0.02
  if error > 0.25:
    return None
  moment = mean_square(kernel.leaf)
  ratios = {rule: moment * fan / scale for rule, scale in scales.items()}
  return next((r for r, x in ratios.items() if abs(x - 1) < error), None)


@functools.lru_cache(maxsize=256)
def _needed(activation: Activation) -> float:
  """gain² of an activation; 1 if it has none, which is found out once."""
  try:
    return gain(activation) ** 2
  except THEORY_FAILS:
    return 1.0


def _fan_fix(kernel: KernelLeaf, rule: str, scale: float, assumed: int) -> str:
  """The axes that make it right, or, if no axes do, the scale."""
  fan_in, shape = kernel.op.fan_in, kernel.leaf.shape
  start = "kernel_init=initjax.initializers."
  if math.prod(shape[axis] for axis in kernel.ins) == fan_in:
    given = "φ, " if rule == "activation_scaling" else ""
    return fix(
      f"{start}{rule}({given}{named_axes(kernel.op)})",
      "or, where the layer reshapes its kernel first (as DenseGeneral does), "
      f"a variance {assumed / fan_in:g} times as large",
    )
  scale *= assumed / fan_in
  return f'{start}variance_scaling({scale:g}, "fan_in", "truncated_normal")'


def unused(graph: SignalGraph, leaves: Leaves) -> Iterator[Verdict]:
  """Parameters that nothing uses, and kernels that are no parameters."""
  idle = [path for path in graph.unused if path in leaves]
  if idle:
    yield Verdict(
      "unused parameters",
      "warning",
      idle[0],
      f"They never meet the data, so their gradient is zero: {named(idle)}.",
      fix("", "remove them, or use them in the forward pass"),
    )
  constants = [op for op in graph.ops if op.origin == "constant"]
  closed = [op for op in constants if op.axes.free]  # else it is no layer's
  if closed:
    op = closed[0]
    yield Verdict(
      "constant kernel",
      "warning",
      "",
      f"{len(closed)} kernel{'s' * (len(closed) > 1)} will not be trained, "
      "being constants that the function closes over (fan_in "
      f"{op.fan_in:g}, output {list(op.shape)}).",
      fix(
        "fn, params = initjax.functional(module)",
        "for NNX and Equinox; else make them an argument: fn(params, *inputs)",
      ),
    )


def missed(graph: SignalGraph) -> Iterator[Verdict]:
  """Parameters that meet data in a way that is not followed."""
  if graph.not_followed:
    yield Verdict(
      "not followed",
      "note",
      next(iter(graph.not_followed)),
      f"{not_followed(graph.not_followed)}. It is not judged.",
      fix(
        "",
        "written as a matrix product, a convolution or a look-up, it would be",
      ),
    )


def not_entered(graph: SignalGraph) -> Iterator[Verdict]:
  """Calls whose linear operations have no row, or one without detail."""
  if without_detail(graph):
    yield Verdict(
      "not looked at",
      "note",
      "",
      without_detail(graph),
      fix("", "the same model on one device shows them"),
    )
  if graph.opaque:
    yield Verdict(
      "not looked at",
      "note",
      "",
      "The linear operations inside could not be read, and are not judged: "
      f"{named(graph.opaque)}.",
      fix("", "a plain JAX function in its place can be read"),
    )


def without_detail(graph: SignalGraph) -> str:
  """What is not measured where devices hold parts of a signal; "" if all is."""
  shards = sum("shard_map" in op.place.whole for op in graph.ops)
  if not shards:
    return ""
  return (
    f"Inside a shard_map sizes alone are measured, of {shards} operations: "
    "nothing is said of dead units, saturation and samples that look alike."
  )
