"""Identities: eye, dirac and the Hadamard kernels of ZerO."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from initjax import initializers as init

KEY = jax.random.key(0)
EPS = float(jnp.finfo(jnp.float32).eps)


def convolved(build, shape, groups=1):
  """(x, y): y by stride 1 and SAME padding, both [2, *(5, ...), channels]."""
  letters = "DHW"[-(len(shape) - 2) :]
  names = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
  size = (2, *(5,) * len(letters), shape[-2] * groups)
  x = np.random.default_rng(0).normal(size=size).astype(np.float32)

  @jax.jit
  def same_convolution(x):
    return jax.lax.conv_general_dilated(
      x, build(KEY, shape), (1,) * len(letters), "SAME",
      dimension_numbers=names, feature_group_count=groups,
    )  # fmt: skip

  return x, np.asarray(same_convolution(x))


def test_eye(drawn):
  shapes = ((3, 3), (2, 5), (5, 2))
  for scale in (1.0, -0.5):
    kernels = drawn(KEY, *((init.eye(scale), shape) for shape in shapes))
    for kernel, shape in zip(kernels, shapes, strict=True):
      np.testing.assert_array_equal(kernel, scale * np.eye(*shape))


def test_eye_of_every_kernel_of_a_batch(drawn):
  cases = [((4, 2, 3), 0), ((2, 4, 3), 1), ((2, 3, 4), -1)]
  cases += [((2, 5, 3, 4), (0, -2)), ((2, 3), ())]
  builds = [(init.eye(3.0, batch_axis=batch), s) for s, batch in cases]
  kernels = drawn(KEY, *builds)
  for kernel, (shape, batch) in zip(kernels, cases, strict=True):
    assert kernel.shape == shape
    batch = np.atleast_1d(batch).astype(int)
    matrices = np.moveaxis(kernel, batch, range(len(batch)))
    wanted = 3 * np.eye(*matrices.shape[len(batch) :])
    np.testing.assert_array_equal(matrices, wanted + 0 * matrices)


@pytest.mark.parametrize(
  ("window", "groups"),
  [((4,), 1), ((3,), 2), ((2, 3), 2)],
)
def test_dirac_is_the_identity(window, groups):
  x, y = convolved(init.dirac(groups), (*window, 4 // groups, 4), groups)
  # Products with 0 and 1 and sums with 0 are exact.
  np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(("groups", "outs"), [(1, 6), (1, 2), (2, 6), (2, 2)])
def test_dirac_passes_the_first_channels_of_each_group(groups, outs):
  shape = (3, 4 // groups, outs)
  x, y = convolved(init.dirac(groups, scale=2.0), shape, groups)
  x, y = (v.reshape(2, 5, groups, -1) for v in (x, y))
  passed = min(x.shape[-1], y.shape[-1])
  np.testing.assert_array_equal(y[..., :passed], 2 * x[..., :passed])
  assert not y[..., passed:].any()


def algorithm_1(p, q):
  """W in R^{P x Q} of ZerO, transcribed from the paper with scipy's H."""
  if p <= q:
    return np.eye(p, q)
  m = math.ceil(math.log2(p))
  c = 2 ** (-(m - 1) / 2)
  return c * np.eye(p, 2**m) @ linalg.hadamard(2**m) @ np.eye(2**m, q)


def test_zero_hadamard_is_algorithm_1(drawn):
  sizes = [(1, 1), (2, 1), (5, 4), (8, 3), (3, 5), (16, 16), (33, 7)]
  for scale in (1.0, 0.25):
    build = init.zero_hadamard(scale)
    kernels = drawn(KEY, *((build, (ins, outs)) for outs, ins in sizes))
    for kernel, (outs, ins) in zip(kernels, sizes, strict=True):
      # c is a power of √2: one rounding to float32; the scale has none.
      wanted = scale * algorithm_1(outs, ins).T
      np.testing.assert_allclose(kernel, wanted, rtol=EPS)


def test_zero_hadamard_of_a_convolution_sits_at_the_centre(drawn):
  build = init.zero_hadamard()
  shapes = [
    (*window, 3, outs)
    for window in ((3,), (2, 3), (4, 1, 2))
    for outs in (3, 5)
  ]
  kernels = drawn(KEY, *((build, shape) for shape in shapes))
  for kernel, (*window, _, outs) in zip(kernels, shapes, strict=True):
    centre = tuple((size - 1) // 2 for size in window)
    wanted = algorithm_1(outs, 3).T
    np.testing.assert_allclose(kernel[centre], wanted, rtol=EPS)
    kernel[centre] = 0
    assert not kernel.any()


@pytest.mark.parametrize("name", ["eye", "zero_hadamard", "dirac"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, "one"])
def test_bad_scales_raise_when_built(name, bad):
  with pytest.raises(ValueError, match="scale must be a"):
    getattr(init, name)(scale=bad)


@pytest.mark.parametrize("groups", [0, -1, 1.5, True])
def test_bad_groups_raise_when_built(groups):
  with pytest.raises(ValueError, match="groups must be an integer >= 1"):
    init.dirac(groups)


@pytest.mark.parametrize(
  ("build", "shape", "message"),
  [
    (init.eye(), (3,), "use dirac for the kernel of a convolution, zeros"),
    (init.eye(), (3, 3, 3), "use dirac"),
    (init.eye(batch_axis=0), (3, 3), r"besides batch_axis=\(0,\), got \(3, 3"),
    (init.eye(batch_axis=3), (3, 3, 3), "batch_axis=3 is outside the shape"),
    (
      init.eye(batch_axis=(0, -3)),
      (3, 3, 3),
      r"batch_axis=\(0, 0\) holds axis",
    ),
    (init.dirac(), (), "one to three window axes"),
    (init.dirac(), (3, 3), "use eye for a dense kernel"),
    (init.dirac(), (1,) * 6, "one to three window axes"),
    (init.dirac(3), (3, 2, 4), "outputs divisible by groups=3; got"),
    (init.zero_hadamard(), (4,), "zero_hadamard needs .* zeros for a bias"),
    (init.zero_hadamard(), (1,) * 6, "one to three window axes"),
  ],
)
def test_errors_of_shapes(build, shape, message):
  with pytest.raises(ValueError, match=message):
    build(KEY, shape)
