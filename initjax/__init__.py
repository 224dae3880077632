"""initjax: weight initialization for deep networks in JAX, and its theory.

>>> import jax, initjax
>>> init = initjax.initializers.activation_scaling(jax.nn.gelu)
>>> init(jax.random.key(0), (256, 512)).shape
(256, 512)
"""

from initjax import (
  gains,
  initializers,
  meanfield,
  probes,
  reports,
  schemes,
  stacks,
  testing,
  tracing,
  typing,
)
from initjax.gains import gain
from initjax.probes import diagnose, measure
from initjax.schemes import auto_init, calibrate, init_variables
from initjax.tracing import functional, signal_graph

__version__ = "0.1.0"

__all__ = [
  "auto_init",
  "calibrate",
  "diagnose",
  "functional",
  "gain",
  "gains",
  "init_variables",
  "initializers",
  "meanfield",
  "measure",
  "probes",
  "reports",
  "schemes",
  "signal_graph",
  "stacks",
  "testing",
  "tracing",
  "typing",
]
