"""Width and depth scaling of any model, read from its graph at two sizes.

>>> import jax.numpy as jnp
>>> fn = lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"]
>>> shapes = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
>>> x = jnp.ones((5, 3))
>>> plan = mup(fn, shapes(64), x, base=(fn, shapes(16), x))
>>> plan
Parametrization(2 leaves, 2 scaled, 0 notes)
"""

from initjax.parametrization._coordinates import coordinate_check
from initjax.parametrization._coordinates_pass import Setup
from initjax.parametrization._coordinates_report import CoordinateCheck
from initjax.parametrization._mup import mup
from initjax.parametrization._parametrization import Parametrization
from initjax.parametrization._scaling import Scaling, Steps

__all__ = [
  "CoordinateCheck",
  "Parametrization",
  "Scaling",
  "Setup",
  "Steps",
  "coordinate_check",
  "mup",
]
