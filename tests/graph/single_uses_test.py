"""Inputs that are used once: named by hand for small programs."""

import jax
import jax.numpy as jnp
import pytest

from initjax.graph import sliced_once

KERNELS, X = jnp.ones((3, 2, 2)), jnp.ones((4, 2))


def scanned(layer):
  return lambda w, x: jax.lax.scan(lambda h, w: (layer(w, h), None), x, w)[0]


def product(w, h):
  return h @ w


def nested(w, x):
  pair = scanned(product)
  return jax.lax.scan(lambda h, w: (pair(w, h), None), x, w)[0]


FOUND = [
  (scanned(product), KERNELS, (3,)),
  (scanned(jax.checkpoint(product)), KERNELS, (3,)),
  (jax.jit(scanned(jax.jit(product))), KERNELS, (3,)),
  (nested, jnp.ones((5, 3, 2, 2)), (5, 3)),
]
MISSED = [
  product,  # in no scan
  scanned(lambda w, h: h @ w + h @ w.T),  # used twice in a repeat
  lambda w, x: scanned(product)(w, x) + w[0, 0, 0],  # and outside
  lambda w, x: scanned(lambda _, h: h @ w[0])(jnp.ones(3), x),  # by all repeats
  lambda w, x: (scanned(product)(w, x), w),  # and handed out
  lambda w, x: scanned(lambda w, h: h)(w, x),  # not at all
]


@pytest.mark.parametrize(("model", "kernels", "repeats"), FOUND)
def test_each_part_is_used_by_one_operand(model, kernels, repeats):
  jaxpr = jax.make_jaxpr(model)(kernels, X)
  ((at, use),) = sliced_once(jaxpr).items()
  assert (at, use.repeats) == (0, repeats)
  assert use.site[-1] == -2  # the second operand of a product


@pytest.mark.parametrize("model", MISSED)
def test_others_are_not_named(model):
  assert sliced_once(jax.make_jaxpr(model)(KERNELS, X)) == {}
