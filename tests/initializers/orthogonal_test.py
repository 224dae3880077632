"""Orthogonality, the Haar law, variance of rectangular kernels, shapes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from initjax import initializers as init

KEY = jax.random.key(3, impl="rbg")  # compiles faster than threefry
EPS = float(jnp.finfo(jnp.float32).eps)
DRAWS = 4000


@functools.cache
def draws(*shape, **options):
  """Independent kernels [DRAWS, *shape] in float64, along a batch axis."""
  build = init.orthogonal(batch_axis=0, **options)
  draw = jax.jit(lambda key: build(key, (DRAWS, *shape)))
  return np.asarray(draw(KEY), np.float64)


def assert_orthonormal(matrix, scale=1.0):
  """QᵀQ = scale²·I or QQᵀ = scale²·I, along the shorter side.

  Householder QR and the sum of n products err by about n·eps each.
  """
  q = np.asarray(matrix, np.float64)
  q = q.T if q.shape[0] < q.shape[1] else q
  atol = 2 * max(q.shape) * EPS * scale**2
  desired = scale**2 * np.eye(q.shape[1])
  np.testing.assert_allclose(q.T @ q, desired, rtol=0, atol=atol)


def test_orthonormal(drawn):
  cases = [
    (scale, shape)
    for shape in ((1, 1), (7, 7), (4, 9), (9, 4), (1, 5))
    for scale in (1.0, math.sqrt(2))
  ]
  kernels = drawn(KEY, *((init.orthogonal(s), shape) for s, shape in cases))
  for kernel, (scale, shape) in zip(kernels, cases, strict=True):
    assert kernel.shape == shape
    assert_orthonormal(kernel, scale)


def test_column_axis_holds_the_outputs(drawn):
  axes, shape = (0, 1, 2, -1), (3, 4, 5)
  builds = [init.orthogonal(column_axis=axis) for axis in axes]
  kernels = drawn(KEY, *((build, shape) for build in builds))
  for kernel, axis in zip(kernels, axes, strict=True):
    assert_orthonormal(np.moveaxis(kernel, axis, -1).reshape(-1, shape[axis]))


def test_convolution_kernels(drawn):
  shapes = ((3, 3, 2, 8), (3, 2, 20))
  for kernel in drawn(KEY, *((init.orthogonal(), shape) for shape in shapes)):
    assert_orthonormal(kernel.reshape(-1, kernel.shape[-1]))


def test_batch_slices_are_orthogonal_and_different(drawn):
  cases = [  # shape, batch axes, column axis
    ((5, 3, 4), (0,), -1), ((3, 5, 4), (1,), -1), ((4, 3, 5), (-1,), 0),
    ((2, 4, 3, 6), (0, 2), -1),
  ]  # fmt: skip
  builds = [
    init.orthogonal(column_axis=column, batch_axis=batch)
    for _, batch, column in cases
  ]
  shapes = [shape for shape, *_ in cases]
  kernels = drawn(KEY, *zip(builds, shapes, strict=True))
  for kernel, (shape, batch, _) in zip(kernels, cases, strict=True):
    assert kernel.shape == shape
    front = np.moveaxis(kernel, batch, range(len(batch)))
    slices = front.reshape(-1, *front.shape[len(batch) :])
    for i, matrix in enumerate(slices):
      assert_orthonormal(matrix)
      for other in slices[:i]:
        assert np.abs(matrix - other).max() > 0.1


def test_haar_law_of_entries():
  # A row of a Haar matrix is uniform on the sphere: (1 + q)/2 is
  # Beta((n-1)/2, (n-1)/2). n² tests, hence the threshold 1e-4/n.
  n = 4
  q = draws(n, n)
  beta = stats.beta((n - 1) / 2, (n - 1) / 2)
  for i, j in np.ndindex(n, n):
    assert stats.kstest((1 + q[:, i, j]) / 2, beta.cdf).pvalue > 1e-4 / n


def test_haar_law_of_trace_and_determinant():
  # On O(n) the first 2n moments of tr Q are those of N(0, 1): 0, 1, 0, 3
  # (Diaconis and Shahshahani 1994). Five standard errors, as measured.
  q = draws(4, 4)
  trace = np.trace(q, axis1=1, axis2=2)
  for power, moment in enumerate((0.0, 1.0, 0.0, 3.0), start=1):
    error = 5 * (trace**power).std() / math.sqrt(DRAWS)
    assert abs((trace**power).mean() - moment) < error
  reflections = (np.linalg.det(q) < 0).mean()
  assert abs(reflections - 0.5) < 5 * 0.5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_haar_law_of_rectangles(shape):
  # Entries of a longer-side unit vector in R^5: E q = 0, E q² = 1/5 and
  # Var q² = 2(n-1)/(n²(n+2)).
  n = max(shape)
  q = draws(*shape)
  root = math.sqrt(DRAWS)
  assert np.abs(q.mean(0)).max() < 5 / math.sqrt(n) / root
  error = 5 * math.sqrt(2 * (n - 1) / (n**2 * (n + 2))) / root
  assert np.abs((q**2).mean(0) - 1 / n).max() < error


def test_variance_of_wide_kernels_is_kept_exactly(drawn):
  # QQᵀ = I, so |xW|²/out = (out/in)·|x|²/out = |x|²/in for every x.
  (kernel,) = drawn(KEY, (init.orthogonal(rectangular="variance"), (8, 32)))
  kernel = kernel.astype(np.float64)
  assert_orthonormal(kernel, scale=2.0)
  x = np.random.default_rng(0).standard_normal((5, 8))
  desired = (x**2).mean(1)
  np.testing.assert_allclose(
    ((x @ kernel) ** 2).mean(1), desired, rtol=64 * EPS
  )


def test_variance_of_narrow_kernels_is_kept_on_average():
  # |xQ|²/|x|² ~ Beta(out/2, (in-out)/2), with mean out/in.
  kernels = draws(8, 2, rectangular="variance")
  x = np.random.default_rng(0).standard_normal(8)
  kept = ((x @ kernels) ** 2).sum(-1) / (x @ x)
  assert stats.kstest(kept, stats.beta(1, 3).cdf).pvalue > 1e-4
  assert_orthonormal(kernels[0])


def circular_convolution(x, kernel):
  """Stride 1; x [batch, *window, in]."""
  axes = tuple(range(1, x.ndim - 1))
  return sum(
    np.roll(x, tap, axes) @ kernel[tap]
    for tap in np.ndindex(*kernel.shape[:-2])
  )


def test_delta_orthogonal_convolutions_keep_the_norm(drawn):
  shapes = [
    (*window, 3, outs) for window in ((3,), (2,), (3, 4)) for outs in (3, 5)
  ]
  build = init.delta_orthogonal()
  for kernel in drawn(KEY, *((build, shape) for shape in shapes)):
    size = (2, *(6,) * (kernel.ndim - 2), 3)
    x = np.random.default_rng(0).standard_normal(size)
    before, after = (
      (v**2).sum(axis=tuple(range(1, v.ndim)))
      for v in (x, circular_convolution(x, kernel.astype(np.float64)))
    )
    # Entries of QQᵀ - I err by 2n·eps, n = 5; its norm by 3 times that.
    np.testing.assert_allclose(before, after, rtol=3 * 2 * 5 * EPS)


def test_delta_orthogonal_narrows(drawn):
  (kernel,) = drawn(KEY, (init.delta_orthogonal(), (3, 5, 2)))
  assert_orthonormal(kernel[1])
  assert not kernel[::2].any()


@pytest.mark.parametrize("rectangular", ["isometry", "variance"])
def test_delta_orthogonal_batches(rectangular, drawn):
  options = {"batch_axis": (0, 1), "rectangular": rectangular}
  build = init.delta_orthogonal(1.5, **options)
  (kernel,) = drawn(KEY, (build, (2, 2, 4, 3, 2, 8)))
  scale = 1.5 * (2.0 if rectangular == "variance" else 1.0)
  centres = kernel[:, :, 1, 1].reshape(4, 2, 8)
  for matrix in centres:
    assert_orthonormal(matrix, scale)
  assert np.abs(centres[0] - centres[1]).max() > 0.1
  kernel[:, :, 1, 1] = 0
  assert not kernel.any()


@pytest.mark.parametrize("name", ["orthogonal", "delta_orthogonal"])
def test_errors_when_built(name):
  build = getattr(init, name)
  for scale in (-1.0, math.nan):
    with pytest.raises(ValueError, match="scale must be a finite number >= 0"):
      build(scale)
  with pytest.raises(
    ValueError, match=r"rectangular must be one of .*'square'"
  ):
    build(rectangular="square")
  with pytest.raises(ValueError, match="batch_axis must be an axis or"):
    build(batch_axis=(0.5,))
  with pytest.raises(ValueError, match=r"-1 or 1 for out, .*; got 2"):
    init.delta_orthogonal(column_axis=2)
  with pytest.raises(
    ValueError, match=r"column_axis must be one axis; got \(0"
  ):
    build(column_axis=(0, 1))


@pytest.mark.parametrize(
  ("build", "shape", "message"),
  [
    (init.orthogonal(), (), "rank >= 2 .*use zeros for a bias"),
    (init.orthogonal(), (3,), "rank >= 2 .*use zeros for a bias"),
    (init.orthogonal(batch_axis=0), (3, 4), "besides its batch axes"),
    (init.orthogonal(column_axis=2), (3, 4), "column_axis=2 is outside"),
    (init.orthogonal(batch_axis=5), (3, 4, 5), "batch_axis=5 is outside"),
    (init.orthogonal(batch_axis=2), (3, 4, 5), "overlap in the shape"),
    (init.orthogonal(batch_axis=(0, -3)), (3, 4, 5), "rank >= 2"),
    (init.delta_orthogonal(), (3, 4), "use orthogonal for a dense kernel"),
    (init.delta_orthogonal(), (1,) * 6, "one to three window axes"),
    (init.delta_orthogonal(batch_axis=1), (2, 3, 4, 5), "batch_axis=1"),
  ],
)
def test_errors_of_shapes(build, shape, message):
  with pytest.raises(ValueError, match=message):
    build(KEY, shape)
