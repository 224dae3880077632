"""Blocks have the values of jax.random, in the memory of the result."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.model_init import _blocks, _compiled, init_variables

EXACT = [  # exact steps from the bits, so no compiler may round them otherwise
  lambda key, shape: jax.random.uniform(key, shape, minval=-1.0),
  lambda key, shape: jax.random.uniform(key, shape, jnp.bfloat16),
  lambda key, shape: jax.random.bits(key, shape).astype(jnp.float32) * 0.5,
  lambda key, shape: jax.random.rademacher(key, shape, jnp.float32),
]
ROUNDED = [
  lambda key, shape: jax.random.uniform(key, shape, minval=-2.0),
  lambda key, shape: jax.random.normal(key, shape),
  lambda key, shape: jax.random.normal(key, shape, jnp.bfloat16),
  lambda key, shape: jax.random.truncated_normal(key, -2, 2, shape) * 0.1,
]


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(
  shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
  draw=st.sampled_from(EXACT),
)
def test_blocks_of_any_shape(shape, draw):
  _compiled.compiled.cache_clear()
  init = lambda key: draw(key, shape)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_blocks, "LARGE", 8)
    patch.setattr(_blocks, "BLOCK", 5)  # 5 divides few sizes
    found = init_variables(jax.random.key(1), init)
  _compiled.compiled.cache_clear()
  np.testing.assert_array_equal(found, jax.jit(init)(jax.random.key(1)))


@pytest.mark.parametrize("draw", ROUNDED)
def test_blocks_of_their_own_size_are_those_of_jax_bit_for_bit(draw):
  """XLA rounds log1p by how it compiles a loop: other sizes differ by 3 ulps
  under jax 0.12, those that are in use do not.
  """
  shape = (1031, 2**21 // 1024)
  assert np.prod(shape) > _blocks.LARGE
  found = init_variables(jax.random.key(1), lambda key: draw(key, shape))
  np.testing.assert_array_equal(found, draw(jax.random.key(1), shape))


def test_bits_are_those_of_jax():
  key, places = jax.random.key(5), np.arange(100, dtype=np.uint32)
  for width in (8, 16, 32):
    wanted = jax.random.bits(key, (100,), f"uint{width}")
    found = jax.jit(_blocks.bits_at, static_argnums=1)(key, width, places)
    np.testing.assert_array_equal(found, wanted)


def test_peak_is_the_result_and_a_block():
  """A gigabyte, compiled only; a block's temporaries are some 8 blocks."""
  draw = lambda key: jax.random.normal(key, (2**14, 2**14))
  program = jax.jit(lambda key: init_variables(key, draw))
  memory = program.lower(jax.random.key(0)).compile().memory_analysis()
  result = memory.output_size_in_bytes
  assert result == 2**30
  assert result + memory.temp_size_in_bytes <= 1.25 * result
