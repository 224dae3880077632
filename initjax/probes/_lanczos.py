"""Stochastic Lanczos quadrature: the spectrum of a matrix that is only applied.

k steps from a unit vector v give k nodes λ_j and weights w_j with

    Σ_j w_j·λ_j^p = vᵀ·A^p·v    for p < 2k,

the Gauss quadrature of the spectral density seen by v. For v uniform on the
sphere the expectation of the right side is the mean of λ^p over the spectrum.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def quadrature(
  apply: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """Nodes and weights [steps] of a symmetric A >= 0 as seen by `start`.

  Where `start` has reached all it can (as many directions as A has different
  eigenvalues), what is left of the nodes has weight 0 and repeats the smallest.

  Args:
    apply: v -> A·v.
    start: [size], of any length but 0.
    steps: at most `size`.

  Reference: Golub and Welsch 1969; Ubaru, Chen and Saad 2017, §3.
  """
  diagonal, beside = _tridiagonal(apply, start / jnp.linalg.norm(start), steps)
  matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
  nodes, vectors = jnp.linalg.eigh(matrix)
  nodes, weights = nodes[::-1], vectors[0, ::-1] ** 2
  seen = weights > jnp.finfo(weights.dtype).eps ** 2
  smallest = jnp.where(seen, nodes, jnp.inf).min()
  return jnp.maximum(jnp.where(seen, nodes, smallest), 0), weights


def _tridiagonal(
  apply: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """The diagonal [steps] of A in the Krylov basis, and that beside it."""
  rounding = 10 * jnp.finfo(start.dtype).eps

  def step(carry: Any, index: jax.Array) -> tuple[Any, Any]:
    basis, vector, size = carry
    basis = basis.at[index].set(vector)
    image = apply(vector)
    size = jnp.maximum(size, jnp.linalg.norm(image))
    diagonal = _dot(vector, image)
    rest = _orthogonal_to(basis, _orthogonal_to(basis, image))
    beside = jnp.linalg.norm(rest)
    goes_on = beside > rounding * size
    vector = jnp.where(goes_on, rest / jnp.where(goes_on, beside, 1), 0)
    beside = jnp.where(goes_on, beside, 0)
    return (basis, vector, size), (diagonal, beside)

  basis = jnp.zeros((steps, start.size), start.dtype)
  carry = (basis, start, jnp.zeros((), start.dtype))
  _, entries = jax.lax.scan(step, carry, jnp.arange(steps))
  return entries[0], entries[1][:-1]


def _orthogonal_to(basis: jax.Array, vector: jax.Array) -> jax.Array:
  """`vector` without its components in `basis`: twice is enough."""
  return vector - _dot(basis.T, _dot(basis, vector))


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.dot(left, right, precision=jax.lax.Precision.HIGHEST)
