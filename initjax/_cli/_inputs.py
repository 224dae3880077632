"""What the command line gives a model: shapes to draw, files, keywords.

Such as f32[8,28,28,1], i32[8,128]:50257, batch.npz, train=False.
"""

import ast
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


def arrays_of(texts: Sequence[str]) -> list[jax.Array]:
  """What all --input flags give, in order.

  Raises:
    CallError: with what is wrong and what was wanted.
  """
  keys = jax.random.split(jax.random.key(0), max(len(texts), 1))
  given: list[jax.Array] = []
  for key, text in zip(keys, texts, strict=False):
    if text.endswith((".npy", ".npz")):
      given += _loaded(text)
    else:
      given.append(draw(key, parse(text)))
  return given


def _loaded(file: str) -> Iterator[jax.Array]:
  """The array of an .npy file, or all those of an .npz file."""
  if not os.path.exists(file):
    raise CallError(f"--input {file!r}: there is no such file.")
  try:
    found = np.load(file, allow_pickle=False)
    arrays = found.values() if file.endswith(".npz") else [found]
    yield from map(jnp.asarray, arrays)
  except (ValueError, OSError, TypeError) as error:
    raise CallError(
      f"--input {file!r} does not hold plain arrays: {error}"
    ) from None


def keywords(texts: Sequence[str]) -> dict[str, Any]:
  """What all --kwargs flags give.

  Raises:
    CallError: with what is wrong and what was wanted.

  >>> keywords(["train=False, window=(3, 3)"])
  {'train': False, 'window': (3, 3)}
  """
  found: dict[str, Any] = {}
  for text in texts:
    wrong = (
      f"--kwargs {text!r} is not of the form name=literal; expected something "
      "like 'train=False'."
    )
    try:
      call = ast.parse(f"f({text})", mode="eval").body
      given = {each.arg: each.value for each in getattr(call, "keywords", [])}
      found |= {str(name): ast.literal_eval(x) for name, x in given.items()}
    except (SyntaxError, ValueError):
      raise CallError(wrong) from None
    if not given or None in given or getattr(call, "args", []):
      raise CallError(wrong)
  return found


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
      f"--input {text!r} is not a shape; expected something like "
      "f32[8,28,28,1], i32[8,128]:50257 for integers below 50257, or a file, "
      "batch.npy."
    )
  name, dims, high = match.groups()
  if name not in _DTYPES:
    raise CallError(
      f"--input {text!r} has an unknown dtype; expected one of "
      f"{', '.join(_DTYPES)}."
    )
  dtype = jnp.dtype(_DTYPES[name])
  try:
    shape = tuple(int(dim) for dim in dims.split(",")) if dims.strip() else ()
  except ValueError:
    raise CallError(
      f"--input {text!r} has an empty dimension; expected something like "
      "f32[8,28]."
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
      f"--input {text!r} needs 64 bits, which JAX supports only if "
      "JAX_ENABLE_X64=1 is set in the environment."
    )
  if math.prod(shape) * dtype.itemsize > _MOST_BYTES:
    raise CallError(f"--input {text!r} is larger than 16 GiB.")
  if high is None:
    return
  if not jnp.issubdtype(dtype, jnp.integer):
    raise CallError(
      f"--input {text!r}: only integers can have a bound such as :9."
    )
  if not 1 <= int(high) <= int(jnp.iinfo(dtype).max):
    raise CallError(
      f"--input {text!r}: the bound of {dtype} must be between 1 and "
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
