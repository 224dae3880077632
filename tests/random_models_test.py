"""Random models: nothing changes, fans are counts, calibrated is calibrated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_laws import check
from random_models import build, models, random_model
from random_steps import BATCH, SINGLE, Extra, Shape, Step

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
  check(random_model(seed), values=seed % 5 == 0)


# Fans by counting: what a step sums is where its Jacobian is not zero


@settings(quietly, max_examples=12)
@given(
  st.sampled_from(tuple(SINGLE)),
  st.tuples(*[st.integers(0, 11)] * 3),
  st.builds(Shape, st.sampled_from((1, 2, 4)), st.integers(2, 6)),
)
def test_fans_by_hand_are_non_zeros_of_the_jacobian(kind, numbers, shape):
  a, b, c = numbers
  b = 0 if kind == "derived" else b  # a mask of zeros, a mean of one taken off
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
  run = jax.jit(jax.jacobian(lambda x: made.run(params, x, extra)))
  x = np.float32(draw(size=(BATCH, *shape)))
  fed = np.asarray(run(x)) != 0
  assert fed.shape[:3] == (BATCH, *made.shape)
  assert fed.sum() / fed[..., 0, 0, 0].size == use.fan_in
  assert fed.sum() / x.size == use.fan_out
