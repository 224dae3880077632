"""What passes through a model, taken by hand: outputs, and their gradients.

Zeros are added to an output; the gradient with respect to them is that of the
output. Here is no code of initjax but the report under test.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = float(np.finfo(np.float32).eps)

quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
"""Compiles in half the time, for what runs once."""


class Captured(NamedTuple):
  """Output, before its bias, and gradient of every use of a kernel."""

  outputs: dict[str, list[jax.Array]]
  """path of the kernel -> an array for each use; scans lead"""
  gradients: dict[str, list[jax.Array]]


# Comparing


def assert_row(actual: Any, by_hand: Any, *, ulps: float = 200) -> None:
  """Equal up to the order of summation in the layers before, some ulps each.

  The reference is summed in float64 by numpy.
  """
  x = np.asarray(by_hand).astype(np.float64)
  with np.errstate(divide="ignore", invalid="ignore"):  # 0, and inf - inf
    mean, second_moment = np.mean(x), np.mean(x**2)
    log2_second_moment = np.log2(second_moment)
  relative = ulps * EPSILON
  np.testing.assert_allclose(  # d log₂ q = dq / (q ln 2), and q is a square
    actual.log2_second_moment,
    log2_second_moment,
    atol=2 * relative / np.log(2),
  )
  np.testing.assert_allclose(
    actual.mean, mean, atol=relative * np.sqrt(second_moment)
  )
  np.testing.assert_allclose(actual.largest, np.max(abs(x)), rtol=relative)
  assert actual.zeros == np.sum(x == 0)
  assert actual.nonfinite == np.sum(~np.isfinite(x))
  assert actual.size == x.size


def assert_report(report: Any, captured: Captured) -> None:
  """Every row was captured, and everything captured is a row, both ways."""
  ops = report.graph.ops
  assert not report.graph.opaque
  forward, backward = jax.device_get(statistics(report))
  for rows, by_hand in (
    (forward, captured.outputs),
    (backward, captured.gradients),
  ):
    left = {path: [*map(np.asarray, many)] for path, many in by_hand.items()}
    for op, row in zip(ops, rows, strict=True):
      array = left[op.path].pop(0)
      assert row.mean.shape == op.repeats
      assert array.shape[: len(op.repeats)] == op.repeats
      for at in np.ndindex(*op.repeats):
        one = jax.tree.map(lambda leaf, at=at: leaf[at], row)
        assert_row(one, array[at], ulps=rounding(ops))
    assert not any(left.values()), left


def statistics(report: Any) -> Any:
  """Rows of a report, forward and backward."""
  return report.forward, report.backward


def rounding(ops: Any) -> float:
  """Ulps by which two computations of a signal or gradient may differ.

  A sum of n terms rounds n times, and roundings are independent (Higham and
  Mary 2019): four times √(all of them), where an operation sums fan_in terms
  forward and fan_out backward, and a gradient has passed all of them.
  """
  terms = [(op.fan_in + op.fan_out) * np.prod(op.repeats) for op in ops]
  return 4 * float(np.sqrt(sum(terms)))


def filled(shapes: Any) -> Any:
  """Numbers for the leaves: no bias is 0, no scale is 1; nothing is compiled.

  Kernels are N(0, 1 / the size of all axes but the last), others near 1;
  random keys and their counters are new.
  """
  numbers = np.random.default_rng(0)

  def fill(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
      return jax.device_put(np.zeros(leaf.shape, leaf.dtype))
    x = numbers.standard_normal(leaf.shape)
    fan_in = leaf.size / leaf.shape[-1]
    x = x / np.sqrt(fan_in) if leaf.ndim > 1 else 1 + 0.2 * x
    return jax.device_put(x.astype(leaf.dtype))

  return jax.tree.map(fill, shapes)


def captures(run: Callable[..., jax.Array], cotangent: jax.Array) -> Captured:
  """Of a computation written out.

  `run(see)` calls `z = see(path, z)` with every output `z` before its bias.
  """

  def apply(nudges: dict[str, jax.Array]) -> Any:
    outputs = {}

    def see(path: str, z: jax.Array) -> jax.Array:
      outputs[path] = z + nudges.get(path, 0)
      return outputs[path]

    return run(see), outputs

  _, shapes = jax.eval_shape(apply, {})
  nudges = jax.tree.map(jnp.zeros_like, shapes)
  _, pull_back, outputs = jax.vjp(apply, nudges, has_aux=True)
  (gradients,) = pull_back(cotangent)
  return Captured(
    {path: [output] for path, output in outputs.items()},
    {path: [gradient] for path, gradient in gradients.items()},
  )


def stacked(captured: Captured) -> Captured:
  """Of an unrolled twin, as a scan has it: list indices become an axis."""

  def stack(arrays: dict[str, list[jax.Array]]) -> dict[str, list[jax.Array]]:
    found: dict[str, list[jax.Array]] = {}
    for path, (array,) in arrays.items():
      found.setdefault(re.sub(r"/\d+", "", path), []).append(array)
    return {
      path: several if path in arrays else [jnp.stack(several)]
      for path, several in found.items()
    }

  return Captured(stack(captured.outputs), stack(captured.gradients))


def at_keys(tree: Any, keys: Any) -> Any:
  """What lies under the keys, one after the other."""
  for key in keys:
    tree = tree[key]
  return tree
