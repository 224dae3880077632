"""T-Fixup, DeepNorm and mimetic attention in transformers of 128 layers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from drawn_by_numpy import normal

import initjax
from initjax import recipes

DIM, TOKENS, DEEP = 32, 12, 128
DEPTHS = (8, DEEP)
NAMES = ("query", "key", "value", "out", "up", "down")
SCALED = ["*value", "*out", "*up", "*down"]
UNSCALED = ["*query", "*key"]
KEY = jax.random.key(0)
IDS = np.random.default_rng(5).integers(0, 64, (4, TOKENS))
HEAD = normal(1, DIM, scale=DIM**-0.5)
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
    return fn({**params, "layers": layers}, *options) @ HEAD

  loss = lambda layers: 0.5 * jnp.mean((outputs(layers) - 1) ** 2)
  grads = jax.grad(loss)(params["layers"])
  return jnp.linalg.norm(jax.jvp(outputs, (params["layers"],), (grads,))[1])


def tfixup(depth, part):
  return recipes.tfixup(
    KEY,
    shapes(depth),
    **{f"{part}_layers": depth, f"{part}_scaled": SCALED},
    unscaled=UNSCALED,
    embeddings="embedding",
    kernel_init=XAVIER,
  ).params


def xavier(params):
  """The same with Xavier everywhere, by NumPy."""
  shape, scale = params["layers"]["query"].shape, DIM**-0.5
  kernels = {n: normal(i, *shape, scale=scale) for i, n in enumerate(NAMES)}
  return {**params, "layers": kernels}


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_t_fixup_updates_do_not_grow_with_depth(part):
  """A layer adds Θ(1/N): from 8 to 128 the sum is constant up to what the
  stream itself grows, a factor 1 + O(N^-½). A missing factor on values and
  matrices would leave 16, and Xavier alone explodes."""
  shallow, deep = (float(layer_update(bare, tfixup(n, part))) for n in DEPTHS)
  assert abs(math.log(deep / shallow)) < math.log(2)
  unbounded = layer_update(bare, xavier(tfixup(DEEP, part)))
  assert not unbounded < 1e6 * deep


@functools.cache
def deepnorm(depth):
  made = recipes.deepnorm(
    KEY,
    shapes(depth) | {"embedding": jnp.asarray(normal(9, 64, DIM))},
    encoder_layers=depth,
    encoder_scaled=SCALED,
    unscaled=UNSCALED,
    kernel_init=XAVIER,
  )
  return made.params, made.multipliers["encoder_alpha"]


def test_deep_norm_updates_do_not_grow_with_depth():
  """A layer adds Θ(β²/α²) = 1/(4N). Plain post-norm (α = β = 1) and β alone,
  without α, grow."""
  update = lambda *way: float(layer_update(post_norm, *way))
  shallow, deep = (update(*deepnorm(depth)) for depth in DEPTHS)
  assert abs(math.log(deep / shallow)) < math.log(1.5)
  params, _ = deepnorm(DEEP)
  assert update(xavier(params), 1.0) > 20 * deep
  assert update(params, 1.0) > 8 * deep


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
  got = recipes.deepnorm_constants(**counts)
  for one, wanted in zip(got, expected, strict=True):
    assert one == (wanted and pytest.approx(wanted, rel=1e-12))


def test_transformer_errors():
  with pytest.raises(ValueError, match="has layers"):
    recipes.deepnorm_constants()
  with pytest.raises(ValueError, match="contradict"):
    recipes.tfixup(KEY, shapes(1), encoder_layers=1, decoder_scaled=SCALED)


@functools.partial(jax.jit, static_argnums=(0, 1))
def mimetic(depth, heads):
  split = jax.ShapeDtypeStruct((depth, DIM, heads, DIM // heads), jnp.float32)
  out = jax.ShapeDtypeStruct((depth, heads, DIM // heads, DIM), jnp.float32)
  tree = {name: {"kernel": split} for name in ("query", "key", "value")}
  tree["out"] = {"kernel": out}
  made = recipes.mimetic_attention(KEY, {"attention": tree}, num_heads=heads)
  return {
    name: leaf["kernel"] for name, leaf in made.params["attention"].items()
  }


def test_mimetic_products_in_every_layer():
  """The diagonals of α₁Z + β₁I and α₂Z - β₂I have mean β ± α/D (whole rank,
  one head): 5 standard errors, and Frobenius norm² α²D + β²D for the noise."""
  k = jax.device_get(mimetic(DEEP, 1))
  product = np.einsum("ldhk,lehk->lde", k["query"], k["key"], optimize=True)
  values = np.einsum("ldhk,lhke->lde", k["value"], k["out"], optimize=True)
  for matrix, alpha, beta in ((product, 0.7, 0.7), (values, 0.4, -0.4)):
    means = np.trace(matrix, axis1=1, axis2=2) / DIM
    assert np.all(abs(means - beta) < 5 * alpha / DIM)
    noise = matrix - beta * np.eye(DIM)
    error = 5 * math.sqrt(2 / noise.size)
    assert abs(np.mean(noise**2) * DIM / alpha**2 - 1) < error


def test_mimetic_maps_look_at_themselves_in_every_layer():
  """Tokens of independent entries see themselves by β₁√K: in all layers and
  heads. Xavier kernels see everyone alike: 1/tokens."""
  heads = 2
  x = normal(2, TOKENS, DIM)

  def own(query, key):
    q, k = (
      np.einsum("td,ldhk->lhtk", x, w, optimize=True) for w in (query, key)
    )
    logits = q @ k.mT / math.sqrt(DIM // heads)
    maps = scipy.special.softmax(logits, axis=-1)
    return np.diagonal(maps, axis1=-2, axis2=-1).mean(axis=-1)

  k = jax.device_get(mimetic(DEEP, heads))
  assert np.all(own(k["query"], k["key"]) > 3 / TOKENS)
  shape, scale = k["query"].shape, DIM**-0.5
  plain = own(*(normal(seed, *shape, scale=scale) for seed in range(2)))
  assert abs(plain.mean() - 1 / TOKENS) < 1 / TOKENS


def test_mimetic_heads_are_best_approximations():
  """Eckart-Young: with the same Z, K of D singular values, the largest."""
  made = recipes.mimetic_kernels(KEY, DIM, 4)
  noise = np.asarray(jax.random.normal(KEY, (5, DIM, DIM))) / math.sqrt(DIM)
  wanted = 0.7 * noise[1:].astype(np.float64) + 0.7 * np.eye(DIM)
  u, s, v = np.linalg.svd(wanted)
  best = (u[:, :, :8] * s[:, None, :8]) @ v[:, :8]
  got = np.einsum("dhk,ehk->hde", *map(np.asarray, (made.query, made.key)))
  np.testing.assert_allclose(got, best, atol=1e-4)  # √D·eps·σ/gap of σ's


def test_mimetic_refuses_other_shapes():
  kernel = {"kernel": np.zeros((6, 4), np.float32)}
  params = dict.fromkeys(("query", "key", "value", "out"), kernel)
  with pytest.raises(ValueError, match=r"needs\s+\[D, H, K\]"):
    recipes.mimetic_attention(KEY, params, num_heads=2)
