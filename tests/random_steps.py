"""Steps of random models, each with the fans of its kernels by hand.

A step is data: a kind, four numbers, whatever they are, and the steps that it
is made around. Built for a signal [batch, time, width], it is parameters, a
function, and what a reader has to find: every use of a kernel.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BATCH = 2
ROWS = 5  # of tables, which ids index
EPSILON = 1e-2  # of normalizations: they amplify rounding tenfold at most


class Step(NamedTuple):
  """One step of a model."""

  kind: str
  numbers: tuple[int, int, int, int] = (0, 0, 0, 0)
  """the simplest step of its kind has zeros"""
  inner: tuple["Step", ...] = ()


class Shape(NamedTuple):
  """Of a signal, without its batch."""

  time: int
  width: int


class Extra(NamedTuple):
  """Inputs beside the signal."""

  ids: jax.Array
  """[batch] integers below 2"""
  key: jax.Array


class Use(NamedTuple):
  """One use of a kernel."""

  path: str
  fan_in: float
  fan_out: float
  repeats: tuple[int, ...] | None = ()
  """None where it does not matter how they are counted"""
  must_follow: bool = True
  """else it may be named"""
  kind: str = ""
  """of its step"""


Run = Callable[[Any, jax.Array, Extra], jax.Array]


class Built(NamedTuple):
  """A step for one shape."""

  params: dict[str, Any]
  """shapes, in dicts as deep as the steps are"""
  run: Run
  shape: Shape
  """of what comes out"""
  uses: tuple[Use, ...] = ()
  added: tuple[str, ...] = ()
  """parameters that are no kernels"""


ACTIVATIONS = (
  lambda x: x, jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu, jnp.sin,
  lambda x: jax.nn.leaky_relu(x, 0.3), lambda x: 2.0 * jax.nn.sigmoid(x) - 0.5,
)  # fmt: skip


def activation_of(number: int) -> Callable[[jax.Array], jax.Array]:
  return ACTIVATIONS[number % len(ACTIVATIONS)]


def _divisor(width: int, number: int) -> int:
  divisors = [d for d in range(1, width + 1) if width % d == 0]
  return divisors[number % len(divisors)]


def width_of(number: int) -> int:
  return 2 + number % 5


# One kernel, used once: `numbers` are (width, ..., activation)

WAYS: tuple[tuple[Callable[[int, int], Any], Callable[..., Any]], ...] = (
  (lambda n, m: (n, m), lambda w, n, m: w),
  (lambda n, m: (m, n), lambda w, n, m: w.T),
  (lambda n, m: (n, m), lambda w, n, m: w * 0.5),
  (lambda n, m: (n + 1, m), lambda w, n, m: w[1:]),
  (lambda n, m: (n * m,), lambda w, n, m: w.reshape(n, m)),
  (lambda n, m: (n, 2, m), lambda w, n, m: w[:, 1]),
  (lambda n, m: (2, n, m), lambda w, n, m: jnp.split(w, 2)[1][0]),
  (lambda n, m: (n, m), lambda w, n, m: w[::-1]),
  (lambda n, m: (n, m), lambda w, n, m: -w / math.sqrt(n)),
  (lambda n, m: (n, m), lambda w, n, m: jnp.roll(w, 1, axis=0)),
  (lambda n, m: (n, m), lambda w, n, m: w[np.arange(n)[::-1]]),
  (
    lambda n, m: (n,),
    lambda w, n, m: jnp.stack([jnp.roll(w, i) for i in range(m)], 1),
  ),
)
"""How a kernel [n, m] is stored, and seen."""


def dense(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A matrix, stored in some way, and perhaps a bias."""
  out, activation = width_of(a), activation_of(d)
  stored, seen = WAYS[b % len(WAYS)]
  biased = c % 2 == 1
  params = {"w": stored(shape.width, out)}

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    y = x @ seen(p["w"], shape.width, out)
    return activation(y + p["b"] if biased else y)

  if biased:
    params["b"] = (out,)
  use = Use("w", shape.width, out)
  return Built(params, run, Shape(shape.time, out), (use,), ("b",) * biased)


def project(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A plain matrix to `a` features."""
  activation = activation_of(d)
  run = lambda p, x, extra: activation(x @ p["w"])
  use = Use("w", shape.width, a)
  return Built({"w": (shape.width, a)}, run, Shape(shape.time, a), (use,))


def einsum(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Features as [g, r]; both are summed, or g is shared, or only r is seen."""
  g = _divisor(shape.width, a)
  sizes = {"g": g, "r": shape.width // g, "f": 1 + b % 3}
  letters, out = (("grf", "btf"), ("grf", "btgf"), ("rf", "btgf"))[c % 3]
  orders = list(itertools.permutations(letters))
  kernel = "".join(orders[(b // 3) % len(orders)])
  spec, activation = f"btgr,{kernel}->{out}", activation_of(d)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    x = x.reshape(*x.shape[:2], g, -1)
    y = jnp.einsum(spec, x, p["w"])
    return activation(y.reshape(*y.shape[:2], -1))

  summed = math.prod(sizes[s] for s in ("gr" if c % 3 == 0 else "r"))
  width = math.prod(sizes[s] for s in out[2:])
  params = {"w": tuple(sizes[letter] for letter in kernel)}
  use = Use("w", summed, sizes["f"])
  return Built(params, run, Shape(shape.time, width), (use,))


_NUMBERS = ("NHC", "HIO", "NHC")


def conv(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Around the circle of times, so that every place is an interior one."""
  window, groups = 1 + a % 3, _divisor(shape.width, b)
  out, way = groups * (1 + c % 2), (c // 2) % 3
  stride = 2 if way == 1 and shape.time % 2 == 0 else 1
  dilation = 2 if way == 2 else 1
  reach = (window - 1) * dilation
  window = window if reach < shape.time else 1
  reach = (window - 1) * dilation
  activation = activation_of(d)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    x = jnp.concatenate([x, x[:, :reach]], axis=1) if reach else x
    return activation(
      jax.lax.conv_general_dilated(
        x, p["w"], (stride,), "VALID", rhs_dilation=(dilation,),
        dimension_numbers=_NUMBERS, feature_group_count=groups,
      )
    )  # fmt: skip

  ins = shape.width // groups
  params = {"w": (window, ins, out)}
  use = Use("w", window * ins, window * out // groups / stride)
  return Built(params, run, Shape(shape.time // stride, out), (use,))


def transposed_conv(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Twice as many times; each sees one tap of two."""
  if shape.time > 4:
    return dense(shape, a, b, c, d)
  out, activation = width_of(a), activation_of(d)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    return activation(
      jax.lax.conv_general_dilated(
        x, p["w"], (1,), [(1, 1)], lhs_dilation=(2,), dimension_numbers=_NUMBERS
      )
    )

  use = Use("w", shape.width, 2 * out)
  params = {"w": (2, shape.width, out)}
  return Built(params, run, Shape(2 * shape.time, out), (use,))


def heads(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Kernels under vmap: of one signal, of its parts, of its times."""
  way, out, activation = b % 3, 1 + a % 3, activation_of(d)
  count = (2, _divisor(shape.width, c), shape.time)[way]
  ins = shape.width // count if way == 1 else shape.width

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    if way == 2:
      over_time = jax.vmap(jnp.matmul, in_axes=(1, 0), out_axes=1)
      return activation(over_time(x, p["w"]))
    if way == 1:
      parts = jnp.stack(jnp.split(x, count, axis=-1))
      y = jax.vmap(jnp.matmul)(parts, p["w"])
    else:
      y = jax.vmap(lambda kernel: x @ kernel)(p["w"])
    return activation(jnp.moveaxis(y, 0, 2).reshape(*x.shape[:2], -1))

  use = Use("w", ins, out * count if way == 0 else out)
  width = out if way == 2 else out * count
  params = {"w": (count, ins, out)}
  return Built(params, run, Shape(shape.time, width), (use,))


def ragged(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Rows of the first group meet one kernel, the others another."""
  out, activation = width_of(a), activation_of(d)
  first = b % (BATCH * shape.time + 1)
  sizes = np.array([first, BATCH * shape.time - first], np.int32)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.ragged_dot(rows, p["w"], jnp.asarray(sizes))
    return activation(y.reshape(*x.shape[:2], -1))

  params = {"w": (2, shape.width, out)}
  use = Use("w", shape.width, out)
  return Built(params, run, Shape(shape.time, out), (use,))


def complex_dense(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A kernel of complex numbers, of which the real part or size is taken."""
  out = width_of(a)
  take = (jnp.real, jnp.imag, jnp.abs)[b % 3]

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    turned = x * jnp.asarray(1 + 1j, p["w"].dtype)
    return take(turned @ p["w"]).astype(x.dtype)

  params = {"w": ("complex", shape.width, out)}
  use = Use("w", shape.width, out)
  return Built(params, run, Shape(shape.time, out), (use,))


def derived(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Weight normalization, standardization, a mask, a sum of two."""
  out, activation, way = width_of(a), activation_of(d), b % 4
  mask = np.tri(shape.width, out, 1)

  def kernel(w: jax.Array) -> jax.Array:
    if way == 0:
      return w / jnp.sqrt((w**2).sum(0) + EPSILON)
    if way == 1:
      return (w - w.mean(0)) / jnp.sqrt(w.var(0) + EPSILON)
    return jnp.tanh(w) if way == 2 else w * jnp.asarray(mask, w.dtype)

  run = lambda p, x, extra: activation(x @ kernel(p["w"]))
  params = {"w": (shape.width, out)}
  fans = (shape.width, out)
  if way == 3:
    fans = (mask.sum() / out, mask.sum() / shape.width)
  use = Use("w", *fans)
  return Built(params, run, Shape(shape.time, out), (use,))


def chosen(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A kernel that data choose: for each sample, or for all."""
  out, activation, way = width_of(a), activation_of(d), b % 5

  def kernels(w: jax.Array, ids: jax.Array) -> jax.Array:
    """One for each sample."""
    if way == 0:
      return jax.vmap(lambda i: w[i])(ids)
    if way == 1:
      return jnp.take(w, ids, axis=0)
    if way == 2:
      return jnp.where((ids > 0)[:, None, None], w[1], w[0])
    branches = [lambda: w[0], lambda: w[1]]
    return jax.vmap(lambda i: jax.lax.switch(i, branches))(ids)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    if way == 4:
      return activation(x @ p["w"][extra.ids[0]])
    return activation(jax.vmap(jnp.matmul)(x, kernels(p["w"], extra.ids)))

  params = {"w": (2, shape.width, out)}
  use = Use("w", shape.width, out, None)
  return Built(params, run, Shape(shape.time, out), (use,))


SINGLE = {
  "dense": dense, "einsum": einsum, "conv": conv, "heads": heads,
  "transposed_conv": transposed_conv, "ragged": ragged, "derived": derived,
  "complex_dense": complex_dense, "chosen": chosen,
}  # fmt: skip
"""One kernel alone between what goes in and what comes out."""
