"""Causes ask the graph before they speak: what is said, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sick import kinds, verdict
from small_models import KEY, X, kernels, normal

from initjax.diagnosis import diagnose
from initjax.diagnosis._causes import Shape, explain, shape_of
from initjax.diagnosis._embeddings import check_embeddings
from initjax.diagnosis._observe import observe
from initjax.diagnosis._unit_causes import why_alike, why_dead
from initjax.graph import signal_graph
from initjax.testing import assert_variance_stable


def norm(h):
  return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def blocks(kernels, x):
  h = x
  for kernel in kernels:
    h = h + jnp.tanh(norm(h) @ kernel)
  return h


def test_what_a_model_has_is_not_offered_as_a_remedy():
  graph = signal_graph(blocks, list(kernels(1.0, 3)), X)
  shape = shape_of(graph.rows, in_time=False)
  assert (shape.has_norms, shape.has_sums) == (True, True)
  assert shape.remedies == "relu with he_normal()"
  plain = shape._replace(has_norms=False, has_sums=False)
  assert "nn.LayerNorm" in plain.remedies
  assert "residual branches" in plain.remedies


def test_a_gate_is_named_with_the_line_that_opens_it():
  for path, line in (
    ("params/LSTMCell_0/hf/kernel", '["LSTMCell_0"]["hf"]["bias"] += 1.0'),
    ("params/GRUCell_0/hz/kernel", '["GRUCell_0"]["iz"]["bias"] += 1.0'),
  ):
    shape = Shape(30, in_time=True, paths=("params/cell/x/kernel", path))
    cause, fix = explain("backward", -1.2, None, shape)
    assert "gate is half open at birth" in cause
    assert fix.startswith(f'variables["params"]{line}')
    assert "normalization" not in cause + fix
  plain = Shape(30, in_time=True, paths=("w",))
  assert "orthogonal" in explain("backward", -1.2, None, plain)[1]


def test_dead_units_are_blamed_on_what_they_have():
  """On biases that are there, and not on those that are 0."""

  def layers(params, x):
    h = jax.nn.relu(x @ params["in"] + params["bias"])
    return h @ params["out"]

  first, last = kernels(2.0, 2)
  params = {"in": first, "bias": np.zeros(64, np.float32), "out": last}
  observed = observe(layers, params, (X,))
  for bias, size, words in (
    (-9.0, 1.0, "Biases far below zero"),
    (0.0, 1.0, "No bias is the cause"),
    (0.0, 2.0**-70, "lost in rounding"),
  ):
    leaves = {**observed.leaves, "bias": np.full(64, bias)}
    forward = observed.found.forward._replace(
      log2_second_moment=np.log2([size, 1.0])
    )
    found = observed.found._replace(forward=forward)
    assert words in why_dead(found, leaves, 1)[0]


def test_samples_that_look_alike_in_a_residual_model_share_a_part():
  """The kernels are blamed if they are small, as in Hugging Face's ViT."""
  observed = observe(blocks, list(kernels(1.0, 3)), (X,))
  cause, fix = why_alike(observed.found, observed.leaves)
  assert "What all samples share" in cause
  assert "kernel" not in cause + fix
  small = {path: leaf * 0.02 for path, leaf in observed.leaves.items()}
  cause, fix = why_alike(observed.found, small)
  assert "variance of 0.0004/fan_in" in cause
  assert "lecun_normal" in fix


def test_small_embeddings_are_said_where_nothing_normalizes_them():
  ids = np.arange(32)

  def plain(params, ids):
    return jnp.tanh(params["rows"][ids] @ params["in"]) @ params["out"]

  def normed(params, ids):
    return jnp.tanh(norm(params["rows"][ids]) @ params["in"]) @ params["out"]

  rows, first, last = kernels(1.0, 3)
  params = {"rows": rows * np.float32(0.16), "in": first, "out": last}
  (found,) = check_embeddings(observe(plain, params, (ids,)).found)
  assert (found.kind, found.severity) == ("small embedding", "note")
  assert (found.path, found.rows) == ("rows", (0, 1))
  assert "mean square 0.02," in found.message
  assert not list(check_embeddings(observe(normed, params, (ids,)).found))


@pytest.mark.slow
def test_a_network_in_a_derivative_is_as_sick_as_alone():
  """The same eight layers at 0.3 times their weights: 2^-24, both ways."""
  layers = list(np.float32(0.3) * kernels(1.0, 8))

  def u(params, x):
    h = x @ params[0]
    for kernel in params[1:]:
      h = jnp.tanh(h) @ kernel
    return h

  def loss(params, x):
    value = lambda x: u(params, x).sum()
    return jax.vmap(lambda x: value(x) + jax.grad(value)(x).sum())(x)

  expected = {"vanishing signal": "error", "vanishing gradient": "error"}
  for model in (u, loss):
    found = kinds(diagnose(model, layers, X, key=KEY))
    assert expected.items() <= found.items()


def test_two_towers_are_two_chains_and_the_sick_one_is_named():
  def model(params, x):
    one, other = x, x[::-1]
    for a, b in zip(params["a"], params["b"], strict=True):
      one, other = jax.nn.relu(one @ a), jax.nn.relu(other @ b)
    return (one * other).sum(-1)

  towers = {
    "a": list(kernels(2.0, 6)), "b": list(kernels(0.15, 6, seed=1)),
  }  # fmt: skip
  report = diagnose(model, towers, X)
  assert verdict(report, "vanishing signal").path == "b/0"
  assert verdict(report, "vanishing gradient").path == "b/5"


def test_a_small_drift_is_a_warning_just_where_an_assertion_fails():
  """5 % more weight over 30 layers of 256: 4.2 bits, of ± 1.1 by chance."""
  model = lambda p, x: jax.lax.scan(
    lambda h, kernel: (jax.nn.relu(h @ kernel), None), x, p
  )[0]
  params = kernels(2.0 * 1.05**2, 30, 256)
  report = diagnose(model, params, normal(8, 256))
  assert kinds(report)["slow drift of the signal"] == "warning"
  with pytest.raises(AssertionError, match="The signal is not stable"):
    assert_variance_stable(model, params, normal(8, 256))
