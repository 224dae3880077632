"""Spectra of Jacobians against NumPy's SVD, closed forms and the law of probes.

A float32 singular value is off by a small multiple of √n·ε of the largest one,
and so is a node of Lanczos; the multiple taken here is 10.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.probes import JacobianSpectrum, jacobian_spectrum
from initjax.probes._lanczos import quadrature
from initjax.stacks import mlp

METHODS = pytest.mark.parametrize("method", ["exact", "lanczos"])
RNG = np.random.default_rng(0)


def rounding(size, dtype=jnp.float32):
  return 10 * math.sqrt(size) * float(jnp.finfo(dtype).eps)


def assert_spectrum(found, singular_values):
  """The exact spectrum `found` is that of the singular values."""
  squares = np.sort(np.float64(singular_values) ** 2)[::-1]
  relative = squares / squares.mean()
  tolerance = rounding(squares.size, found.nodes.dtype) * relative[0]
  np.testing.assert_allclose(found.nodes[0], relative, atol=tolerance)
  np.testing.assert_allclose(found.weights, 1 / squares.size, rtol=1e-6)
  variance = relative.var()
  np.testing.assert_allclose(
    [found.mean, found.largest, found.relative_variance],
    [squares.mean(), squares[0], variance],
    rtol=tolerance,
    atol=tolerance,
  )
  assert found.mean_standard_error == 0
  assert found.relative_variance_standard_error == 0


def tanh_layer(kernel, x):
  return jnp.tanh(kernel @ x)


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [
    ((30, 20), jnp.float32),
    ((20, 30), jnp.float32),
    ((7, 1), jnp.float32),
    ((70, 70), jnp.float64),
  ],
)
def test_exact_is_the_svd_of_diagonal_times_kernel(shape, dtype):
  kernel, x = RNG.standard_normal(shape), RNG.standard_normal(shape[1])
  kernel /= math.sqrt(shape[1])
  by_hand = (1 - np.tanh(kernel @ x) ** 2)[:, None] * kernel
  with jax.enable_x64(dtype == jnp.float64):
    arguments = jnp.asarray(kernel, dtype), jnp.asarray(x, dtype)
    found = jacobian_spectrum(tanh_layer, *arguments)
    assert found.nodes.dtype == dtype
    assert_spectrum(found, np.linalg.svd(by_hand, compute_uv=False))


def test_a_diagonal_by_its_closed_forms():
  """σ = 1…9, so σ² has mean 95/3 and E σ⁴ = 15333/9; the condition is 9."""
  found = jacobian_spectrum(jnp.multiply, jnp.arange(1.0, 10.0), jnp.ones(9))
  assert_spectrum(found, np.arange(1, 10))
  np.testing.assert_allclose(found.mean, 95 / 3, rtol=1e-5)
  variance = (15333 / 9) / (95 / 3) ** 2 - 1
  np.testing.assert_allclose(found.relative_variance, variance, rtol=1e-5)
  np.testing.assert_allclose(found.condition, 9, rtol=1e-4)
  squares = np.arange(9, 0, -1)[None] ** 2
  np.testing.assert_allclose(found.squared_singular_values, squares, rtol=1e-5)


def test_one_gaussian_kernel_has_the_quarter_circle_law():
  """Distribution of σ: F(s) = (s·√(4 - s²)/2 + 2·asin(s/2))/π.

  Eigenvalues are rigid: F_n differs from F by O(log n/n), here 5/n at most.
  """
  n = 300
  kernel = RNG.standard_normal((n, n)) / math.sqrt(n)
  found = jacobian_spectrum(
    lambda p, x: p @ x, jnp.asarray(kernel), jnp.ones(n)
  )
  s = np.sqrt(np.clip(np.float64(found.squared_singular_values[0]), 0, 4))[::-1]
  law = (s * np.sqrt(4 - s**2) / 2 + 2 * np.arcsin(s / 2)) / math.pi
  assert abs(law - (np.arange(n) + 0.5) / n).max() < 5 / n


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_lanczos_has_twice_as_many_moments_as_steps(steps):
  eigenvalues = np.linspace(0.1, 1, 25)
  start = RNG.standard_normal(25)
  with jax.enable_x64(True):
    found = quadrature(lambda v: eigenvalues * v, start, steps)
    nodes, weights = map(np.asarray, found)
  density = start**2 / (start**2).sum()
  errors = [
    (weights * nodes**power).sum() / (density * eigenvalues**power).sum() - 1
    for power in range(2 * steps + 1)
  ]
  np.testing.assert_allclose(errors[:-1], 0, atol=1e-12)
  assert abs(errors[-1]) > 1e-9  # one too many


def test_as_many_steps_as_eigenvalues_find_them_all():
  """Without reorthogonalization, copies of the largest displace the rest."""
  eigenvalues = np.float32(1.3 ** np.arange(0, -40, -1.0))
  start = np.ones(40, np.float32)
  nodes, weights = quadrature(lambda v: eigenvalues * v, start, 40)
  np.testing.assert_allclose(nodes, eigenvalues, atol=rounding(40))
  for power in range(8):
    found = (weights * nodes**power).sum()
    exact = (eigenvalues**power).mean()
    np.testing.assert_allclose(found, exact, rtol=rounding(40))


def test_lanczos_goes_on_where_nothing_is_left():
  """Three different eigenvalues, 0 among them; the rest has no weight."""
  eigenvalues = np.repeat(np.float32([4, 1, 0]), 10)
  start = RNG.standard_normal(30).astype(np.float32)
  nodes, weights = quadrature(lambda v: eigenvalues * v, start, 12)
  density = start**2 / (start**2).sum()
  for value in (4, 1, 0):
    here = abs(nodes - value) < rounding(30) * 4
    exact = density[eigenvalues == value].sum()
    np.testing.assert_allclose(weights[here].sum(), exact, atol=rounding(30))
  np.testing.assert_allclose(weights.sum(), 1, rtol=rounding(30))
  nodes, weights = quadrature(lambda v: 2 * v, jnp.eye(4)[0], 3)
  assert nodes.tolist() == [2, 2, 2]
  assert weights.sum() == 1


def test_the_standard_error_of_a_ratio_is_that_of_the_jackknife():
  """They agree up to 1/rows, relatively; a wrong slope is off by a third."""
  rows = 400
  nodes = RNG.gamma(0.5, size=(rows, 1)) * [[3.0, 1.0, 0.2]]
  nodes /= nodes.mean()
  first, second = nodes.mean(1), (nodes**2).mean(1)
  without = lambda one: (one.sum() - one) / (rows - 1)
  left_out = without(second) / without(first) ** 2
  jackknife = math.sqrt((rows - 1) * left_out.var())
  spectrum = JacobianSpectrum(
    jnp.asarray(nodes), jnp.full(nodes.shape, 1 / 3), jnp.float32(0)
  )
  found = spectrum.relative_variance_standard_error
  np.testing.assert_allclose(found, jackknife, rtol=20 / rows)
  exact = second.mean() - 1
  np.testing.assert_allclose(spectrum.relative_variance, exact, rtol=1e-5)
  error = first.std() / math.sqrt(rows - 1)
  np.testing.assert_allclose(spectrum.mean_standard_error, error, rtol=1e-5)


def test_standard_errors_are_honest():
  """For v uniform on the sphere, Var(vᵀAv) = 2·(m₂ - m₁²)/(size + 2).

  200 estimates from p = 16 probes each: their z-scores are Student's t with 15
  degrees of freedom, of variance 15/13; mean and variance of 200 such have
  standard errors √(15/13/200) and (15/13)·√(2.55/200), where 2.55 = kurtosis
  of t₁₅ minus 1. The ratio m₂/m₁² is biased by 1/(size·p), far less.
  """
  size, count, probes = 200, 200, 16
  kernel = RNG.standard_normal((size + 100, size)) / math.sqrt(size)
  exact = np.linalg.svd(kernel, compute_uv=False) ** 2
  mean, variance = exact.mean(), exact.var() / exact.mean() ** 2

  @jax.jit
  def estimates(keys):
    run = lambda key: jacobian_spectrum(
      lambda p, x: p @ x,
      jnp.asarray(kernel),
      jnp.ones(size),
      method="lanczos",
      key=key,
      probes=probes,
      steps=4,
    )
    return jax.vmap(run)(keys)

  found = estimates(jax.random.split(jax.random.key(0), count))
  for estimate, error, truth in (
    (found.mean, found.mean_standard_error, mean),
    (
      found.relative_variance,
      found.relative_variance_standard_error,
      variance,
    ),
  ):
    z = (np.asarray(estimate) - truth) / np.asarray(error)
    assert abs(z.mean()) < 4 * math.sqrt(15 / 13 / count)
    assert abs(z.var() / (15 / 13) - 1) < 4 * math.sqrt(2.55 / count)
  law = math.sqrt(2 * variance / (size + 2) / probes) * mean
  # a standard deviation from 200 samples has the relative error 1/√400
  np.testing.assert_allclose(found.mean.std(), law, rtol=4 / math.sqrt(400))


def deep(kernels, x):
  return jax.lax.scan(lambda h, kernel: (kernel @ h, None), x, kernels)[0]


@METHODS
def test_a_hundred_orthogonal_layers_of_any_size(method):
  """Every squared singular value is factor^200: beyond float32, as is 0.4^100.

  A layer rounds by √n·ε; log₂ of the mean also by ε of its own size, 264.
  """
  init = jax.nn.initializers.orthogonal()
  keys = jax.random.split(jax.random.key(0), 100)
  kernels = jax.lax.map(lambda key: init(key, (16, 16)), keys)
  run = jax.jit(
    lambda kernels: jacobian_spectrum(
      deep, kernels, jnp.ones(16), method=method, probes=4
    )
  )
  for factor in (0.4, 1.0, 2.0):
    found = run(factor * kernels)
    assert abs(found.log2_mean - 200 * math.log2(factor)) < 100 * rounding(16)
    assert found.relative_variance < (100 * rounding(16)) ** 2
    assert abs(found.condition - 1) < 100 * rounding(16)


@METHODS
def test_within_a_function_a_product_may_leave_the_range(method):
  """(size²)·σ² is 1e-60 or 1e+60 where σ is that of the kernel."""
  kernel = jnp.asarray(RNG.standard_normal((12, 8)), jnp.float32)
  scaled = lambda params, x: (params[0] @ (x * params[1])) * params[1]
  run = jax.jit(
    lambda size: jacobian_spectrum(
      scaled, (kernel, size), jnp.ones(8), method=method, steps=8
    )
  )
  exact = np.linalg.svd(np.float64(kernel), compute_uv=False) ** 2
  for size in (1e-15, 1.0, 1e15):
    found = run(size)
    relative = found.nodes * 2 ** (found.log2_mean - 4 * math.log2(size))
    # log₂ of the mean, about 200, rounds by 200·ε
    tolerance = (rounding(12) + 200 * rounding(1)) * exact[0]
    squares = np.broadcast_to(exact, relative.shape)
    np.testing.assert_allclose(relative, squares, atol=tolerance)


def test_a_stack_that_is_measured_by_its_own_backward_rule():
  """Its taps are custom_vjp functions, which have no forward mode."""
  stack = mlp(
    depth=3,
    width=8,
    activation=jnp.tanh,
    kernel_init=jax.nn.initializers.lecun_normal(),
  )
  params = stack.init(jax.random.key(0), (1, 5))
  x = jax.random.normal(jax.random.key(1), (5,))
  fn = lambda params, x: stack.apply(params, x[None])[0]
  dense = jax.jacrev(fn, 1)(params, x)
  squares = np.linalg.svd(np.float64(dense), compute_uv=False) ** 2
  found = jacobian_spectrum(fn, params, x, method="lanczos", probes=4)
  # in as many steps as there are singular values, every probe finds them all
  np.testing.assert_allclose(
    found.squared_singular_values,
    np.broadcast_to(squares, (4, 5)),
    atol=rounding(8) * squares[0],
  )


class Convolutions(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.gelu(nn.Conv(4, (3, 3))(x))
    return {"map": nn.Conv(2, (3, 3), strides=2)(x), "class": x.argmax()}


def test_a_convolutional_linen_model_with_several_outputs():
  """Integers beside the output have no derivative and do not count."""
  model = Convolutions()
  x = jax.random.normal(jax.random.key(0), (6, 6, 3))
  variables = model.init(jax.random.key(1), x[None])
  fn = lambda variables, x: model.apply(variables, x[None])
  dense = jax.jacrev(lambda x: fn(variables, x)["map"].ravel())(x)
  exact = np.linalg.svd(np.float64(dense.reshape(18, 108)), compute_uv=False)
  assert_spectrum(jacobian_spectrum(fn, variables, x), exact)


def test_without_a_method_large_jacobians_are_applied_only():
  d = jnp.linspace(1, 2, 1025)
  assert jacobian_spectrum(jnp.multiply, d[1:], d[1:]).nodes.shape == (1, 1024)
  found = jacobian_spectrum(jnp.multiply, d, d, steps=5)
  assert found.nodes.shape == (16, 5)
  error = float(found.mean_standard_error)
  assert abs(float(found.mean) - float((d**2).mean())) < 5 * error
  assert 3.5 < float(found.largest) <= 4 * (1 + rounding(1025))


@METHODS
def test_inside_jit_and_vmap_as_outside(method):
  kernels = jnp.asarray(RNG.standard_normal((3, 6, 4)), jnp.float32)
  run = lambda kernel: jacobian_spectrum(
    tanh_layer, kernel, jnp.ones(4), method=method, probes=3
  )
  together = jax.jit(jax.vmap(run))(kernels)
  assert together.relative_variance.shape == (3,)
  alone = run(kernels[1])
  for name in ("mean", "relative_variance", "largest"):
    np.testing.assert_allclose(
      getattr(together, name)[1], getattr(alone, name), rtol=1e-4
    )


@pytest.mark.parametrize(
  ("method", "dtype"), [("lanczos", jnp.bfloat16), ("exact", jnp.float16)]
)
def test_strict_promotion_and_narrow_types(method, dtype):
  """A narrow model's J·v rounds by ε of its type."""
  kernel = jnp.asarray(RNG.standard_normal((6, 4)), dtype)
  exact = np.linalg.svd(np.float64(kernel), compute_uv=False) ** 2
  with (
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
  ):
    found = jacobian_spectrum(
      lambda p, x: (p @ x).astype(dtype),
      kernel,
      jnp.ones(4, dtype),
      method=method,
    )
    values = found.squared_singular_values
    numbers = (
      found.relative_variance_standard_error,
      found.mean_standard_error,
    )
  assert all(number.shape == () for number in numbers)
  tolerance = rounding(6, dtype) * exact[0]
  squares = np.broadcast_to(exact, values.shape)
  np.testing.assert_allclose(values, squares, atol=tolerance)


def test_a_jacobian_of_zero_has_no_relative_variance():
  found = jacobian_spectrum(lambda p, x: 0 * x + p, 1.0, jnp.ones(4))
  assert found.mean == 0
  assert found.largest == 0
  assert found.log2_mean == -math.inf
  assert math.isnan(found.relative_variance)


@pytest.mark.parametrize(
  ("fn", "x", "options", "message"),
  [
    (jnp.multiply, jnp.arange(3), {}, r"x must hold real .* got int32\[3\]"),
    (jnp.multiply, jnp.ones(3) * 1j, {}, r"got complex64\[3\]"),
    (jnp.multiply, jnp.ones((0, 3)), {}, r"got float32\[0, 3\]"),
    (jnp.multiply, [1.0, 2.0], {}, "x must be one array; got list. Close over"),
    (lambda p, x: x.argmax(), jnp.ones(3), {}, r"fn must return .* \['int32"),
    (lambda p, x: x * 1j, jnp.ones(3), {}, r"\['complex64\[3\]'\]"),
    (lambda p, x: {}, jnp.ones(3), {}, r"got \[\]\. Return the logits"),
    (
      lambda p, x: x / 0,
      jnp.ones(3),
      {},
      "holds NaN or infinities.*diagnose",
    ),
    (lambda p, x: x / 0, jnp.ones(3), {"method": "lanczos"}, "holds NaN"),
    (jnp.multiply, jnp.ones(3), {"method": "svd"}, "one of 'exact', 'lanczos'"),
    (
      jnp.multiply,
      jnp.ones(3),
      {"probes": 1},
      "probes must be an integer >= 2",
    ),
    (jnp.multiply, jnp.ones(3), {"steps": 0}, "steps must be an integer >= 1"),
  ],
)
def test_errors_say_what_was_wanted(fn, x, options, message):
  with pytest.raises(ValueError, match=message):
    jacobian_spectrum(fn, 1.0, x, **options)


def test_fn_must_be_callable():
  with pytest.raises(TypeError, match="fn must be a function of parameters"):
    jacobian_spectrum("model", 1.0, jnp.ones(3))
