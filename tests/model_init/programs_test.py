"""Slices compare by what they do, not by their numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.model_init._expressions import Input, Loop, Out, nodes, read
from initjax.model_init._path_keys import derived, key_test
from initjax.model_init._programs import program_of, run


def programs(init):
  values = read(jax.make_jaxpr(init)(jax.random.key(0)), [Input(0)])
  is_key = key_test(values, 1)
  return [program_of([value], is_key)[0] for value in values]


def test_numbers_and_keys_do_not_count():
  def init(key):
    draw = lambda i, std: jax.random.normal(jax.random.fold_in(key, i), (3, 4))
    return draw(1, 0.1) * 0.1, draw(2, 0.3) * 0.3

  one, other = programs(init)
  assert one == other


@pytest.mark.parametrize(
  "other",
  [
    lambda key: jax.random.normal(key, (4, 3)),
    lambda key: jax.random.uniform(key, (3, 4)),
    lambda key: jax.random.normal(key, (3, 4), jnp.float16),
    lambda key: jax.random.normal(key, (3, 4)) + 1,
  ],
  ids=["shape", "initializer", "dtype", "operation"],
)
def test_what_is_done_counts(other):
  one, two = programs(lambda key: (jax.random.normal(key, (3, 4)), other(key)))
  assert one != two


def walk(key, step=jnp.add, length=5, reverse=False):
  """A random walk; its rows are where it was."""

  def body(x, key):
    x = step(x, jax.random.normal(key, (3,)))
    return x, x

  keys = jax.random.split(key, length)
  return jax.lax.scan(body, jnp.zeros(3), keys, reverse=reverse)[1]


@pytest.mark.parametrize(
  "other",
  [{"step": jnp.subtract}, {"length": 4}, {"reverse": True}],
  ids=["body", "length", "direction"],
)
def test_loops_differ_by_what_they_do(other):
  """And give what they gave."""
  init = lambda key: (walk(key), walk(key, **other), walk(key))
  values = read(jax.make_jaxpr(init)(jax.random.key(0)), [Input(0)])
  is_key = key_test(values, 1)
  found = [program_of([value], is_key) for value in values]
  (one, _), (two, _), (three, _) = found
  assert one != two
  assert one == three

  def again(key):
    for program, arguments in found:
      known = derived([x for x in arguments if isinstance(x, Out)], [key])
      given = [known[x] if isinstance(x, Out) else x.value for x in arguments]
      yield run(program, given)[0]

  both = jax.jit(lambda key: (init(key), tuple(again(key))))
  for wanted, got in zip(*both(jax.random.key(0)), strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_loop_keeps_what_its_output_needs():
  def init(key):
    def body(carry, key):
      big, small = carry
      return (jnp.sin(big) @ big, small + 1), jax.random.normal(key, (3,)) * 2

    start = (jnp.ones((4, 4)), 0)
    return jax.lax.scan(body, start, jax.random.split(key, 5))

  ((_, small), rows) = jax.jit(init)(jax.random.key(0))
  values = read(jax.make_jaxpr(init)(jax.random.key(0)), [Input(0)])
  loops = [
    n.loop for v in values for n in nodes([v]) if isinstance(n.loop, Loop)
  ]
  assert [loop.num_carry for loop in loops] == [1, 1, 0]
  is_key = key_test(values, 1)
  for value, wanted in zip(values[1:], (small, rows), strict=True):
    program, arguments = program_of([value], is_key)
    given = [
      jax.random.split(jax.random.key(0), 5) if isinstance(x, Out) else x.value
      for x in arguments
    ]
    np.testing.assert_allclose(run(program, given)[0], wanted, rtol=1e-6)
