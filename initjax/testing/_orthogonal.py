"""The assertion that kernels are orthogonal, up to rounding."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from initjax._checks import check_number
from initjax._paths import Where, check_where, matches
from initjax._sharding import reduced
from initjax.graph import as_function, signal_graph, with_advice
from initjax.measurement import (
  Array,
  KernelLeaf,
  arrays_of,
  in_double,
  kernel_leaves,
  matrices,
)
from initjax.reports import not_followed
from initjax.testing._findings import Finding, raise_all, table_of


@with_advice
def assert_orthogonal(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  scale: float | None = None,
  where: Where = "*",
) -> None:
  """Asserts that kernels, as matrices [in, out], are orthogonal up to a scale.

  The shorter side must be orthonormal: WᵀW = s²·1, or WWᵀ = s²·1 if the matrix
  has fewer rows than columns. Every entry must agree to within a fraction 4·n·ε
  of s², where n is the longer side and ε the rounding error of the dtype: a sum
  of n rounded terms may be off by n·ε, and a Householder factorization adds a
  few more.

  Which axes are in and out is read from how `fn` uses a kernel, so stacks of
  layers, heads and convolutions are handled correctly.

  Args:
    fn: a function of parameters and inputs, such as `model.apply`, or a module.
    params: its parameters; omit them for a module that holds them.
    *inputs: its other arguments; shapes are enough.
    scale: s; if None, any scale of a kernel is accepted.
    where: which kernels to check, as in `rules`: a glob over the path, a
      `re.Pattern`, a predicate `(path, leaf)`, or a list of these.

  Raises:
    AssertionError: with every kernel that is not orthogonal.
    ValueError: if `where` picks no kernel, or `where` or `scale` is invalid.

  Warns:
    UserWarning: if nothing is found, but some parameters were not followed.

  >>> import jax, jax.numpy as jnp
  >>> kernel = jax.nn.initializers.orthogonal()(jax.random.key(0), (8, 4))
  >>> model = lambda p, x: x @ p
  >>> assert_orthogonal(model, kernel, jnp.ones((2, 8)), scale=1.0)
  >>> assert_orthogonal(model, jnp.ones((8, 4)), jnp.ones((2, 8)))
  Traceback (most recent call last):
    ...
  AssertionError: 1 of 1 kernels are not orthogonal...

  Reference: Saxe et al. 2014; Higham 2002, §3.1 and Theorem 19.4.
  """
  if scale is not None:
    check_number("scale", scale, low=0, open_low=True)
  check_where("where", where)
  fn, params, inputs, _ = as_function(fn, params, inputs)
  graph = signal_graph(fn, params, *inputs)
  leaves = arrays_of(params)
  every = list(kernel_leaves(graph, leaves))
  chosen = [k for k in every if matches(where, k.op.path, k.leaf)]
  if not chosen:
    missed = not_followed(graph.not_followed)
    raise ValueError(
      "assert_orthogonal found no kernel to check; the kernels are "
      f"{', '.join(kernel.op.path for kernel in every) or 'none'}."
      + f" {missed}."
      * bool(missed)
    )
  found: list[Finding] = []
  lines = []
  for kernel in chosen:
    off, allowed = _largest_error(kernel, scale)
    if not off <= allowed:
      lines.append((kernel.op.path, f"{off:.2g}", f"{allowed:.2g}"))
  if lines:
    wanted = "s²" if scale is None else f"{scale**2:g}"
    message = (
      f"{len(lines)} of {len(chosen)} kernels are not orthogonal. The largest "
      f"entries of WᵀW/{wanted} - 1 are:"
    )
    fix = "kernel_init=initjax.initializers.orthogonal()"
    table = table_of(("kernel", "largest", "allowed"), lines)
    found = [Finding(message, table, fix)]
  unseen = {
    path: name
    for path, name in graph.not_followed.items()
    if matches(where, path, leaves.get(path))
  }
  raise_all(found, unseen, stacklevel=4)


def _largest_error(
  kernel: KernelLeaf, scale: float | None
) -> tuple[float, float]:
  """Largest entry of WᵀW/s² - 1, and what rounding may do."""
  groups = (kernel.batch, kernel.ins, kernel.outs)
  found = reduced(_gram_error, kernel.leaf, groups=groups, scale=scale)
  sizes = (
    math.prod(kernel.leaf.shape[axis] for axis in axes) for axes in groups[1:]
  )
  rounding = float(jnp.finfo(kernel.leaf.dtype).eps)
  return float(found), 4 * max(sizes) * rounding


def _gram_error(
  x: Array, groups: tuple[tuple[int, ...], ...], scale: float | None
) -> Array:
  """The largest entry of |WᵀW/s² - 1| over all matrices; inf where s is 0."""
  xp, tall = x.__array_namespace__(), matrices(in_double(x), *groups)
  if tall.shape[1] < tall.shape[2]:
    tall = tall.swapaxes(1, 2)
  gram = tall.conj().swapaxes(1, 2) @ tall
  trace = xp.trace(gram, axis1=1, axis2=2).real / gram.shape[1]
  square = trace if scale is None else xp.full(trace.shape, scale**2)
  ratio = gram / xp.where(square > 0, square, 1)[:, None, None]
  off = abs(ratio - np.eye(gram.shape[1])).max((1, 2), initial=0)
  return xp.where(square > 0, off, np.inf).max(initial=0)
