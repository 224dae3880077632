"""Verdicts that the values of the parameters give, without running the model.

Each check takes the graph and the leaves by path, as NumPy arrays, and yields
verdicts. A leaf of one value throughout (zeros, ones) is nobody's mistake and
is passed over, except where equal columns are the point.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax.gains import gain
from initjax.probes._cures import cure
from initjax.tracing import LinearOp, SignalGraph
from initjax.typing import Verdict

Leaves = Mapping[str, np.ndarray]


class Kernel(NamedTuple):
  """A kernel whose axes could be followed."""

  op: LinearOp
  """its first use"""
  leaf: np.ndarray
  ins: tuple[int, ...]
  """axes that are summed"""
  outs: tuple[int, ...]
  """axes that become features"""
  batch: tuple[int, ...]
  """all others: stacked layers, heads, experts"""

  def matrices(self) -> np.ndarray:
    """Its values as [batch, in, out]."""
    leaf = self.leaf.transpose(*self.batch, *self.ins, *self.outs)
    sizes = (
      math.prod(self.leaf.shape[axis] for axis in axes)
      for axes in (self.batch, self.ins, self.outs)
    )
    return leaf.reshape(*sizes)


def check_parameters(graph: SignalGraph, leaves: Leaves) -> Iterator[Verdict]:
  """All checks of this module."""
  yield from duplicates(leaves)
  kernels = list(_kernels(graph, leaves))
  for check in (identical_layers, symmetric_units, wrong_fan):
    yield from _together([v for kernel in kernels for v in check(kernel)])
  yield from unused(graph)


def _together(found: list[Verdict]) -> Iterator[Verdict]:
  """The first of each cure; it says which others are mended by the same."""
  groups: dict[str, list[Verdict]] = {}
  for verdict in found:
    groups.setdefault(verdict.cure, []).append(verdict)
  for first, *others in groups.values():
    more = f" So with {_some([v.path for v in others])}." if others else ""
    yield first._replace(message=first.message + more)


def _kernels(graph: SignalGraph, leaves: Leaves) -> Iterator[Kernel]:
  seen = set()
  for op in graph.ops:
    if op.origin != "parameter" or op.kind == "embedding" or op.path in seen:
      continue
    seen.add(op.path)
    leaf = leaves.get(op.path)
    if op.in_axes is not None and op.out_axes is not None and leaf is not None:
      used = (*op.in_axes, *op.out_axes)
      batch = tuple(axis for axis in range(leaf.ndim) if axis not in used)
      yield Kernel(op, leaf, op.in_axes, op.out_axes, batch)


def duplicates(leaves: Leaves) -> Iterator[Verdict]:
  """Leaves that are equal, entry by entry, though drawn apart."""
  groups: dict[Any, list[str]] = {}
  for path, leaf in leaves.items():
    if leaf.size > 1 and not _constant(leaf):
      key = (leaf.shape, str(leaf.dtype), leaf.tobytes())
      groups.setdefault(hash(key), []).append(path)
  for paths in groups.values():
    if len(paths) > 1:
      yield Verdict(
        "duplicate parameters",
        "error",
        paths[0],
        f"Equal, entry by entry, to {', '.join(paths[1:])}: they were drawn "
        "with one key. Flax joins the names along a path before it hashes "
        "them, so that ab/cdef and abc/def share a key (flax#2157).",
        cure(
          'flax.config.update("flax_fix_rng_separator", True)', "before init"
        ),
      )


def _constant(leaf: np.ndarray) -> bool:
  return bool((leaf == leaf.flat[0]).all())


def identical_layers(kernel: Kernel) -> Iterator[Verdict]:
  """Layers stacked on one axis that were all drawn with the same key."""
  matrices = kernel.matrices()
  if len(matrices) < 2 or _constant(kernel.leaf):
    return
  if (matrices == matrices[:1]).all():
    yield Verdict(
      "identical layers",
      "error",
      kernel.op.path,
      f"Its {len(matrices)} stacked layers are equal, entry by entry: they "
      "were drawn with one key.",
      cure(
        'nn.scan(..., split_rngs={"params": True})',
        "nn.vmap likewise; in NNX nnx.split_rngs(splits=...)",
      ),
    )


def symmetric_units(kernel: Kernel) -> Iterator[Verdict]:
  """Columns that equal another: such units stay equal as they learn."""
  matrix = kernel.matrices()[0].astype(np.float64)
  if matrix.shape[1] < 2 or kernel.op.kind == "embedding":
    return
  mix = np.random.default_rng(0).normal(size=(len(matrix), 1))
  marks = np.sort((matrix * mix).sum(axis=0))  # one for each unit
  marks = marks[marks != 0]  # a zero kernel starts a residual branch
  twins = int((np.diff(marks) == 0).sum())
  if twins:
    yield Verdict(
      "symmetric units",
      "error",
      kernel.op.path,
      f"{twins} of its {matrix.shape[1]} columns repeat another: such units "
      "compute the same, get the same gradient and stay equal for ever. A "
      "constant initializer does this.",
      cure("kernel_init=initjax.initializers.he_normal()", "or any random one"),
    )


def wrong_fan(kernel: Kernel) -> Iterator[Verdict]:
  """A variance that fits a fan read off the shape, and not the true one."""
  op, leaf = kernel.op, kernel.leaf
  moment = float(np.mean(np.square(leaf, dtype=np.float64)))
  error = 5 * math.sqrt(2 / leaf.size) + 0.02  # five standard errors
  scales = {"lecun_normal": 1.0, "he_normal": 2.0}
  if op.activation is not None:
    scales["activation_scaling"] = _needed(op)

  def rule_for(fan: float) -> str | None:
    """The rule whose variance this is, if `fan` were the fan."""
    ratios = {rule: moment * fan / scale for rule, scale in scales.items()}
    return next((r for r, x in ratios.items() if abs(x - 1) < error), None)

  average = (op.fan_in + op.fan_out) / 2  # Xavier's
  if error > 0.25 or rule_for(op.fan_in) or rule_for(average):
    return  # too few entries to tell, or right as it is
  for assumed in _assumed_fans(leaf.shape):
    rule = rule_for(assumed)
    if rule and _apart(assumed, op.fan_in):
      yield Verdict(
        "wrong fan",
        "error",
        op.path,
        f"Its variance is {scales[rule]:.3g}/{assumed}, as if {assumed} terms "
        f"were summed, which is what the shape {leaf.shape} looks like; the "
        f"operation sums {op.fan_in:g}. Its output comes out "
        f"{op.fan_in / assumed:.3g} times as large, in variance, as is meant.",
        _fan_cure(kernel, rule, scales[rule], assumed),
      )
      return


def _needed(op: LinearOp) -> float:
  """gain² of the activation that feeds the operation; 1 if it has none."""
  assert op.activation is not None
  try:
    return gain(op.activation) ** 2
  except (ValueError, TypeError, ArithmeticError):
    return 1.0


def _apart(first: float, second: float) -> bool:
  return abs(math.log(first / second)) > math.log(1.2)


def _assumed_fans(shape: tuple[int, ...]) -> list[int]:
  """What JAX takes for fan_in: all axes but the last; also of one layer."""
  layer = [math.prod(shape[1:-1])] if len(shape) > 2 else []
  return [math.prod(shape[:-1]), *layer]


def _fan_cure(kernel: Kernel, rule: str, scale: float, assumed: int) -> str:
  """The axes that make it right, or, if no axes do, the scale."""
  fan_in, shape = kernel.op.fan_in, kernel.leaf.shape
  start = "kernel_init=initjax.initializers."
  if math.prod(shape[axis] for axis in kernel.ins) == fan_in:
    ins, outs, batch = (
      _from_the_end(axes, len(shape))
      for axes in (kernel.ins, kernel.outs, kernel.batch)
    )
    axes = f"in_axis={ins}, out_axis={outs}, batch_axis={batch}"
    given = "φ, " if rule == "activation_scaling" else ""
    return cure(
      f"{start}{rule}({given}{axes})",
      "or, where the layer reshapes its kernel first (as DenseGeneral does), "
      f"a variance {assumed / fan_in:g} times as large",
    )
  scale *= assumed / fan_in
  return f'{start}variance_scaling({scale:g}, "fan_in", "truncated_normal")'


def _from_the_end(axes: tuple[int, ...], rank: int) -> Any:
  """Axes counted from the end; a single one without its tuple."""
  counted = tuple(axis - rank for axis in axes)
  return counted[0] if len(counted) == 1 else counted


def unused(graph: SignalGraph) -> Iterator[Verdict]:
  """Parameters that nothing uses, and kernels that are no parameters."""
  if graph.unused:
    yield Verdict(
      "unused parameters",
      "warning",
      graph.unused[0],
      f"{_some(graph.unused)} meet no data: their gradient is zero.",
      cure("", "remove them, or use them in the forward pass"),
    )
  closed = [op for op in graph.ops if op.origin == "constant"]
  if closed:
    op = closed[0]
    yield Verdict(
      "constant kernel",
      "warning",
      "",
      f"{len(closed)} kernel{'s' * (len(closed) > 1)} (fan_in "
      f"{op.fan_in:g}, output {list(op.shape)}): constants the function "
      "closes over, which will not be trained.",
      cure(
        "fn, params = initjax.functional(module)",
        "for NNX and Equinox; else make them an argument: fn(params, *inputs)",
      ),
    )


def _some(paths: Sequence[str]) -> str:
  shown = ", ".join(paths[:4])
  return shown + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
