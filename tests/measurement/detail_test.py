"""What `detail=True` and `measure_and_grad` add, against NumPy by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captures import EPSILON, statistics
from small_models import normal

from initjax.measurement import measure, measure_and_grad

X = normal(6, 8)
KERNELS = normal(5, 8, 8, variance=1 / 8, seed=2)


def cosine(z):
  """Mean over pairs of different rows."""
  z = np.asarray(z, np.float64)
  units = z / np.linalg.norm(z, axis=1, keepdims=True)
  pairs = np.triu_indices(len(z), 1)
  return float((units @ units.T)[pairs].mean())


def report_of(fn, *arguments, **options):
  return jax.jit(functools.partial(measure, fn, **options))(*arguments)


def records(*arguments):
  return report_of(*arguments, detail=True).to_records()


def relu_net(params, x):
  return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


PARAMS = {
  "in": KERNELS[0],
  "bias": np.float32([0, 0, 0, -50, 0, -50, 0, 0]),
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
  images, kernel = normal(4, 5, 5, 3), normal(3, 3, 3, 7, seed=2)

  @jax.jit
  def conv(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=dimensions
    )

  def model(params, x):
    return conv(jax.nn.relu(conv(x, params[0]) + params[1]), params[2])

  bias = np.float32([0, 0, -1e3, 0, 0, 0, 0])
  params = [kernel, bias, np.ones((1, 1, 7, 2), np.float32)]
  first, second = records(model, params, images)
  assert (second["dead_units"], second["units"], second["samples"]) == (1, 7, 4)
  output = np.reshape(conv(images, kernel), (4, -1))
  np.testing.assert_allclose(
    first["correlation"], cosine(output), atol=50 * EPSILON
  )


def pre_activation(kernels, x):
  """The carry is what the activation is applied to."""
  layer = lambda z, w: (jnp.tanh(z) @ w, None)
  return jax.lax.scan(layer, x @ kernels[0], kernels[1:])[0]


def post_activation(kernels, x, reverse=False):
  """The carry is what the activation gives."""
  layer = lambda h, w: (jnp.tanh(h @ w), None)
  rest = kernels[1:][:: -1 if reverse else 1]
  h = jnp.tanh(x @ kernels[0])
  return jax.lax.scan(layer, h, rest, reverse=reverse)[0]


backwards = functools.partial(post_activation, reverse=True)


def unrolled(kernels, x):
  for kernel in kernels[:-1]:
    x = jnp.tanh(x @ kernel)
  return x @ kernels[-1]


MODELS = [pre_activation, post_activation, backwards, unrolled]


@pytest.mark.parametrize("model", MODELS)
def test_saturation_is_that_of_the_activation_before(model):
  """E|φ'| where φ was applied, whichever repeat of a scan that was."""
  expected, z = [], X @ KERNELS[0]
  for kernel in KERNELS[1:]:
    expected.append(np.mean(1 - np.tanh(z) ** 2))
    z = np.tanh(z) @ kernel
  params = list(KERNELS) if model is unrolled else KERNELS
  found = [row["saturation"] for row in records(model, params, X)]
  assert np.isnan(found[0])
  np.testing.assert_allclose(found[1:], expected, rtol=50 * EPSILON)


def test_no_gradient_of_a_scan_is_held():
  """Of what its repeats slice; the norms are those of the whole."""
  kernels = normal(64, 16, 16, variance=2 / 16, seed=3)

  def model(kernels, x):
    layer = lambda h, w: (jax.nn.relu(h @ w), None)
    return jax.lax.scan(layer, x, kernels)[0].sum()

  x = normal(4, 16)
  gradient = jax.jit(jax.grad(model)).lower(kernels, x).compile()
  watched = functools.partial(measure, model, detail=True)
  watched = jax.jit(watched).lower(kernels, x).compile()
  found = watched(kernels, x).gradient_norms["."]
  want = np.linalg.norm(np.asarray(gradient(kernels, x)))
  np.testing.assert_allclose(found, want, rtol=50 * EPSILON)
  held = [each.memory_analysis() for each in (gradient, watched)]
  bytes_of = [each.temp_size_in_bytes for each in held]
  assert bytes_of[1] < bytes_of[0] + kernels.nbytes / 4


def test_norms_are_those_of_the_gradients():
  loss = lambda params, x: jnp.sum(relu_net(params, x) ** 2)
  found = report_of(loss, PARAMS, X, detail=True).gradient_norms
  for name, gradient in jax.jit(jax.grad(loss))(PARAMS, X).items():
    expected = np.linalg.norm(np.asarray(gradient))
    np.testing.assert_allclose(found[f"{name}"], expected, rtol=50 * EPSILON)


def test_a_norm_does_not_underflow_before_the_gradient_does():
  loss = lambda p, x: 1e-25 * jnp.sum(x @ p)
  found = report_of(loss, KERNELS[0], X, detail=True).gradient_norms["."]
  expected = 1e-25 * np.linalg.norm(np.outer(X.sum(0), np.ones(8)))
  np.testing.assert_allclose(found, expected, rtol=50 * EPSILON)


def test_a_training_step_watches_itself():
  """Value and gradients are the plain ones, and aux comes out."""

  def loss(params, x):
    outputs = relu_net(params, x)
    return jnp.mean(outputs**2), {"outputs": outputs}

  found, expected, alone = jax.jit(
    lambda *a: (
      measure_and_grad(loss, *a, has_aux=True),
      jax.value_and_grad(loss, has_aux=True)(*a),
      measure(loss, *a, has_aux=True),
    )
  )(PARAMS, X)
  chex.assert_trees_all_close(
    jax.device_get((found.outputs, found.gradients)),
    jax.device_get(expected),
    rtol=20 * EPSILON,
    atol=EPSILON,
  )
  chex.assert_trees_all_equal(found.report, alone)


def test_integers_and_keys_among_the_parameters_have_no_gradient():
  params = {"w": KERNELS[0], "step": np.array(3), "key": jax.random.key(0)}
  run = functools.partial(measure, lambda p, x: x @ p["w"], detail=True)
  assert jax.eval_shape(run, params, X).norms.paths == ("w",)


def test_a_complex_sample_is_twice_as_many_numbers():
  """The cosine of two is that of their real and imaginary parts."""
  x, kernel = normal(6, 5), normal(5, 4, seed=2) + 1j * normal(5, 4, seed=3)
  report = report_of(lambda p, x: x @ p, kernel, x, detail=True)
  (row,) = report.to_records()
  output = np.asarray(x) @ np.asarray(kernel)
  both = np.concatenate([output.real, output.imag], axis=1)
  np.testing.assert_allclose(
    row["correlation"], cosine(both), atol=50 * EPSILON
  )


def test_one_sample_has_no_correlation_and_zeros_have_no_direction():
  model = lambda p, x: x @ p
  (row,) = records(model, KERNELS[0], X[:1])
  assert np.isnan(row["correlation"])
  x = X.copy()
  x[2] = 0
  (row,) = records(model, KERNELS[0], x)
  alive = np.delete(X @ KERNELS[0], 2, axis=0)
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

  params = {"q": np.ones((8, 8), np.int8), "w": KERNELS[0]}
  forward, backward = statistics(report_of(model, params, X))
  assert (forward[0].size, backward[0].size) == (48, 0)


def test_draws_become_one_record_with_their_spread():
  run = lambda w: measure(lambda p, x: x @ p, w, X)
  (row,) = jax.jit(jax.vmap(run))(KERNELS).to_records()
  each = [np.log2(np.mean((X @ w) ** 2)) for w in KERNELS]
  assert row["draws"] == 5
  np.testing.assert_allclose(
    row["forward_log2_second_moment"], np.mean(each), rtol=1e-5
  )
  np.testing.assert_allclose(
    row["forward_log2_second_moment_std"], np.std(each, ddof=1), rtol=1e-4
  )


def test_a_cosine_of_more_samples_than_int32_has_pairs():
  """From 46,342 · 46,341 on it overflowed; NumPy counts in float64."""
  x = 0.5 + normal(70_000, 4)
  kernel = np.eye(4, dtype=np.float32)
  (row,) = measure(lambda p, x: x @ p, kernel, x, detail=True).to_records()
  units = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
  count = len(x)
  cosine = ((units.sum(0) ** 2).sum() - count) / count / (count - 1)
  np.testing.assert_allclose(row["correlation"], cosine, rtol=1e-4)
