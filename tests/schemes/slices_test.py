"""Slices compare by what they do, not by their numbers."""

import jax
import jax.numpy as jnp
import pytest

from initjax.schemes._path_keys import key_test
from initjax.schemes._slices import program_of, run
from initjax.schemes._values import Input, Loop, Out, nodes, read


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


def test_a_loop_keeps_what_its_output_needs():
  def init(key):
    def body(carry, key):
      big, small = carry
      return (jnp.sin(big) @ big, small + 1), jax.random.normal(key, (3,)) * 2

    start = (jnp.ones((4, 4)), 0)
    return jax.lax.scan(body, start, jax.random.split(key, 5))

  ((_, small), rows) = init(jax.random.key(0))
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
    assert jnp.allclose(run(program, given)[0], wanted, rtol=1e-6)
