"""Llama-7B, ViT-g and Gemma-9B at full size, as shapes: nothing is allocated.

One block serves them all; what differs is a field of `Size`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Size(NamedTuple):
  layers: int
  width: int
  heads: int
  kv_heads: int
  features: int
  hidden: int
  words: int
  gate: Callable[[jax.Array], jax.Array]
  causal: bool = True
  offset: float = 0.0
  """what is added to a scale"""
  cap: float | None = None
  """of scores"""
  centred: bool = False


SIZES = {
  "Llama-7B": Size(32, 4096, 32, 32, 128, 11008, 32000, jax.nn.silu),
  "ViT-g": Size(
    40, 1408, 16, 16, 88, 6144, 1000, jax.nn.gelu, causal=False, centred=True
  ),
  "Gemma-9B": Size(
    42, 3584, 16, 8, 256, 14336, 256000, jax.nn.gelu, offset=1.0, cap=50.0
  ),
}
TOKENS = 1024


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)


def params_of(size: Size) -> Any:
  d, h, f = size.width, size.hidden, size.features
  layer = {
    "norm": shape(d), "q": shape(d, size.heads, f),
    "k": shape(d, size.kv_heads, f), "v": shape(d, size.kv_heads, f),
    "o": shape(size.heads, f, d), "norm2": shape(d), "up": shape(d, h),
    "down": shape(h, d),
  }  # fmt: skip
  if size.centred:
    layer |= {"shift": shape(d), "shift2": shape(d), "bias": shape(h)}
  else:
    layer["gate"] = shape(d, h)
  first = shape(14, 14, 3, d) if size.centred else shape(size.words, d)
  ends = {"in": first, "norm": shape(d), "out": shape(d, size.words)}
  return {**ends, "layers": [dict(layer) for _ in range(size.layers)]}


def inputs_of(size: Size) -> jax.ShapeDtypeStruct:
  if size.centred:
    return shape(2, 224, 224, 3)
  return jax.ShapeDtypeStruct((1, TOKENS), jnp.int32)


def model_of(size: Size) -> Callable[[Any, jax.Array], jax.Array]:
  def norm(x, scale, shift=None):
    x = x - x.mean(-1, keepdims=True) if size.centred else x
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    x = x * (size.offset + scale)
    return x if shift is None else x + shift

  def turned(x):
    half = size.features // 2
    rates = 1e4 ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None] * rates
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

  def attend(p, x):
    q = jnp.einsum("btd,dhf->bthf", x, p["q"])
    k, v = (jnp.einsum("btd,dhf->bthf", x, p[name]) for name in "kv")
    if size.causal:
      q, k = turned(q), turned(k)
    shared = size.heads // size.kv_heads
    k, v = (jnp.repeat(each, shared, axis=2) for each in (k, v))
    scores = jnp.einsum("bthf,bshf->bhts", q, k) * size.features**-0.5
    if size.cap is not None:
      scores = size.cap * jnp.tanh(scores / size.cap)
    if size.causal:
      mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
      scores = jnp.where(mask, scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.einsum("bhts,bshf->bthf", weights, v)
    return jnp.einsum("bthf,hfd->btd", mixed, p["o"])

  def block(p, x):
    x = x + attend(p, norm(x, p["norm"], p.get("shift")))
    h = norm(x, p["norm2"], p.get("shift2"))
    if size.centred:
      return x + size.gate(h @ p["up"] + p["bias"]) @ p["down"]
    return x + (size.gate(h @ p["gate"]) * (h @ p["up"])) @ p["down"]

  def run(p, x):
    if size.centred:
      names = ("NHWC", "HWIO", "NHWC")
      x = jax.lax.conv_general_dilated(
        x, p["in"], (14, 14), "VALID", dimension_numbers=names
      )
      x = x.reshape(len(x), -1, size.width)
    else:
      x = p["in"][x] * size.width**0.5 if size.offset else p["in"][x]
    for layer in p["layers"]:
      x = block(layer, x)
    x = norm(x, p["norm"])
    return (x.mean(1) if size.centred else x) @ p["out"]

  return run
