"""Small models as pure functions, at any width."""

import jax
import jax.numpy as jnp
import numpy as np

F32 = jnp.float32


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, F32)


def mlp(params, x):
  h = jax.nn.relu(x @ params["in"] + params["bias"])
  h = jax.nn.relu(h @ params["hidden"])
  return h @ params["out"]


def mlp_shapes(n):
  return {
    "in": shape(3, n),
    "bias": shape(n),
    "hidden": shape(n, n),
    "out": shape(n, 2),
  }


X = shape(5, 3)
TOKENS = jax.ShapeDtypeStruct((2, 6), jnp.int32)
LAYERS, VOCABULARY = 2, 11


def norm(x, scale, bias):
  x = x - x.mean(-1, keepdims=True)
  return (
    x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale + bias
  )


def heads(x, head):
  return x.reshape(*x.shape[:-1], -1, head)


def attend(q, k, v, scale):
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale
  mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
  scores = jnp.where(mask, scores, -1e9)
  mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
  return mixed.reshape(*mixed.shape[:-2], -1)


def block(params, h, number_of_heads, score=1.0):
  x = norm(h, params["scale1"], params["bias1"])
  d = params["q"].shape[-1] // number_of_heads
  q, k, v = (heads(x @ params[n] + params[f"{n}_bias"], d) for n in "qkv")
  h = h + attend(q, k, v, score * d**-0.5) @ params["o"]
  x = norm(h, params["scale2"], params["bias2"])
  return h + jax.nn.gelu(x @ params["up"]) @ params["down"]


def gpt(params, tokens, number_of_heads=2, score=1.0, logits=1.0):
  """Pre-LN, untied, unless there is no "out"."""
  h = params["embed"][tokens]
  for number in range(len(params["blocks"])):
    h = block(params["blocks"][number], h, number_of_heads, score)
  h = norm(h, params["scale"], params["bias"])
  out = params["out"] if "out" in params else params["embed"].T
  return h @ out * logits


def block_shapes(n):
  found = {name: shape(n, n) for name in "qkvo"}
  found |= {f"{name}_bias": shape(n) for name in "qkv"}
  found |= {"up": shape(n, 4 * n), "down": shape(4 * n, n)}
  vectors = ("scale1", "bias1", "scale2", "bias2")
  return found | {name: shape(n) for name in vectors}


def gpt_shapes(n, layers=LAYERS, tied=False):
  found = {
    "embed": shape(VOCABULARY, n),
    "blocks": [block_shapes(n) for _ in range(layers)],
    "scale": shape(n),
    "bias": shape(n),
  }
  return found if tied else found | {"out": shape(n, VOCABULARY)}


def drawn(shapes, seed=0):
  """Normal, of std 1/√fan_in for kernels; scales 1, biases 0."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = str(path[-1])
    if "scale" in name or "bias" in name:
      return np.full(leaf.shape, "scale" in name, leaf.dtype)
    std = 1.0 if "embed" in name else leaf.shape[0] ** -0.5
    return np.asarray(rng.normal(size=leaf.shape) * std, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)
