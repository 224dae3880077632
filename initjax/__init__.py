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
from initjax.schemes import calibrate
from initjax.tracing import functional, signal_graph

__version__ = "0.1.0"

__all__ = [
  "calibrate",
  "diagnose",
  "functional",
  "gain",
  "gains",
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
