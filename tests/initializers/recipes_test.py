"""Laws and errors of the initializers that belong to one library or paper."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from initjax import initializers as init

KEY = jax.random.key(9, impl="rbg")  # compiles faster than threefry
FAN_IN, FAN_OUT = 200, 300
SHAPE = (FAN_IN, FAN_OUT)


def symmetric_uniform(bound):
  return stats.uniform(-bound, 2 * bound)


@pytest.mark.parametrize(
  ("shape", "fan_in"), [(SHAPE, FAN_IN), ((3, 5, 16, 250), 3 * 5 * 16)]
)
def test_torch_linear_kernel(shape, fan_in, assert_law):
  sample = init.torch_linear_kernel()(KEY, shape)
  assert_law(sample, symmetric_uniform(1 / math.sqrt(fan_in)))


@pytest.mark.parametrize("shape", [(60000,), SHAPE])
def test_torch_linear_bias(shape, assert_law):
  sample = init.torch_linear_bias(fan_in=7)(KEY, shape)
  assert_law(sample, symmetric_uniform(1 / math.sqrt(7)))


@pytest.mark.parametrize("omega_0", [1.0, 30.0])
def test_siren_hidden(omega_0, assert_law):
  sample = init.siren(omega_0)(KEY, SHAPE)
  assert_law(sample, symmetric_uniform(math.sqrt(6 / FAN_IN) / omega_0))


@pytest.mark.parametrize("axes", [(), (1, 0)])
def test_siren_first(axes, assert_law):
  sample = init.siren(30.0, True, *axes)(KEY, SHAPE)
  fan_in = SHAPE[axes[0]] if axes else FAN_IN
  assert_law(sample, symmetric_uniform(1 / fan_in))


def test_complex_draws_fill_the_disc_of_the_variance(assert_law, drawn):
  # |W|² is uniform up to the square of the radius, and its mean half of that.
  cases = [
    (init.torch_linear_bias(7), (60000,), 1 / (3 * 7)),
    (init.siren(first=True), SHAPE, 1 / (3 * FAN_IN**2)),
    (init.siren(2.0), SHAPE, 2 / 2.0**2 / FAN_IN),
    (init.torch_linear_kernel(), SHAPE, 1 / (3 * FAN_IN)),
  ]
  asked = [(functools.partial(f, dtype=jnp.complex64), s) for f, s, _ in cases]
  for sample, (*_, variance) in zip(drawn(KEY, *asked), cases, strict=True):
    assert_law(np.abs(sample) ** 2, stats.uniform(0, 2 * variance))
    assert_law(np.angle(sample), stats.uniform(-math.pi, 2 * math.pi))


@pytest.mark.parametrize("start", [0.1, 9.0])
def test_siren_settles_with_depth(start):
  """At q = 1 - e^(-2q), whatever q was; not at 1.

  A layer of width 512 scatters by √(2/512) = 6.3 % and keeps 2e^(-2q) = 0.41 of
  what the one before did: the mean of 16, over 4 samples, by 2.6 %.
  """
  settled = 0.5
  for _ in range(60):
    settled = 1 - math.exp(-2 * settled)
  assert settled == pytest.approx(0.797, abs=5e-4)
  kernels = init.siren(30.0, batch_axis=0)(KEY, (20, 512, 512))
  h = math.sqrt(start) * np.random.default_rng(0).normal(size=(4, 512))
  variances = []
  for kernel in np.asarray(kernels):
    h = 30 * np.sin(h) @ kernel
    variances.append((h**2).mean())
  assert np.mean(variances[4:]) == pytest.approx(settled, rel=4 * 0.026)


@pytest.mark.parametrize(
  ("args", "std"),
  [((1, 0.3), 0.3), ((24, 0.3), 0.3 / math.sqrt(24)),
   ((24,), 0.02 / math.sqrt(24))],  # by default as GPT-2
)  # fmt: skip
def test_residual_normal(args, std, assert_law):
  assert_law(init.residual_normal(*args)(KEY, SHAPE), stats.norm(0, std))


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.333, 0.9, 1.0])
def test_sparse_counts_zeros_in_every_column(sparsity, assert_law):
  sample = np.asarray(init.sparse(sparsity, 0.2)(KEY, SHAPE))
  zeros = (sample == 0).sum(axis=0)
  np.testing.assert_array_equal(zeros, math.ceil(sparsity * FAN_IN))
  if sparsity < 1:
    assert_law(sample[sample != 0], stats.norm(0, 0.2))


def test_sparse_places_zeros_uniformly_and_independently():
  # Zeros of an input over 300 independent columns: Binomial(300, 1/2); five
  # standard errors. Two columns agree in half of their places.
  zeros = np.asarray(init.sparse(0.5)(KEY, SHAPE)) == 0
  error = 5 * math.sqrt(FAN_OUT) / 2
  assert np.abs(zeros.sum(axis=1) - FAN_OUT / 2).max() < error
  agree = (zeros[:, 1:] == zeros[:, :-1]).sum(axis=0)
  assert np.abs(agree - FAN_IN / 2).max() < 5 * math.sqrt(FAN_IN) / 2


@pytest.mark.parametrize(
  ("build", "message"),
  [
    (lambda: init.torch_linear_bias(0), "fan_in must be .* >= 1; got 0"),
    (lambda: init.torch_linear_bias(2.0), "fan_in must be an integer"),
    (lambda: init.torch_linear_kernel(0, 1, 0), "in_axis and batch_axis over"),
    (lambda: init.sparse(-0.1), "sparsity must .* >= 0; got -0.1"),
    (lambda: init.sparse(1.1), r"sparsity must be a fraction in \[0, 1\]"),
    (lambda: init.sparse(math.nan), "sparsity must be a finite number"),
    (lambda: init.sparse(0.5, -1.0), "stddev must .* >= 0; got -1"),
    (lambda: init.siren(0.0), "omega_0 must .* > 0; got 0"),
    (lambda: init.siren(math.nan), "omega_0 must be a finite number"),
    (lambda: init.zero_hadamard(math.nan), "scale must be .* number; got nan"),
    (lambda: init.siren(first=True, batch_axis=-1), "out_axis and batch_axis"),
    (lambda: init.residual_normal(0), "num_branches must be"),
    (lambda: init.residual_normal(1.5), "num_branches must be"),
    (lambda: init.residual_normal(2, -0.1), "stddev must .* >= 0"),
    (lambda: init.residual_normal(2, math.nan), "stddev must be a finite"),
  ],
)
def test_errors_when_built(build, message):
  with pytest.raises(ValueError, match=message):
    build()


@pytest.mark.parametrize(
  ("build", "shape", "message"),
  [
    (init.sparse(0.5), (), "use zeros for a bias"),
    (init.sparse(0.5), (3,), r"sparse needs a shape \[in, out\]"),
    (init.sparse(0.5), (3, 3, 3), r"sparse needs a shape \[in, out\]"),
    (init.sparse(0.9), (8, 4), r"⌈0\.9·8⌉ = 8 of the 8 .* <= 7/8, or 1 for z"),
    (init.sparse(1e-3), (1, 4), r"leaves no input: .* = 1 of the 1 inputs"),
    (init.siren(), (3,), "for a bias use zeros or torch_linear_bias"),
    (init.siren(first=True), (3,), "for a bias use zeros or torch_linear_bias"),
    (init.siren(first=True, in_axis=3), (3, 4), "in_axis=3 is outside"),
  ],
)
def test_errors_of_shapes(build, shape, message):
  with pytest.raises(ValueError, match=message):
    build(KEY, shape)
