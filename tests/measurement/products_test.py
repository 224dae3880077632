"""`predict` through products of branches: against means over many draws.

Inputs have a mean square of exactly 1, so that what a Gaussian kernel makes of
them is exactly Gaussian and the expectations of one gated block are exact: the
mean over draws is off by its standard error alone.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax import measure, signal_graph
from initjax.propagation import predict

N, DRAWS = 64, 256
X = np.random.default_rng(1).normal(size=(4, N))
X -= X.mean(1, keepdims=True)
X = np.float32(X / X.std(1, keepdims=True))
SIGNS = np.where(np.indices((4 * N, 4 * N)).sum(0) % 2, 1, -1)


def signs(*shape, variance):
  """A kernel of that mean square, with no chance in it."""
  here = SIGNS[: shape[0], : shape[1]]
  return np.float32(here * math.sqrt(variance / shape[0]))


def swiglu(p, x):
  return (jax.nn.silu(x @ p[0]) * (x @ p[1])) @ p[2]


def halves(p, x):
  return jax.nn.glu(x @ p[0]) @ p[1]


def split(p, x):
  gate, value = jnp.split(x @ p[0], 2, axis=-1)
  return (jnp.tanh(gate) * (0.5 * value)) @ p[1]


def on_the_stream(p, x):
  h = x @ p[0]
  return (h * jax.nn.sigmoid(x @ p[1])) @ p[2]


def three(p, x):
  product = (x @ p[0]) * jnp.tanh(x @ p[1]) * jax.nn.relu(x @ p[2])
  return product @ p[3]


def behind_a_norm(p, x):
  gated = jax.nn.standardize(jnp.tanh(x @ p[0]) * (x @ p[1]))
  return jax.nn.relu(gated @ p[2]) @ p[3]


def added(p, x):
  h = x @ p[0]
  return (h + 0.5 * jax.nn.relu(x @ p[1])) @ p[2]


def taken_away(p, x):
  """Two terms of one sign and mean 1/√(2π): they cancel in part."""
  first, second = jax.nn.relu(x @ p[0]), jax.nn.relu(x @ p[1])
  return (first - second) @ p[2]


def activated(p, x):
  return jnp.tanh((x @ p[0]) * (x @ p[1])) @ p[2]


MODELS = {
  swiglu: [(N, 2 * N), (N, 2 * N), (2 * N, N)],
  halves: [(N, 4 * N), (2 * N, N)],
  split: [(N, 4 * N), (2 * N, N)],
  on_the_stream: [(N, N)] * 3,
  three: [(N, N)] * 4,
  behind_a_norm: [(N, N)] * 4,
  added: [(N, N)] * 3,
  taken_away: [(N, N)] * 3,
  activated: [(N, N)] * 3,
}


@pytest.mark.parametrize("fn", MODELS)
def test_mean_squares_of_signal_and_gradient_are_met(fn):
  shapes, rng = MODELS[fn], np.random.default_rng(2)

  def squares(draw):
    kernels, cotangent = draw
    report = measure(fn, kernels, X, cotangent=cotangent)
    both = report.forward, report.backward
    bits = [[row.log2_second_moment for row in rows] for rows in both]
    return jnp.exp2(jnp.array(bits))

  scaled = lambda m, n: rng.normal(size=(DRAWS, m, n)) * math.sqrt(1.7 / m)
  kernels = [np.float32(scaled(*shape)) for shape in shapes]
  cotangents = np.float32(rng.normal(size=(DRAWS, 4, N)))
  run = jax.jit(functools.partial(jax.lax.map, squares))
  measured = np.array(run((kernels, cotangents)))
  certain = [signs(*shape, variance=1.7) for shape in shapes]
  found = predict(fn, certain, X)
  measured[:, 1] /= measured[:, 1, -1:].mean(0)
  errors = measured.std(0) / math.sqrt(DRAWS)
  theory = np.exp2(np.array(found[:2]))
  # a norm over N units keeps 1 + O(1/N) of what it is given
  slack = theory * (5 / N if fn is behind_a_norm else 1e-4)
  if fn is activated:  # by units that are drawn
    slack = theory * 0.02
  assert np.isfinite(theory).all()
  assert (abs(measured.mean(0) - theory) < 4.5 * errors + slack).all()


def test_means_add_up_along_a_stream_of_rectified_branches():
  """h ← h + relu(W h): q' = q + q_relu + 2·E[h]·E[relu], E[h] grows too."""

  def fn(p, x):
    block = lambda h, w: (h + jax.nn.relu(h @ w), None)
    return jax.lax.scan(block, x @ p[0], p[1])[0] @ p[2]

  kernel = signs(N, N, variance=1)
  kernels = [kernel, np.stack([kernel] * 6), kernel]
  found = predict(fn, kernels, X).forward
  q, mean, sizes = 1.0, 0.0, []
  for _ in range(6):
    sizes.append(q)
    step = math.sqrt(q / (2 * math.pi))
    q, mean = q + q / 2 + 2 * mean * step, mean + step
  # the first block reads the output before the scan, the second the stream
  assert found[0] == pytest.approx(0, abs=1e-5)
  assert found[1:3] == pytest.approx(np.log2(sizes[:2]), abs=1e-5)
  assert found[-1] == pytest.approx(math.log2(q), abs=1e-5)


def itself(p, x):
  z = x @ p[0]
  return (z * jax.nn.sigmoid(jnp.sort(z))) @ p[1]


def highway(p, x):
  gate = jax.nn.sigmoid(x @ p[0])
  return (gate * (x @ p[1]) + (1 - gate) * x) @ p[2]


def quotient(p, x):
  return ((x @ p[0]) / (3 + jnp.cos(x @ p[1]))) @ p[2]


@pytest.mark.parametrize("fn", [itself, highway, quotient])
def test_what_is_not_independent_or_gaussian_is_unknown(fn):
  kernels = [signs(N, N, variance=N)] * 3
  assert np.isnan(predict(fn, kernels, X).forward[-1])


def test_a_graph_of_many_shared_nodes_is_read_once():
  """2⁶⁴ paths lead from the product to the input."""

  def fn(p, x):
    h = x @ p[0]
    for _ in range(64):
      h = jnp.tanh(h) * h[:, ::-1]
    return h @ p[1]

  graph = signal_graph(fn, [jax.ShapeDtypeStruct((N, N), X.dtype)] * 2, X)
  assert graph.ops[-1].feed.stream is None
