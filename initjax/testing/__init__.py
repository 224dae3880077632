"""Assertions for your own test suite, with tolerances derived from theory.

>>> import jax, initjax
>>> def mlp(kernels, x):
...   layer = lambda h, kernel: (jax.nn.relu(h @ kernel), None)
...   return jax.lax.scan(layer, x, kernels)[0]
>>> he = jax.nn.initializers.he_normal(batch_axis=0)
>>> kernels = he(jax.random.key(0), (100, 64, 64))
>>> x = jax.random.normal(jax.random.key(1), (16, 64))
>>> assert_variance_stable(mlp, kernels, x)
>>> assert_variance_stable(mlp, kernels * 1.1, x)
Traceback (most recent call last):
  ...
AssertionError: The signal is not stable...
"""

from initjax.testing._assertions import (
  assert_finite_signal,
  assert_gradients_flow,
  assert_healthy,
  assert_no_dead_units,
  assert_symmetry_broken,
  assert_variance_stable,
)
from initjax.testing._orthogonal import assert_orthogonal
from initjax.testing._width import assert_width_stable

__all__ = [
  "assert_finite_signal",
  "assert_gradients_flow",
  "assert_healthy",
  "assert_no_dead_units",
  "assert_orthogonal",
  "assert_symmetry_broken",
  "assert_variance_stable",
  "assert_width_stable",
]
