"""Random models: nothing changes, fans are counts, calibrated is calibrated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_laws import check, quick_jit
from random_models import build, models, program, random_model, wide_model
from random_steps import BATCH, SINGLE, Extra, Shape, Step

import initjax

quietly = settings(
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@settings(quietly, max_examples=60)
@given(models())
def test_laws_hold_of_any_model(model):
  check(model)


@pytest.mark.parametrize("seed", range(20))
def test_laws_hold_of_random_models(seed):
  check(random_model(seed), values=seed % 10 == 0)


# Fans by counting: what a step sums is where its Jacobian is not zero


@settings(quietly, max_examples=12)
@given(
  st.sampled_from(tuple(SINGLE)),
  st.tuples(*[st.integers(0, 11)] * 3),
  st.builds(Shape, st.sampled_from((1, 2, 4)), st.integers(2, 6)),
)
def test_fans_by_hand_are_non_zeros_of_the_jacobian(kind, numbers, shape):
  a, b, c = numbers
  if kind == "derived" and b % 4 == 1:
    b = 0  # standardized: of one entry nothing is left
  made = build(shape, Step(kind, (a, b, c, 0)))
  (use,) = made.uses
  draw = np.random.default_rng(0).normal
  params = {
    name: jnp.asarray(draw(size=[n for n in sizes if n != "complex"]))
    for name, sizes in made.params.items()
  }
  if kind == "complex_dense":
    params["w"] = params["w"] * (1 + 2j)
  extra = Extra(jnp.array([0, 1]), jax.random.key(0))
  fn = lambda x: made.run(params, x, extra)

  @quick_jit
  def jacobian(x):  # row by row, which compiles faster than all at once
    y, pull_back = jax.vjp(fn, x)
    units = jnp.eye(y.size, dtype=y.dtype).reshape(-1, *y.shape)
    rows = jax.lax.map(lambda unit: pull_back(unit)[0], units)
    return rows.reshape(*y.shape, *x.shape)

  x = np.float32(draw(size=(BATCH, *shape)))
  fed = np.asarray(jacobian(x)) != 0
  assert fed.shape[:3] == (BATCH, *made.shape)
  assert fed.sum() / fed[..., 0, 0, 0].size == use.fan_in
  assert fed.sum() / x.size == use.fan_out


# Plans, over draws

WIDTH, DRAWS = 32, 64


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_plans_give_unit_second_moments(seed):
  """Theory of infinite width: 3/width beyond five standard errors."""
  made = program(wide_model(seed, WIDTH), Shape(4, WIDTH))
  plain = {"scale": jnp.ones_like, "b": jnp.zeros_like}
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: plain.get(path[-1].key, lambda leaf: leaf)(leaf),
    made.params,
  )
  x, extra = made.inputs
  x = x / jnp.sqrt(jnp.mean(x**2))

  @jax.jit
  @jax.vmap
  def sizes(key):
    drawn = initjax.auto_init(key, made.fn, params, x, extra)
    rows = initjax.measure(made.fn, drawn, x, extra).forward
    return [2**row.log2_second_moment for row in rows]

  found = jax.device_get(sizes(jax.random.split(jax.random.key(seed), DRAWS)))
  plan = initjax.plan_init(made.fn, params, x, extra)
  graph = initjax.signal_graph(made.fn, params, x, extra)
  for row, planned in zip(graph.rows, plan.rows, strict=True):
    if not planned.why:  # nothing was assumed
      draws = found[row.number][(slice(None), *row.repeat)]
      error = draws.std() / DRAWS**0.5
      assert abs(draws.mean() - 1) < 5 * error + 3 / WIDTH, row.op.path
