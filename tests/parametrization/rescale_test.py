"""Initial sizes: measured on the base, and what a plan makes of parameters."""

import functools

import jax
import numpy as np
import pytest
import scaled_models as models

import initjax
from initjax.parametrization import Parametrization, Scaling

WIDE, BASE = 64, 16


def shapes(n):
  return models.mlp_shapes(n)


def plan_of(base_params=None, **options):
  base = (models.mlp, base_params or shapes(BASE), models.X)
  return initjax.mup(models.mlp, shapes(WIDE), models.X, base=base, **options)


def init(n, key):
  """Std ½, whatever the width: no common initializer."""
  leaves, structure = jax.tree.flatten(shapes(n))
  keys = jax.random.split(key, len(leaves))
  drawn = [
    0.5 * jax.random.normal(key, leaf.shape) * (leaf.ndim > 1)
    for key, leaf in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, drawn)


def test_each_leaf_gets_its_size():
  plan = plan_of(base_init=functools.partial(init, BASE))
  params = plan.rescale(init(WIDE, jax.random.key(1)))
  std = {name: float(leaf.std()) for name, leaf in params.items()}
  # 4 standard errors of a std of n entries, √(1/2n), here and in the base
  near = lambda n: pytest.approx(0.5, rel=4 * (0.5 / n + 0.5 / 32) ** 0.5)
  assert std["in"] == near(192)
  assert std["hidden"] * 2 == near(4096)
  assert std["out"] * 4 == near(128)
  assert std["bias"] == 0


def test_twice_is_refused():
  plan = plan_of(models.drawn(shapes(BASE)))
  params = plan.rescale(models.drawn(shapes(WIDE), seed=1))
  with pytest.raises(ValueError, match="must not be applied twice"):
    plan.rescale(params)


def test_what_has_its_size_is_kept_to_the_bit():
  plan = plan_of(models.drawn(shapes(BASE)))
  params = models.drawn(shapes(WIDE), seed=1)
  found = plan.rescale(params)
  np.testing.assert_array_equal(found["hidden"], params["hidden"])


@pytest.mark.parametrize(("errors", "kept"), [(3, True), (10, False)])
def test_the_chance_of_the_base_is_left_out(errors, kept):
  """Of √(1/2n) for each of two sizes of n entries, 16² and 64²."""
  off = 1 + errors * (0.5 / 16**2 + 0.5 / 64**2) ** 0.5
  row = Scaling("w", (64, 64), (16, 16), "hidden", 4.0, 4.0, 16.0, init=0.5)
  plan = Parametrization((row._replace(std=0.25 * off),))
  signs = np.random.default_rng(0).choice((-0.125, 0.125), (64, 64))
  found = plan.rescale({"w": np.float32(signs)})["w"]
  np.testing.assert_allclose(found, signs * (1 if kept else off), rtol=1e-6)


def test_init_is_rescale_of_init():
  own = functools.partial(init, WIDE)
  plan = plan_of(init=own, base_init=functools.partial(init, BASE))
  key = jax.random.key(3)
  first, second = plan.init(key), plan.rescale(own(key))
  assert all(
    map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(second))
  )
  third = jax.jit(jax.vmap(plan.init))(key[None])
  for name, leaf in first.items():
    np.testing.assert_allclose(third[name][0], leaf, rtol=1e-6)  # 8 roundings


@pytest.mark.parametrize("errors", [3, 10])
def test_a_traced_init_leaves_chance_out_alike(errors):
  off = 1 + errors * (0.5 / 16**2 + 0.5 / 64**2) ** 0.5
  row = Scaling("w", (64, 64), (16, 16), "hidden", 4.0, 4.0, 16.0, init=0.5)
  signs = lambda key: {"w": jax.random.rademacher(key, (64, 64), "float32") / 8}
  plan = Parametrization((row._replace(std=0.25 * off),), draw=signs)
  key = jax.random.key(0)
  found = jax.jit(plan.init)(key)["w"]
  np.testing.assert_allclose(found, plan.init(key)["w"], rtol=1e-6)
  zero = Parametrization((row._replace(std=0.0),), draw=signs)
  assert not jax.jit(zero.init)(key)["w"].any()


def test_unknown_sizes_are_said():
  plan = plan_of()
  assert {row.std for row in plan.rows} == {None}
  assert "unknown" in str(plan)
  with pytest.raises(ValueError, match="pass mup concrete base"):
    plan.rescale(models.drawn(shapes(WIDE)))
  with pytest.raises(ValueError, match="the plan has no init"):
    plan.init(jax.random.key(0))
  with pytest.raises(TypeError, match=r"init must be a function.*dict"):
    plan_of(init=shapes(WIDE))


def test_parameters_of_the_base_are_refused():
  base = models.drawn(shapes(BASE))
  with pytest.raises(ValueError, match="parameters of the model, not of the"):
    plan_of(base).rescale(base)


def test_zeros_stay_and_must_be_zeros_in_both():
  base = models.drawn(shapes(BASE)) | {"out": np.zeros((BASE, 2), np.float32)}
  plan = plan_of(base)
  params = models.drawn(shapes(WIDE))
  with pytest.raises(ValueError, match="out starts at 0 in the base"):
    plan.rescale(params)
  params["out"] = np.zeros((WIDE, 2), np.float32)
  assert not plan.rescale(params)["out"].any()


def test_a_file_holds_all_that_is_needed(tmp_path):
  plan = plan_of(models.drawn(shapes(BASE)))
  plan.to_json(tmp_path / "plan.json")
  read = Parametrization.from_json(tmp_path / "plan.json")
  assert read == plan
  params = models.drawn(shapes(WIDE))
  np.testing.assert_array_equal(
    read.rescale(params)["out"], plan.rescale(params)["out"]
  )
  (tmp_path / "other.json").write_text("[]")
  with pytest.raises(ValueError, match="no plan of format 1"):
    Parametrization.from_json(tmp_path / "other.json")


def test_rescale_wants_arrays():
  plan = plan_of(models.drawn(shapes(BASE)))
  with pytest.raises(ValueError, match="outside of jit"):
    jax.eval_shape(plan.rescale, models.drawn(shapes(WIDE)))


def test_a_factor_of_parts_is_not_applied_twice():
  row = Scaling("w", (64, 64), (16, 16), "hidden", 4.0, 4.0, 16.0, std=0.25)
  absorbed = np.where(np.arange(64) < 32, 0.5, 1.0)[None]
  plan = Parametrization((row._replace(init=0.5, absorbed=absorbed),))
  rng = np.random.default_rng(0)
  params = {"w": np.float32(rng.normal(size=(64, 64)) / 8)}
  once = plan.rescale(params)
  np.testing.assert_allclose(once["w"], params["w"] * absorbed)
  with pytest.raises(ValueError, match="must not be applied twice"):
    plan.rescale(once)


def test_factors_of_parts_are_written_and_read(tmp_path):
  row = Scaling("w", (4, 4), (2, 2), "hidden", 2.0, 2.0, 4.0)
  plan = Parametrization((row._replace(absorbed=np.array([[0.5, 1, 1, 1]])),))
  plan.to_json(tmp_path / "plan.json")
  read = Parametrization.from_json(tmp_path / "plan.json")
  assert read == plan
  assert read != Parametrization((row,))


def test_trained_parameters_are_warned_of():
  def model(w, x):
    return models.norm(x @ w["in"], w["scale"], 0.0) @ w["out"]

  def of(n):
    sizes = {"in": (3, n), "scale": (n,), "out": (n, 2)}
    return {name: models.shape(*size) for name, size in sizes.items()}

  base = (model, models.drawn(of(BASE)), models.X)
  plan = initjax.mup(model, of(WIDE), models.X, base=base)
  params = models.drawn(of(WIDE))
  plan.rescale(params)
  trained = params | {"scale": params["scale"] * 1.1}
  with pytest.warns(UserWarning, match="resumed or pretrained"):
    plan.rescale(trained)
