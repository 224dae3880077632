"""Mimetic attention: products of kernels like those of trained transformers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._checks import check_integer, check_key, check_number
from initjax._paths import Where, key_of, map_floats
from initjax.recipes._recipe import Recipe
from initjax.recipes._rules import Leaf, dtype_of, rules


class AttentionKernels(NamedTuple):
  """Kernels of one attention layer with H heads of K features, D = H·K."""

  query: jax.Array  # [D, H, K]
  key: jax.Array  # [D, H, K]
  value: jax.Array  # [D, H, K]
  out: jax.Array  # [H, K, D]


def mimetic_kernels(
  key: jax.Array,
  dim: int,
  num_heads: int,
  *,
  alpha_1: float = 0.7,
  beta_1: float = 0.7,
  alpha_2: float = 0.4,
  beta_2: float = 0.4,
) -> AttentionKernels:
  """Kernels with W_Q W_Kᵀ ≈ α₁Z + β₁I and W_V W_out = α₂Z - β₂I.

  Z has entries N(0, 1/D), drawn anew for each head and for the second product.
  With the SVD UΣVᵀ of a right-hand side, each head has W_Q = UΣ^½ and
  W_K = VΣ^½, truncated to its K largest singular values (the best approximation
  of this rank). Value and output are the full UΣ^½ and Σ^½Vᵀ, split over heads.

  Args:
    key: a key.
    dim: D, divisible by the number of heads.
    num_heads: H.
    alpha_1: the weight of the noise in query and key.
    beta_1: the weight of the identity in query and key.
    alpha_2: the weight of the noise in value and output.
    beta_2: the weight of the negative identity in value and output.

  Raises:
    TypeError: if `key` is not a key.
    ValueError: if D is not divisible by H, or a constant is not a number.

  >>> made = mimetic_kernels(jax.random.key(0), 8, 2)
  >>> made.query.shape, made.out.shape
  ((8, 2, 4), (2, 4, 8))

  Reference: Trockman and Kolter 2023, §4, Eqs. 4-5 and Algorithm 1.
  """
  check_key(key)
  check_integer("dim", dim, low=1)
  check_integer("num_heads", num_heads, low=1)
  if dim % num_heads:
    raise ValueError(f"dim={dim} must be divisible by num_heads={num_heads}.")
  check_number("alpha_1", alpha_1)
  check_number("beta_1", beta_1)
  check_number("alpha_2", alpha_2)
  check_number("beta_2", beta_2)
  size = dim // num_heads
  noise = jax.random.normal(key, (num_heads + 1, dim, dim)) / jnp.sqrt(dim)
  eye = jnp.eye(dim)
  left, root, right = _roots(alpha_1 * noise[1:] + beta_1 * eye)
  heads = root[:, None, :size]
  query = left[:, :, :size] * heads  # [H, D, K]
  keys = right.mT[:, :, :size] * heads
  left, whole, right = _roots(alpha_2 * noise[0] - beta_2 * eye)
  value_kernel = (left * whole).reshape(dim, num_heads, size)
  out = (whole[:, None] * right).reshape(num_heads, size, dim)
  return AttentionKernels(
    query.transpose(1, 0, 2), keys.transpose(1, 0, 2), value_kernel, out
  )


def _roots(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """U, Σ^½ and Vᵀ."""
  left, values, right = jnp.linalg.svd(matrix)
  return left, jnp.sqrt(values), right


def mimetic_attention(
  key: jax.Array,
  params: Any,
  *,
  num_heads: int,
  query: Where = "*query/kernel",
  key_kernel: Where = "*key/kernel",
  value: Where = "*value/kernel",
  out: Where = "*out/kernel",
  **constants: float,
) -> Recipe:
  """Attention layers whose products look trained: see `mimetic_kernels`.

  The four kernels of each layer, wherever they lie, are grouped by the path two
  names above them, as in Flax. They are `[D, H, K]` and `[H, K, D]`, or flat
  matrices of D·D entries in the same order; one leading axis stands for stacked
  layers.

  Args:
    key: a key; each layer gets its own by its path.
    params: any parameters; kernels may be abstract.
    num_heads: H.
    query: the query kernels.
    key_kernel: the key kernels.
    value: the value kernels.
    out: the output kernels.
    **constants: `alpha_1`, `beta_1`, `alpha_2`, `beta_2` of `mimetic_kernels`.

  Raises:
    TypeError: if `key` is not a key.
    ValueError: if a pattern matches nothing, or a kernel does not have D·D
      entries (grouped queries, other widths).

  >>> names = ("query", "key", "value", "out")
  >>> params = {name: {"kernel": jnp.zeros((8, 8))} for name in names}
  >>> made = mimetic_attention(jax.random.key(0), params, num_heads=2)
  >>> product = made.params["value"]["kernel"] @ made.params["out"]["kernel"]
  >>> bool(jnp.trace(product) < 0)
  True

  Reference: Trockman and Kolter 2023, §4.
  """
  check_key(key)
  wheres = (query, key_kernel, value, out)
  marks = [(where, float(number)) for number, where in enumerate(wheres)]
  plan = rules(marks).plan(params)
  roles = {row.path: row.rule for row in plan.rows if row.rule is not None}

  def draw(path: str, leaf: Leaf) -> Leaf:
    role = roles.get(path)
    if role is None:
      return leaf
    axis = -1 if role == 3 else (-2 if _is_flat(leaf, num_heads) else -3)
    dim = leaf.shape[axis]
    layers = leaf.size // dim**2
    if layers * dim**2 != leaf.size or (layers > 1 and leaf.shape[0] != layers):
      raise ValueError(
        f"{path} has shape {leaf.shape}; mimetic attention needs "
        "[D, H, K], [H, K, D] or [D, D] with D = H·K, and at most one axis of "
        "stacked layers before them."
      )
    layer = path.rpartition("/")[0].rpartition("/")[0]  # all but two names
    keys = jax.random.split(key_of(key, layer), layers)
    draw_one = lambda k: mimetic_kernels(k, dim, num_heads, **constants)[role]
    return jax.vmap(draw_one)(keys).reshape(leaf.shape).astype(dtype_of(leaf))

  actions = AttentionKernels._fields
  rows = tuple(
    row if row.rule is None else row._replace(action=actions[row.rule])
    for row in plan.rows
  )
  return Recipe(map_floats(draw, params), {}, plan._replace(rows=rows))


def _is_flat(leaf: Leaf, num_heads: int) -> bool:
  """Whether a kernel ends with [D, D], not with [D, H, K]."""
  shape = leaf.shape
  split = len(shape) > 2 and shape[-2] == num_heads
  return not (split and shape[-3] == num_heads * shape[-1])
