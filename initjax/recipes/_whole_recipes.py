"""Recipes for whole networks: PyTorch's defaults, the identity, ZerO."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from initjax._checks import Axes, axes_tuple, positive_axes
from initjax._paths import Where, leaves_by_path, matches
from initjax.initializers import (
  dirac,
  eye,
  normal,
  ones,
  torch_linear_bias,
  torch_linear_kernel,
  zero_hadamard,
  zeros,
)
from initjax.recipes._recipe import Recipe, by_rules
from initjax.recipes._rules import Rule
from initjax.typing import DType, Initializer, OutSharding


def torch_defaults(
  key: jax.Array,
  params: Any,
  *,
  kernels: Where = "*kernel",
  embeddings: Where = "*embedding",
  batch_axis: Axes = (),
) -> Recipe:
  """Gives a Flax model the initial values that PyTorch would give it.

      kernels      U(±1/√fan_in)
      bias         U(±1/√fan_in) of the kernel beside it, 0 beside none
      scale        1
      embeddings   N(0, 1)

  Args:
    key: a key; each leaf gets its own by its path.
    params: any parameters, which may be abstract.
    kernels: those of dense layers and convolutions, `[*window, in, out]`.
    embeddings: tables `[tokens, features]`.
    batch_axis: axes of stacked layers, the same for all kernels.

  Raises:
    ValueError: if a kernel has too few axes.

  >>> params = {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}
  >>> made = torch_defaults(jax.random.key(0), params)
  >>> bool(abs(made.params["kernel"]).max() <= 0.5)
  True

  Reference: `reset_parameters` of `torch.nn.Linear`, `Conv2d`, `Embedding`,
  `LayerNorm` (PyTorch 2).
  """
  leaves = {
    path: leaf
    for path, leaf in leaves_by_path(params).items()
    if hasattr(leaf, "shape")
  }
  found = [
    path for path, leaf in leaves.items() if matches(kernels, path, leaf)
  ]
  pairs: list[Rule] = [
    (_one(p), torch_linear_kernel(batch_axis=batch_axis)) for p in found
  ]
  axes = axes_tuple("batch_axis", batch_axis)
  for path in found:
    shape = leaves[path].shape
    batch = positive_axes("batch_axis", axes, shape)
    sizes = [n for i, n in enumerate(shape) if i not in batch]
    bias = _sibling(path, "bias")
    if bias in leaves:
      pairs.append((_one(bias), torch_linear_bias(math.prod(sizes[:-1]))))
  others = (("*bias", zeros), ("*scale", ones), (embeddings, normal(1.0)))
  pairs += [
    (where, init)
    for where, init in others
    if any(matches(where, path, leaf) for path, leaf in leaves.items())
  ]
  return by_rules(key, params, pairs)


def _one(path: str) -> Where:
  """Exactly this path, whatever letters it has."""

  def this(name: str, leaf: object) -> bool:
    del leaf
    return name == path

  this.__name__ = path
  return this


def _sibling(path: str, name: str) -> str:
  parent, slash, _ = path.rpartition("/")
  return parent + slash + name


def identity(
  params: Any, *, kernels: Where = "*kernel", batch_axis: Axes = ()
) -> Recipe:
  """Makes every kernel pass on its input: I, or a Dirac delta in the window.

  Args:
    params: any parameters; kernels may be abstract.
    kernels: those of dense layers `[in, out]` and convolutions
      `[*window, in, out]`.
    batch_axis: axes of stacked layers, the same for all kernels.

  Raises:
    ValueError: if the pattern matches nothing, or a kernel has one axis.

  >>> identity({"kernel": jnp.ones((2, 2))}).params["kernel"]
  Array([[1., 0.],
         [0., 1.]], dtype=float32)

  Reference: Le, Jaitly and Hinton 2015, §2; `torch.nn.init.dirac_`.
  """
  passing = lambda shape: eye() if len(shape) == 2 else dirac()
  pairs = [(kernels, _each(passing, batch_axis))]
  return by_rules(jax.random.key(0), params, pairs)


def zero_initialization(
  params: Any,
  *,
  kernels: Where = "*kernel",
  last: Where | None = None,
  biases: Where | None = None,
  batch_axis: Axes = (),
) -> Recipe:
  """ZerO: zeros, identities and Hadamard matrices, with nothing random.

  Kernels are `initializers.zero_hadamard`; the last kernel of each residual
  branch is 0, so that every block starts as the identity.

  Args:
    params: any parameters; those that are set may be abstract.
    kernels: those of dense layers `[in, out]` and convolutions
      `[*window, in, out]`.
    last: the last kernel of each branch, which becomes 0.
    biases: the biases, which become 0.
    batch_axis: axes of stacked layers, the same for all kernels.

  Raises:
    ValueError: if a pattern matches nothing, or a kernel has one axis.

  >>> params = {"a": {"kernel": jnp.ones((1, 2))}}
  >>> zero_initialization(params).params["a"]["kernel"]
  Array([[1., 1.]], dtype=float32)

  Reference: Zhao, Schäfer and Anandkumar 2022, Algorithms 1 and 2.
  """
  init = _each(lambda shape: zero_hadamard(), batch_axis)
  pairs = [(last, zeros), (biases, zeros), (kernels, init)]
  return by_rules(jax.random.key(0), params, pairs)


def _each(
  init_of: Callable[[tuple[int, ...]], Initializer], batch_axis: Axes
) -> Initializer:
  """The same kernel for each layer of a stack; for those without randomness."""
  axes = axes_tuple("batch_axis", batch_axis)

  def draw(
    key: jax.Array,
    shape: Sequence[int],
    dtype: DType = None,
    out_sharding: OutSharding = None,
  ) -> jax.Array:
    layers = positive_axes("batch_axis", axes, tuple(shape))
    own = tuple(n for axis, n in enumerate(shape) if axis not in layers)
    one = jnp.expand_dims(init_of(own)(key, own, dtype), layers)
    return jnp.broadcast_to(one, tuple(shape), out_sharding=out_sharding)

  return draw
