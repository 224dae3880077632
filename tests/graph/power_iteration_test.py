"""A kernel over its spectral norm is one row; a power iteration is none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import normal

from initjax import calibrate, measure, plan_init, signal_graph

X = normal(16, 8)
KERNELS = [normal(8, 8, variance=1 / 8, seed=2), normal(8, 8, seed=3)]
U = normal(8, seed=4)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.SpectralNorm(nn.Dense(8))(x, update_stats=True)
    return nn.SpectralNorm(nn.Dense(8))(nn.relu(x), update_stats=True)


def linen_model():
  net = Net()
  shapes = jax.eval_shape(net.init, jax.random.key(0), X)
  ones = lambda leaf: np.ones(leaf.shape, leaf.dtype)
  stats, params = (
    jax.tree.map(ones, shapes[name]) for name in ("batch_stats", "params")
  )

  def fn(params, stats, x):
    variables = {"params": params, "batch_stats": stats}
    return net.apply(variables, x, mutable=["batch_stats"])

  return fn, params, stats


def nnx_model():
  def layer(at):
    linear = nnx.Linear(8, 8, rngs=nnx.Rngs(at))
    return nnx.SpectralNorm(linear, rngs=nnx.Rngs(at))

  layers = nnx.List([layer(0), layer(1)])
  shape, params, rest = nnx.split(layers, nnx.Param, ...)

  def fn(params, rest, x):
    first, last = layers = nnx.merge(shape, params, rest, copy=True)
    y = last(nnx.relu(first(x, update_stats=True)), update_stats=True)
    return y, nnx.state(layers, nnx.BatchStat)

  return fn, params, rest


def unit(v):
  return v / jnp.linalg.norm(v)


def iterated(w, u, steps=2):
  for _ in range(steps):
    v = unit(w.T @ u)
    u = unit(w @ v)
  return u @ w @ v, u


def by_hand(params, u, x):
  sigma, u = iterated(params[0], u)
  return jax.nn.relu(x @ (params[0] / sigma)) @ params[1], u


def behind_the_product(params, u, x):
  sigma, u = iterated(params[0], u)
  return jax.nn.relu(x @ params[0] / sigma) @ params[1], u


MODELS = {
  "linen": linen_model,
  "nnx": nnx_model,
  "by hand": lambda: (by_hand, KERNELS, U),
  "behind": lambda: (behind_the_product, KERNELS, U),
  "closed over": lambda: (lambda p, t, x: by_hand(p, U, t * x), KERNELS, 1.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_its_vectors_are_no_signal(name):
  fn, params, stats = MODELS[name]()
  graph = signal_graph(fn, params, stats, X)
  assert [op.kernel_shape for op in graph.ops] == [(8, 8)] * 2
  assert not graph.products
  assert [op.fan_in for op in graph.ops] == [8, 8]
  assert graph.ops[0].reason == "input"
  assert len(plan_init(fn, params, stats, X).rows) == 2


@pytest.mark.slow
def test_a_normalized_kernel_is_measured_and_left_alone():
  """σ of the kernel itself, by a singular value decomposition."""
  given = [np.float32(5 * KERNELS[0]), KERNELS[1]]
  fn = lambda p, u, x: (
    jax.nn.relu(x @ (p[0] / iterated(p[0], u, 300)[0])) @ p[1]
  )
  kernel = given[0] / np.linalg.norm(given[0], 2)
  report = measure(fn, given, U, X)
  wanted = np.log2(np.mean(np.square(X @ kernel)))
  found = float(report.forward[0].log2_second_moment)
  np.testing.assert_allclose(found, wanted, atol=1e-3)
  _, info = calibrate(fn, given, U, X)
  assert len(info.operations) == 2


VECTORS = {
  "of a condition": lambda p, c, x: (x @ p[0]) * (1 + c @ p[1]),
  "of a state": lambda p, h, x: jnp.tanh(x @ p[0] + h @ p[1]),
  "of another tower": lambda p, c, x: (x @ p[0], c @ p[1]),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_of_data_is_signal(name):
  ops = signal_graph(VECTORS[name], KERNELS, U[None], X).ops
  assert [op.path for op in ops] == ["0", "1"]
