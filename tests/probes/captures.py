"""What passes through a model, taken by hand: outputs, and their gradients.

Flax shows the outputs of its layers (`capture_intermediates`, `nnx.capture`)
and adds zeros to them (`perturb`), the gradient with respect to which is that
of the output. A bias is subtracted from an output; the gradient is the same
before and after it. Here is no code of initjax but the report under test.
"""

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

EPSILON = float(np.finfo(np.float32).eps)

LINEN_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.Embed)
NNX_LAYERS = (nnx.Linear, nnx.LinearGeneral, nnx.Conv, nnx.Embed)
METHODS = ("__call__", "attend")

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
  for rows, by_hand in (
    (report.forward, captured.outputs),
    (report.backward, captured.gradients),
  ):
    left = {path: list(arrays) for path, arrays in by_hand.items()}
    for op, row in zip(ops, rows, strict=True):
      array = left[op.path].pop(0)
      assert row.mean.shape == op.repeats
      assert array.shape[: len(op.repeats)] == op.repeats
      for at in np.ndindex(*op.repeats):
        one = jax.tree.map(lambda leaf, at=at: leaf[at], row)
        assert_row(one, array[at], ulps=rounding(ops))
    assert not any(left.values()), left


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

  def fill(leaf: Any) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key(0)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
      return jnp.zeros(leaf.shape, leaf.dtype)
    x = numbers.standard_normal(leaf.shape)
    fan_in = leaf.size / leaf.shape[-1]
    x = x / np.sqrt(fan_in) if leaf.ndim > 1 else 1 + 0.2 * x
    return jnp.asarray(x, leaf.dtype)

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


# flax.linen


def linen_captures(
  model: nn.Module,
  variables: Any,
  x: jax.Array,
  cotangent: jax.Array,
  *,
  mutable: tuple[str, ...] = (),
  **options: Any,
) -> Captured:
  """By `capture_intermediates`, and by `perturb` after every linear layer.

  Collections "intermediates" and "perturbations" must have an axis 0 in scans.
  """

  def apply(variables: Any, *more: str) -> Any:
    with nn.intercept_methods(_perturb):
      return model.apply(
        variables,
        x,
        mutable=[*mutable, "intermediates", *more],
        capture_intermediates=_is_linear,
        **options,
      )

  def run(nudges: Any) -> Any:
    outputs, seen = apply({**variables, "perturbations": nudges})
    return outputs, seen["intermediates"]

  _, shapes = jax.eval_shape(lambda: apply(variables, "perturbations"))
  nudges = jax.tree.map(jnp.zeros_like, shapes["perturbations"])
  _, pull_back, seen = jax.vjp(run, nudges, has_aux=True)
  (gradients,) = pull_back(cotangent)
  captured = Captured({}, {})
  for (*module, method), (output,) in traverse_util.flatten_dict(seen).items():
    path, bias = _linen_parameters(variables["params"], module)
    nudge = _at(gradients, (*module, method))
    if bias is not None and method == "__call__":
      scanned = any(name.startswith("Scan") for name in module)
      subtract = jax.vmap(jnp.subtract) if scanned else jnp.subtract
      output = subtract(output, bias)
    captured.outputs.setdefault(path, []).append(output)
    captured.gradients.setdefault(path, []).append(nudge)
  return captured


def _is_linear(module: nn.Module, method: str) -> bool:
  return isinstance(module, LINEN_LAYERS) and method in METHODS


def _perturb(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
  """An interceptor: zeros added to what a linear layer returns."""
  output = call(*args, **kwargs)
  if _is_linear(context.module, context.method_name):
    return context.module.perturb(context.method_name, output)
  return output


def _linen_parameters(params: Any, module: list[str]) -> tuple[str, Any]:
  """Path of a module's kernel, as the report writes it, and its bias."""
  own = _at(params, module)
  (leaf,) = set(own) - {"bias"}
  keys = ["params", *module, leaf]
  return "".join(f"['{key}']" for key in keys), own.get("bias")


def _at(tree: Any, keys: Any) -> Any:
  for key in keys:
    tree = tree[key]
  return tree


# flax.nnx


def nnx_captures(
  call: Callable[..., Any], module: nnx.Module, cotangent: jax.Array
) -> Captured:
  """By `nnx.capture`, with `perturb` after every linear layer of `module`."""
  structure, state = nnx.split(module)

  def run(nudges: Any) -> Any:
    forward = nnx.capture(
      call,
      nnx.Perturbation,
      nnx.Intermediate,
      init=nudges,
      method_outputs=nnx.Intermediate,
    )
    with _perturbed_layers():
      copy = nnx.merge(structure, state, copy=True)
      outputs, nudges, seen = forward(copy)
    return outputs, (nudges, seen)

  _, (shapes, _) = jax.eval_shape(lambda: run(None))
  nudges = jax.tree.map(jnp.zeros_like, shapes)
  _, pull_back, (_, seen) = jax.vjp(run, nudges, has_aux=True)
  (gradients,) = pull_back(cotangent)
  captured = Captured({}, {})
  outputs = dict(nnx.to_flat_state(seen))
  for (*keys, nudge), gradient in nnx.to_flat_state(gradients):
    method = nudge.removeprefix("after ")
    (output,) = outputs[(*keys, method)].get_value()
    own = _at(nnx.to_pure_dict(nnx.filter_state(state, nnx.Param)), keys)
    (leaf,) = set(own) - {"bias"}
    if method == "__call__":
      output = output - own.get("bias", 0)
    path = "".join(f"[{key!r}]" for key in (*keys, leaf)) + ".value"
    captured.outputs.setdefault(path, []).append(output)
    captured.gradients.setdefault(path, []).append(gradient.get_value())
  return captured


def stacked(captured: Captured) -> Captured:
  """Of an unrolled twin, as a scan has it: list indices become an axis."""

  def stack(arrays: dict[str, list[jax.Array]]) -> dict[str, list[jax.Array]]:
    found: dict[str, list[jax.Array]] = {}
    for path, (array,) in arrays.items():
      found.setdefault(re.sub(r"\[\d+\]", "", path), []).append(array)
    return {
      path: several if path in arrays else [jnp.stack(several)]
      for path, several in found.items()
    }

  return Captured(stack(captured.outputs), stack(captured.gradients))


@contextlib.contextmanager
def _perturbed_layers() -> Iterator[None]:
  """Linear layers add zeros to what they return."""
  with contextlib.ExitStack() as stack:
    for layer, method in itertools.product(NNX_LAYERS, METHODS):
      if hasattr(layer, method):
        nudged = _nudged(getattr(layer, method), method)
        stack.enter_context(mock.patch.object(layer, method, nudged))
    yield


def _nudged(call: Callable[..., Any], method: str) -> Callable[..., Any]:
  def nudged(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self.perturb(f"after {method}", call(self, *args, **kwargs))

  return nudged
