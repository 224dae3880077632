"""Measuring signals inside any JAX model.

>>> import jax.numpy as jnp
>>> report = measure(jnp.dot, jnp.ones((3, 8)), jnp.ones((8, 2)))
>>> report.to_records()[0]["fan_in"]
8
"""

from initjax.probes._diagnose import diagnose
from initjax.probes._jacobian import JacobianSpectrum, jacobian_spectrum
from initjax.probes._measure import Measured, measure
from initjax.probes._predict import Prediction, predict
from initjax.probes._report import SignalReport

__all__ = [
  "JacobianSpectrum",
  "Measured",
  "Prediction",
  "SignalReport",
  "diagnose",
  "jacobian_spectrum",
  "measure",
  "predict",
]
