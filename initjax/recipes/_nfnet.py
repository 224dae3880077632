"""Normalizer-free networks: standardized kernels, branches of unit variance."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from initjax._checks import (
  Axes,
  axes_tuple,
  check_integer,
  check_number,
  positive_axes,
)
from initjax.recipes._recipe import Recipe, by_rules


def nfnet(params: Any, *, num_branches: int, alpha: float = 0.2) -> Recipe:
  """NF-net: x + α·F(x/β), β_l² = 1 + (l-1)·α² the variance of the stream.

  Every branch then sees unit variance, and adds α². The kernels in the branches
  go through `standardized_kernel`, with the "centered" gain of the preceding
  activation. Parameters keep their values. β restarts where a transition block
  takes its skip path from the normalized stream.

  Args:
    params: any parameters.
    num_branches: L >= 1, between two transitions.
    alpha: the weight of a branch, >= 0.

  Raises:
    ValueError: if a count or a weight is too small.

  >>> nfnet({}, num_branches=3, alpha=1.0).multipliers["beta"].round(2)
  Array([1.  , 1.41, 1.73], dtype=float32)

  Reference: Brock, De and Smith 2021, §3; Brock et al. 2021, Eqs. 1-2.
  """
  check_integer("num_branches", num_branches, low=1)
  check_number("alpha", alpha, low=0)
  beta = [math.sqrt(1 + layer * alpha**2) for layer in range(num_branches)]
  multipliers = {"alpha": alpha, "beta": jnp.array(beta)}
  return by_rules(None, params, [], multipliers=multipliers)


def standardized_kernel(
  kernel: jax.Array,
  *,
  gain: float | jax.Array = 1.0,
  in_axis: Axes | None = None,
  epsilon: float = 1e-4,
) -> jax.Array:
  """Scaled weight standardization: gain·(W - μ)/(σ·√fan_in).

  Use it in the forward pass, at every step. μ and σ² are the mean and variance
  over the inputs of each output. The gain is `initjax.gain(activation,
  direction="centered")`: if the inputs have a mean, it does not pass through.

  Args:
    kernel: `[*window, in, out]`.
    gain: a number, or a trained gain for each output.
    in_axis: the axes to average over: all but the last by default; for stacked
      kernels, pass all but the first and the last.
    epsilon: a lower bound on the divisor fan_in·σ².

  Raises:
    ValueError: if epsilon is negative, or an axis is outside the shape.

  >>> w = standardized_kernel(jnp.arange(8.0).reshape(4, 2), gain=3.0)
  >>> (w**2).sum(axis=0)
  Array([9., 9.], dtype=float32)

  Reference: Brock, De and Smith 2021, Eq. 1; Brock et al. 2021, §2.
  """
  check_number("epsilon", epsilon, low=0)
  kernel = jnp.asarray(kernel)
  given = range(kernel.ndim - 1) if in_axis is None else in_axis
  if not isinstance(given, int):
    given = tuple(given)
  axes = positive_axes("in_axis", axes_tuple("in_axis", given), kernel.shape)
  fan_in = math.prod(kernel.shape[axis] for axis in axes)
  wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
  centered = wide - wide.mean(axis=axes, keepdims=True)
  total = fan_in * jnp.mean(centered**2, axis=axes, keepdims=True)
  unit = centered * jax.lax.rsqrt(jnp.maximum(total, epsilon))
  return (unit * gain).astype(kernel.dtype)
