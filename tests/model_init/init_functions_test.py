"""init_variables gives the bits of any init function, made at random.

Every step is exact (numbers are multiples of 1/4 up to 32), so no compiler may
round one otherwise, and one program for all leaves is the oracle.
"""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.model_init import _blocks, _compiled, init_variables

X = np.arange(12, dtype=np.float32).reshape(3, 4)
SHAPES = ((), (1,), (1, 1), (3,), (12,), (3, 4), (2, 1, 6))
LENGTH = 3


def tame(x):
  """Multiples of 1/4 between -32 and 32: products are exact in float32."""
  if jnp.iscomplexobj(x):
    return jax.lax.complex(tame(x.real), tame(x.imag))
  return jnp.clip(jnp.round(x * 4) / 4, -32, 32).astype(x.dtype)


DRAWS = {
  "uniform": lambda key, s: tame(jax.random.uniform(key, s, minval=-1) * 8),
  "bfloat16": lambda key, s: tame(jax.random.uniform(key, s, jnp.bfloat16) * 8),
  "integers": lambda key, s: jax.random.randint(key, s, -8, 8),
  "bits": lambda key, s: jax.random.bits(key, s, "uint8") % jnp.uint8(16),
  "signs": lambda key, s: jax.random.rademacher(key, s, jnp.float16),
  "choices": lambda key, s: jax.random.choice(key, X.ravel(), s),
  "order": lambda key, s: jax.random.permutation(key, math.prod(s)) * 1.0,
  "coins": lambda key, s: jax.random.bernoulli(key, 0.25, s) * 1,
}
KEYS = {
  "split": lambda key, x: list(jax.random.split(key)),
  "split rows": lambda key, x: list(jax.random.split(key, (2, 2))[1]),
  "fold in": lambda key, x: [jax.random.fold_in(key, 7)],
  "fold in a number": lambda key, x: [jax.random.fold_in(key, one(x) + 32)],
  "choose": lambda key, x: [jnp.where(one(x) > 0, key, jax.random.clone(key))],
  "rewrap": lambda key, x: [jax.random.wrap_key_data(jax.random.key_data(key))],
}


def float32(x):
  return jnp.real(x).astype(jnp.float32)


def one(x):
  return jnp.ravel(jnp.real(x))[0].astype(jnp.int32)


UNARY = {
  "negate": jnp.negative,
  "add": lambda x: x + 1,
  "double": lambda x: x * 2,
  "halve": lambda x: jnp.real(x) * 0.5,
  "square": lambda x: x.astype(jnp.promote_types(x.dtype, "float32")) ** 2,
  "bfloat16": lambda x: jnp.real(x).astype(jnp.bfloat16),
  "float16": lambda x: jnp.real(x).astype(jnp.float16),
  "float32": float32,
  "int": lambda x: jnp.real(x).astype(jnp.int32),
  "turn": jnp.transpose,
  "turn and ravel": lambda x: jax.lax.reshape(
    x, (x.size,), tuple(range(x.ndim))[::-1]
  ),
  "ravel": jnp.ravel,
  "flip": jnp.flip,
  "first": lambda x: jnp.ravel(x)[:1],
  "number": lambda x: jnp.ravel(x)[0],
  "sum": lambda x: jnp.sum(float32(x)),
  "sort": lambda x: jnp.sort(jnp.ravel(jnp.real(x))),
  "widen": lambda x: jnp.broadcast_to(jnp.ravel(x)[0], (12,)),
  "rows": lambda x: jnp.stack([x, x + 1]) if x.size < 30 else x,
  "column": lambda x: x[..., None],
}
BINARY = {
  "add": jnp.add,
  "subtract": jnp.subtract,
  "multiply": lambda x, y: x * y.astype(jnp.promote_types(y.dtype, "float32")),
  "where": lambda x, y: jnp.where(jnp.real(x) > jnp.real(y), x, y),
  "clip": lambda x, y: jnp.clip(jnp.real(x), one(y), 20),
  "complex": lambda x, y: jax.lax.complex(
    *map(float32, jnp.broadcast_arrays(x, y))
  ),
  "concatenate": lambda x, y: jnp.concatenate([x.ravel()[:20], y.ravel()]),
}


def scanned(key, draw, x, **options):
  step = lambda x, key: (tame(x + draw(key)), tame(x - draw(key)))
  return jax.lax.scan(step, x, jax.random.split(key, LENGTH), **options)


def repeated(start):
  """As a scan where the start is known, as a while loop where it is not."""

  def loop(key, draw, x):
    step = lambda i, x: tame(x + draw(jax.random.fold_in(key, i)))
    return jax.lax.fori_loop(start(x), LENGTH, step, x)

  return loop


LOOPS = {
  "rows": lambda key, draw, x: scanned(key, draw, x)[1],
  "carry": lambda key, draw, x: scanned(key, draw, x, reverse=True)[0],
  "fori": repeated(lambda x: 0),
  "while": repeated(lambda x: one(x) % 2),
  "vmap": lambda key, draw, x: jax.vmap(draw)(jax.random.split(key, LENGTH)),
  "map": lambda key, draw, x: jax.lax.map(draw, jax.random.split(key, LENGTH)),
  "cond": lambda key, draw, x: jax.lax.cond(
    one(x) > 0, lambda: x, lambda: draw(key)
  ),
}


def fitting(x, y):
  """The second array, or its first entry where shapes do not fit."""
  try:
    size = np.prod(np.broadcast_shapes(x.shape, y.shape))
  except ValueError:
    size = np.inf
  return y if size <= 60 else jnp.ravel(y)[0]


def drawn(name, key, shape):
  """Draws of an array of any shape: those of `order` know their size alone."""
  return jnp.reshape(DRAWS[name](key, shape), shape)


def looped(name, key, x, draw, shape):
  """A loop whose carry has the shape of its draws."""
  start = jnp.broadcast_to(jnp.float32(one(x)), shape)
  return LOOPS[name](key, lambda key: float32(drawn(draw, key, shape)), start)


def made(steps):
  """An init function of a list of steps; its last three arrays are leaves."""

  def init(key, x):
    keys, arrays = [key], [jnp.asarray(x), jnp.float32(2), jnp.asarray(X)]
    for kind, name, i, j, shape in steps:
      key, first = keys[i % len(keys)], arrays[-1 - i % len(arrays)]
      if kind == "key":
        keys += KEYS[name](key, first)
      elif kind == "draw":
        arrays.append(drawn(name, key, shape))
      elif kind == "unary":
        arrays.append(tame(UNARY[name](first)))
      elif kind == "binary":
        second = fitting(first, arrays[-1 - j % len(arrays)])
        arrays.append(tame(BINARY[name](first, second)))
      else:
        draw = list(DRAWS)[j % len(DRAWS)]
        arrays.append(looped(name, key, first, draw, shape))
    return dict(enumerate(arrays[3:][-3:]))

  return init


TABLES = {
  "key": KEYS, "draw": DRAWS, "unary": UNARY, "binary": BINARY, "loop": LOOPS
}  # fmt: skip
STEP = st.one_of(
  *(
    st.tuples(
      st.just(kind),
      st.sampled_from(list(table)),
      st.integers(0, 5),
      st.integers(0, 5),
      st.sampled_from(SHAPES),
    )
    for kind, table in TABLES.items()
  )
)


def assert_bits(steps, key=None, **options):
  init, key = made(steps), jax.random.key(7) if key is None else key
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_blocks, "LARGE", 8)
    patch.setattr(_blocks, "BLOCK", 5)
    found = init_variables(key, init, X, **options)
  wanted = jax.jit(init)(key, X)
  assert found.keys() == wanted.keys()
  for name, leaf in wanted.items():
    assert (found[name].dtype, found[name].shape) == (leaf.dtype, leaf.shape)
    np.testing.assert_array_equal(found[name], leaf, err_msg=str(name))


@pytest.fixture(autouse=True)
def small_blocks():
  _compiled.compiled.cache_clear()
  yield
  _compiled.compiled.cache_clear()


ONCE = [  # one number for all entries, and an order that is not the bits'
  ("draw", "uniform", 0, 0, ()),
  ("draw", "uniform", 0, 0, (3, 4)),
  ("binary", "add", 0, 1, ()),
  ("unary", "turn and ravel", 0, 0, ()),
]
some = hypothesis.settings(
  max_examples=2, deadline=None, derandomize=True, database=None
)


@hypothesis.settings(some)
@hypothesis.given(st.lists(STEP, min_size=2, max_size=5))
@hypothesis.example(ONCE)
def test_bits_are_those_of_the_plain_call(steps):
  assert_bits(steps)


@pytest.mark.slow
@hypothesis.settings(some, max_examples=40)
@hypothesis.given(st.lists(STEP, min_size=4, max_size=12))
def test_bits_of_many_functions(steps):
  assert_bits(steps)
