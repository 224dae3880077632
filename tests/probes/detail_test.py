"""What `detail=True` and `return_gradients=True` add, against NumPy by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.probes import measure

X = jax.random.normal(jax.random.key(1), (6, 8))
KERNELS = jax.random.normal(jax.random.key(0), (5, 8, 8)) / np.sqrt(8)
EPSILON = float(np.finfo(np.float32).eps)


def cosine(z):
  """Mean over pairs of different rows."""
  z = np.asarray(z, np.float64)
  units = z / np.linalg.norm(z, axis=1, keepdims=True)
  pairs = np.triu_indices(len(z), 1)
  return float((units @ units.T)[pairs].mean())


def records(*arguments, **options):
  return measure(*arguments, detail=True, **options).to_records()


def relu_net(params, x):
  return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


PARAMS = {
  "in": KERNELS[0],
  "bias": jnp.array([0, 0, 0, -50, 0, -50, 0, 0.0]),
  "out": KERNELS[1],
}


@pytest.mark.parametrize("transposed", [False, True])
def test_units_and_samples_are_those_of_the_operation(transposed):
  """Two units are off on every sample; in both layouts."""

  def columns(params, x):
    hidden = jax.nn.relu(params["in"].T @ x + params["bias"][:, None])
    return params["out"].T @ hidden

  run = columns if transposed else relu_net
  first, second = records(run, PARAMS, X.T if transposed else X)
  assert (second["dead_units"], second["units"], second["samples"]) == (2, 8, 6)
  assert (first["dead_units"], first["units"]) == (0, 8)
  np.testing.assert_allclose(
    first["correlation"], cosine(X @ PARAMS["in"]), atol=20 * EPSILON
  )


def test_channels_are_units_and_images_are_samples():
  draw = np.random.default_rng(0).normal
  images = jnp.asarray(draw(size=(4, 5, 5, 3)), jnp.float32)
  kernel = jnp.asarray(draw(size=(3, 3, 3, 7)), jnp.float32)

  def model(params, x):
    dimensions = ("NHWC", "HWIO", "NHWC")
    conv = lambda x, w: jax.lax.conv_general_dilated(
      x, w, (1, 1), "SAME", dimension_numbers=dimensions
    )
    return conv(jax.nn.relu(conv(x, params[0]) + params[1]), params[2])

  bias = jnp.full(7, 0.0).at[2].set(-1e3)
  params = [kernel, bias, jnp.ones((1, 1, 7, 2))]
  first, second = records(model, params, images)
  assert (second["dead_units"], second["units"], second["samples"]) == (1, 7, 4)
  output = jax.lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  np.testing.assert_allclose(
    first["correlation"], cosine(output.reshape(4, -1)), atol=50 * EPSILON
  )


def pre_activation(kernels, x):
  """The carry is what the activation is applied to."""
  layer = lambda z, w: (jnp.tanh(z) @ w, None)
  return jax.lax.scan(layer, x @ kernels[0], kernels[1:])[0]


def post_activation(kernels, x):
  """The carry is what the activation gives."""
  layer = lambda h, w: (jnp.tanh(h @ w), None)
  return jax.lax.scan(layer, jnp.tanh(x @ kernels[0]), kernels[1:])[0]


def backwards(kernels, x):
  """The same, from the last kernel to the first."""
  layer = lambda h, w: (jnp.tanh(h @ w), None)
  rest = kernels[1:][::-1]
  h = jnp.tanh(x @ kernels[0])
  return jax.lax.scan(layer, h, rest, reverse=True)[0]


def unrolled(kernels, x):
  for kernel in kernels[:-1]:
    x = jnp.tanh(x @ kernel)
  return x @ kernels[-1]


@pytest.mark.parametrize(
  "model", [pre_activation, post_activation, backwards, unrolled]
)
def test_saturation_is_that_of_the_activation_before(model):
  """E|φ'| where φ was applied, whichever repeat of a scan that was."""
  expected, z = [], X @ KERNELS[0]
  for kernel in KERNELS[1:]:
    expected.append(float(jnp.mean(1 - jnp.tanh(z) ** 2)))
    z = jnp.tanh(z) @ kernel
  params = list(KERNELS) if model is unrolled else KERNELS
  found = [row["saturation"] for row in records(model, params, X)]
  assert np.isnan(found[0])
  np.testing.assert_allclose(found[1:], expected, rtol=50 * EPSILON)


def test_norms_are_those_of_the_gradients():
  loss = lambda params, x: jnp.sum(relu_net(params, x) ** 2)
  report = jax.jit(lambda p, x: measure(loss, p, x, detail=True))(PARAMS, X)
  for name, gradient in jax.grad(loss)(PARAMS, X).items():
    np.testing.assert_allclose(
      report.gradient_norms[f"['{name}']"],
      np.linalg.norm(gradient),
      rtol=50 * EPSILON,
    )


def test_a_norm_does_not_underflow_before_the_gradient_does():
  report = measure(
    lambda p, x: 1e-25 * jnp.sum(x @ p), KERNELS[0], X, detail=True
  )
  expected = np.linalg.norm(np.outer(np.asarray(X).sum(0), np.ones(8)))
  np.testing.assert_allclose(
    report.gradient_norms[""], 1e-25 * expected, rtol=50 * EPSILON
  )


def test_a_training_step_watches_itself():
  """Value and gradients are the plain ones, and aux comes out."""

  def loss(params, x):
    outputs = relu_net(params, x)
    return jnp.mean(outputs**2), {"outputs": outputs}

  found = measure(loss, PARAMS, X, has_aux=True, return_gradients=True)
  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  expected = value_and_grad(PARAMS, X)
  chex.assert_trees_all_close(
    (found.outputs, found.gradients), expected, rtol=20 * EPSILON, atol=EPSILON
  )
  alone = measure(loss, PARAMS, X, has_aux=True)
  chex.assert_trees_all_equal(found.report.forward, alone.forward)
  chex.assert_trees_all_equal(found.report.backward, alone.backward)


def test_integers_and_keys_among_the_parameters_have_no_gradient():
  params = {"w": KERNELS[0], "step": jnp.array(3), "key": jax.random.key(0)}
  report = measure(lambda p, x: x @ p["w"], params, X, detail=True)
  assert list(report.gradient_norms) == ["['w']"]


def test_one_sample_has_no_correlation_and_zeros_have_no_direction():
  (row,) = records(lambda p, x: x @ p, KERNELS[0], X[:1])
  assert np.isnan(row["correlation"])
  (row,) = records(lambda p, x: x @ p, KERNELS[0], X.at[2].set(0))
  alive = np.delete(np.asarray(X @ KERNELS[0]), 2, axis=0)
  np.testing.assert_allclose(
    row["correlation"], cosine(alive), atol=20 * EPSILON
  )


def test_an_integer_product_is_measured_forward_alone():
  """Quantised weights give an integer, which has no gradient."""

  def model(params, x):
    quantised = jax.lax.dot(
      jnp.round(x).astype(jnp.int8),
      params["q"],
      preferred_element_type=jnp.int32,
    )
    return quantised.astype(jnp.float32) @ params["w"]

  params = {"q": jnp.ones((8, 8), jnp.int8), "w": KERNELS[0]}
  report = measure(model, params, X)
  assert (report.forward[0].size, report.backward[0].size) == (48, 0)


def test_draws_become_one_record_with_their_spread():
  many = jax.vmap(lambda w: measure(lambda p, x: x @ p, w, X))(KERNELS)
  (row,) = many.to_records()
  each = [np.log2(np.mean(np.asarray(X @ w) ** 2)) for w in KERNELS]
  assert row["draws"] == 5
  np.testing.assert_allclose(
    row["forward_log2_second_moment"], np.mean(each), rtol=1e-5
  )
  np.testing.assert_allclose(
    row["forward_log2_second_moment_std"], np.std(each, ddof=1), rtol=1e-4
  )
