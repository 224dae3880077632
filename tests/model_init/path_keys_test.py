"""Keys by path collide nowhere and do not know of other layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from initjax.model_init import init_variables

X = np.ones((2, 8), np.float32)
KEY = jax.random.key(0)


class Outer(nn.Module):
  inner: str

  @nn.compact
  def __call__(self, x):
    return nn.Dense(8, name=self.inner)(x)


class Both(nn.Module):
  more: bool = False

  @nn.compact
  def __call__(self, x):
    if self.more:
      x = nn.Dense(8, name="zero")(x)
    return Outer("cdef", name="ab")(Outer("def", name="abc")(x))


def kernels(variables):
  params = variables["params"]
  return params["ab"]["cdef"]["kernel"], params["abc"]["def"]["kernel"]


def test_names_that_join_to_the_same():
  one, other = kernels(init_variables(KEY, Both(), X))
  np.testing.assert_array_equal(one, other)  # flax#2157
  one, other = kernels(init_variables(KEY, Both(), X, keys="path"))
  correlation = np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]
  assert abs(correlation) < 4 / np.sqrt(64)


class Modules(nnx.Module):
  def __init__(self, rngs, more=False):
    if more:
      self.before = nnx.Linear(8, 8, rngs=rngs)
    self.layer = nnx.Linear(8, 8, rngs=rngs)


@pytest.mark.parametrize("keys", ["model", "path"])
def test_a_layer_added_before(keys):
  """NNX counts draws, so its own keys move."""
  one, other = (
    init_variables(
      nnx.Rngs(0), lambda rngs, more=more: Modules(rngs, more), keys=keys
    ).layer.kernel[...]
    for more in (False, True)
  )
  assert np.array_equal(one, other) == (keys == "path")


def kernel_of(model, x=X):
  variables = init_variables(KEY, model, x, keys="path")
  return np.asarray(variables["params"]["kernel"])


def test_moments_are_the_models():
  """LeCun's law: std √(1/fan_in) to four standard errors √(1/2n)."""
  kernel = kernel_of(nn.Dense(256), np.ones((1, 256)))
  assert abs(np.std(kernel) * 16 - 1) < 4 / np.sqrt(2 * 256**2)


def test_draws_of_one_leaf_differ():
  """Std √2 of a difference of two, to four standard errors; 0 if they agree."""

  def two(key, shape, dtype=jnp.float32):
    one, other = jax.random.split(key)
    normal = jax.random.normal
    return normal(one, shape, dtype) - normal(other, shape, dtype)

  kernel = kernel_of(nn.Dense(64, kernel_init=two))
  assert abs(np.std(kernel) / np.sqrt(2) - 1) < 4 / np.sqrt(2 * kernel.size)


def test_two_leaves_of_the_key_itself():
  """Typed as raw, they differ; and a leaf that is the key stays the key."""
  draw = lambda key: jax.random.bits(key, (4,))
  init = lambda key: {"a": draw(key), "b": draw(key), "key": key}
  keys = (jax.random.PRNGKey(0), KEY)
  raw, typed = (init_variables(key, init, keys="path") for key in keys)
  assert len({bytes(np.asarray(typed[name])) for name in "ab"}) == 2
  assert typed.pop("key") == KEY
  np.testing.assert_array_equal(raw.pop("key"), [0, 0])
  jax.tree.map(np.testing.assert_array_equal, raw, typed)


def test_raw_keys_draw_the_same():
  raw = init_variables(jax.random.PRNGKey(0), Both(), X, keys="path")
  typed = init_variables(KEY, Both(), X, keys="path")
  jax.tree.map(np.testing.assert_array_equal, raw, typed)


def test_arrays_of_keys():
  """A scan's layers differ, and a vmap's."""
  axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
  stack = nn.vmap(nn.Dense, in_axes=None, axis_size=3, **axes)(8)
  assert len({layer.tobytes() for layer in kernel_of(stack)}) == 3
