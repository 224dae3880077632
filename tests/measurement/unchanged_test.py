"""Measured, a function's loss, aux and gradients are what they were."""

import functools

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from captures import EPSILON, filled, quick_jit, rounding
from models_linen_test import KEYS, ResidualBlock, Stack
from models_nnx_test import TransformerBlock, built
from small_models import normal

from initjax.graph import functional, signal_graph
from initjax.measurement import measure, measure_and_grad


def residual_block():
  """With batch statistics as aux, and a strided projection."""
  model, x = ResidualBlock(4, 2), normal(2, 6, 6, 3)
  variables = filled(jax.eval_shape(model.init, KEYS, x))

  def fn(variables, x):
    return model.apply(variables, x, mutable=["batch_stats"])

  return as_loss(fn), (variables, jnp.zeros_like(x)), x


def transformer_block(dropout=0.2):
  """Its outputs as aux."""
  make = functools.partial(TransformerBlock, dropout=dropout)
  fn, params = functional(built(make))
  x = normal(2, 4, 8)

  def doubled(params, x):
    outputs = fn(params, x)
    return outputs, outputs

  return as_loss(doubled), (params, jnp.zeros_like(x)), x


def stack():
  """Scanned and rematerialised."""
  model, x = Stack(), normal(6, 5)
  variables = filled(jax.eval_shape(model.init, KEYS, x))

  def fn(variables, x):
    return model.apply(variables, x), None

  return as_loss(fn), (variables, jnp.zeros_like(x)), x


def as_loss(fn):
  """Of parameters and of an offset, whose gradient is that of the input."""

  def loss(arguments, x):
    params, offset = arguments
    outputs, aux = fn(params, x + offset)
    return jnp.mean(outputs**2), aux

  return loss


def equations(loss, *arguments):
  """`loss`, run equation by equation from its jaxpr.

  Where `loss` itself is run eagerly, JAX compiles some functions of jax.numpy
  whole, and rounds otherwise: in jax 0.12 the two differ in the last bit,
  without any part of initjax.
  """
  jaxpr, shapes = jax.make_jaxpr(loss, return_shape=True)(*arguments)
  run = jax.extend.core.jaxpr_as_fun(jaxpr)
  structure = jax.tree.structure(shapes)
  return lambda *x: jax.tree.unflatten(structure, run(*jax.tree.leaves(x)))


def plain(loss, params, x):
  return jax.value_and_grad(loss, has_aux=True)(params, x)


def measured(loss, params, x, *, detail=False):
  found = measure_and_grad(loss, params, x, has_aux=True, detail=detail)
  assert len(found.report.graph) >= 3
  return found.outputs, found.gradients


without_dropout = functools.partial(transformer_block, dropout=0)


@pytest.mark.parametrize(
  "make",
  [residual_block, pytest.param(without_dropout, marks=pytest.mark.slow)],
)
def test_unrolled_and_eager_to_the_last_bit(make):
  loss, *arguments = make()
  want = plain(equations(loss, *arguments), *arguments)
  chex.assert_trees_all_equal(want, measured(loss, *arguments))


@pytest.mark.parametrize("make", [residual_block, transformer_block, stack])
def test_compiled_to_rounding(make):
  """Of the largest entry of each array."""
  loss, *arguments = make()
  seen = functools.partial(measured, loss, detail=True)
  both = quick_jit(lambda *a: (plain(loss, *a), seen(*a)))
  want, actual = jax.device_get(both(*arguments))
  ulps = rounding(signal_graph(loss, *arguments).ops)

  def close(actual, want):
    atol = ulps * EPSILON * abs(want).max()
    np.testing.assert_allclose(actual, want, rtol=0, atol=atol)

  jax.tree.map(close, actual, want)


def test_a_jit_is_inlined_as_before():
  """By default XLA decides; jax 0.12 has other choices besides."""
  dense = jax.jit(lambda w, x: x @ w)

  def inlined(fn):
    found = jax.make_jaxpr(fn)(jnp.eye(3), jnp.ones((2, 3))).eqns
    return {e.params["inline"] for e in found if "inline" in e.params}

  gradient = inlined(lambda w, x: jax.grad(lambda x: dense(w, x).sum())(x))
  assert inlined(functools.partial(measure, dense)) == gradient
