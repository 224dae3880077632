"""The same names, signatures and bits as `jax.nn.initializers`."""

import contextlib
import functools
import inspect
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax import initializers as ours

theirs = jax.nn.initializers
FUNCTIONS = sorted({n for n in dir(theirs) if n[0] != "_"} - {"Initializer"})
NAMED_SCALINGS = [
  f"{name}_{law}"
  for name in ("lecun", "glorot", "xavier", "he", "kaiming")
  for law in ("normal", "uniform")
]
MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS = ("truncated_normal", "normal", "uniform")
KEY = jax.random.key(7)
DTYPES = ("float32", "complex64", "float64", "complex128")
# shape, in_axis, out_axis, batch_axis
AXES = [
  ((6, 5), -2, -1, ()),
  ((4, 2, 3, 5), (1, 2), -1, 0),
  ((4, 2, 3, 5), -2, -1, ()),
  ((6, 5), 1, 0, ()),
  ((4, 2, 3, 5), -3, (-2, -1), (0,)),
  ([4, 2, 3, 5], [0, 1], [2, 3], ()),
  (np.array([4, 2, 3]), np.arange(1), np.arange(1, 3), ()),
  ((np.int32(4), 2, 3), range(1), {-1}, (1,)),
  ((7, 5), -2, 0, ()),  # an embedding: its inputs are its outputs
  ((7, 5), 1, -1, ()),
  ((4, 2, 3, 5), (0, 1), (1, 2), -1),
  ((4, 3), (), (), (0, -1)),
  ((7,), 0, (), ()),
  ((7,), 0, -1, ()),
  (7, 0, (), ()),
  ((), (), (), ()),
]


def precision(dtype):
  """x64 where `dtype` needs it."""
  wide = dtype in ("float64", "complex128")
  return jax.enable_x64(True) if wide else contextlib.nullcontext()


def assert_same_bits(init, oracle, shape, dtype):
  with precision(dtype):
    key = jax.random.key(7, impl="rbg")  # compiles in a third of the time
    actual = init(key, shape, jnp.dtype(dtype))
    desired = oracle(key, shape, jnp.dtype(dtype))
    assert actual.dtype == desired.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(actual, desired, strict=True)


def assert_same_trace(draw, oracle):
  """The same bits for every key, with nothing compiled."""
  actual, desired = (jax.make_jaxpr(each)(KEY) for each in (draw, oracle))
  assert str(actual) == str(desired)
  for constants in zip(actual.consts, desired.consts, strict=True):
    np.testing.assert_array_equal(*constants)
  return actual.out_avals[0]


def assert_same_program(init, oracle, shape, dtype):
  with precision(dtype):
    wanted = jnp.dtype(dtype)
    drawn = assert_same_trace(
      *(functools.partial(f, shape=shape, dtype=wanted) for f in (init, oracle))
    )
    assert drawn.dtype == wanted


def positional(function):
  kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
  parameters = inspect.signature(function).parameters.values()
  return [(p.name, p.default) for p in parameters if p.kind == kind]


def test_every_function_of_jax_is_here_with_its_signature():
  """What we add is keyword-only."""
  assert "Initializer" in ours.__all__
  for name in FUNCTIONS:
    assert name in ours.__all__
    function, oracle = getattr(ours, name), getattr(theirs, name)
    assert positional(function) == positional(oracle), name


def test_constants():
  row = np.arange(3.0, dtype=np.float32)  # broadcasts
  assert_same_bits(ours.constant(row), theirs.constant(row), (2, 3), "float32")
  assert_same_bits(ours.ones_init(), nn.initializers.ones_init(), (3,), "int32")
  for shape in ((), (6, 5), 3, np.int64(3)):
    for dtype in (*DTYPES, "int32"):
      pairs = [(ours.constant(3), theirs.constant(3))]
      pairs += [
        (getattr(ours, n), getattr(theirs, n)) for n in ("zeros", "ones")
      ]
      for name in ("zeros_init", "ones_init"):
        pairs.append([getattr(m, name)() for m in (ours, nn.initializers)])
      for init, oracle in pairs:
        assert_same_program(init, oracle, shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_distributions(dtype):
  bounds = (1.0, None, -1.0, 0.5)
  cases = [("normal", ()), ("normal", (0.3,)), ("normal", ([0.3],))]
  if not dtype.startswith("complex"):
    cases += [("uniform", ()), ("uniform", (2.0,))]
    cases += [("truncated_normal", args) for args in ((), (0.3,), bounds)]
  shapes = ((), (6, 5), [3], 3)
  for (name, args), shape in itertools.product(cases, shapes):
    init, oracle = (getattr(m, name)(*args) for m in (ours, theirs))
    assert_same_program(init, oracle, shape, dtype)


def assert_same_scaling(mode, law, dtype, shape, *axes):
  args = (1.7, mode, law, *axes)
  init, oracle = (m.variance_scaling(*args) for m in (ours, theirs))
  assert_same_program(init, oracle, shape, dtype)


@pytest.mark.parametrize("law", DISTRIBUTIONS)
def test_variance_scaling(law):
  for mode in MODES:
    for case in AXES[:3]:
      assert_same_scaling(mode, law, "float32", *case)
  for case in AXES[3:]:
    assert_same_scaling("fan_geo_avg", law, "float32", *case)
  for dtype in DTYPES:
    assert_same_scaling("fan_avg", law, dtype, *AXES[1])


@pytest.mark.parametrize("name", NAMED_SCALINGS)
def test_named_scalings(name):
  init, oracle = (getattr(m, name) for m in (ours, theirs))
  assert_same_bits(init(), oracle(), (6, 5), "float32")
  cases = [("float32", case) for case in AXES]
  cases += itertools.product(DTYPES[1:], AXES[:2])
  for dtype, (shape, *axes) in cases:
    assert_same_program(init(*axes), oracle(*axes), shape, dtype)


@pytest.mark.parametrize(
  ("name", "shapes", "column_axes"),
  [
    ("orthogonal", [(4, 3), [2, 3, 4]], (0, np.int64(1), -1)),
    ("delta_orthogonal", [(3, 3, 4), (2, 3, 3, 4), (1, 2, 4, 3, 4)],
     (-1, 0)),
    ("delta_orthogonal", [(3, 3, 4)], (-2, 1)),
  ],
)  # fmt: skip
def test_orthogonal(name, shapes, column_axes):
  init, oracle = (getattr(m, name) for m in (ours, theirs))
  assert_same_bits(init(1.5), oracle(1.5), shapes[0], "float32")
  for case in itertools.product(shapes, column_axes, DTYPES):
    shape, column_axis, dtype = case
    args = (1.5, column_axis)
    assert_same_program(init(*args), oracle(*args), shape, dtype)


@pytest.mark.parametrize("name", ["lecun_normal", "normal"])
def test_default_dtype_follows_x64_and_the_argument(name):
  key = jax.eval_shape(jax.random.key, 0)
  draw = lambda init: jax.eval_shape(lambda key: init(key, (3, 4)), key)
  for wide in (False, True):
    with jax.enable_x64(wide):
      actual, desired = (draw(getattr(m, name)()) for m in (ours, theirs))
    assert actual.dtype == desired.dtype == ("float64" if wide else "float32")
  assert draw(getattr(ours, name)(dtype=jnp.complex64)).dtype == jnp.complex64


def test_raw_keys_draw_the_same():
  init = ours.he_normal()
  typed, raw = (f(3) for f in (jax.random.key, jax.random.PRNGKey))
  np.testing.assert_array_equal(init(typed, (3, 4)), init(raw, (3, 4)))


REFUSED = {
  "dtype": lambda i, k: i.normal()(k, (3, 4), jnp.int32),
  "dtype of fans": lambda i, k: i.he_normal()(k, (3, 4), jnp.bool_),
  "dtype of QR": lambda i, k: i.orthogonal()(k, (3, 4), jnp.uint8),
  "shape": lambda i, k: i.normal()(k, (3.0, 4)),
  "mode": lambda i, k: i.variance_scaling(1.0, "in", "normal")(k, (3, 4)),
  "law": lambda i, k: i.variance_scaling(1.0, "fan_in", "beta")(k, (3, 4)),
  "scale": lambda i, k: i.variance_scaling(None, "fan_in", "normal")(k, (3, 4)),
  "rank 0": lambda i, k: i.he_normal()(k, ()),
  "rank 1": lambda i, k: i.he_normal()(k, (3,)),
  "rank 1, as a tuple": lambda i, k: i.he_normal((-2,))(k, (3,)),
  "in_axis": lambda i, k: i.he_normal(2)(k, (3, 4)),
  "out_axis": lambda i, k: i.he_normal(0, (1, -3))(k, (3, 4)),
  "batch_axis": lambda i, k: i.he_normal(0, 1, 2)(k, (3, 4)),
  "no axis": lambda i, k: i.he_normal(None)(k, (3, 4)),
  "half an axis": lambda i, k: i.he_normal(0.5)(k, (3, 4)),
  "int shape": lambda i, k: i.orthogonal()(k, 3),
  "orthogonal rank": lambda i, k: i.orthogonal()(k, (3,)),
  "columns": lambda i, k: i.orthogonal(1.0, 2)(k, (3, 4)),
  "several columns": lambda i, k: i.orthogonal(1.0, (0, 1))(k, (3, 4)),
  "delta": lambda i, k: i.delta_orthogonal()(k, (3, 4)),
  "delta columns": lambda i, k: i.delta_orthogonal(1.0, 2)(k, (3, 3, 4)),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_what_jax_refuses_is_refused_with_a_reason(use):
  with pytest.raises((ValueError, TypeError, IndexError)):
    jax.eval_shape(lambda key: use(theirs, key), KEY)
  with pytest.raises(
    (ValueError, TypeError), match=r"; |must|outside|dtype|integer"
  ):
    jax.eval_shape(lambda key: use(ours, key), KEY)


# Beyond JAX: that which a batch axis cannot mean, and no axis twice.
@pytest.mark.parametrize(
  "axes", [(0, 1, 1), (0, 1, -2), ((0, 1), 1, 0), ((0, 0), 1), ((0, -2), 1)]
)
def test_the_axes_of_jax_that_are_refused(axes):
  with pytest.raises(ValueError, match=r"overlap|twice"):
    ours.he_normal(*axes)(KEY, (3, 4))
