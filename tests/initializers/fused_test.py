"""Fused kernels: each part has the law that it would have by itself."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from initjax import initializers as init

KEY = jax.random.key(6, impl="rbg")  # compiles faster than threefry
EPS = float(jnp.finfo(jnp.float32).eps)
theirs = jax.nn.initializers


def test_parts_are_drawn_by_themselves_and_joined():
  cases = [  # initializers of the parts, sizes, axis, shape
    ([theirs.he_uniform(), theirs.glorot_uniform()], (3, 5), -1, (4, 8)),
    ([theirs.lecun_uniform()] * 3, [2, 2, 1], 0, (5, 4)),
    ([theirs.lecun_uniform(batch_axis=0)] * 2, (1, 3), 1, (2, 4, 3)),
    ([theirs.zeros, theirs.uniform()], np.array([1, 2]), np.int64(-1), (3,)),
    (
      [init.blocks(init.he_uniform(), (2, 2), 0), init.zeros],
      (3, 1),
      1,
      (4, 4),
    ),
  ]

  def joined_and_apart(key, parts, sizes, axis, shape):
    one_for_all = parts[0] if len(set(parts)) == 1 else parts
    keys = jax.random.split(key, len(sizes))
    shapes = [[*shape[:axis], size, *shape[axis:][1:]] for size in sizes]
    alone = zip(parts, keys, shapes, strict=True)
    return (
      [init.blocks(each, sizes, axis)(key, shape)
       for each in (parts, one_for_all)],
      [part(key, shape, jnp.float32) for part, key, shape in alone],
    )  # fmt: skip

  drawn = jax.jit(lambda key: [joined_and_apart(key, *case) for case in cases])
  for (wholes, apart), (*_, axis, _) in zip(drawn(KEY), cases, strict=True):
    for whole in wholes:
      np.testing.assert_array_equal(whole, np.concatenate(apart, axis))


def test_gates_are_orthogonal_each(drawn):
  # In one Q = [in, 4·in] with QQᵀ = I a gate is no isometry: its singular
  # values, from 0 to 1, are those of a corner of a random rotation.
  gates = init.blocks(init.orthogonal(), [16] * 4)
  fused, apart = drawn(
    KEY, *((f, (16, 64)) for f in (init.orthogonal(), gates))
  )
  far = lambda w: np.abs(w.T.astype(np.float64) @ w - np.eye(16)).max()
  for part in np.split(apart, 4, 1):
    assert far(part) < 2 * 16 * EPS  # Householder QR, as in orthogonal_test
  for part in np.split(fused, 4, 1):
    assert far(part) > 0.3


def test_packed_qkv_has_the_fans_of_each(assert_law, drawn):
  build = init.blocks(init.xavier_uniform(), [100] * 3)
  (packed,) = drawn(KEY, (build, (100, 300)))
  bound = math.sqrt(6 / (100 + 100))
  assert_law(packed, stats.uniform(-bound, 2 * bound))


def test_an_lstm_remembers_at_first():
  """With kernels of 0 and b_f = 1, Flax's fused cell keeps σ(1) of its memory.

  The order of its gates is i, f, g, o, so c' = σ(f)·c + σ(i)·tanh(g).
  """
  hidden = 3
  one_for_f = [init.zeros, init.ones, init.zeros, init.zeros]

  @jax.jit
  def memory_after_a_step(c):
    cell = nnx.OptimizedLSTMCell(
      2, hidden, rngs=nnx.Rngs(KEY), kernel_init=init.zeros,
      recurrent_kernel_init=init.blocks(init.zeros, [hidden] * 4),
      bias_init=init.blocks(one_for_f, [hidden] * 4),
    )  # fmt: skip
    return cell((c, jnp.ones((1, hidden))), jnp.ones((1, 2)))[0][0]

  c = np.array([[1.0, -2.0, 0.5]], np.float32)
  kept = 1 / (1 + math.exp(-1))
  np.testing.assert_allclose(memory_after_a_step(c), kept * c, rtol=4 * EPS)


def test_the_dtype_is_that_of_the_whole():
  parts = [init.normal(dtype=jnp.float16), init.zeros]
  for build, asked, wanted in (
    (init.blocks(parts, (1, 2)), None, jnp.float32),
    (init.blocks(parts, (1, 2), dtype=jnp.bfloat16), None, jnp.bfloat16),
    (init.blocks(parts, (1, 2)), jnp.complex64, jnp.complex64),
  ):
    draw = lambda key, build=build, asked=asked: build(key, (3,), asked)
    assert jax.eval_shape(draw, KEY).dtype == wanted


ORTHOGONAL = init.orthogonal()


@pytest.mark.parametrize(
  ("args", "error", "message"),
  [
    ((ORTHOGONAL, ()), ValueError, "sizes must be a sequence of one or more"),
    ((ORTHOGONAL, 4), ValueError, "sizes must be a sequence of one .*; got 4"),
    ((ORTHOGONAL, (4, 0)), ValueError, "each of sizes must be .* >= 1; got 0"),
    ((ORTHOGONAL, (2.5,)), ValueError, "each of sizes must be an integer"),
    ((ORTHOGONAL, (4,), 0.5), ValueError, "axis must be an axis"),
    ((ORTHOGONAL, (4,), (0, 1)), ValueError, "axis must be one axis"),
    (
      ([ORTHOGONAL], (4, 4)),
      ValueError,
      r"1 initializers for 2 sizes \(4, 4\)",
    ),
    (([ORTHOGONAL, 1.0], (4, 4)), TypeError, r"one for each size; got 1\.0"),
    ((1.0, (4, 4)), TypeError, r"must be an initializer, .*; got 1\.0"),
  ],
)
def test_errors_when_built(args, error, message):
  with pytest.raises(error, match=message):
    init.blocks(*args)


@pytest.mark.parametrize(
  ("build", "shape", "message"),
  [
    (init.blocks(ORTHOGONAL, (4, 4)), (4, 9), r"up to 8, but axis=-1 .* has 9"),
    (init.blocks(ORTHOGONAL, (4, 4), 2), (4, 8), "axis=2 is outside the shape"),
    (init.blocks(ORTHOGONAL, (4, 4)), (8,), "use zeros for a bias"),
    (
      init.blocks(lambda *_: jnp.ones((2, 2)), (2, 2)),
      (3, 4),
      "`init` is given",
    ),
  ],
)
def test_errors_of_shapes(build, shape, message):
  with pytest.raises(ValueError, match=message):
    build(KEY, shape)
