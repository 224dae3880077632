"""Stochastic Lanczos quadrature: the spectrum of a matrix that is only applied.

k steps from a unit vector v give k nodes λ_j and weights w_j with

    Σ_j w_j·λ_j^p = vᵀ·A^p·v    for p < 2k,

the Gauss quadrature of the spectral density seen by v. For v uniform on the
sphere, the right side has the mean of λ^p over the spectrum as expectation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def quadrature(
  apply: Callable[[jax.Array], jax.Array], starts: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """Nodes and weights [starts, steps] of a symmetric A >= 0 as seen by each.

  Once a vector has reached all it can (as many directions as A has different
  eigenvalues), the steps go on from rounding errors, or from 0. Nodes of weight
  0 come of it; they repeat the smallest of the others.

  Args:
    apply: v -> A·v.
    starts: [starts, size], of any length but 0.
    steps: at most `size`.

  Reference: Golub and Welsch 1969; Ubaru, Chen and Saad 2017, §3.
  """
  units = starts / jnp.linalg.norm(starts, axis=-1, keepdims=True)
  entries = jax.vmap(lambda start: _tridiagonal(apply, start, steps))(units)
  # One by one: XLA:CPU solves a batch on the very threads that wait for it, and
  # hangs where an array is on as many devices as there are threads.
  return jax.lax.map(_nodes_and_weights, entries)


def largest_eigenvalue(
  loss: Callable[[Any], jax.Array],
  params: Any,
  key: jax.Array,
  *,
  steps: int = 20,
) -> jax.Array:
  """Returns the largest eigenvalue of the Hessian of `loss` at `params`.

  Uses Lanczos on products with the Hessian, which is never formed. It converges
  from below: after k steps the relative error falls as exp(-4k·√gap). Gradient
  descent on a quadratic diverges at rates above 2/λ_max. Works inside `jit` and
  `vmap`; returns NaN if a product is not finite.

  Args:
    loss: params -> scalar.
    params: any pytree of real floating arrays.
    key: for the random start vector.
    steps: products with the Hessian; at most the number of parameters.

  >>> square = lambda x: 0.5 * (jnp.array([1.0, 3.0]) * x**2).sum()
  >>> float(largest_eigenvalue(square, jnp.ones(2), jax.random.key(0)).round(4))
  3.0

  Reference: Golub and Welsch 1969; LeCun et al. 1998, "Efficient BackProp", §5.
  """
  flat, unravel = ravel_pytree(params)
  gradient = jax.grad(lambda flat: loss(unravel(flat)))
  product = lambda vector: jax.jvp(gradient, (flat,), (vector,))[1]
  start = jax.random.normal(key, flat.shape, flat.dtype)
  start = start / jnp.linalg.norm(start)
  matrix = _matrix(*_tridiagonal(product, start, min(steps, flat.size)))
  finite = jnp.isfinite(matrix).all()
  largest = jnp.linalg.eigvalsh(jnp.where(finite, matrix, 0.0))[-1]
  return jnp.where(finite, largest, jnp.nan)


def _matrix(diagonal: jax.Array, beside: jax.Array) -> jax.Array:
  return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)


def _nodes_and_weights(
  entries: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
  """Of a tridiagonal matrix."""
  nodes, vectors = jnp.linalg.eigh(_matrix(*entries))
  nodes, weights = nodes[::-1], vectors[0, ::-1] ** 2
  seen = weights > jnp.finfo(weights.dtype).eps ** 2
  smallest = jnp.where(seen, nodes, jnp.inf).min()
  return jnp.maximum(jnp.where(seen, nodes, smallest), 0), weights


def _tridiagonal(
  apply: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """The diagonal [steps] of A in the Krylov basis, and that beside it."""

  def step(carry: Any, index: jax.Array) -> tuple[Any, Any]:
    basis, vector = carry
    basis = basis.at[index].set(vector)
    image = apply(vector)
    diagonal = _dot(vector, image)
    rest = _orthogonal_to(basis, _orthogonal_to(basis, image))
    beside = jnp.linalg.norm(rest)
    vector = rest / jnp.where(beside > 0, beside, 1)
    return (basis, vector), (diagonal, beside)

  basis = jnp.zeros((steps, start.size), start.dtype)
  _, entries = jax.lax.scan(step, (basis, start), jnp.arange(steps))
  return entries[0], entries[1][:-1]


def _orthogonal_to(basis: jax.Array, vector: jax.Array) -> jax.Array:
  """`vector` without its components in `basis`: twice is enough."""
  return vector - _dot(basis.T, _dot(basis, vector))


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.dot(left, right, precision=jax.lax.Precision.HIGHEST)
