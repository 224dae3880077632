"""Inputs from the command line: f32[8,28,28,1] or i32[8,128]:50257."""

import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from initjax._cli._errors import CallError

_DTYPES = {
  "bool": jnp.bool_,
  "bf16": jnp.bfloat16,
  **{f"f{bits}": jnp.dtype(f"float{bits}") for bits in (16, 32, 64)},
  **{f"i{bits}": jnp.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
  **{f"u{bits}": jnp.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}
_MOST_BYTES = 2**34
_FORM = re.compile(r"(\w+)\[([\d, ]*)\](?::(\d+))?")


class Input(NamedTuple):
  """What to draw for one argument of the model."""

  dtype: jnp.dtype
  shape: tuple[int, ...]
  high: int
  """integers are drawn from 0 ... high - 1"""


def parse(text: str) -> Input:
  """Reads one --input.

  Raises:
    CallError: with what is wrong and what was wanted.

  >>> parse("i32[8,128]:50257")
  Input(dtype=dtype('int32'), shape=(8, 128), high=50257)
  """
  match = _FORM.fullmatch(text.strip())
  if match is None:
    raise CallError(
      f"--input {text!r} is no shape; wanted such as f32[8,28,28,1], or "
      "i32[8,128]:50257 for integers below 50257."
    )
  name, dims, high = match.groups()
  if name not in _DTYPES:
    raise CallError(
      f"--input {text!r} has no known dtype; wanted {', '.join(_DTYPES)}."
    )
  dtype = jnp.dtype(_DTYPES[name])
  try:
    shape = tuple(int(dim) for dim in dims.split(",")) if dims.strip() else ()
  except ValueError:
    raise CallError(
      f"--input {text!r} has an empty dimension; wanted such as f32[8,28]."
    ) from None
  _check_drawable(text, dtype, shape, high)
  return Input(dtype, shape, int(high or 2))


def _check_drawable(
  text: str, dtype: jnp.dtype, shape: tuple[int, ...], high: str | None
) -> None:
  """Raises CallError unless such an input can be drawn."""
  if 0 in shape:
    raise CallError(f"--input {text!r} is empty; dimensions are at least 1.")
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    raise CallError(
      f"--input {text!r} needs 64 bits, which JAX has only with "
      "JAX_ENABLE_X64=1 in the environment."
    )
  if math.prod(shape) * dtype.itemsize > _MOST_BYTES:
    raise CallError(f"--input {text!r} is larger than 16 GiB.")
  if high is None:
    return
  if not jnp.issubdtype(dtype, jnp.integer):
    raise CallError(f"--input {text!r}: only integers have a bound such as :9.")
  if not 1 <= int(high) <= int(jnp.iinfo(dtype).max):
    raise CallError(
      f"--input {text!r}: the bound of {dtype} is from 1 to "
      f"{jnp.iinfo(dtype).max}."
    )


def draw(key: jax.Array, what: Input) -> jax.Array:
  """N(0, 1), integers uniform below the bound, or fair coins.

  >>> draw(jax.random.key(0), parse("bool[3]")).dtype
  dtype('bool')
  """
  if what.dtype == jnp.bool_:
    return jax.random.bernoulli(key, shape=what.shape)
  if jnp.issubdtype(what.dtype, jnp.integer):
    return jax.random.randint(key, what.shape, 0, what.high, what.dtype)
  return jax.random.normal(key, what.shape, what.dtype)
