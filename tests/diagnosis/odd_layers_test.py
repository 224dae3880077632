"""One bad layer: named, told from chance, and its neighbours left alone."""

import math

import jax
import numpy as np
import pytest
from scipy import special, stats
from sick import kinds, verdict
from small_models import X, kernels, stack

from initjax import testing
from initjax._activations import identity
from initjax.diagnosis import diagnose
from initjax.diagnosis._innovations import innovations
from initjax.diagnosis._observe import observe
from initjax.diagnosis._tails import drawn_layer, tail
from initjax.graph import signal_graph

DEPTH = 50  # as in the tests of the assertions: one program
relu = stack(jax.nn.relu)


def scaled(factors, sigma_w2=2.0):
  found = kernels(sigma_w2, DEPTH)
  for row, factor in factors.items():
    found[row] *= np.float32(factor)
  return found


def odd(params):
  observed = observe(relu, params, (X,))
  return list(innovations(observed.found, observed.parts, observed.leaves))


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_one_layer_is_named_and_fails_all_three_assertions(factor):
  """10 is 6.64 bits, where a layer of 64 units moves by √(5/64)/log 2 = 0.4."""
  params = scaled({25: factor})
  report = diagnose(relu, params, X)
  assert kinds(report) == {"odd layer": "error"}
  found = verdict(report, "odd layer")
  assert found.rows == (25,)
  assert "repeat 25 multiplies the second moment of the" in found.message
  ((one,),) = odd(params)
  for bits in one.bits.values():
    assert abs(bits - 2 * math.log2(factor)) < 4 * math.sqrt(5 / 64) / 0.69
  for check in ("variance_stable", "gradients_flow", "healthy"):
    with pytest.raises(AssertionError, match="Odd layer"):
      getattr(testing, f"assert_{check}")(relu, params, X)


def test_neighbours_that_cancel_are_named_together():
  found = verdict(diagnose(relu, scaled({25: 10, 26: 0.1}), X), "odd layer")
  assert found.rows == (25, 26)
  assert "may cancel" in found.message


def test_a_smaller_factor_is_a_warning():
  """4 is 4 bits: odd, and below a factor 2^5 in the second moment."""
  assert kinds(diagnose(relu, scaled({25: 4.0}), X)) == {"odd layer": "warning"}


def test_first_and_last_operations_are_exempt_and_so_is_a_common_factor():
  assert not odd(scaled({0: 10, DEPTH - 1: 0.1}))
  assert not odd(scaled({}, sigma_w2=4.0))


def test_layers_that_all_differ_have_no_odd_one():
  """Trained weights: their own scatter, 3 bits, is the law."""
  factors = 2 ** np.random.default_rng(0).normal(size=DEPTH)
  assert not odd(scaled(dict(enumerate(factors**1.5))))


def test_biases_that_differ_make_no_layer_odd():
  """Uniform in ±1/√n, as PyTorch draws: soon a signal is what biases left."""
  n, random = X.shape[1], np.random.default_rng(5)
  draw = lambda *shape: np.float32(random.uniform(-1, 1, shape) / n**0.5)
  layers = [(draw(n, n), draw(n)) for _ in range(12)]

  def model(layers, x):
    for kernel, bias in layers:
      x = jax.nn.relu(x @ kernel + bias)
    return x

  observed = observe(model, layers, (X,))
  assert not list(innovations(observed.found, observed.parts, observed.leaves))


def test_an_odd_block_of_a_residual_stream_is_named():
  def model(params, x):
    def block(h, leaf):
      first, second = leaf
      normed = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)
      return h + jax.nn.relu(normed @ first) @ second, None

    return jax.lax.scan(block, x, (params["in"], params["out"]))[0]

  params = {"in": kernels(2.0, 16), "out": kernels(1.0, 16, seed=5)}
  assert not diagnose(model, params, X).verdicts
  params["out"][9] *= 30
  found = verdict(diagnose(model, params, X), "odd layer")
  assert found.path == "out"
  assert "repeat 9" in found.message


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_of_a_stream_that_nothing_normalizes_the_first_odd_kernel(factor):
  """All that reads the stream later is larger too; its cause is `b/4`."""

  def model(params, x):
    for first, second in zip(params["a"], params["b"], strict=True):
      x = x + 0.3 * jax.nn.relu(x @ first) @ second
    return x

  params = {"a": list(kernels(2.0, 8)), "b": list(kernels(1.0, 8, seed=5))}
  params["b"][4] = params["b"][4] * factor
  found = [group[0] for group in observe(model, params, (X,)).odd()]
  paths = [
    signal_graph(model, params, X).rows[one.row].op.path for one in found
  ]
  assert paths == ([] if factor == 1 else ["b/4"])


def pooled(params, x):
  """Too few layers to tell their scatter; of the pools, no law is known."""
  for kernel in params["kernels"]:
    x = jax.nn.relu(jax.lax.conv(x, kernel, (1, 1), "SAME"))
    x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 1, 1),
                              "SAME") / params["by"]  # fmt: skip
  return x.mean((2, 3))


def test_among_a_few_layers_a_kernel_that_is_far_from_the_others():
  """Unless something undoes it."""
  draw = np.random.default_rng(0).standard_normal
  params = {"kernels": [], "by": np.float32(1)}
  for n in (1, 8, 8, 8):
    kernel = draw((8, n, 3, 3)).astype(np.float32) * np.sqrt(2 / 9 / n)
    params["kernels"].append(kernel.astype(np.float32))
  x = draw((4, 1, 8, 8)).astype(np.float32)
  assert not kinds(diagnose(pooled, params, x)).keys() & {"odd layer"}
  params["kernels"][1] *= np.float32(64)
  found = verdict(diagnose(pooled, params, x), "odd layer")
  assert (found.rows, found.severity) == ((1,), "error")


def test_the_matched_tail_is_that_of_a_chi_square():
  """To a factor 2 at 1e-5, both ways, of 10⁴ draws; skewness errs by 0.05."""
  draws = np.log(np.random.default_rng(0).chisquare(8, 10_000))
  for p in (1e-4, 1e-5):
    low, high = np.log(stats.chi2.ppf([p, 1 - p], 8))
    assert 0.5 < tail(draws, low) / p < 2
    assert 0.4 < tail(draws, high) / p < 3


def test_a_linear_layer_adds_a_chi_square_both_ways():
  """q/K = χ²_n/n forward, χ²_m/m backward: exact."""
  wide, narrow = 32, 16
  forward, backward = drawn_layer(identity, 0.0, 0.0, (wide, narrow))
  for found, n in ((forward, narrow), (backward, wide)):
    mean = (special.digamma(n / 2) - math.log(n / 2)) / math.log(2)
    std = math.sqrt(special.polygamma(1, n / 2)) / math.log(2)
    count = found.size
    assert abs(found.mean() - mean) < 4 * std / math.sqrt(count)
    assert abs(found.std() / std - 1) < 4 / math.sqrt(count)
