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


def _activation(number: int) -> Callable[[jax.Array], jax.Array]:
  return ACTIVATIONS[number % len(ACTIVATIONS)]


def _divisor(width: int, number: int) -> int:
  divisors = [d for d in range(1, width + 1) if width % d == 0]
  return divisors[number % len(divisors)]


def _width(number: int) -> int:
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
)
"""How a kernel [n, m] is stored, and seen."""


def dense(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A matrix, stored in some way, and perhaps a bias."""
  out, activation = _width(a), _activation(d)
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
  activation = _activation(d)
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
  spec, activation = f"btgr,{kernel}->{out}", _activation(d)

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
  activation = _activation(d)

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
  out, activation = _width(a), _activation(d)

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
  way, out, activation = b % 3, 1 + a % 3, _activation(d)
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
  out, activation = _width(a), _activation(d)
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
  out = _width(a)
  take = (jnp.real, jnp.imag, jnp.abs)[b % 3]

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    x = x * jnp.asarray(1 + 1j, p["w"].dtype)
    return take(x @ p["w"]).astype(x.real.dtype)

  params = {"w": ("complex", shape.width, out)}
  use = Use("w", shape.width, out)
  return Built(params, run, Shape(shape.time, out), (use,))


def derived(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Weight normalization, standardization, a mask, a sum of two."""
  out, activation, way = _width(a), _activation(d), b % 4
  mask = np.tri(shape.width, out, 1)

  def kernel(w: jax.Array) -> jax.Array:
    if way == 0:
      return w / jnp.sqrt((w**2).sum(0) + EPSILON)
    if way == 1:
      return (w - w.mean(0)) / jnp.sqrt(w.var(0) + EPSILON)
    return jnp.tanh(w) if way == 2 else w * jnp.asarray(mask, w.dtype)

  run = lambda p, x, extra: activation(x @ kernel(p["w"]))
  params = {"w": (shape.width, out)}
  use = Use("w", shape.width, out)
  return Built(params, run, Shape(shape.time, out), (use,))


def chosen(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A kernel that data choose: for each sample, or for all."""
  out, activation, way = _width(a), _activation(d), b % 5

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


# Tables


def _table(look_up: Callable[[jax.Array, Extra], jax.Array]) -> Any:
  def build(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
    run = lambda p, x, extra: x + look_up(p["w"], extra)
    use = Use("w", 1, shape.width, None)
    return Built({"w": (ROWS, shape.width)}, run, shape, (use,))

  return build


look_up = _table(lambda w, extra: w[extra.ids][:, None])
one_hot = _table(
  lambda w, extra: (jax.nn.one_hot(extra.ids, ROWS, dtype=w.dtype) @ w)[:, None]
)


def positions(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A row of a table for every time."""
  run = lambda p, x, extra: x + p["w"][jnp.arange(shape.time)]
  use = Use("w", 1, shape.width, None)
  return Built({"w": (shape.time, shape.width)}, run, shape, (use,))


# Several kernels


def stack(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Layers of one width under a scan, stacked in some way."""
  n, way, activation = shape.width, b % 6, _activation(d)
  depth = (2, 2) if way == 4 else (2 + a % 2,)
  params = {"w": (n, *depth, n) if way == 2 else (*depth, n, n)}

  def layer(h: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
    return activation(h @ (w.T if way == 1 else w)), None

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    w = jnp.moveaxis(p["w"], 1, 0) if way == 2 else p["w"]
    if way == 4:
      outer = lambda h, w: (jax.lax.scan(layer, h, w)[0], None)
      return jax.lax.scan(outer, x, w)[0]
    if way == 5:
      step = lambda i, h: layer(h, p["w"][i])[0]
      return jax.lax.fori_loop(0, depth[0], step, x)
    return jax.lax.scan(layer, x, w, reverse=way == 3)[0]

  return Built(params, run, shape, (Use("w", n, n, depth),))


def recurrent(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Over time; the state begins with zeros, which are no signal."""
  out, steps = _width(a), (shape.time,)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    def cell(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
      h = jnp.tanh(x @ p["u"] + h @ p["w"] + p["b"])
      return h, h

    start = jnp.zeros((x.shape[0], out), x.dtype)
    states = jax.lax.scan(cell, start, jnp.swapaxes(x, 0, 1))[1]
    return jnp.swapaxes(states, 0, 1)

  params = {"u": (shape.width, out), "w": (out, out), "b": (out,)}
  uses = (Use("u", shape.width, out, steps), Use("w", out, out, steps))
  return Built(params, run, Shape(shape.time, out), uses, ("b",))


def attention(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """With one kernel for each of q, k and v, or all in one."""
  count, size, fused = 1 + a % 2, 1 + b % 3, c % 2 == 1
  n, inside, out = shape.width, count * size, _width(d)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    if fused:
      q, k, v = jnp.moveaxis(jnp.einsum("btn,nsm->btsm", x, p["qkv"]), 2, 0)
    else:
      q, k, v = (x @ p[name] for name in "qkv")
    q, k, v = (y.reshape(*y.shape[:2], count, size) for y in (q, k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * size**-0.5
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    return y.reshape(*y.shape[:2], inside) @ p["o"]

  params: dict[str, Any] = {"o": (inside, out)}
  params |= {"qkv": (n, 3, inside)} if fused else {}
  params |= {} if fused else dict.fromkeys("qkv", (n, inside))
  uses = (Use("qkv", n, 3 * inside),)
  uses = uses if fused else tuple(Use(name, n, inside) for name in "qkv")
  uses = (*uses, Use("o", inside, out))
  return Built(params, run, Shape(shape.time, out), uses)


def gated(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """silu(x·w)·(x·v), the kernels apart or in one."""
  n, out, fused = shape.width, _width(a), b % 2 == 1

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    if fused:
      gate, y = jnp.split(x @ p["w"], 2, axis=-1)
    else:
      gate, y = x @ p["w"], x @ p["v"]
    return jax.nn.silu(gate) * y

  uses = (Use("w", n, 2 * out),)
  params = {"w": (n, 2 * out)}
  if not fused:
    params = {"w": (n, out), "v": (n, out)}
    uses = (Use("w", n, out), Use("v", n, out))
  return Built(params, run, Shape(shape.time, out), uses)


def tied(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """There by a kernel, back by its transpose."""
  n, out, activation = shape.width, _width(a), _activation(d)
  run = lambda p, x, extra: activation(x @ p["w"]) @ p["w"].T
  uses = (Use("w", n, out), Use("w", out, n))
  return Built({"w": (n, out)}, run, shape, uses)


def low_rank(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """An adapter beside a kernel."""
  n, out = shape.width, _width(a)
  run = lambda p, x, extra: x @ p["w"] + 0.5 * ((x @ p["u"]) @ p["v"])
  params = {"w": (n, out), "u": (n, 2), "v": (2, out)}
  uses = (Use("w", n, out), Use("u", n, 2), Use("v", 2, out))
  return Built(params, run, Shape(shape.time, out), uses)


def joined(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A kernel of two parameters, side by side or one above the other."""
  n, out = shape.width, _width(a)
  rows = b % 2 == 1 and n > 1
  sizes = ((1, out), (n - 1, out)) if rows else ((n, out), (n, 2))
  axis = 0 if rows else 1
  run = lambda p, x, extra: x @ jnp.concatenate([p["w"], p["v"]], axis)
  width = out if rows else out + 2
  params = dict(zip("wv", sizes, strict=True))
  use = Use("w, v", n, width)
  return Built(params, run, Shape(shape.time, width), (use,))


def branches(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A kernel in each branch of a condition, or of a switch."""
  n, out, names = shape.width, _width(a), "uvw"[: 2 + b % 2]

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    ways = [lambda x, name=name: x @ p[name] for name in names]
    if len(names) == 2:
      return jax.lax.cond(x.real.sum() > 0, *ways, x)
    return jax.lax.switch(extra.ids[0], ways, x)

  params = dict.fromkeys(names, (n, out))
  uses = tuple(Use(name, n, out) for name in names)
  return Built(params, run, Shape(shape.time, out), uses)


# What need not be followed, but named


def other(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A product written out, a triangular system, a circle, shifts."""
  n, way = shape.width, a % 4
  use = Use("w", n, n, None, must_follow=False)

  def product(w: jax.Array, x: jax.Array) -> jax.Array:
    if way == 0:
      return (x[..., None] * w).sum(-2)
    if way == 1:
      lower = jnp.eye(n, dtype=w.dtype) + jnp.tril(w, -1)
      solve = jax.scipy.linalg.solve_triangular
      return solve(lower, x.reshape(-1, n).T, lower=True).T.reshape(x.shape)
    if way == 2:
      return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), n)
    return sum(w[i] * jnp.roll(x, i, axis=1) for i in range(2))

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)  # as LAPACK wants it
    return product(p["w"].astype(wide), x.astype(wide)).astype(x.dtype)

  params = {"w": ((n, n), (n, n), (n,), (2, n))[way]}
  return Built(params, run, shape, (use,))


# Without kernels


def norm(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Layer norm, root mean square, batch norm; with a scale and a shift."""
  way = a % 3
  axes = (0, 1) if way == 2 else (-1,)

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    x = x if way == 1 else x - x.mean(axes, keepdims=True)
    size = (x**2).mean(axes, keepdims=True)
    return x * jax.lax.rsqrt(size + EPSILON) * p["scale"] + p["b"]

  params = {"scale": (shape.width,), "b": (shape.width,)}
  return Built(params, run, shape, added=("scale", "b"))


def pool(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Over time, by the mean or the largest."""
  take = (jnp.mean, jnp.max)[a % 2]
  run = lambda p, x, extra: take(x, axis=1, keepdims=True)
  return Built({}, run, Shape(1, shape.width))


def dropout(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Half of the entries."""

  def run(p: Any, x: jax.Array, extra: Extra) -> jax.Array:
    keep = jax.random.bernoulli(extra.key, 0.5, x.shape)
    return jnp.where(keep, x / 0.5, 0)

  return Built({}, run, shape)


def half(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """Through a narrower type."""
  dtype = (jnp.float32, jnp.bfloat16)[a % 2]
  run = lambda p, x, extra: x.astype(dtype).astype(x.dtype)
  return Built({}, run, shape)


SINGLE = {
  "dense": dense, "einsum": einsum, "conv": conv, "heads": heads,
  "transposed_conv": transposed_conv, "ragged": ragged, "derived": derived,
  "complex_dense": complex_dense, "chosen": chosen,
}  # fmt: skip
"""One kernel alone between what goes in and what comes out."""
LEAVES = SINGLE | {
  "norm": norm, "pool": pool, "dropout": dropout, "half": half,
  "stack": stack, "recurrent": recurrent, "attention": attention,
  "gated": gated, "tied": tied, "low_rank": low_rank, "joined": joined,
  "branches": branches, "look_up": look_up, "one_hot": one_hot,
  "positions": positions, "other": other,
}  # fmt: skip
