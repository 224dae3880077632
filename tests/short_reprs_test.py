"""A session shows a result in a line; `print` shows all that is there."""

import jax
import jax.numpy as jnp
import pytest

import initjax
from initjax import meanfield

DEPTH = 200


def model(kernels, x):
  layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
  return jax.lax.scan(layer, x, kernels)[0]


KERNELS = jnp.tile(jnp.eye(4) * 2**0.5, (DEPTH, 1, 1))
X = jax.random.normal(jax.random.key(0), (2, 4))
LAYERS = [meanfield.Layer(jax.nn.relu, 2.0, width=8)] * DEPTH
RESULTS = {
  "SignalReport(1 operation, not judged)": initjax.measure,
  "SignalGraph(1 operation)": initjax.signal_graph,
  "VariancePlan(200 rows, 0 kept, ": initjax.plan_init,
  "Prediction(200 rows: signal known at ": initjax.predict,
  "LinearOp(.: dot 4→4 × 200, fed by relu)": (
    lambda *args: initjax.signal_graph(*args).ops[0]
  ),
  "Calibration(1 operation, factors ": (
    lambda *args: initjax.calibrate(*args, check=False)[1]
  ),
  "JacobianSpectrum(1 × 4 squared singular ": initjax.jacobian_spectrum,
  "Trajectory(200 layers: signal 2^0.00, ": (
    lambda *_: meanfield.trajectory(LAYERS)
  ),
}


@pytest.mark.parametrize("start", RESULTS)
def test_a_result_is_shown_in_a_line(start):
  shown = repr(RESULTS[start](model, KERNELS, X[:1]))
  assert shown.startswith(start)
  assert len(shown) < 100
  assert "\n" not in shown
