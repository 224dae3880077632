"""Recipes for residual networks without normalization, or from the identity."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from initjax._checks import check_integer
from initjax._paths import Where
from initjax.initializers import zeros
from initjax.recipes._recipe import Recipe, by_rules
from initjax.recipes._scaled_before import scaled_before


def fixup(
  params: Any,
  *,
  num_branches: int,
  layers_per_branch: int,
  branch: Where,
  last: Where,
  classifier: Where,
) -> Recipe:
  """Fixup: scales branch kernels by L^(-1/(2m-2)); the last of each becomes 0.

  With L branches of m layers each, an SGD step with rate η then changes the
  output by Θ(η), whatever the depth. The kernels of `params` should come from a
  standard method, such as He's. The forward pass has no normalization: a block
  is x + scale·F(x), where a scalar `bias` is added before each kernel and each
  activation of F; scale (1) and bias (0) are trained.

  Args:
    params: concrete parameters.
    num_branches: L >= 1, in the whole network.
    layers_per_branch: m >= 2.
    branch: the kernels in the branches; those of `last` may be among them.
    last: the last kernel of each branch.
    classifier: the kernel (and bias) of the output layer.

  Raises:
    ValueError: if a count is too small, or a pattern matches nothing.

  Warns:
    UserWarning: if the branches look as if they had already been scaled.

  >>> params = {"a": jnp.ones(2), "b": jnp.ones(2), "head": jnp.ones(2)}
  >>> made = fixup(params, num_branches=100, layers_per_branch=2, branch="a",
  ...              last="b", classifier="head")
  >>> made.params["a"], made.multipliers["scale"].shape
  (Array([0.1, 0.1], dtype=float32), (100,))

  Reference: Zhang, Dauphin and Ma 2019, §3 (Fixup initialization, rules 1-3).
  """
  check_integer("num_branches", num_branches, low=1)
  check_integer("layers_per_branch", layers_per_branch, low=2)
  factor = num_branches ** (-1 / (2 * layers_per_branch - 2))
  zeroed = [last, classifier]
  usual = scaled_before(params, branch, factor, beside=zeroed, fan=True)
  if usual is not None:
    warnings.warn(
      f"fixup scales by {factor:.4g}, but √fan_in times all that branch names "
      "is smaller by that factor than for the other kernels "
      f"({usual:.4g}) already; if fixup has scaled it, do not do so twice.",
      stacklevel=2,
    )
  return by_rules(
    jax.random.key(0),  # nothing is drawn but zeros
    params,
    [(last, zeros), (classifier, zeros), (branch, factor)],
    multipliers={
      "scale": jnp.ones(num_branches),
      "bias": jnp.zeros((num_branches, 2 * layers_per_branch)),
    },
  )


def skipinit(
  params: Any, *, num_branches: int, alpha: Where | None = None
) -> Recipe:
  """SkipInit: x + α·F(x) with a trained scalar α = 0 for each branch.

  At the start, every block of the network is the identity, as it nearly is in
  deep networks with BatchNorm. Kernels keep their values, and all layers of F
  have biases.

  Args:
    params: any parameters.
    num_branches: the number of branches in the whole network, >= 1.
    alpha: the leaves that hold α, if `params` has them; they become 0.

  Raises:
    ValueError: if a count is too small, or a pattern matches nothing.

  >>> skipinit({}, num_branches=3).multipliers["alpha"]
  Array([0., 0., 0.], dtype=float32)

  Reference: De and Smith 2020, §4 (SkipInit).
  """
  return _gated(params, num_branches, alpha)


def rezero(
  params: Any, *, num_branches: int, alpha: Where | None = None
) -> Recipe:
  """ReZero: x + α·F(x) with a trained scalar α = 0 for each layer.

  The two branches of a transformer layer, attention and feed-forward, share one
  α, so `num_branches` is then the number of layers. ReZero needs neither
  LayerNorm nor warm-up.

  Args:
    params: any parameters.
    num_branches: the number of scalars α, >= 1.
    alpha: the leaves that hold α, if `params` has them; they become 0.

  Raises:
    ValueError: if a count is too small, or a pattern matches nothing.

  >>> rezero({"alpha": jnp.ones(2)}, num_branches=2, alpha="alpha").params
  {'alpha': Array([0., 0.], dtype=float32)}

  Reference: Bachlechner et al. 2021, Eq. 1.
  """
  return _gated(params, num_branches, alpha)


def _gated(params: Any, num_branches: int, alpha: Where | None) -> Recipe:
  check_integer("num_branches", num_branches, low=1)
  return by_rules(
    jax.random.key(0),
    params,
    [(alpha, zeros)],
    multipliers={"alpha": jnp.zeros(num_branches)},
  )


def zero_last_scale(params: Any, *, last_scale: Where) -> Recipe:
  """Sets the scale of the last normalization in each branch to 0.

  Every block x + γ·norm(F(x)) then starts as the identity; γ is trained.

  Args:
    params: any parameters; the scales may be abstract.
    last_scale: the scale γ of the last normalization of each branch.

  Raises:
    ValueError: if the pattern matches nothing.

  >>> params = {"BatchNorm_1": {"scale": jnp.ones(2)}}
  >>> zero_last_scale(params, last_scale="*BatchNorm_1/scale").params
  {'BatchNorm_1': {'scale': Array([0., 0.], dtype=float32)}}

  Reference: Goyal et al. 2017, §5.1 (zero γ).
  """
  return by_rules(jax.random.key(0), params, [(last_scale, zeros)])
