"""initjax: weight initialization for deep networks in JAX, and its theory.

>>> import jax, initjax
>>> init = initjax.initializers.activation_scaling(jax.nn.gelu)
>>> init(jax.random.key(0), (256, 512)).shape
(256, 512)
"""

from initjax import (
  diagnosis,
  gains,
  graph,
  initializers,
  meanfield,
  measurement,
  model_init,
  parametrization,
  propagation,
  recipes,
  reports,
  stacks,
  testing,
  typing,
)
from initjax.diagnosis import diagnose
from initjax.gains import gain
from initjax.graph import functional, signal_graph
from initjax.measurement import (
  jacobian_spectrum,
  measure,
  measure_and_grad,
)
from initjax.model_init import (
  auto_init,
  calibrate,
  init_variables,
  plan_init,
)
from initjax.parametrization import coordinate_check, mup
from initjax.propagation import predict
from initjax.recipes import rules

__version__ = "0.1.0"

__all__ = [
  "auto_init",
  "calibrate",
  "coordinate_check",
  "diagnose",
  "diagnosis",
  "functional",
  "gain",
  "gains",
  "graph",
  "init_variables",
  "initializers",
  "jacobian_spectrum",
  "meanfield",
  "measure",
  "measure_and_grad",
  "measurement",
  "model_init",
  "mup",
  "parametrization",
  "plan_init",
  "predict",
  "propagation",
  "recipes",
  "reports",
  "rules",
  "signal_graph",
  "stacks",
  "testing",
  "typing",
]
