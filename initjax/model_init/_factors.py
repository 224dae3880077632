"""The factor that gives an operation's output the wanted second moment."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from initjax._statistics import wide

NOT_RUN, CALIBRATED, SHARED, DEAD, NONFINITE, CONSTANT = range(6)
DERIVED, ENTANGLED, CLOSED, EMPTY, APART, POOLED = range(6, 12)
REASONS = {
  NOT_RUN: "not run: a branch that was not taken",
  CALIBRATED: "calibrated",
  SHARED: "kernel used several times: one factor, from its first live use",
  DEAD: "output is zero",
  NONFINITE: "output or factor is not finite",
  CONSTANT: "output is constant: its variance is rounding error",
  DERIVED: "kernel is computed, not a view of floating-point parameters",
  ENTANGLED: "parameter is also used in another way than as a kernel",
  CLOSED: "inside a call that is run as a whole, such as a while loop",
  APART: "inside a branch that each device of a shard_map chooses",
  POOLED: "kernel used several times: one factor, pooled over live uses",
  EMPTY: "output is empty: no sample was given",
}


class Row(NamedTuple):
  """What is said of one operation; under scans, of each repeat."""

  factor: jax.Array
  """what its output was multiplied by; in a proposal √(target / statistic), 0
  where there is none"""
  log2_before: jax.Array
  """log₂ of the statistic without that factor"""
  code: jax.Array
  """of `REASONS`"""


def _moments(
  x: jax.Array, statistic: str, axes: tuple[str, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """A unit near max |x|; in that, the mean taken off, and the statistic.

  So squares neither under- nor overflow.
  """
  bound = 2.0 ** int(0.8 * jnp.finfo(x.dtype).maxexp)
  everywhere = lambda by, x: by(x, axes) if axes else x
  largest = everywhere(jax.lax.pmax, jnp.max(jnp.abs(x), initial=0))
  unit = jnp.clip(largest, 1 / bound, bound)
  mean_of = lambda x: everywhere(jax.lax.pmean, jnp.mean(x))
  scaled = x / unit
  centered = statistic == "variance"
  mean = mean_of(scaled) if centered else jnp.zeros((), x.dtype)
  return unit, jnp.abs(mean), mean_of(jnp.abs(scaled - mean) ** 2)


@functools.partial(jax.jit, static_argnames=("statistic", "axes"))
def propose(
  x: jax.Array,
  statistic: str,
  target: float | jax.Array,
  axes: tuple[str, ...] = (),
) -> Row:
  """The factor for an output `x`, and why there is none where it is 0.

  A variance below (8ε)² times the second moment is what rounding leaves of a
  constant: each entry is known to half an ε, their mean to a few.

  Args:
    x: the output, or one device's part of it.
    statistic: of all entries.
    target: what it is to be.
    axes: of a mesh, along which devices have the other parts.
  """
  x = x if jnp.iscomplexobj(x) else wide(x)
  if x.size == 0:
    zero = jnp.zeros((), jnp.finfo(x.dtype).dtype)
    return Row(zero, zero + jnp.nan, jnp.int32(EMPTY))
  unit, mean, moment = _moments(x, statistic, axes)
  noise = (8 * jnp.finfo(x.dtype).eps) ** 2
  is_zero = (moment == 0) & (mean == 0)
  is_constant = moment <= noise * (moment + mean**2)
  factor = jnp.sqrt(jnp.asarray(target, moment.dtype) / moment) / unit
  usable = jnp.isfinite(moment) & jnp.isfinite(factor) & (factor > 0)
  code = jnp.select(
    [is_zero, ~jnp.isfinite(moment), is_constant, ~usable],
    [DEAD, NONFINITE, CONSTANT, NONFINITE],
    CALIBRATED,
  ).astype(jnp.int32)
  log2_before = jnp.log2(moment) + 2 * jnp.log2(unit)
  return Row(jnp.where(code == CALIBRATED, factor, 0), log2_before, code)


def row_of(proposal: Row, known: jax.Array) -> Row:
  """The factor applied: the one already known, where that is not 0."""
  live = proposal.code == CALIBRATED
  factor = jnp.where(known > 0, known, proposal.factor)
  code = jnp.where(live & (known > 0), SHARED, proposal.code)
  return Row(jnp.where(factor > 0, factor, 1), proposal.log2_before, code)


def left_alone(proposal: Row, code: int) -> Row:
  """An operation that keeps its kernel."""
  return proposal._replace(
    factor=jnp.ones_like(proposal.factor),
    code=jnp.full_like(proposal.code, code),
  )


def scaled(output: jax.Array, factor: jax.Array) -> jax.Array:
  """The output times the factor, rounded once."""
  kind = jnp.promote_types(output.dtype, factor.dtype)
  return (output.astype(kind) * factor.astype(kind)).astype(output.dtype)
