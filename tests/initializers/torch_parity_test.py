"""The same laws as `torch.nn.init`, by formula and by two-sample tests."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from initjax import initializers as init
from initjax.initializers import _fans

torch = pytest.importorskip("torch", reason="the oracle is PyTorch")
pytestmark = pytest.mark.slow  # a peer, of more weight than all the rest

KEY = jax.random.key(4, impl="rbg")  # compiles faster than threefry
OUT, IN = 300, 200


def theirs(fill, *shape, **options):
  """`fill` of a new tensor, in float64."""
  torch.manual_seed(0)
  tensor = fill(torch.empty(*shape), **options)
  return tensor.detach().numpy().astype(np.float64)


def ours(build, *shape):
  return np.asarray(build(KEY, shape), np.float64)


def assert_same_law(a, b):
  """Two-sample Kolmogorov-Smirnov; p > 1e-4 at fixed seeds."""
  assert stats.ks_2samp(a.ravel(), b.ravel()).pvalue > 1e-4


def assert_same_std(a, b):
  """Two estimates of σ, each with error σ·√((κ-1)/4N), κ <= 3."""
  error = 5 * b.std() * math.sqrt((2 / a.size + 2 / b.size) / 4)
  assert abs(a.std() - b.std()) < error


@pytest.mark.parametrize("window", [(), (3,), (3, 2), (2, 3, 4)])
def test_fans(window):
  weight = torch.empty(5, 7, *window)
  desired = torch.nn.init._calculate_fan_in_and_fan_out(weight)
  axes = _fans.kernel_axes(-2, -1, ())
  assert _fans.fans((*window, 7, 5), axes) == desired
  # PyTorch has no groups: one group of three is a convolution of its own.
  assert _fans.fans((*window, 7, 3 * 5), axes, groups=3) == desired


@pytest.mark.parametrize("slope", [0.0, 0.2, math.sqrt(5)])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_kaiming(slope, mode):
  options = {"a": slope, "mode": mode}
  build = {"negative_slope": slope, "mode": mode}
  uniform = theirs(torch.nn.init.kaiming_uniform_, OUT, IN, **options)
  assert_same_law(ours(init.kaiming_uniform(**build), IN, OUT), uniform)
  normal = theirs(torch.nn.init.kaiming_normal_, OUT, IN, **options)
  assert_same_std(ours(init.kaiming_normal(**build), IN, OUT), normal)


@pytest.mark.parametrize("gain", [1.0, 5 / 3])
def test_xavier(gain):
  uniform = theirs(torch.nn.init.xavier_uniform_, OUT, IN, gain=gain)
  assert_same_law(ours(init.xavier_uniform(gain=gain), IN, OUT), uniform)
  normal = theirs(torch.nn.init.xavier_normal_, OUT, IN, gain=gain)
  assert_same_std(ours(init.xavier_normal(gain=gain), IN, OUT), normal)


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (-0.5, 0.3)])
@pytest.mark.parametrize("mean", [0.0, 0.1])
def test_trunc_normal(mean, bounds):
  a, b = bounds
  desired = theirs(
    torch.nn.init.trunc_normal_, OUT, IN, mean=mean, std=0.4, a=a, b=b
  )
  build = init.truncated_normal(0.4, lower=a, upper=b, mean=mean, absolute=True)
  assert_same_law(ours(build, IN, OUT), desired)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2)])
def test_eye(shape):
  desired = theirs(torch.nn.init.eye_, *shape)
  np.testing.assert_array_equal(ours(init.eye(), *shape[::-1]), desired.T)


@pytest.mark.parametrize("window", [(3,), (1, 3, 5)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("outs", "ins"), [(4, 4), (6, 2), (2, 6)])
def test_dirac_with_odd_windows(window, groups, outs, ins):
  desired = theirs(torch.nn.init.dirac_, outs, ins, *window, groups=groups)
  kernel = ours(init.dirac(groups), *window, ins, outs)
  order = (-1, -2, *range(len(window)))
  np.testing.assert_array_equal(kernel.transpose(order), desired)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.333])
def test_sparse(sparsity):
  # Both count zeros down the columns of the tensor that they are given.
  desired = theirs(torch.nn.init.sparse_, IN, OUT, sparsity=sparsity, std=0.2)
  actual = ours(init.sparse(sparsity, 0.2), IN, OUT)
  np.testing.assert_array_equal((actual == 0).sum(0), (desired == 0).sum(0))
  assert_same_std(actual[actual != 0], desired[desired != 0])


@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6)])
def test_orthogonal_has_the_same_singular_values(shape, gain):
  desired = theirs(torch.nn.init.orthogonal_, *shape, gain=gain)
  singular = lambda matrix: np.linalg.svd(matrix, compute_uv=False)
  actual = ours(init.orthogonal(gain), *shape[::-1])
  # Two float32 QR factorizations of at most six columns.
  np.testing.assert_allclose(singular(actual), singular(desired), rtol=2e-6)


def test_default_linear_layer():
  torch.manual_seed(0)
  layer = torch.nn.Linear(IN, OUT)
  weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
  assert_same_law(ours(init.torch_linear_kernel(), IN, OUT), weight)
  assert_same_law(ours(init.torch_linear_bias(IN), OUT), bias)


def test_default_convolution():
  torch.manual_seed(0)
  layer = torch.nn.Conv2d(16, 64, (3, 5))
  weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
  assert_same_law(ours(init.torch_linear_kernel(), 3, 5, 16, 64), weight)
  assert_same_law(ours(init.torch_linear_bias(3 * 5 * 16), 64), bias)
