"""What theory predicts about deep random networks before any is built.

>>> import jax
>>> critical_point(jax.numpy.tanh, 0.05).phase
'critical'
"""

from initjax.meanfield._critical import critical_point, half_stable_point
from initjax.meanfield._finite_width import (
  LogNorm,
  fluctuation,
  relu_log_norm,
)
from initjax.meanfield._fixed_points import FixedPoint, fixed_point
from initjax.meanfield._jacobian import JacobianMoments, jacobian_moments
from initjax.meanfield._maps import correlation_map, length_map
from initjax.meanfield._moment_tables import THEORY_FAILS, Response, response
from initjax.meanfield._normalization import batch_norm_gradient_growth
from initjax.meanfield._simulate import Simulation, simulate
from initjax.meanfield._steps import Layer
from initjax.meanfield._trajectory import Trajectory, trajectory

__all__ = [
  "THEORY_FAILS",
  "FixedPoint",
  "JacobianMoments",
  "Layer",
  "LogNorm",
  "Response",
  "Simulation",
  "Trajectory",
  "batch_norm_gradient_growth",
  "correlation_map",
  "critical_point",
  "fixed_point",
  "fluctuation",
  "half_stable_point",
  "jacobian_moments",
  "length_map",
  "relu_log_norm",
  "response",
  "simulate",
  "trajectory",
]
