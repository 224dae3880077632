"""Measured statistics against those taken by hand, and what must not change.

By hand means: zeros are added to every operation's output; the gradient with
respect to them is that of the output.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captures import EPSILON, assert_row, captures, statistics
from small_models import normal

from initjax.diagnosis import diagnose
from initjax.graph import signal_graph
from initjax.measurement import measure

X = normal(6, 8)
COTANGENT = normal(6, 3, seed=2)


def mlp(params, x):
  for kernel, bias in params[:-1]:
    x = jax.nn.gelu(x @ kernel + bias)
  kernel, bias = params[-1]
  return x @ kernel + bias


def mlp_params(*draws):
  """One draw, or several along a leading axis."""
  return [
    (normal(*draws, m, n, variance=1 / m, seed=m + n),
     np.full((*draws, n), 0.1, np.float32))
    for m, n in ((8, 16), (16, 16), (16, 3))
  ]  # fmt: skip


PARAMS = mlp_params()


@jax.jit
def mlp_by_hand(params, x, cotangent):
  def run(see):
    h = x
    for index, (kernel, bias) in enumerate(params):
      z = see(str(index), h @ kernel) + bias
      h = jax.nn.gelu(z)
    return z

  outputs, gradients = captures(run, cotangent)
  return [*outputs.values()], [*gradients.values()]


def rows_of(fn, *arguments, **options):
  """Statistics forward and backward, by one program."""
  run = lambda *a: statistics(measure(fn, *a, **options))
  return jax.device_get(jax.jit(run)(*arguments))


def close(one, other):
  for first, second in zip(
    jax.tree.leaves(one), jax.tree.leaves(other), strict=True
  ):
    tolerance = 200 * EPSILON
    np.testing.assert_allclose(first, second, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_mlp_equals_the_capture_by_hand(compiled):
  run = functools.partial(measure, mlp, cotangent=COTANGENT)
  report = (jax.jit(run) if compiled else run)(PARAMS, X)
  by_hand = mlp_by_hand(PARAMS, X, COTANGENT)
  for rows, arrays in zip(statistics(report), by_hand, strict=True):
    for row, (array,) in zip(rows, arrays, strict=True):
      assert_row(row, array)
  records = report.to_records()
  assert [record["fan_in"] for record in records] == [8, 16, 16]
  assert all(isinstance(record["forward_mean"], float) for record in records)


def test_a_scalar_is_a_loss():
  _, backward = rows_of(lambda p, x: jnp.mean(mlp(p, x) ** 2), PARAMS, X)
  outputs = jax.jit(mlp)(PARAMS, X)
  cotangent = 2 * np.asarray(outputs) / outputs.size
  _, gradients = mlp_by_hand(PARAMS, X, cotangent)
  assert_row(backward[0], gradients[0][0])


def test_a_random_cotangent_has_unit_variance_and_its_key():
  x, kernel = np.ones((500, 8)), np.ones((8, 200))
  run = jax.jit(lambda key: measure(jnp.matmul, x, kernel, key=key).backward[0])
  rows = [jax.device_get(run(jax.random.key(k))) for k in (0, 0, 1)]
  chex.assert_trees_all_equal(rows[0], rows[1])
  assert rows[0].mean != rows[2].mean
  # E[x²] of N = 1e5 normals has standard deviation √(2/N)
  assert abs(2 ** float(rows[0].log2_second_moment) - 1) < 5 * np.sqrt(2e-5)


def temporary_bytes(model, measured, depth=100, width=512, batch=256):
  """Temporary memory of one gradient with respect to the inputs, compiled."""
  kernels = jax.ShapeDtypeStruct((depth, width, width), jnp.float32)
  x = jax.ShapeDtypeStruct((batch, width), jnp.float32)

  def plain(kernels, x, cotangent):
    return jax.vjp(lambda x: model(kernels, x), x)[1](cotangent)

  def seen(kernels, x, cotangent):
    return measure(model, kernels, x, cotangent=cotangent)

  compiled = jax.jit(seen if measured else plain).lower(kernels, x, x).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def stack_of(layer):
  def model(kernels, x):
    return jax.lax.scan(lambda h, w: (layer(h, w), None), x, kernels)[0]

  return model


def test_hundred_layers_cost_no_more_memory_than_their_gradient():
  model = stack_of(lambda h, w: jax.nn.relu(h @ w))
  assert temporary_bytes(model, True) <= 1.10 * temporary_bytes(model, False)


def test_remat_stays_remat_with_its_policy():
  """A layer that saves much: with remat it may not, measured or not."""

  def layer(h, w):
    return jnp.sin(jnp.tanh(jnp.exp(-((h @ w) ** 2)))) + h

  rematerialised = stack_of(jax.checkpoint(layer))
  saving = jax.checkpoint_policies.everything_saveable
  saved = stack_of(jax.checkpoint(layer, policy=saving))
  plain, seen = (temporary_bytes(rematerialised, m) for m in (False, True))
  assert seen <= 1.10 * plain
  assert seen < temporary_bytes(saved, True) / 1.5


def test_an_untaken_branch_says_that_it_was_not_run():
  def model(p, x, flag):
    return jax.lax.cond(flag, lambda: x @ p[0], lambda: x @ p[1])

  arguments = [np.ones((8, 3))] * 2, X, np.bool_(True)
  graph, rows = signal_graph(model, *arguments), rows_of(model, *arguments)
  sizes = [tuple(row.size for row in both) for both in zip(*rows, strict=True)]
  paths = [op.path for op in graph.ops]
  assert dict(zip(paths, sizes, strict=True)) == {
    "0": (18, 18),
    "1": (0, 0),
  }


def test_a_straight_through_product_keeps_its_gradient():
  """Its own rule, not the derivative of rounding, goes on to the input."""

  @jax.custom_vjp
  def quantised(w, x):
    return x @ jnp.round(w)

  quantised.defvjp(
    lambda w, x: (quantised(w, x), (w, x)),
    lambda saved, g: (saved[1].T @ g, g @ saved[0].T),
  )
  w = normal(8, 8, seed=2)
  model = lambda p, x: quantised(p["quantised"], x @ p["first"])
  params = {"first": np.eye(8, dtype=np.float32), "quantised": w}
  forward, backward = rows_of(model, params, X, cotangent=X)
  assert_row(forward[1], X @ np.round(w))
  assert_row(backward[0], X @ w.T)


def test_half_precision_is_reduced_in_float32():
  """Op by op: compiled as one, XLA may skip the rounding to 16 bits."""
  kernel, x = (leaf.astype(jnp.bfloat16) for leaf in (PARAMS[0][0], X))
  report = measure(lambda p, x: x @ p, kernel, x)
  (row,), _ = statistics(report)
  assert row.mean.dtype == np.float32
  assert_row(row, jnp.matmul(x, kernel))


def test_seeds_by_vmap_equal_one_by_one():
  params = mlp_params(3)
  run = jax.jit(lambda p: statistics(measure(mlp, p, X))[0])
  many = jax.jit(jax.vmap(run))(params)
  for i in range(3):
    at = functools.partial(jax.tree.map, lambda leaf, i=i: np.asarray(leaf)[i])
    close(at(many), run(at(params)))


def test_sharded_inputs_and_parameters_give_the_same_numbers():
  mesh = jax.make_mesh((4, 2), ("data", "model"))
  spec = jax.sharding.PartitionSpec
  x, cotangent = np.tile(X, (4, 1)), np.ones((24, 3))
  run = jax.jit(
    lambda p, x: statistics(measure(mlp, p, x, cotangent=cotangent))
  )
  plain = run(PARAMS, x)
  place = functools.partial(jax.sharding.NamedSharding, mesh)
  (kernel, bias), *rest = PARAMS
  kernel = jax.device_put(kernel, place(spec(None, "model")))
  x = jax.device_put(x, place(spec("data")))
  close(plain, run([(kernel, bias), *rest], x))


@pytest.mark.parametrize(
  ("fn", "options", "message"),
  [
    (lambda p, x: jnp.argmax(x @ p), {},
     "an output that can be differentiated"),
    (lambda p, x: x @ p, {"cotangent": X[:2]}, "same shapes as the outputs"),
  ],
)  # fmt: skip
def test_errors_say_what_is_wanted(fn, options, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(functools.partial(measure, fn, **options), np.eye(8), X)


@pytest.mark.parametrize("verb", [measure, diagnose])
def test_shapes_alone_cannot_be_measured(verb):
  model = lambda p, x: x @ p["w"]
  array, shape = jnp.ones((3, 3)), jax.ShapeDtypeStruct((3, 3), jnp.float32)
  with pytest.raises(TypeError, match=r"expected arrays, got .* at w;"):
    verb(model, {"w": shape}, array)
  with pytest.raises(TypeError, match=r"expected arrays, got .* at 0;"):
    verb(model, {"w": array}, shape)
