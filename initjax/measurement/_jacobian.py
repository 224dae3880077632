"""`jacobian_spectrum`: how unequally a network stretches space."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from initjax._checks import check_choice, check_integer, check_key
from initjax._executables import execute
from initjax._sharding import fetched
from initjax._statistics import nan_is_unknown
from initjax.graph import as_function, with_advice
from initjax.measurement._lanczos import quadrature
from initjax.measurement._linearized import Linearized, checked_input, linearize

_LARGEST_SVD = 1024  # singular values
_LARGEST_MATRIX = 2**26  # entries
_BLOCK = 64  # rows computed together


class JacobianSpectrum(NamedTuple):
  """The squared singular values of a Jacobian, or a quadrature of them.

  There are min(inputs, outputs) of them. Nodes and weights describe their
  distribution, with one row for each probe vector; a single row is exact.
  """

  nodes: jax.Array
  """[rows, k]: squared singular values, divided by their mean"""
  weights: jax.Array
  """[rows, k]: each row sums to 1"""
  log2_mean: jax.Array
  """log₂ of the mean squared singular value; -inf if the Jacobian is 0"""

  def __repr__(self) -> str:
    """Short: of what shape."""
    shape = " × ".join(map(str, jnp.shape(self.nodes)))
    return f"JacobianSpectrum({shape} squared singular values)"

  @property
  def squared_singular_values(self) -> jax.Array:
    """[rows, k], descending; 0 or inf beyond the range of the dtype."""
    return self.nodes * jnp.exp2(self.log2_mean)[..., None, None]

  @property
  def mean(self) -> jax.Array:
    """Mean squared singular value, ‖J‖²/min(inputs, outputs): theory's χ₁^L."""
    return jnp.exp2(self.log2_mean)

  @property
  def mean_standard_error(self) -> jax.Array:
    """Standard error of `mean`, from differences between probes; 0 if exact."""
    return self.mean * _standard_error(self._row_means())

  @property
  def relative_variance(self) -> jax.Array:
    """Variance/mean² of the squared singular values; nan if all are 0."""
    variance = self._row_variances().mean(-1)
    return jnp.where(jnp.isneginf(self.log2_mean), jnp.nan, variance)

  @property
  def relative_variance_standard_error(self) -> jax.Array:
    """Standard error of `relative_variance`, from the spread of probes."""
    slope = -2 * self.relative_variance[..., None]
    return _standard_error(self._row_variances() + slope * self._row_means())

  @property
  def largest(self) -> jax.Array:
    """The largest squared singular value; with Lanczos, a lower bound of it."""
    return self.nodes.max((-1, -2)) * self.mean

  @property
  def condition(self) -> jax.Array:
    """Ratio of the largest to the smallest singular value.

    For a rank-deficient Jacobian it is inf or about 1/ε, where ε is the dtype's
    rounding error (1/√ε with Lanczos, which works on J·Jᵀ).
    """
    return jnp.sqrt(self.nodes.max((-1, -2)) / self.nodes.min((-1, -2)))

  def _row_means(self) -> jax.Array:
    return (self.weights * self.nodes).sum(-1)

  def _row_variances(self) -> jax.Array:
    """Mean square distance from 1, the mean of all rows."""
    return (self.weights * (self.nodes - 1) ** 2).sum(-1)


@with_advice
@nan_is_unknown()
def jacobian_spectrum(
  fn: Callable[..., Any],
  params: Any,
  *inputs: Any,
  method: Literal["exact", "lanczos"] | None = None,
  key: jax.Array | None = None,
  probes: int = 16,
  steps: int = 32,
) -> JacobianSpectrum:
  """Returns squared singular values of J = ∂fn(params, x)/∂x at one input x.

  "exact" computes J in blocks and its singular values. "lanczos" only applies J
  and Jᵀ, `steps` times to each of `probes` random vectors; mean and variance
  are then unbiased up to 1/(probes·size), with standard errors from the
  differences between probes, and the nodes approximate the distribution.
  Products are scaled along the way, so a Jacobian of 1e-40 or 1e+30 also has a
  spectrum in float32.

  Both use only reverse mode (J·v is the derivative of Jᵀ·u in u), so
  `custom_vjp` functions are fine. Works inside `jit` and `vmap`. Outside, every
  call traces again, and compiles if the program is new.

  Args:
    fn: a function of parameters and one array, or a module. If it takes a batch
      of inputs, pass `lambda params, x: fn(params, x[None])[0]`; else x is the
      batch, and J is the Jacobian of all its samples together.
    params: any pytree of arrays; omit it for a module that holds its own.
    *inputs: one x, of any shape and a real floating dtype.
    method: None means "exact" up to 1024 singular values and 2^26 entries.
    key: for the probe vectors; `jax.random.key(0)` if None.
    probes: number of random vectors, >= 2, which are processed together.
    steps: nodes for each vector; at most the number of singular values.

  Raises:
    TypeError: if `fn` is neither a function nor a module.
    ValueError: if x or all outputs are not real floating numbers, an option is
      out of range, or (outside of jit) the Jacobian is not finite.

  >>> double = lambda params, x: params * x
  >>> found = jacobian_spectrum(double, 2.0, jnp.ones(3))
  >>> float(found.mean), float(found.relative_variance)
  (4.0, 0.0)

  Reference: Pennington, Schoenholz and Ganguli 2017 (theory:
  `initjax.meanfield.jacobian_moments`); Ubaru, Chen and Saad 2017 (Lanczos).
  """
  if method is not None:
    check_choice("method", method, ("exact", "lanczos"))
  check_integer("probes", probes, low=2)
  check_integer("steps", steps, low=1)
  fn, params, inputs, _ = as_function(fn, params, inputs)
  if key is not None:
    check_key(key)
  key = jax.random.key(0) if key is None else key

  def run(params: Any, x: jax.Array, key: jax.Array) -> JacobianSpectrum:
    probe_key, start_key = jax.random.split(key)
    jacobian = linearize(functools.partial(fn, params), x, probe_key)
    if method == "exact" or (method is None and _is_small(jacobian)):
      return _exact(jacobian)
    return _lanczos(jacobian, start_key, probes, steps)

  found = execute(run, params, checked_input(inputs), key)
  _check_finite(found.log2_mean)
  return found


def _exact(jacobian: Linearized) -> JacobianSpectrum:
  """All singular values, from as many rows or columns as there are of them."""

  def row(index: jax.Array) -> jax.Array:
    unit = jax.nn.one_hot(index, jacobian.size, dtype=jacobian.dtype)
    return jacobian.from_small(unit)

  indices = jnp.arange(jacobian.size)
  matrix = jax.lax.map(row, indices, batch_size=min(_BLOCK, jacobian.size))
  nodes = jnp.linalg.svd(matrix, compute_uv=False)[None] ** 2
  weights = jnp.full_like(nodes, 1 / jacobian.size)
  return _relative_to_mean(nodes, weights, jacobian.log2_scale)


def _lanczos(
  jacobian: Linearized, key: jax.Array, probes: int, steps: int
) -> JacobianSpectrum:
  starts = jax.random.normal(key, (probes, jacobian.size), jacobian.dtype)
  steps = min(steps, jacobian.size)
  square = lambda vector: jacobian.to_small(jacobian.from_small(vector))
  nodes, weights = quadrature(square, starts, steps)
  return _relative_to_mean(nodes, weights, jacobian.log2_scale)


def _relative_to_mean(
  nodes: jax.Array, weights: jax.Array, log2_scale: jax.Array
) -> JacobianSpectrum:
  mean = (weights * nodes).sum(-1).mean()
  relative = nodes / jnp.where(mean == 0, 1, mean)
  return JacobianSpectrum(relative, weights, jnp.log2(mean) + 2 * log2_scale)


def _standard_error(samples: jax.Array) -> jax.Array:
  """Of their mean; 0 for a single one."""
  return samples.std(-1) / math.sqrt(max(samples.shape[-1] - 1, 1))


def _is_small(jacobian: Linearized) -> bool:
  entries = math.prod(jacobian.shape)
  return jacobian.size <= _LARGEST_SVD and entries <= _LARGEST_MATRIX


def _check_finite(log2_mean: jax.Array) -> None:
  if isinstance(log2_mean, jax.core.Tracer):
    return
  if (fetched(log2_mean) < math.inf).all():
    return
  raise ValueError(
    "the Jacobian holds NaN or infinities, so it has no singular values; "
    "initjax.diagnose(fn, params, x) shows where these arise."
  )
