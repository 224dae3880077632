"""Which axes of a parameter are summed, whatever it was seen through."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from initjax.graph import signal_graph

X = jax.ShapeDtypeStruct((6, 8), jnp.float32)


def kernel(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def einsum(equation):
  return lambda w, x: jnp.einsum(equation, x, w)


@pytest.mark.parametrize(
  ("use", "leaf", "in_axes", "out_axes"),
  [
    (lambda w, x: x @ w, kernel(8, 5), (0,), (1,)),
    (lambda w, x: x @ w.T, kernel(5, 8), (1,), (0,)),
    (lambda w, x: w @ x.T, kernel(5, 8), (1,), (0,)),
    (einsum("bd,dhk->bhk"), kernel(8, 2, 3), (0,), (1, 2)),
    (einsum("bd,hdk->bhk"), kernel(2, 8, 3), (1,), (0, 2)),
    (lambda w, x: x @ w.reshape(8, 6), kernel(8, 2, 3), (0,), (1, 2)),
    (lambda w, x: x @ w.reshape(8, 6), kernel(2, 4, 6), (0, 1), (2,)),
    (lambda w, x: x @ w.reshape(8, 3, 2)[:, 1], kernel(8, 6), (0,), (1,)),
    (lambda w, x: x @ w[:, 0], kernel(8, 1, 6), (0,), (2,)),
    (lambda w, x: x @ w[:, :3], kernel(8, 6), (0,), (1,)),
    (lambda w, x: x @ (2 * -w.astype(jnp.float32)), kernel(8, 5), (0,), (1,)),
    (lambda w, x: jax.lax.scan(lambda h, w: (h @ w, None), x, w)[0],
     kernel(4, 8, 8), (1,), (2,)),
    (lambda w, x: x.reshape(6, 2, 4) @ w, kernel(4, 3), (0,), (1,)),
    # an axis that is summed and free at once; a mixture of leaves' entries
    (lambda w, x: x @ w.reshape(8, 8), kernel(64), None, None),
    (lambda w, x: x @ (w - w.mean()), kernel(8, 5), None, None),
  ],
)  # fmt: skip
def test_axes_are_followed_through_views(use, leaf, in_axes, out_axes):
  (op,) = signal_graph(use, leaf, X).ops
  assert (op.in_axes, op.out_axes) == (in_axes, out_axes)


def test_axes_of_a_convolution_include_its_window():
  model = nn.Conv(6, (3, 3), feature_group_count=2)
  images = jnp.ones((2, 7, 7, 4))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  (op,) = signal_graph(model.apply, variables, images).ops
  assert (op.in_axes, op.out_axes) == ((0, 1, 2), (3,))
