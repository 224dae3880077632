"""A model in segments is measured as it is in one, and its layers once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import normal

from initjax import _executables, _sharding
from initjax.measurement import measure, measure_detail

EPSILON = float(np.finfo(np.float32).eps)
X = normal(6, 8)
KERNELS = list(normal(9, 8, 8, variance=2 / 8, seed=2))


@jax.jit
def layer(h, kernel):
  return h + jax.nn.silu(h @ kernel)


def rectifier_with(factor):
  """What goes back is not the derivative, and differs by the factor alone."""

  @jax.custom_vjp
  def rectifier(h):
    return jnp.maximum(h, 0)

  rectifier.defvjp(
    lambda h: (jnp.maximum(h, 0), h), lambda h, g: (factor * g * (h > 0),)
  )
  return rectifier


RECTIFIERS = [rectifier_with(factor) for factor in (2, 3)]


def plain(kernels, x):
  for kernel in kernels:
    x = jax.nn.relu(1.1 * (x @ kernel))
  return x


def residual(kernels, x):
  for kernel in kernels:
    x = layer(x, kernel)
  return jnp.mean(x**2), {"last": x}


def tied(kernels, x):
  for kernel in (*kernels, *kernels[::-1]):
    x = jnp.tanh(x @ kernel)
  return x, kernels[0]


def with_rules(kernels, x):
  for place, kernel in enumerate(kernels):
    x = jax.checkpoint(lambda h, w: jnp.sin(h @ w))(x, kernel)
    x = RECTIFIERS[place % 2](x)
  return x


def cut_off(kernels, x):
  for place, kernel in enumerate(kernels):
    x = jax.nn.relu(x @ kernel)
    x = jax.lax.stop_gradient(x) if place == 3 else x
  return x


def compare(model, params, x, **options):
  found = measure_detail(model, params, x, **options)
  # Where no gradient comes, segments count its zeros, and the whole nothing.
  apart = ("backward_zeros", "backward_size") if model is cut_off else ()
  whole = jax.jit(functools.partial(measure, model, detail=True, **options))
  want = whole(params, x).to_records()
  for got, expected in zip(found.to_records(), want, strict=True):
    assert got.keys() == expected.keys()
    for name, number in expected.items():
      if name in apart:
        continue
      if isinstance(number, float):
        np.testing.assert_allclose(
          got[name], number, rtol=200 * EPSILON, atol=20 * EPSILON, err_msg=name
        )
      else:
        assert got[name] == number, name
  chex.assert_trees_all_close(
    found.gradient_norms,
    jax.device_get(whole(params, x).gradient_norms),
    rtol=100 * EPSILON,
  )


SLOW = [pytest.param(m, marks=pytest.mark.slow) for m in (tied, cut_off)]


@pytest.mark.parametrize("model", [plain, with_rules, *SLOW])
def test_segments_and_whole_give_the_same(model):
  compare(model, KERNELS, X)


def test_layers_that_are_equal_are_compiled_once():
  """So many programs at any depth; of layers that differ, one for each.

  Both ways the first layer, the last, one of the others, and what follows; the
  cotangent is drawn by one, and sums of so small arrays are none.
  """

  def added(kernels):
    before = set(_executables._programs)
    measure_detail(plain, kernels, X[:5])
    return len(set(_executables._programs) - before)

  assert added(KERNELS[:7]) == 2 * 4 + 1
  assert added(KERNELS) == 0
  assert added([*KERNELS[:8], normal(8, 3)]) > 0


def test_losses_with_aux_and_sums_by_programs(monkeypatch):
  """As they are taken of large arrays, and of those on accelerators."""
  monkeypatch.setattr(_sharding, "_SMALL", 0)
  compare(residual, KERNELS, X, has_aux=True)
