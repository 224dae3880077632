"""Spectra of Jacobians against NumPy's SVD, closed forms and the law of probes.

A float32 singular value is off by a small multiple of √n·ε of the largest one,
and so is a node of Lanczos; the multiple taken here is 10.
"""

import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captures import filled, quick_jit

from initjax.measurement import JacobianSpectrum, jacobian_spectrum
from initjax.measurement._lanczos import quadrature
from initjax.stacks import mlp

METHODS = pytest.mark.parametrize("method", ["exact", "lanczos"])
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


NUMBERS = (
  "mean", "mean_standard_error", "relative_variance",
  "relative_variance_standard_error", "largest", "condition",
  "squared_singular_values",
)  # fmt: skip


def draw(*shape):
  return np.float32(RNG.standard_normal(shape))


def rounding(size, dtype=jnp.float32):
  return 10 * math.sqrt(size) * float(jnp.finfo(dtype).eps)


def numbers(spectrum):
  """All that a spectrum says; inside of jit, for one program."""
  return spectrum._asdict() | {n: getattr(spectrum, n) for n in NUMBERS}


def spectrum_of(fn, params, x, **options):
  @quick_jit
  def run(params, x):
    return numbers(jacobian_spectrum(fn, params, x, **options))

  return types.SimpleNamespace(**jax.device_get(run(params, x)))


def squared_svd(matrix):
  return np.linalg.svd(np.float64(matrix), compute_uv=False) ** 2


def assert_spectrum(found, squares):
  """The exact spectrum `found` is that of the squared singular values."""
  squares = np.sort(np.float64(squares))[::-1]
  relative = squares / squares.mean()
  tolerance = rounding(squares.size, found.nodes.dtype) * relative[0]
  np.testing.assert_allclose(found.nodes[0], relative, atol=tolerance)
  np.testing.assert_allclose(found.weights, 1 / squares.size, rtol=1e-6)
  actual = [found.mean, found.largest, found.relative_variance]
  exact = [squares.mean(), squares[0], relative.var()]
  np.testing.assert_allclose(actual, exact, rtol=tolerance, atol=tolerance)
  assert found.mean_standard_error == 0
  assert found.relative_variance_standard_error == 0


def tanh_layer(kernel, x):
  return jnp.tanh(kernel @ x)


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [
    ((30, 20), np.float32), ((20, 30), np.float32),
    ((7, 1), np.float32), ((70, 70), np.float64),
  ],
)  # fmt: skip
def test_exact_is_the_svd_of_diagonal_times_kernel(shape, dtype):
  kernel, x = RNG.standard_normal(shape), RNG.standard_normal(shape[1])
  kernel /= math.sqrt(shape[1])
  by_hand = (1 - np.tanh(kernel @ x) ** 2)[:, None] * kernel
  with jax.enable_x64(dtype == np.float64):
    found = spectrum_of(tanh_layer, kernel.astype(dtype), x.astype(dtype))
  assert found.nodes.dtype == dtype
  assert_spectrum(found, squared_svd(by_hand))


def test_a_diagonal_by_its_closed_forms():
  """σ = 1…9, so σ² has mean 95/3 and E σ⁴ = 15333/9; the condition is 9."""
  diagonal = np.arange(1, 10, dtype=np.float32)
  found = spectrum_of(jnp.multiply, diagonal, np.ones_like(diagonal))
  assert_spectrum(found, diagonal**2)
  np.testing.assert_allclose(found.mean, 95 / 3, rtol=1e-5)
  variance = (15333 / 9) / (95 / 3) ** 2 - 1
  np.testing.assert_allclose(found.relative_variance, variance, rtol=1e-5)
  np.testing.assert_allclose(found.condition, 9, rtol=1e-4)
  squares = diagonal[None, ::-1] ** 2
  np.testing.assert_allclose(found.squared_singular_values, squares, rtol=1e-5)


def test_one_gaussian_kernel_has_the_quarter_circle_law():
  """Distribution of σ: F(s) = (s·√(4 - s²)/2 + 2·asin(s/2))/π.

  Eigenvalues are rigid: F_n differs from F by O(log n/n), here 5/n at most.
  """
  n = 300
  kernel, ones = draw(n, n) / np.float32(math.sqrt(n)), np.ones(n, np.float32)
  found = spectrum_of(jnp.matmul, kernel, ones)
  s = np.sqrt(np.clip(np.float64(found.squared_singular_values[0]), 0, 4))[::-1]
  law = (s * np.sqrt(4 - s**2) / 2 + 2 * np.arcsin(s / 2)) / math.pi
  assert abs(law - (np.arange(n) + 0.5) / n).max() < 5 / n


def applied(eigenvalues, start, steps):
  """Nodes and weights of a diagonal matrix."""
  run = quick_jit(lambda d, v: quadrature(lambda u: d * u, v[None], steps))
  return [rows[0] for rows in jax.device_get(run(eigenvalues, start))]


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_lanczos_has_twice_as_many_moments_as_steps(steps):
  eigenvalues = np.linspace(0.1, 1, 25)
  start = RNG.standard_normal(25)
  with jax.enable_x64(True):
    nodes, weights = applied(eigenvalues, start, steps)
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
  nodes, weights = applied(eigenvalues, start, 40)
  np.testing.assert_allclose(nodes, eigenvalues, atol=rounding(40))
  for power in range(8):
    found = (weights * nodes**power).sum()
    exact = (eigenvalues**power).mean()
    np.testing.assert_allclose(found, exact, rtol=rounding(40))


def test_lanczos_goes_on_where_nothing_is_left():
  """Three different eigenvalues, 0 among them; the rest has no weight."""
  eigenvalues = np.repeat(np.float32([4, 1, 0]), 10)
  start = draw(30)
  nodes, weights = applied(eigenvalues, start, 12)
  density = start**2 / (start**2).sum()
  for value in (4, 1, 0):
    here = abs(nodes - value) < rounding(30) * 4
    exact = density[eigenvalues == value].sum()
    np.testing.assert_allclose(weights[here].sum(), exact, atol=rounding(30))
  np.testing.assert_allclose(weights.sum(), 1, rtol=rounding(30))
  start = np.eye(4, dtype=np.float32)[0]
  nodes, weights = applied(np.full(4, 2, np.float32), start, 3)
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
  found = quick_jit(lambda *leaves: numbers(JacobianSpectrum(*leaves)))(
    np.float32(nodes), np.full(nodes.shape, 1 / 3, np.float32), np.float32(0)
  )
  np.testing.assert_allclose(
    found["relative_variance_standard_error"], jackknife, rtol=20 / rows
  )
  exact = second.mean() - 1
  np.testing.assert_allclose(found["relative_variance"], exact, rtol=1e-5)
  error = first.std() / math.sqrt(rows - 1)
  np.testing.assert_allclose(found["mean_standard_error"], error, rtol=1e-5)


def test_standard_errors_are_honest():
  """For v uniform on the sphere, Var(vᵀAv) = 2·(m₂ - m₁²)/(size + 2).

  200 estimates from p = 16 probes each: their z-scores are Student's t with 15
  degrees of freedom, of variance 15/13; mean and variance of 200 such have
  standard errors √(15/13/200) and (15/13)·√(2.55/200), where 2.55 = kurtosis
  of t₁₅ minus 1. The ratio m₂/m₁² is biased by 1/(size·p), far less.
  """
  size, count, probes = 200, 200, 16
  kernel = draw(size + 100, size) / np.float32(math.sqrt(size))
  exact = squared_svd(kernel)
  mean, variance = exact.mean(), exact.var() / exact.mean() ** 2
  options = {"method": "lanczos", "probes": probes, "steps": 4}

  @jax.jit
  def estimates(keys):
    run = lambda key: numbers(
      jacobian_spectrum(jnp.matmul, kernel, jnp.ones(size), key=key, **options)
    )
    return jax.vmap(run)(keys)

  found = jax.device_get(estimates(jax.random.split(jax.random.key(0), count)))
  for name, truth in (("mean", mean), ("relative_variance", variance)):
    z = (found[name] - truth) / found[f"{name}_standard_error"]
    assert abs(z.mean()) < 4 * math.sqrt(15 / 13 / count)
    assert abs(z.var() / (15 / 13) - 1) < 4 * math.sqrt(2.55 / count)
  law = math.sqrt(2 * variance / (size + 2) / probes) * mean
  # a standard deviation from 200 samples has the relative error 1/√400
  np.testing.assert_allclose(found["mean"].std(), law, rtol=4 / math.sqrt(400))


def deep(kernels, x):
  return jax.lax.scan(lambda h, kernel: (kernel @ h, None), x, kernels)[0]


@METHODS
def test_a_hundred_orthogonal_layers_of_any_size(method):
  """Every squared singular value is factor^200: beyond float32, as is 0.4^100.

  A layer rounds by √n·ε; log₂ of the mean also by ε of its own size, 264.
  """
  kernels, _ = np.linalg.qr(RNG.standard_normal((100, 16, 16)))

  @quick_jit
  def run(kernels):
    x = jnp.ones(16)
    found = jacobian_spectrum(deep, kernels, x, method=method, probes=4)
    return found.log2_mean, found.relative_variance, found.condition

  for factor in (0.4, 1.0, 2.0):
    log2_mean, variance, condition = run(np.float32(factor * kernels))
    assert abs(log2_mean - 200 * math.log2(factor)) < 100 * rounding(16)
    assert variance < (100 * rounding(16)) ** 2
    assert abs(condition - 1) < 100 * rounding(16)


@METHODS
def test_within_a_function_a_product_may_leave_the_range(method):
  """(size²)·σ² is 1e-60 or 1e+60 where σ is that of the kernel."""
  kernel = draw(12, 8)
  scaled = lambda size, x: (kernel @ (x * size)) * size
  run = quick_jit(
    lambda size: jacobian_spectrum(
      scaled, size, jnp.ones(8), method=method, steps=8
    )
  )
  exact = squared_svd(kernel)
  for size in (1e-15, 1.0, 1e15):
    found = jax.device_get(run(size))
    relative = found.nodes * 2 ** (found.log2_mean - 4 * math.log2(size))
    # log₂ of the mean, about 200, rounds by 200·ε
    tolerance = (rounding(12) + 200 * rounding(1)) * exact[0]
    squares = np.broadcast_to(exact, relative.shape)
    np.testing.assert_allclose(relative, squares, atol=tolerance)


def test_a_stack_that_is_measured_by_its_own_backward_rule():
  """Its taps are custom_vjp functions, which have no forward mode."""
  init = jax.nn.initializers.lecun_normal()
  stack = mlp(depth=3, width=8, activation=jnp.tanh, kernel_init=init)
  shapes = jax.eval_shape(lambda key: stack.init(key, (1, 5)), KEY)
  params, x = filled(shapes), draw(5)
  fn = lambda params, x: stack.apply(params, x[None])[0]
  squares = squared_svd(quick_jit(jax.jacrev(fn, 1))(params, x))
  found = spectrum_of(fn, params, x, method="lanczos", probes=4)
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
  model, x = Convolutions(), draw(6, 6, 3)
  variables = filled(jax.eval_shape(model.init, KEY, x[None]))
  fn = lambda variables, x: model.apply(variables, x[None])
  dense = quick_jit(jax.jacrev(lambda x: fn(variables, x)["map"].ravel()))(x)
  exact = squared_svd(np.reshape(dense, (18, 108)))
  assert_spectrum(spectrum_of(fn, variables, x), exact)


def test_without_a_method_large_jacobians_are_applied_only():
  d = np.linspace(1, 2, 1025, dtype=np.float32)
  largest = jax.eval_shape(
    lambda d: jacobian_spectrum(jnp.multiply, d, d), d[1:]
  )
  assert largest.nodes.shape == (1, 1024)
  found = spectrum_of(jnp.multiply, d, d, steps=5)
  assert found.nodes.shape == (16, 5)
  assert abs(found.mean - (d**2).mean()) < 5 * found.mean_standard_error
  assert 3.5 < found.largest <= 4 * (1 + rounding(1025))


@METHODS
def test_inside_jit_and_vmap_as_outside(method):
  kernels = draw(3, 6, 4)
  run = lambda kernel: jacobian_spectrum(
    tanh_layer, kernel, jnp.ones(4), method=method, probes=3
  )
  together = quick_jit(lambda k: numbers(jax.vmap(run)(k)))(kernels)
  assert together["relative_variance"].shape == (3,)
  alone = quick_jit(numbers)(run(kernels[1]))
  for name in ("mean", "relative_variance", "largest"):
    np.testing.assert_allclose(together[name][1], alone[name], rtol=1e-4)


@pytest.mark.parametrize(
  ("method", "dtype"), [("lanczos", jnp.bfloat16), ("exact", jnp.float16)]
)
def test_strict_promotion_and_narrow_types(method, dtype):
  """A narrow model's J·v rounds by ε of its type."""
  kernel, ones = draw(6, 4).astype(dtype), np.ones(4, dtype)
  exact = squared_svd(kernel)
  narrow = lambda p, x: (p @ x).astype(dtype)
  with (
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
  ):
    found = spectrum_of(narrow, kernel, ones, method=method)
  assert found.relative_variance_standard_error.shape == ()
  assert found.mean_standard_error.shape == ()
  values = found.squared_singular_values
  tolerance = rounding(6, dtype) * exact[0]
  squares = np.broadcast_to(exact, values.shape)
  np.testing.assert_allclose(values, squares, atol=tolerance)


def test_a_jacobian_of_zero_has_no_relative_variance():
  found = spectrum_of(lambda p, x: 0 * x + p, 1.0, np.ones(4, np.float32))
  assert found.mean == 0
  assert found.largest == 0
  assert found.log2_mean == -math.inf
  assert math.isnan(found.relative_variance)


ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
  ("fn", "x", "options", "message"),
  [
    (jnp.multiply, np.arange(3), {}, r"x must hold real .* got int32\[3\]"),
    (jnp.multiply, ONES * 1j, {}, r"got complex64\[3\]"),
    (jnp.multiply, ONES[:0], {}, r"x is empty; got float32\[0\]"),
    (jnp.multiply, [1.0, 2.0], {}, "x must be one array; got list. Close over"),
    (lambda p, x: x.argmax(), ONES, {}, r"fn must return .* \['int32"),
    (lambda p, x: x * 1j, ONES, {}, r"\['complex64\[3\]'\]"),
    (lambda p, x: {}, ONES, {}, r"got \[\]\. Return the logits"),
    (lambda p, x: x / 0, ONES, {}, "holds NaN or infinities.*diagnose"),
    (lambda p, x: x / 0, ONES, {"method": "lanczos"}, "holds NaN"),
    (jnp.multiply, ONES, {"method": "svd"}, "one of 'exact', 'lanczos'"),
    (jnp.multiply, ONES, {"probes": 1}, "probes must be an integer >= 2"),
    (jnp.multiply, ONES, {"steps": 0}, "steps must be an integer >= 1"),
  ],
)  # fmt: skip
def test_errors_say_what_was_wanted(fn, x, options, message):
  with pytest.raises(ValueError, match=message):
    jacobian_spectrum(fn, 1.0, x, **options)


def test_fn_must_be_callable():
  with pytest.raises(TypeError, match="expected a function fn"):
    jacobian_spectrum("model", 1.0, ONES)
