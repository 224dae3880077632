"""The log of an average of log-normal variables: its mean and variance."""

import math

import numpy as np


def log_average(variance: np.ndarray, batch: int) -> np.ndarray:
  """E and Var of log((exp X_1 + ... + exp X_B)/B), X_i ~ N(0, v) independent.

  With Y ~ Exp(1) independent of a sum S, P(log Y - log S > x) is E exp(-S·eˣ),
  for a sum of B terms the B-th power of that for one. So log S has the mean and
  variance of that law less those of log Y, which are -0.577... and π²/6.

  Args:
    variance: v >= 0 [k].
    batch: B.

  Returns:
    [2, k]; relative errors below 1e-6 for v <= 16.
  """
  z = np.linspace(-9.0, 9.0, 181)
  density = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
  std = np.sqrt(variance)
  step = 0.25  # the trapezoidal rule errs by e^(-π²/step)
  x = np.arange(-40.0 - 8 * std.max(), 5.0 + 8 * std.max(), step)
  with np.errstate(over="ignore"):  # exp(-inf) is 0
    one = np.stack([np.exp(-np.exp(x[:, None] + s * z)) @ density for s in std])
  above = one**batch
  start, mass = x[0], above.copy()
  mass[:, 0] /= 2
  mean = start + step * mass.sum(axis=1)
  square = start**2 + 2 * step * (mass * x).sum(axis=1) + step**2 / 6
  log_mean = -np.euler_gamma - mean - math.log(batch)
  return np.stack([log_mean, np.maximum(square - mean**2 - math.pi**2 / 6, 0)])
