"""Verdicts on leaves, or their slices, that are copies or share a random key.

The values of the parameters alone reveal this, through the detector in
`measurement` that `audit` uses as well. The gradient tells what a copy is for:
a teacher gets none.
"""

import re
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from initjax.diagnosis._fixes import fix, named, together
from initjax.graph import SignalGraph
from initjax.measurement import (
  Duplicates,
  EqualSlices,
  KernelLeaf,
  Leaves,
  find_duplicates,
  find_equal_slices,
  kernel_leaves,
)
from initjax.typing import Verdict

_OF_COPIES = re.compile(
  r"(^|[^a-z])(target|teacher|ema|momentum|reference|frozen)([^a-z]|$)", re.I
)


def check_copies(
  graph: SignalGraph, leaves: Leaves, still: Collection[str]
) -> Iterator[Verdict]:
  """All checks of this module.

  Args:
    graph: of the model.
    leaves: its parameters.
    still: the paths of those whose gradient is exactly 0, as far as known.
  """
  still = {*still, *graph.unused}
  groups = find_duplicates(leaves)
  yield from together([_of_group(group, still) for group in groups])
  kernels = {kernel.op.path: kernel for kernel in kernel_leaves(graph, leaves)}
  tables = {op.path for op in graph.ops if op.kind == "embedding"}
  found = (
    _of_slices(slices, kernels.get(slices.path), slices.path in tables)
    for slices in find_equal_slices(leaves)
  )
  yield from together([verdict for verdict in found if verdict])


def _of_group(group: Duplicates, still: Collection[str]) -> Verdict:
  """Flax's mistake is an error, and a teacher none at all."""
  words = []
  if group.equal:
    words.append(f"equal, entry by entry, to {named(group.equal)}")
  if group.scaled:
    words.append(f"equal up to a factor to {named(group.scaled)}")
  if group.correlated:
    words.append(
      f"made of the same random numbers as {named(group.correlated)} (the "
      "ranks of their first entries have a correlation of "
      f"{group.correlation:.2f})"
    )
  said = ", and ".join(words)
  cause = _cause_of(group, still)
  return Verdict(
    "duplicate parameters",
    cause.severity,
    group.paths[0],
    f"{said[0].upper()}{said[1:]}: {cause.words}",
    cause.fix,
  )


class _Cause(NamedTuple):
  """Why leaves repeat one another."""

  severity: Literal["error", "warning", "note"]
  words: str
  fix: str


_FLAX_2157 = _Cause(
  "error",
  "Flax joins the names along a path before it hashes them, so that ab/cdef "
  "and abc/def share a key (flax#2157).",
  fix('flax.config.update("flax_fix_rng_separator", True)', "before init"),
)
_TEACHER = _Cause(
  "note",
  "a copy that gets no gradient, or that its name says is a copy, such as a "
  "teacher or a target network.",
  fix("", "ignore this if the copy is intended"),
)
_ONE_KEY = _Cause(
  "warning",
  "drawn with the same key, or copied.",
  fix("", "use a separate key for each; ignore this if the copy is intended"),
)


def _cause_of(group: Duplicates, still: Collection[str]) -> _Cause:
  """Flax's mistake is known by its names; a teacher by its names or gradient.

  Of a leaf and its teachers one alone is trained.
  """
  letters = {"".join(re.findall(r"\w+", path)) for path in group.paths}
  if len(letters) == 1:  # cut otherwise
    return _FLAX_2157
  trained = [
    path
    for path in group.paths
    if path not in still and not _OF_COPIES.search(path)
  ]
  copies = not group.scaled and not group.correlated
  return _TEACHER if copies and len(trained) <= 1 else _ONE_KEY


def _of_slices(
  found: EqualSlices, kernel: KernelLeaf | None, is_table: bool
) -> Verdict | None:
  """Layers, experts and members are an error; rows of one kernel may be meant.

  Equal columns are left to the search for symmetric units.
  """
  path, axis, count, distinct = found
  if kernel is not None and axis in kernel.outs:
    return None
  seen = f"of {count} along axis {axis}, only {distinct} are distinct."
  if is_table or (kernel is not None and axis in kernel.ins):
    return Verdict(
      "equal rows",
      "note",
      path,
      f"Some of its inputs have equal weights: {seen} Until training sets them "
      "apart, the model cannot tell these inputs from one another.",
      fix("", "ignore this if they were copied on purpose"),
    )
  return Verdict(
    "identical layers",
    "warning" if kernel is None else "error",
    path,
    "Some of its stacked layers, experts or ensemble members were drawn with "
    f"the same key: {seen}",
    fix(
      'nn.scan(..., split_rngs={"params": True})',
      "the same for nn.vmap; in NNX, nnx.split_rngs(splits=...); else "
      "jax.vmap(init)(jax.random.split(key, number))",
    ),
  )
