"""Measured statistics against those taken by hand, and what must not change.

By hand means: zeros are added to every operation's output; the gradient with
respect to them is that of the output.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captures import EPSILON, assert_row
from flax import nnx

from initjax.probes import measure
from initjax.tracing import functional

X = jax.random.normal(jax.random.key(1), (6, 8))


def mlp(params, x):
  for kernel, bias in params[:-1]:
    x = jax.nn.gelu(x @ kernel + bias)
  kernel, bias = params[-1]
  return x @ kernel + bias


def mlp_params(key, sizes=(8, 16, 16, 3)):
  keys = jax.random.split(key, len(sizes) - 1)
  return [
    (jax.random.normal(k, (m, n)) / np.sqrt(m), jnp.full(n, 0.1))
    for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
  ]


def mlp_by_hand(params, x, cotangent):
  def run(nudges):
    h, outputs = x, []
    for (kernel, bias), nudge in zip(params, nudges, strict=True):
      z = h @ kernel + nudge
      outputs.append(z)
      h = jax.nn.gelu(z + bias)
    return z + bias, outputs

  nudges = [jnp.zeros((len(x), bias.size)) for _, bias in params]
  _, pull_back, outputs = jax.vjp(run, nudges, has_aux=True)
  return outputs, pull_back(cotangent)[0]


@pytest.mark.parametrize("compiled", [False, True])
def test_an_mlp_equals_the_capture_by_hand(compiled):
  params = mlp_params(jax.random.key(0))
  cotangent = jax.random.normal(jax.random.key(2), (6, 3))
  run = functools.partial(measure, mlp, cotangent=cotangent)
  report = (jax.jit(run) if compiled else run)(params, X)
  outputs, gradients = mlp_by_hand(params, X, cotangent)
  for row, output in zip(report.forward, outputs, strict=True):
    assert_row(row, output)
  for row, gradient in zip(report.backward, gradients, strict=True):
    assert_row(row, gradient)


def test_a_scalar_is_a_loss():
  params = mlp_params(jax.random.key(0))
  report = measure(lambda p, x: jnp.mean(mlp(p, x) ** 2), params, X)
  outputs = mlp(params, X)
  _, gradients = mlp_by_hand(params, X, 2 * outputs / outputs.size)
  assert_row(report.backward[0], gradients[0])


def test_a_random_cotangent_has_unit_variance_and_its_key():
  def readout(kernel, x):
    return x @ kernel

  x, kernel = jnp.ones((500, 8)), jnp.ones((8, 200))
  rows = [
    measure(readout, kernel, x, key=jax.random.key(k)).backward[0]
    for k in (0, 0, 1)
  ]
  chex.assert_trees_all_equal(rows[0], rows[1])
  assert rows[0].mean != rows[2].mean
  # E[x²] of N = 1e5 normals has standard deviation √(2/N)
  assert abs(2 ** float(rows[0].log2_second_moment) - 1) < 5 * np.sqrt(2e-5)


class Block(nn.Module):
  """One layer of a scanned stack."""

  @nn.compact
  def __call__(self, h, _):
    return nn.Dense(8)(jax.nn.silu(h)), None


class Scanned(nn.Module):
  """A scanned and rematerialised stack."""

  @nn.compact
  def __call__(self, x):
    h = nn.Dense(8)(x)
    layers = nn.scan(
      nn.remat(Block),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=4,
    )
    return layers()(h, None)[0]


def test_every_repeat_of_a_scan_is_a_row_of_its_own():
  model = Scanned()
  variables = model.init(jax.random.key(0), X)
  cotangent = jnp.ones((6, 8))
  run = functools.partial(measure, model.apply, cotangent=cotangent)
  report = jax.jit(run)(variables, X)
  params = variables["params"]
  first = params["Dense_0"]
  (stack,) = (value["Dense_0"] for key, value in params.items() if "Sc" in key)

  def run(nudges):
    z = X @ first["kernel"] + nudges[0]
    outputs = [z]
    for kernel, bias, nudge in zip(
      stack["kernel"], stack["bias"], nudges[1:], strict=True
    ):
      before = first["bias"] if len(outputs) == 1 else stack["bias"][0] * 0
      h = jax.nn.silu(z + before)
      z = h @ kernel + nudge
      outputs.append(z)
      z = z + bias
    return z, outputs

  nudges = [jnp.zeros((6, 8))] * 5
  _, pull_back, outputs = jax.vjp(run, nudges, has_aux=True)
  (gradients,) = pull_back(cotangent)
  assert report.forward[1].mean.shape == (4,)
  rows = [report.forward[0]] + [
    jax.tree.map(lambda leaf, i=i: leaf[i], report.forward[1]) for i in range(4)
  ]
  for row, output in zip(rows, outputs, strict=True):
    assert_row(row, output)
  rows = [report.backward[0]] + [
    jax.tree.map(lambda leaf, i=i: leaf[i], report.backward[1])
    for i in range(4)
  ]
  for row, gradient in zip(rows, gradients, strict=True):
    assert_row(row, gradient)


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


class Normalized(nn.Module):
  """Batch statistics to update, and dropout."""

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=False)(nn.Dense(16)(x))
    x = nn.Dropout(0.5, deterministic=False)(jax.nn.relu(x))
    return nn.Dense(3)(x)


def test_mutable_collections_and_dropout_keys():
  model = Normalized()
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  variables = model.init(keys, X)
  rngs = {"dropout": jax.random.key(2)}
  apply = functools.partial(model.apply, mutable=["batch_stats"], rngs=rngs)
  run = functools.partial(
    measure, apply, has_aux=True, cotangent=jnp.ones((6, 3))
  )
  report = jax.jit(run)(variables, X)
  params = variables["params"]
  assert_row(report.forward[0], X @ params["Dense_0"]["kernel"])
  _, captured = model.apply(
    variables, X, rngs=rngs, mutable=["batch_stats", "intermediates"],
    capture_intermediates=True,
  )  # fmt: skip
  (output,) = captured["intermediates"]["Dense_1"]["__call__"]
  assert_row(report.forward[1], output - params["Dense_1"]["bias"])
  assert_row(report.backward[1], jnp.ones((6, 3)))


def test_nnx_modules():
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.first = nnx.Linear(8, 16, rngs=rngs)
      self.norm = nnx.BatchNorm(16, rngs=rngs)
      self.drop = nnx.Dropout(0.5, rngs=rngs)
      self.second = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
      return self.second(self.drop(jnp.tanh(self.norm(self.first(x)))))

  net = Net(nnx.Rngs(0))
  fn, params = functional(net)
  report = measure(fn, params, X, cotangent=jnp.ones((6, 3)))
  assert_row(report.forward[0], X @ net.first.kernel[...])
  assert_row(report.backward[1], jnp.ones((6, 3)))


def test_an_untaken_branch_says_that_it_was_not_run():
  def model(p, x, flag):
    return jax.lax.cond(flag, lambda: x @ p[0], lambda: x @ p[1])

  params = [jnp.ones((8, 3)), jnp.zeros((8, 3))]
  report = measure(model, params, X, jnp.bool_(True))
  counts = {
    op.path: (float(forward.size), float(backward.size))
    for op, forward, backward in zip(
      report.graph.ops, report.forward, report.backward, strict=True
    )
  }
  assert counts == {"[0]": (18.0, 18.0), "[1]": (0.0, 0.0)}


def test_a_straight_through_product_keeps_its_gradient():
  """Its own rule, not the derivative of rounding, goes on to the input."""

  @jax.custom_vjp
  def quantised(w, x):
    return x @ jnp.round(w)

  quantised.defvjp(
    lambda w, x: (quantised(w, x), (w, x)),
    lambda saved, g: (saved[1].T @ g, g @ saved[0].T),
  )
  w = jax.random.normal(jax.random.key(0), (8, 8))

  def model(p, x):
    return quantised(p["quantised"], x @ p["first"])

  params = {"first": jnp.eye(8), "quantised": w}
  report = measure(model, params, X, cotangent=X)
  assert_row(report.forward[1], X @ jnp.round(w))
  assert_row(report.backward[0], X @ w.T)


def test_half_precision_is_reduced_in_float32():
  params = jax.tree.map(
    lambda leaf: leaf.astype(jnp.bfloat16), mlp_params(jax.random.key(0))
  )
  x = X.astype(jnp.bfloat16)
  report = measure(mlp, params, x)
  assert report.forward[0].mean.dtype == jnp.float32
  assert_row(report.forward[0], x @ params[0][0])


def test_seeds_by_vmap_equal_one_by_one():
  keys = jax.random.split(jax.random.key(0), 3)
  run = jax.jit(lambda key: measure(mlp, mlp_params(key), X))
  many = jax.jit(jax.vmap(run))(keys)
  for i, key in enumerate(keys):
    one = run(key)
    chex.assert_trees_all_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], many.forward),
      one.forward,
      rtol=200 * EPSILON,
      atol=200 * EPSILON,
    )


def test_sharded_inputs_and_parameters_give_the_same_numbers():
  mesh = jax.make_mesh((4, 2), ("data", "model"))
  spec = jax.sharding.PartitionSpec
  x = jnp.tile(X, (4, 1))
  params = mlp_params(jax.random.key(0))
  cotangent = jnp.ones((24, 3))
  run = jax.jit(functools.partial(measure, mlp, cotangent=cotangent))
  plain = run(params, x)
  shard = functools.partial(jax.sharding.NamedSharding, mesh)
  params[0] = (
    jax.device_put(params[0][0], shard(spec(None, "model"))), params[0][1]
  )  # fmt: skip
  sharded = run(params, jax.device_put(x, shard(spec("data"))))
  chex.assert_trees_all_close(
    (plain.forward, plain.backward),
    (sharded.forward, sharded.backward),
    rtol=200 * EPSILON,
    atol=200 * EPSILON,
  )


def test_records_are_plain():
  records = measure(mlp, mlp_params(jax.random.key(0)), X).to_records()
  assert [record["fan_in"] for record in records] == [8, 16, 16]
  assert all(isinstance(record["forward_mean"], float) for record in records)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: measure(lambda p, x: jnp.argmax(x @ p), jnp.eye(8), X),
     "an output that can be differentiated"),
    (lambda: measure(lambda p, x: x @ p, jnp.eye(8), X, cotangent=X[:2]),
     "the shapes of the outputs"),
  ],
)  # fmt: skip
def test_errors_say_what_is_wanted(call, message):
  with pytest.raises(ValueError, match=message):
    call()
