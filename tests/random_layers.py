"""Steps of random models that are more than one product with one kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from random_steps import (
  EPSILON,
  ROWS,
  SINGLE,
  Built,
  Extra,
  Shape,
  Use,
  activation_of,
  width_of,
)

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
  n, way, activation = shape.width, b % 6, activation_of(d)
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
  out, steps = width_of(a), (shape.time,)

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
  n, inside, out = shape.width, count * size, width_of(d)

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
  n, out, fused = shape.width, width_of(a), b % 2 == 1

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
  n, out, activation = shape.width, width_of(a), activation_of(d)
  run = lambda p, x, extra: activation(x @ p["w"]) @ p["w"].T
  uses = (Use("w", n, out), Use("w", out, n))
  return Built({"w": (n, out)}, run, shape, uses)


def low_rank(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """An adapter beside a kernel."""
  n, out = shape.width, width_of(a)
  run = lambda p, x, extra: x @ p["w"] + 0.5 * ((x @ p["u"]) @ p["v"])
  params = {"w": (n, out), "u": (n, 2), "v": (2, out)}
  uses = (Use("w", n, out), Use("u", n, 2), Use("v", 2, out))
  return Built(params, run, Shape(shape.time, out), uses)


def joined(shape: Shape, a: int, b: int, c: int, d: int) -> Built:
  """A kernel of two parameters, side by side or one above the other."""
  n, out = shape.width, width_of(a)
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
  n, out, names = shape.width, width_of(a), "uvw"[: 2 + b % 2]

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


LEAVES = SINGLE | {
  "norm": norm, "pool": pool, "dropout": dropout, "half": half,
  "stack": stack, "recurrent": recurrent, "attention": attention,
  "gated": gated, "tied": tied, "low_rank": low_rank, "joined": joined,
  "branches": branches, "look_up": look_up, "one_hot": one_hot,
  "positions": positions, "other": other,
}  # fmt: skip
