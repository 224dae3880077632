"""Kernels of which a constant mask sets entries to 0: fans count the others.

Means of the entries of a Jacobian that are not 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import normal

from initjax.graph import signal_graph

IN, OUT = 6, 8
X = normal(5, IN)
MASK = np.float32(np.arange(OUT) % 5 >= np.arange(IN)[:, None])
WINDOW = np.float32([[1, 1, 1], [1, 0, 0], [0, 0, 0]])[..., None, None]
PARAMS = {"w": normal(IN, OUT), "window": normal(3, 3, IN, OUT)}
MAP = normal(2, 9, 9, IN)


def traced(p, x):
  later = jnp.arange(OUT)[None] % 5 >= jnp.arange(IN)[:, None]
  return x @ (p["w"] * later)


def pixels(p, x):
  kernel, names = p["window"] * WINDOW, ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(
    x, kernel, (1, 1), "VALID", dimension_numbers=names
  )


MASKED = {
  "constant": lambda p, x: x @ (MASK * p["w"]),
  "in a jit": jax.jit(lambda p, x: x @ (p["w"] * MASK)),
  "traced": traced,
  "where": lambda p, x: x @ jnp.where(MASK > 0, p["w"], 0),
  "where not": lambda p, x: x @ jnp.where(MASK > 0, 0, p["w"]),
  "lower half": lambda p, x: x @ jnp.tril(p["w"]),
  "moved": lambda p, x: x @ (p["w"].T * (3 * MASK.T)).T,
  "by hand": lambda p, x: ((p["w"] * MASK).T * x[:, None]).sum(-1),
  "convolution": pixels,
}


@pytest.mark.parametrize("name", MASKED)
def test_fans_are_means_of_what_the_mask_leaves(name):
  fn, x = MASKED[name], MAP if name == "convolution" else X
  jacobian = jax.jit(jax.jacobian(lambda x: fn(PARAMS, x)[0]))(x)
  fed = np.count_nonzero(np.asarray(jacobian))
  outputs, size = fn(PARAMS, x)[0].size, MAP[0, 0, 0].size
  (op,) = signal_graph(fn, PARAMS, x).ops
  assert op.fan_in == pytest.approx(fed / outputs)
  if name != "convolution":  # whose border inputs feed fewer
    assert op.fan_out == pytest.approx(fed / size)
  assert op.origin == "parameter"
  assert op.multiplier == (3 if name == "moved" else 1)


def test_what_multiplies_by_several_numbers_is_no_mask():
  factors = np.float32(np.linspace(0, 1, IN * OUT).reshape(IN, OUT))
  for each in (factors, 0 * factors):
    (op,) = signal_graph(lambda p, x, e=each: x @ (p["w"] * e), PARAMS, X).ops
    assert (op.fan_in, op.fan_out, op.origin) == (IN, OUT, "derived")
