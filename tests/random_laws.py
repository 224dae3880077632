"""What has to hold of any model; as a script, of hundreds, with a table.

  python tests/random_laws.py --number 500 [--graph_alone | --all_verbs]

About a second each on a quiet core. What fails is printed as data that
`check(Model(...))` takes.
"""

import argparse
import collections
import contextlib
import functools
import itertools
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from random_models import Model, Program, program, random_model
from random_steps import Use

import initjax
from initjax.graph import SignalGraph
from initjax.model_init import Calibration

TOLERANCE = {"float64": 1e-7, "float32": 1e-2}
"""Relative to the largest: a dozen normalizations amplify rounding tenfold, and
what is not of this kind is wrong in the first digit."""

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


class Found(NamedTuple):
  """What became of one use of a kernel."""

  kind: str
  verdict: str
  """followed, named, wrong (fans, repeats) or lost"""
  path: str


def check(
  model: Model, *, values: bool = True, all_verbs: bool = False
) -> list[Found]:
  """Raises an AssertionError where a law is broken.

  Args:
    model: any.
    values: whether to run it, which is to compile it.
    all_verbs: whether to draw and to diagnose it as well.

  Returns:
    What became of each kernel.
  """
  with jax.enable_x64(model.dtype == "float64"):
    made = program(model)
    graph = initjax.signal_graph(made.fn, made.params, *made.inputs)
    found = kernels(graph, made.built.uses)
    check_others(graph, made)
    if made.built.uses and values:
      check_values(model, made)
      check_verbs(made, all_verbs)
  wrong = [f for f in found if f.verdict in ("wrong", "lost")]
  assert not wrong, (wrong, [(op.path, op.fan_in, op.fan_out) for op in graph])
  return found


# The graph


def kernels(graph: SignalGraph, uses: Sequence[Use]) -> list[Found]:
  """Compares the rows of each path with the uses that are known by hand."""
  left = collections.defaultdict(list)
  for op in graph:
    left[op.path].append(op)
  named = {*graph.elementwise, *graph.not_followed}
  found = []
  for use in uses:
    ops = left[use.path]
    fits = [op for op in ops if _fits(op, use)]
    if fits:
      ops.remove(fits[0])
    paths = use.path.split(", ")
    verdict = "followed" if fits else "wrong" if ops else "lost"
    if verdict == "lost" and (named.issuperset(paths) or graph.opaque):
      verdict = "lost" if use.must_follow else "named"
    found.append(Found(use.kind, verdict, use.path))
  return found


def _fits(op: Any, use: Use) -> bool:
  pairs = ((op.fan_in, use.fan_in), (op.fan_out, use.fan_out))
  return all(itertools.starmap(math.isclose, pairs)) and use.repeats in (
    None,
    op.repeats,
  )


def check_others(graph: SignalGraph, made: Program) -> None:
  """Biases and scales are listed as such; no parameter is unused or twice."""
  kernels = {path for use in made.built.uses for path in use.path.split(", ")}
  added = {*made.built.added}
  assert added <= {*graph.elementwise}, added - {*graph.elementwise}
  assert not graph.unused, graph.unused
  assert {path for op in graph for path in op.paths} <= kernels


# Values


def check_values(model: Model, made: Program) -> None:
  """Nothing is changed by measuring; what was calibrated is 1."""
  out = jax.eval_shape(made.fn, made.params, *made.inputs)
  numbers = np.random.default_rng(model.seed + 1)
  cotangent = jnp.asarray(numbers.normal(size=out.shape), out.dtype)
  has_kernels = bool(initjax.signal_graph(made.fn, made.params, *made.inputs))

  @quick_jit
  def run(params: Any, inputs: Any, cotangent: jax.Array) -> Any:
    plain = _plain(made, params, inputs, cotangent)
    measured = initjax.measure_and_grad(
      made.fn, params, *inputs, cotangent=cotangent
    )
    after = None
    if has_kernels:
      changed, info = initjax.calibrate(made.fn, params, *inputs)
      rows = initjax.measure(made.fn, changed, *inputs).forward
      after = info, [row.log2_second_moment for row in rows]
    return plain, (measured.outputs, measured.gradients), after

  given = run(made.params, made.inputs, cotangent)
  plain, measured, after = jax.device_get(given)
  if model.dtype not in TOLERANCE:
    return
  rtol = TOLERANCE[model.dtype]
  pairs = zip(*map(jax.tree.leaves, (plain, measured)), strict=True)
  for want, actual in pairs:
    assert actual.dtype == want.dtype
    largest = abs(want).max(initial=0)
    np.testing.assert_allclose(actual, want, rtol=0, atol=rtol * largest)
  if after is not None:
    check_calibrated(*after, rtol)


def _plain(
  made: Program, params: Any, inputs: Any, cotangent: jax.Array
) -> tuple[jax.Array, Any]:
  outputs, pull_back = jax.vjp(lambda p: made.fn(p, *inputs), params)
  (gradients,) = pull_back(cotangent)
  return outputs, gradients


def check_calibrated(
  info: Calibration, sizes: list[jax.Array], rtol: float
) -> None:
  """What is said to be calibrated has unit second moment."""
  for row, operation in zip(info.graph.rows, info.operations, strict=True):
    size = 2.0 ** float(sizes[row.number][row.repeat])
    if operation.reason == "calibrated":
      message = f"{operation.path} {operation.repeat}"
      np.testing.assert_allclose(size, 1, rtol=rtol, err_msg=message)


def check_verbs(made: Program, all_verbs: bool) -> None:
  """No error but what is documented: a model without kernels has no plan."""
  given = made.fn, made.params, *made.inputs
  str(initjax.predict(*given))
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # of unstable length maps
    try:
      plan = initjax.plan_init(*given)
    except ValueError as error:
      assert "none to initialize" in str(error), error  # noqa: PT017
      return
    assert all(row.std is None or row.std > 0 for row in plan.rows), plan
    str(plan)
    if all_verbs:
      drawn = initjax.auto_init(jax.random.key(1), *given, check=False)
      pairs = zip(*map(jax.tree.leaves, (drawn, made.params)), strict=True)
      for one, other in pairs:
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert np.isfinite(np.asarray(one, np.complex128)).all()
      report = initjax.diagnose(*given)
      str(report)
      report.to_records()


# As a script


def main() -> None:
  """Prints what failed, and a table of kinds."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--number", type=int, default=500)
  parser.add_argument("--first", type=int, default=0)
  parser.add_argument("--graph_alone", action="store_true")
  parser.add_argument("--all_verbs", action="store_true")
  options = parser.parse_args()
  laws = {"values": not options.graph_alone, "all_verbs": options.all_verbs}
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  looked_at = broken = 0
  with contextlib.suppress(KeyboardInterrupt):  # the table so far
    for seed in range(options.first, options.first + options.number):
      looked_at += 1
      found = found_in(random_model(seed), **laws)
      broken += found is None
      counts.update(one[:2] for one in found or ())
      if seed % 50 == 49:
        jax.clear_caches()  # of some hundred programs
  print_table(counts)
  print(f"{looked_at} models, of which {broken} break a law")


def found_in(model: Model, **laws: bool) -> list[Found] | None:
  """What `check` finds; prints what it raises."""
  try:
    return check(model, **laws)
  except Exception as error:
    print(f"\n{model}\n  {type(error).__name__}: {str(error)[:600]}")
    return None


def print_table(counts: collections.Counter[tuple[str, str]]) -> None:
  """Kinds of steps by what became of their kernels."""
  verdicts = ("followed", "named", "wrong", "lost")
  print(f"\n{'':16}" + "".join(f"{verdict:>10}" for verdict in verdicts))
  for kind in sorted({kind for kind, _ in counts}):
    row = "".join(f"{counts[kind, v] or '':>10}" for v in verdicts)
    print(f"{kind:16}{row}")
  sums = [sum(n for (_, v), n in counts.items() if v == w) for w in verdicts]
  print(f"{'all':16}" + "".join(f"{n:>10}" for n in sums))


if __name__ == "__main__":
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ.setdefault("XLA_FLAGS", QUICK)
  main()
