"""`assert_orthogonal`: kernels of all shapes, to rounding and no further."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.testing import assert_orthogonal

X = np.ones((2, 8), np.float32)


def orthogonal(rows, columns, dtype=np.float32):
  """By NumPy's Householder factorization, in float64, then rounded."""
  normal = np.random.default_rng(rows).normal(size=(max(rows, columns),) * 2)
  q, _ = np.linalg.qr(normal)
  return q[:rows, :columns].astype(dtype)


def dense(params, x):
  return x @ params


@pytest.mark.parametrize("shape", [(8, 8), (8, 3), (8, 20)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_square_tall_and_wide(shape, dtype):
  kernel = orthogonal(*shape, dtype)
  assert_orthogonal(dense, kernel, X.astype(dtype), scale=1.0)
  assert_orthogonal(dense, dtype(3) * kernel, X.astype(dtype))


def test_a_scale_is_asked_for():
  kernel = 2 * orthogonal(8, 8)
  assert_orthogonal(dense, kernel, X, scale=2.0)
  message = r"(?s)^1 of 1 kernels are not orthogonal.*entries of WᵀW/1 - 1.*"
  message += r"kernel +largest +allowed\n  \. +3 +\S+\n"
  message += r"Suggested fix:\n  kernel_init=initjax\.initializers\.orthogonal"
  with pytest.raises(AssertionError, match=message):
    assert_orthogonal(dense, kernel, X, scale=1.0)


def test_rounding_is_all_that_is_allowed():
  """4·8·2⁻²³ = 3.8e-6: an entry off by 10⁻⁵ is found, by 10⁻⁷ is not."""
  kernel, corner = orthogonal(8, 8), np.zeros((8, 8), np.float32)
  corner[0, 0] = 1
  assert_orthogonal(dense, kernel + np.float32(1e-7) * corner, X, scale=1.0)
  with pytest.raises(AssertionError, match=r"allowed\n.* 3\.8e-06"):
    assert_orthogonal(dense, kernel + np.float32(1e-5) * corner, X, scale=1.0)


def test_gaussian_zero_and_nan_kernels_are_not():
  normal = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
  for kernel in (normal, 0 * normal, np.nan * normal):
    with pytest.raises(AssertionError, match="1 of 1 kernels"):
      assert_orthogonal(dense, kernel, X)


def test_every_kernel_that_is_not_is_shown_and_no_other():
  ones = np.ones((8, 8), np.float32)
  params = {"a": orthogonal(8, 8), "b": ones, "c": ones}
  fn = lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]
  with pytest.raises(AssertionError, match="2 of 3 kernels") as failure:
    assert_orthogonal(fn, params, X)
  text = str(failure.value)
  assert re.findall(r"^  (\w) ", text, re.MULTILINE) == ["b", "c"]
  assert_orthogonal(fn, params, X, where="a")


def test_stacks_of_layers_are_taken_apart():
  stacked = np.stack([orthogonal(8, 8)] * 3)
  fn = lambda p, x: jax.lax.scan(lambda h, w: (h @ w, None), x, p)[0]
  assert_orthogonal(fn, stacked, X, scale=1.0)
  stacked[1, 0, 0] += 0.1
  with pytest.raises(AssertionError, match="1 of 1"):
    assert_orthogonal(fn, stacked, X)


def test_transposed_uses_and_heads():
  """A kernel [features, heads, dim] is one matrix [features, heads·dim]."""
  assert_orthogonal(lambda p, x: x @ p.T, orthogonal(4, 8), X, scale=1.0)
  heads = nn.DenseGeneral((2, 4), use_bias=False)
  kernel = orthogonal(8, 8).reshape(8, 2, 4)
  variables = {"params": {"kernel": kernel}}
  assert_orthogonal(heads.apply, variables, X, scale=1.0)


def test_convolutions_are_matrices_of_windows():
  conv = nn.Conv(4, (3, 3), use_bias=False)
  kernel = orthogonal(18, 4).reshape(3, 3, 2, 4)
  image = np.ones((1, 5, 5, 2), np.float32)
  assert_orthogonal(conv.apply, {"params": {"kernel": kernel}}, image)


def test_mistakes():
  kernel = orthogonal(8, 8)
  with pytest.raises(ValueError, match=r"found no kernel .* kernels are a"):
    assert_orthogonal(lambda p, x: x @ p["a"], {"a": kernel}, X,
                      where="b")  # fmt: skip
  with pytest.raises(ValueError, match="the kernels are none"):
    assert_orthogonal(lambda p, x: x + p, X[0], X)
  for scale in (0, -1.0, np.nan, "x"):
    with pytest.raises(ValueError, match="scale must be a"):
      assert_orthogonal(dense, kernel, X, scale=scale)
  with pytest.raises(TypeError, match="ShapeDtypeStruct"):
    assert_orthogonal(dense, jax.ShapeDtypeStruct((8, 8), jnp.float32), X)
