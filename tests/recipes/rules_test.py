"""Rules over trees of linen, NNX and plain parameters."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from initjax import initializers, recipes
from initjax._paths import key_of
from initjax.initializers._fans import KernelAxes
from initjax.recipes import _layouts

KEY = jax.random.key(0)
NORMAL = initializers.normal(1.0)


def plain():
  layer = {"kernel": jnp.ones((4, 4), jnp.bfloat16), "bias": jnp.ones(4)}
  return {"a": layer, "b": layer, "step": jnp.array(3)}


def test_the_first_match_wins_and_later_ones_are_shown():
  made = recipes.rules(
    [("a/*", 2.0), ("*/bias", NORMAL), (re.compile("^a"), 5)]
  )
  plan = made.plan(plain())
  rows = {row.path: (row.rule, row.shadowed) for row in plan.rows}
  assert rows["a/kernel"] == (0, (2,))
  assert rows["a/bias"] == (0, (1, 2))
  assert rows["b/bias"] == (1, ())
  assert plan.untouched == ("b/kernel", "step")
  params = made.apply(KEY, plain())
  np.testing.assert_array_equal(params["a"]["bias"], 2 * np.ones(4))
  assert params["a"]["kernel"].dtype == jnp.bfloat16
  assert params["step"] == 3
  lines = str(plan).splitlines()
  assert re.search(r"a/bias +4 +float32 +× 2 +0: a/\* +1, 2$", lines[1])
  assert re.search(r"step +scalar +int32 +keep$", lines[5])


def test_a_rule_without_a_match_names_near_misses():
  with pytest.raises(ValueError, match=r"rule 1, 'kernel'.*a/kernel, b/kernel"):
    recipes.rules([("*bias", 1.0), ("kernel", 1.0)]).apply(KEY, plain())
  with pytest.raises(ValueError, match=r"near it: [ab]/kernel"):
    recipes.rules([("*kernal", 1.0)]).plan(plain())
  with pytest.raises(ValueError, match="leaf of floats"):
    recipes.rules([("step", 1.0)]).plan(plain())


@pytest.mark.parametrize(
  "pair", [("a",), "ab", ("a", "b"), (3, 1.0), ([], 1.0), ("a", jnp.nan)]
)
def test_bad_rules_raise_when_built(pair):
  with pytest.raises(ValueError, match=r"rule|pattern|scale"):
    recipes.rules([pair])


def test_scales_need_values():
  abstract = jax.eval_shape(plain)
  with pytest.raises(ValueError, match="abstract"):
    recipes.rules([("*", 2.0)]).apply(None, abstract)
  params = recipes.rules([("*", NORMAL)]).apply(KEY, abstract | {"step": 3})
  assert params["a"]["kernel"].dtype == jnp.bfloat16


def test_predicates_and_lists():
  big = lambda path, leaf: path.startswith("b") and leaf.ndim == 2
  plan = recipes.rules([([big, "a/bias"], 2.0)]).plan(plain())
  assert plan.untouched == ("a/kernel", "b/bias", "step")


def test_keys_depend_on_the_path_alone():
  """flax#2157: names that read alike when joined must not share a key."""
  one, other = (
    jax.random.key_data(key_of(KEY, path)) for path in ("ab/cdef", "abc/def")
  )
  assert not np.array_equal(one, other)
  made = recipes.rules([("*kernel", NORMAL)])
  few, more = plain(), plain() | {"aa": plain()["a"]}
  few, more = made.apply(KEY, few), made.apply(KEY, more)
  np.testing.assert_array_equal(few["b"]["kernel"], more["b"]["kernel"])
  assert not np.array_equal(few["b"]["kernel"], few["a"]["kernel"])


def test_linen_nnx_and_plain_trees_agree():
  init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "m"))
  boxed = jax.eval_shape(
    nn.Dense(4, kernel_init=init).init, KEY, jnp.ones((1, 3))
  )
  module = nnx.Sequential(
    nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))
  )
  state = nnx.state(module)
  made = recipes.rules([("*kernel", NORMAL)])
  from_linen = made.apply(KEY, boxed["params"])["kernel"]
  assert isinstance(from_linen, nn.Partitioned)
  assert from_linen.names == (None, "m")
  layers = made.apply(KEY, state)
  nnx.update(module, layers)
  assert module(np.ones((1, 3), np.float32)).shape == (1, 4)
  nested = {"layers": {"0": {"kernel": jnp.zeros((3, 4))}}}
  np.testing.assert_array_equal(
    made.apply(KEY, nested)["layers"]["0"]["kernel"],
    module.layers[0].kernel[...],
  )
  np.testing.assert_array_equal(
    from_linen.value, made.apply(KEY, {"kernel": jnp.zeros((3, 4))})["kernel"]
  )


def test_leaves_stay_where_they_are_and_keep_their_values():
  draw, scale = recipes.rules([("w", NORMAL)]), recipes.rules([("w", 2.0)])
  bare = draw.apply(KEY, {"w": np.zeros((8, 8), np.float32)})["w"]
  for shape in ((1, 1), (2, 4), (8, 1)):
    mesh = jax.make_mesh(
      shape,
      ("x", "y"),
      devices=jax.devices()[: np.prod(shape)],
      axis_types=(jax.sharding.AxisType.Auto,) * 2,
    )
    sharding = NamedSharding(mesh, PartitionSpec("x", "y"))
    abstract = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=sharding)
    drawn = draw.apply(KEY, {"w": abstract})["w"]
    scaled = scale.apply(None, {"w": drawn})["w"]
    assert drawn.sharding.is_equivalent_to(sharding, 2)
    assert scaled.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(drawn, bare)


MISREAD = [  # an initializer, a kernel [out, in], whether its fans are others
  (initializers.lecun_normal(), (6, 4), True),
  (jax.nn.initializers.he_normal(), (6, 4), True),
  (initializers.torch_linear_kernel(), (6, 4), True),
  (initializers.lecun_normal(in_axis=-1, out_axis=-2), (6, 4), False),
  (initializers.lecun_normal(), (6, 6), False),  # as many
  (initializers.xavier_uniform(), (6, 4), False),  # of both
  (initializers.orthogonal(), (6, 4), False),
  (lambda key, shape, dtype: dtype, (6, 4), False),  # nobody knows
]


@pytest.mark.parametrize(("init", "shape", "wrong"), MISREAD)
def test_initializers_that_take_outputs_for_inputs(init, shape, wrong):
  layout = _layouts.Layout("Linear", KernelAxes((-1,), (-2,), ()))
  message = _layouts.misread(init, shape, layout)
  assert (message is not None) == wrong
  if wrong:
    assert "fan_in = 4. Build it with in_axis=-1, out_axis=-2." in message


@pytest.mark.slow
def test_equinox_keeps_kernels_the_other_way_round():
  eqx = pytest.importorskip("equinox", reason="an optional peer")
  mlp = eqx.nn.MLP(4, 3, 16, 2, key=KEY)
  conv = eqx.nn.Conv2d(3, 8, 3, key=KEY)
  stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 6, key=key))(
    jax.random.split(KEY, 3)
  )
  lecun = initializers.lecun_normal
  for model, axes in (
    (mlp, {"in_axis": -1, "out_axis": -2}),
    (conv, {"in_axis": -3, "out_axis": -4}),
    (stack, {"in_axis": -1, "out_axis": -2, "batch_axis": (0,)}),
  ):
    arrays = eqx.filter(model, eqx.is_array)
    right = ", ".join(f"{axis}={value}" for axis, value in axes.items())
    with pytest.warns(UserWarning, match=re.escape(f"with {right}.")):
      recipes.rules([("*weight", lecun())]).apply(KEY, arrays)
    recipes.rules([("*weight", lecun(**axes))]).apply(KEY, arrays)
  recipes.rules([("*weight", 0.5)]).apply(None, mlp)


def test_rules_apply_under_jit():
  made = recipes.rules([("a/*", NORMAL), ("b/*", 0.5)])
  inside, outside = (
    apply(KEY, plain()) for apply in (jax.jit(made.apply), made.apply)
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(close, *jax.device_get((inside, outside)))  # fused multiply-adds
