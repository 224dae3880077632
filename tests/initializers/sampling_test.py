"""What all initializers share: precision, no size, sharding, transforms."""

import contextlib
import copy
import functools
import itertools
import os
import pickle

import cloudpickle
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from initjax import initializers as init
from initjax.typing import Initializer

KEY = jax.random.key(2)
FAST_KEY = jax.random.key(2, impl="rbg")  # compiles faster than threefry
EPS = float(jnp.finfo(jnp.float32).eps)

# Every public initializer, and a shape whose last axes divide by 2 and 4.
OTHER_NAMES = {"Initializer", "zeros", "ones", "glorot_normal",
               "glorot_uniform", "he_normal", "he_uniform"}  # fmt: skip
ARGUMENTS = {
  "constant": (0.3,), "activation_scaling": (jnp.tanh,), "dirac": (2,),
  "sparse": (0.5,), "torch_linear_bias": (3,), "residual_normal": (4,),
  "variance_scaling": (1, "fan_in", "normal"), "uniform_between": (-1, 2),
  "blocks": ([init.uniform(), init.ones], (4, 12)),
}  # fmt: skip
SHAPES = dict.fromkeys(("delta_orthogonal", "dirac"), (3, 8, 16))
SHAPES |= dict.fromkeys(
  ("ones_init", "constant", "uniform", "normal", "truncated_normal",
   "torch_linear_bias", "residual_normal", "uniform_between"), (16,)
)  # fmt: skip
CASES = {
  name: (
    getattr(init, name)(*ARGUMENTS.get(name, ())),
    SHAPES.get(name, (8, 16)),
  )
  for name in sorted({*init.__all__} - OTHER_NAMES)
}
ABSOLUTE = {"mean": 0.3, "lower": -1.0, "upper": 2.0, "absolute": True}
STACK = {"batch_axis": 0, "rectangular": "variance"}
CASES |= {
  "absolute": (init.truncated_normal(1.0, **ABSOLUTE), (16,)),
  "tails": (init.truncated_normal(upper=np.inf, mean=1.0), (16,)),
  "siren_first": (init.siren(first=True), (8, 16)),
  "stack": (init.orthogonal(**STACK), (3, 8, 16)),
  "eyes": (init.eye(batch_axis=0), (3, 8, 16)),
  "narrow_delta": (init.delta_orthogonal(), (3, 16, 8)),
}
CONSTANT = {"constant", "dirac", "eye", "eyes", "ones_init", "zero_hadamard",
            "zeros_init"}  # fmt: skip


def every(key, sharding_of=lambda shape: None):
  """All of them drawn with one key: under `jax.jit` one program."""
  return {
    name: build(key, shape, jnp.float32, sharding_of(shape))
    for name, (build, shape) in CASES.items()
  }


jitted = jax.jit(every)


def assert_same_draws(actual, desired):
  """Equal up to the order of roundings, which `jax.jit` changes by fusion.

  At most eight roundings separate the random bits from the result, each of
  half an ulp of the largest magnitude. Sharding itself changes no bit.
  """
  assert actual.keys() == desired.keys()
  for name, wanted in desired.items():
    wanted, found = np.asarray(wanted), np.asarray(actual[name])
    assert found.dtype == wanted.dtype
    atol = 8 * EPS * float(np.abs(wanted).max())
    np.testing.assert_allclose(
      found, wanted, rtol=0, atol=atol, err_msg=name, strict=True
    )


# Calls


def test_a_key_that_is_none_is_refused_in_one_sentence():
  wanted = r"^expected one key, such as jax\.random\.key\(0\); got"
  bad = (0, None, "k", np.zeros(3, np.uint32), jax.random.split(KEY))
  bad += (nnx.Rngs(0),)
  for name in set(CASES) - CONSTANT:
    build, shape = CASES[name]
    for key in bad:
      with pytest.raises(TypeError, match=wanted):
        build(key, shape)


NO_FACTORIES = {"Initializer", "zeros", "ones"}


@pytest.mark.parametrize("name", sorted({*init.__all__} - NO_FACTORIES))
def test_an_initializer_that_was_not_called_says_so(name):
  """As Flax does it with `kernel_init=he_normal`, traced or not."""
  function = getattr(init, name)
  not_called = lambda key: function(key, (8, 16), jnp.float32)
  for call in (not_called, functools.partial(jax.eval_shape, not_called)):
    with pytest.raises(TypeError, match=r"key; call it first: \w+\(\.\.\.\)"):
      call(KEY)


def test_a_number_is_the_shape_of_a_vector():
  vectors = [build for build, shape in CASES.values() if len(shape) == 1]
  drawn = jax.eval_shape(lambda key: [build(key, 16) for build in vectors], KEY)
  assert {each.shape for each in drawn} == {(16,)}


def test_what_is_no_shape_is_refused_with_a_reason():
  for bad in (None, "34", (3, None), (3.0, 4)):
    with pytest.raises(TypeError, match=r"a shape must be .* integers; got"):
      init.he_normal()(KEY, bad)
  with pytest.raises(TypeError, match=r"expected one key, .*; got \(3, 4\)"):
    init.he_normal()((3, 4), jnp.float32)  # as Haiku calls it


def program(build, shape):
  return str(jax.make_jaxpr(lambda key: build(key, shape))(KEY))


def test_copies_and_pickles_draw_the_same():
  for build, shape in CASES.values():
    pickled = cloudpickle.loads(cloudpickle.dumps(build))
    for again in (copy.deepcopy(build), pickled):
      assert program(again, shape) == program(build, shape)
  layer = nn.Dense(4, kernel_init=init.he_normal())
  pickled = cloudpickle.loads(cloudpickle.dumps(layer))
  ours, theirs = (one.init(KEY, np.ones((1, 3))) for one in (layer, pickled))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert pickle.loads(pickle.dumps(init.zeros)) is init.zeros


# Precision


def test_narrow_draws_are_the_float32_draws_cast():
  for name, (build, shape) in CASES.items():
    wide = np.asarray(build(KEY, shape, jnp.float32))
    narrow = np.asarray(build(KEY, shape, jnp.bfloat16))
    cast = wide.astype(jnp.bfloat16)
    np.testing.assert_array_equal(narrow, cast, name, strict=True)


# float8_e8m0fnu is a format of scales: it has neither sign nor zero.
FLOAT8 = [name for name in dir(jnp) if name.startswith("float8")]
NARROW = {"bfloat16", "float16", *FLOAT8} - {"float8_e8m0fnu"}
# XLA's older emitters, which our own tests ask for, cast to *fnuz wrongly.
OLD = "--xla_cpu_use_fusion_emitters=false" in os.environ["XLA_FLAGS"].split()
EMITTERS = {"xla_cpu_use_fusion_emitters": True} if OLD else {}


def test_every_format_is_rounded_to_and_overflow_is_clipped():
  rng = np.random.default_rng(0)
  drawn = rng.normal(size=1000) * 2.0 ** rng.integers(-12, 6, 1000)
  wide = np.append(drawn, [0, 1e30, -1e30, np.nan]).astype(np.float32)
  build = init.constant(wide)
  cast = lambda: {name: build(KEY, wide.shape, name) for name in NARROW}
  for name, narrow in jax.jit(cast, compiler_options=EMITTERS)().items():
    dtype, limit = getattr(jnp, name), float(jnp.finfo(name).max)
    assert narrow.dtype == dtype
    wanted = np.clip(wide, -limit, limit).astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(np.asarray(narrow, np.float64), wanted, name)


def test_empty_shapes_give_empty_arrays():
  for name, (build, shape) in CASES.items():
    for axis in (0, -1):
      sizes = list(shape)
      sizes[axis] = 0
      for dtype in (jnp.float32, jnp.bfloat16):
        empty = build(KEY, sizes, dtype)
        assert (empty.shape, empty.dtype) == (tuple(sizes), dtype), name


# Sharding


def mesh_of(*kinds):
  return jax.make_mesh((2, 4), ("a", "b"), axis_types=kinds)


def spec_of(shape):
  """The last axis over all of "b", the one before over "a"."""
  head = (None,) * max(len(shape) - 2, 0)
  return P("b") if len(shape) == 1 else P(*head, "a", "b")


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_out_sharding(kind):
  mesh = mesh_of(kind, kind)
  named = lambda shape: NamedSharding(mesh, spec_of(shape))
  # The hardest way of each kind: explicit axes live in types, automatic ones
  # need a NamedSharding where no mesh is set.
  explicit = kind == AxisType.Explicit
  with jax.set_mesh(mesh) if explicit else contextlib.nullcontext():
    draw = lambda key: every(key, spec_of if explicit else named)
    sharded = jax.jit(draw)(KEY)
  for name, (_, shape) in CASES.items():
    assert sharded[name].sharding == named(shape), name
  assert_same_draws(sharded, jitted(KEY))


@pytest.mark.parametrize(
  "kinds",
  [(AxisType.Explicit,) * 2, (AxisType.Auto,) * 2,
   (AxisType.Explicit, AxisType.Auto)],
)  # fmt: skip
def test_every_way_to_ask_for_a_sharding(kinds):
  build, mesh, spec = init.uniform(), mesh_of(*kinds), P("a", "b")
  wanted = NamedSharding(mesh, spec)
  ways = itertools.product((False, True), repeat=3)
  for set_mesh, traced, named in ways:
    if not (set_mesh or named):
      continue  # an error: see below
    draw = lambda key, to: build(key, (8, 16), jnp.float32, to)
    draw = jax.jit(draw, static_argnums=1) if traced else draw
    with jax.set_mesh(mesh) if set_mesh else contextlib.nullcontext():
      sharded = draw(FAST_KEY, wanted if named else spec)
    assert sharded.sharding == wanted, (set_mesh, traced, named)


def test_one_initializer_serves_two_meshes():
  build, spec = init.normal(), P("a", "b")
  for sizes in ((2, 4), (4, 2)):
    mesh = jax.make_mesh(sizes, ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
      sharding = build(FAST_KEY, (8, 16), None, spec).sharding
    assert sharding == NamedSharding(mesh, spec)


def test_a_spec_without_a_mesh_raises():
  with pytest.raises(
    ValueError, match=r"no mesh is set; use `with jax\.set_mesh"
  ):
    init.normal()(KEY, (8, 16), None, P("a", "b"))


# Transforms


def test_jit_and_eval_shape():
  assert_same_draws(jitted(KEY), every(KEY))
  for name, abstract in jax.eval_shape(every, KEY).items():
    assert (abstract.shape, abstract.dtype) == (CASES[name][1], jnp.float32)
    assert isinstance(CASES[name][0], Initializer)


def test_vmap_over_keys():
  keys = jax.random.split(KEY)
  both = jax.jit(jax.vmap(every))(keys)
  for i, key in enumerate(keys):
    one = {name: np.asarray(draws)[i] for name, draws in both.items()}
    assert_same_draws(one, jitted(key))


def test_the_key_decides_and_of_constants_nothing():
  one, other = jitted(KEY), jitted(jax.random.key(3))
  for name in CASES:
    same = np.array_equal(one[name], other[name])
    assert same == (name in CONSTANT), name


def test_every_initializer_lowers_for_accelerators_that_are_not_here():
  platforms = ("cpu", "cuda", "tpu")
  key = jax.eval_shape(jax.random.key, 0)
  assert jax.export.export(jitted, platforms=platforms)(key).platforms == (
    platforms
  )


# Traced arguments: (initializer of a scale, a bound of what 3 may draw)
BY_SCALE = {
  "uniform": init.uniform,
  "normal": init.normal,
  "truncated": lambda s: init.truncated_normal(s, mean=s),
  "absolute": lambda s: init.truncated_normal(s, absolute=True),
  "sparse": lambda s: init.sparse(0.5, s),
  "residual": lambda s: init.residual_normal(4, s),
  "siren": init.siren,
  "eye": init.eye,
  "groups": lambda s: init.variance_scaling(s, "fan_out", "uniform", groups=5),
  "orthogonal": init.orthogonal,
  "fan_in": lambda s: init.variance_scaling(s, "fan_in", "normal"),
  "fan_avg": lambda s: init.variance_scaling(s, "fan_avg", "truncated_normal"),
  "xavier": lambda s: init.xavier_uniform(gain=s),
  "kaiming": lambda s: init.kaiming_normal(negative_slope=s),
}


def test_traced_scale():
  scales = (0.1, 0.5, 3.0)
  draw = lambda s: {n: f(s)(FAST_KEY, (4, 5)) for n, f in BY_SCALE.items()}
  traced = jax.jit(jax.vmap(draw))(jnp.array(scales))
  desired = jax.jit(lambda: [draw(scale) for scale in scales])()
  for name, found in traced.items():
    # Fusion reorders at most eight roundings of a product; where numbers are
    # added, relative to the largest, which `absolute` bounds by 2, the other
    # by 3 + 3·2.
    added = 9 * (name in ("truncated", "absolute"))
    for i, wanted in enumerate(desired):
      np.testing.assert_allclose(
        found[i], wanted[name], rtol=8 * EPS, atol=8 * EPS * added, err_msg=name
      )


def test_gradients_with_respect_to_a_scale():
  """W is linear in its scale; the sum holds two roundings to bfloat16."""
  inits = [BY_SCALE[name] for name in ("uniform", "normal", "truncated")]

  def totals(s, dtype=jnp.bfloat16):
    return jnp.stack([f(s)(FAST_KEY, (4, 5), dtype).sum() for f in inits])

  def sizes(s):
    return [abs(f(s)(FAST_KEY, (4, 5))).sum() for f in inits]

  slopes, wholes, bounds = jax.jit(
    lambda s: (jax.jacrev(totals)(s), totals(s), sizes(s))
  )(2.0)
  for slope, whole, bound in zip(slopes, wholes, bounds, strict=True):
    assert abs(float(slope) - float(whole) / 2) < 2**-8 * float(bound)
