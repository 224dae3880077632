"""Both readings of the walk agree: what `auto_init` asks for, `predict` finds.

Kernels hold ±σ in equal numbers, so that their mean square is the variance that
was asked for, to rounding to float32 (1e-7); tables of moments err by 1e-9 in
log₂: 1e-5 is allowed for.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax import plan_init, predict

N = 32
relu, standardize = jax.nn.relu, jax.nn.standardize


def signs(shape, std, seed):
  values = np.where(np.arange(math.prod(shape)) % 2, std, -std)
  shuffled = np.random.default_rng(seed).permutation(values)
  return np.float32(shuffled.reshape(shape))


def gated(p, x):
  h = x @ p["a"]
  return (jax.nn.silu(h @ p["b"]) * (h @ p["c"])) @ p["d"]


def scanned(p, x):
  layer = lambda h, kernel: (h + 0.5 * jnp.tanh(h) @ kernel, None)
  return jax.lax.scan(layer, x @ p["a"], p["layers"])[0] @ p["b"]


MODELS = {
  "chain": lambda p, x: jnp.tanh(
    jax.nn.gelu(x @ p["a"] + p["bias"]) @ p["b"]
  ) @ p["c"],
  "residual": lambda p, x: relu(
    x @ p["a"] + 0.7 * relu(x @ p["b"]) @ p["c"]
  ) @ p["d"],
  "gated": gated,
  "scanned": scanned,
  "layer norm": lambda p, x: relu(
    standardize(relu(x @ p["a"]) @ p["b"] + p["bias"])
  ) @ p["c"],
  "batch norm": lambda p, x: relu(
    standardize(relu(x @ p["a"]) @ p["b"], axis=0)
  ) @ p["c"],
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_auto_init_asks_for_is_of_unit_size_to_predict(name):
  fn, x = MODELS[name], np.ones((4, N), np.float32)
  shapes = {**dict.fromkeys("abcd", (N, N)), "layers": (3, N, N)}
  params = {key: signs(shape, 1.0, 0) for key, shape in shapes.items()}
  params["bias"] = signs((N,), 0.5, 0)
  for seed, row in enumerate(plan_init(fn, params, x).rows):
    params[row.path][row.repeat] = signs((N, N), row.std, seed)
  found = predict(fn, params, x)
  np.testing.assert_allclose(found.forward, 0, atol=1e-5)
  assert np.isfinite(found.backward).all()


def test_parameters_without_values_scale_by_one_and_shift_by_nothing():
  """Kernels get 1/fan_in; a scale counts as a whole, as in 1 + scale."""
  scaled = lambda p, x: (1 + p["scale"]) * (x @ p["w"]) + p["bias"]
  fn = lambda p, x: relu(scaled(p, x)) @ p["out"]
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  sizes = {"w": (3, 8), "scale": (8,), "bias": (8,), "out": (8, 2)}
  params = {name: shape(*size) for name, size in sizes.items()}
  found = predict(fn, params, shape(4, 3))
  np.testing.assert_allclose(found.forward, [0, -1], atol=1e-5)
  expected = [math.log2(2 / 8 / 2), 0]
  np.testing.assert_allclose(found.backward, expected, atol=1e-5)
  assert "scales to be 1 and biases 0" in found.notes[0]
  ones = {k: np.ones(v.shape, np.float32) for k, v in params.items()}
  assert predict(fn, ones, shape(4, 3)).notes == ()
