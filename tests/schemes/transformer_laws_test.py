"""T-Fixup, DeepNorm and mimetic attention in transformers of 128 layers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax
from initjax import schemes

DIM, TOKENS, DEEP = 32, 12, 128
DEPTHS = (8, DEEP)
NAMES = ("query", "key", "value", "out", "up", "down")
SCALED = ["*value", "*out", "*up", "*down"]
UNSCALED = ["*query", "*key"]
IDS = jax.random.randint(jax.random.key(5), (4, TOKENS), 0, 64)
XAVIER = initjax.initializers.xavier_uniform(batch_axis=0)


def shapes(depth):
  kernel = jax.ShapeDtypeStruct((depth, DIM, DIM), jnp.float32)
  table = jax.ShapeDtypeStruct((64, DIM), jnp.float32)
  return {"layers": dict.fromkeys(NAMES, kernel), "embedding": table}


def norm(x):
  x = x - x.mean(axis=-1, keepdims=True)
  return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def attention(k, x):
  logits = (x @ k["query"]) @ (x @ k["key"]).mT / math.sqrt(DIM)
  return jax.nn.softmax(logits) @ (x @ k["value"]) @ k["out"]


def feed_forward(k, x):
  return jax.nn.relu(x @ k["up"]) @ k["down"]


def bare(params):
  """x + F(x), without LayerNorm."""

  def layer(x, k):
    x = x + attention(k, x)
    return x + feed_forward(k, x), None

  return jax.lax.scan(layer, params["embedding"][IDS], params["layers"])[0]


def post_norm(params, alpha):
  """LN(α·x + F(x))."""

  def layer(x, k):
    x = norm(alpha * x + attention(k, x))
    return norm(alpha * x + feed_forward(k, x)), None

  start = norm(params["embedding"][IDS])
  return jax.lax.scan(layer, start, params["layers"])[0]


@functools.partial(jax.jit, static_argnums=0)
def layer_update(fn, params, *options):
  """‖Δf‖/η in the limit of small η, for one step of SGD on the layers."""

  def outputs(layers):
    out = fn({**params, "layers": layers}, *options)
    head = jax.random.normal(jax.random.key(1), (DIM,)) / math.sqrt(DIM)
    return out @ head

  loss = lambda layers: 0.5 * jnp.mean((outputs(layers) - 1) ** 2)
  grads = jax.grad(loss)(params["layers"])
  return jnp.linalg.norm(jax.jvp(outputs, (params["layers"],), (grads,))[1])


def t_fixup(depth, part):
  return schemes.t_fixup(
    jax.random.key(0),
    shapes(depth),
    **{f"{part}_layers": depth, f"{part}_scaled": SCALED},
    unscaled=UNSCALED,
    embeddings="embedding",
    kernel_init=XAVIER,
  ).params


def unscaled(params):
  """The same with Xavier everywhere."""
  return schemes.rules([("layers/*", XAVIER)]).apply(jax.random.key(0), params)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_t_fixup_updates_do_not_grow_with_depth(part):
  """A layer adds Θ(1/N): from 8 to 128 the sum is constant up to what the
  stream itself grows, a factor 1 + O(N^-½). A missing factor on values and
  matrices would leave 16, and Xavier alone explodes."""
  shallow, deep = (float(layer_update(bare, t_fixup(n, part))) for n in DEPTHS)
  assert abs(math.log(deep / shallow)) < math.log(2)
  unbounded = layer_update(bare, unscaled(t_fixup(DEEP, part)))
  assert not unbounded < 1e6 * deep


def test_deep_norm_updates_do_not_grow_with_depth():
  """A layer adds Θ(β²/α²) = 1/(4N). Plain post-norm (α = β = 1) and β alone,
  without α, grow."""
  deltas = []
  for depth in DEPTHS:
    made = schemes.deep_norm(
      jax.random.key(0),
      shapes(depth)
      | {"embedding": jax.random.normal(jax.random.key(9), (64, DIM))},
      encoder_layers=depth,
      encoder_scaled=SCALED,
      unscaled=UNSCALED,
      kernel_init=XAVIER,
    )
    alpha = made.multipliers["encoder_alpha"]
    plain = unscaled(made.params)
    ways = [(made.params, alpha), (plain, 1.0), (made.params, 1.0)]
    deltas.append([float(layer_update(post_norm, *way)) for way in ways])
  (shallow, *_), (deep, plain, without_alpha) = deltas
  assert abs(math.log(deep / shallow)) < math.log(1.5)
  assert plain > 20 * deep
  assert without_alpha > 8 * deep


@pytest.mark.parametrize(
  ("counts", "expected"),
  [
    ({"encoder_layers": 100}, (200**0.25, 800**-0.25, None, None)),
    ({"decoder_layers": 100}, (None, None, 200**0.25, 800**-0.25)),
    (  # 0.81·(16⁴·16)^(1/16) = 0.81·16^(5/16)
      {"encoder_layers": 16, "decoder_layers": 16},
      (0.81 * 2**1.25, 0.87 / 2**1.25, 48**0.25, 192**-0.25),
    ),
  ],
)
def test_deep_norm_constants(counts, expected):
  got = schemes.deep_norm_constants(**counts)
  for one, wanted in zip(got, expected, strict=True):
    assert one == (wanted and pytest.approx(wanted, rel=1e-12))


def test_transformer_errors():
  with pytest.raises(ValueError, match="has layers"):
    schemes.deep_norm_constants()
  with pytest.raises(ValueError, match="contradict"):
    schemes.t_fixup(
      jax.random.key(0), shapes(1), encoder_layers=1, decoder_scaled=SCALED
    )


def mimetic(depth, heads):
  split = jax.ShapeDtypeStruct((depth, DIM, heads, DIM // heads), jnp.float32)
  out = jax.ShapeDtypeStruct((depth, heads, DIM // heads, DIM), jnp.float32)
  tree = {name: {"kernel": split} for name in ("query", "key", "value")}
  tree["out"] = {"kernel": out}
  made = schemes.mimetic_attention(
    jax.random.key(0), {"attention": tree}, num_heads=heads
  )
  return {
    name: leaf["kernel"] for name, leaf in made.params["attention"].items()
  }


def test_mimetic_products_in_every_layer():
  """The diagonals of α₁Z + β₁I and α₂Z - β₂I have mean β ± α/D (whole rank,
  one head): 5 standard errors, and Frobenius norm² α²D + β²D for the noise."""
  k = mimetic(DEEP, 1)
  product = jnp.einsum("ldhk,lehk->lde", k["query"], k["key"])
  values = jnp.einsum("ldhk,lhke->lde", k["value"], k["out"])
  for matrix, alpha, beta in ((product, 0.7, 0.7), (values, 0.4, -0.4)):
    means = jnp.trace(matrix, axis1=1, axis2=2) / DIM
    assert jnp.all(jnp.abs(means - beta) < 5 * alpha / DIM)
    noise = matrix - beta * jnp.eye(DIM)
    error = 5 * math.sqrt(2 / noise.size)
    assert abs(jnp.mean(noise**2) * DIM / alpha**2 - 1) < error


def test_mimetic_maps_look_at_themselves_in_every_layer():
  """Tokens of independent entries see themselves by β₁√K: in all layers and
  heads. Xavier kernels see everyone alike: 1/tokens."""
  heads = 2
  x = jax.random.normal(jax.random.key(2), (TOKENS, DIM))

  def own(k):
    q, key = (jnp.einsum("td,ldhk->lhtk", x, k[n]) for n in ("query", "key"))
    logits = q @ key.mT / math.sqrt(DIM // heads)
    maps = jax.nn.softmax(logits)
    return jnp.diagonal(maps, axis1=-2, axis2=-1).mean(axis=-1)

  k = mimetic(DEEP, heads)
  assert jnp.all(own(k) > 3 / TOKENS)
  keys = jax.random.split(jax.random.key(3), 2)
  init = initjax.initializers.xavier_uniform(
    in_axis=1, out_axis=(2, 3), batch_axis=0
  )
  plain = {
    n: init(s, k[n].shape) for n, s in zip(("query", "key"), keys, strict=True)
  }
  assert abs(own(plain).mean() - 1 / TOKENS) < 1 / TOKENS


def test_mimetic_heads_are_best_approximations():
  """Eckart-Young: with the same Z, K of D singular values, the largest."""
  made = schemes.mimetic_kernels(jax.random.key(0), DIM, 4)
  noise = jax.random.normal(jax.random.key(0), (5, DIM, DIM)) / math.sqrt(DIM)
  wanted = np.asarray(0.7 * noise[1:] + 0.7 * jnp.eye(DIM), np.float64)
  u, s, v = np.linalg.svd(wanted)
  best = (u[:, :, :8] * s[:, None, :8]) @ v[:, :8]
  got = jnp.einsum("dhk,ehk->hde", made.query, made.key)
  np.testing.assert_allclose(got, best, atol=1e-4)  # √D·eps·σ/gap of σ's


def test_mimetic_refuses_other_shapes():
  kernel = {"kernel": jnp.zeros((6, 4))}
  params = dict.fromkeys(("query", "key", "value", "out"), kernel)
  with pytest.raises(ValueError, match=r"needs\s+\[D, H, K\]"):
    schemes.mimetic_attention(jax.random.key(0), params, num_heads=2)
