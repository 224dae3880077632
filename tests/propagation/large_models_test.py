"""Plans and predictions of models that nobody could allocate here."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from large_models import SIZES, inputs_of, model_of, params_of

import initjax


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_shapes_are_enough_for_billions_of_parameters(name):
  """5 seconds of CPU each for Llama-7B, all models twice that."""
  size = SIZES[name]
  given = model_of(size), params_of(size), inputs_of(size)
  start = time.process_time()
  plan = initjax.plan_init(*given)
  planned = time.process_time()
  theory = initjax.predict(*given)
  predicted = time.process_time()
  most = 5 if name == "Llama-7B" else 10
  assert planned - start < most
  assert predicted - planned < most
  assert len(plan.rows) == len(theory.forward)
  assert np.isfinite(theory.forward).all()
  assert np.isfinite(theory.backward).mean() > 0.75
  assert any("scale by 1 and shift by 0" in row.why for row in plan.rows)
  assert "scales to be 1 and biases 0" in theory.notes[0]


def test_a_plan_of_shapes_is_that_of_ones_and_zeros():
  def fn(p, x):
    h = jax.nn.relu(p["scale"] * (x @ p["in"]) + p["bias"])
    return h @ p["out"]

  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
  shapes = {
    "in": shape(4, 8), "scale": shape(8), "bias": shape(8), "out": shape(8, 4)
  }  # fmt: skip
  given = {**shapes, "scale": np.ones(8), "bias": np.zeros(8)}
  plan = initjax.plan_init(fn, shapes, shape(3, 4))
  concrete = initjax.plan_init(fn, given, shape(3, 4))
  assert [row.std for row in plan.rows] == [row.std for row in concrete.rows]
  assert plan.rows[1].why == (
    "constants without values, assumed to scale by 1 and shift by 0"
  )
  with pytest.raises(TypeError, match="expected a value for bias"):
    initjax.auto_init(jax.random.key(0), fn, shapes, shape(3, 4))
