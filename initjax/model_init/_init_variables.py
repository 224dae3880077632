"""Runs a model's own initialization, compiling each distinct part only once."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from initjax._checks import check_choice
from initjax.graph import Trace, open_jaxpr, trace
from initjax.model_init._compiled import compiled
from initjax.model_init._expressions import (
  Constant,
  Expression,
  Input,
  Test,
  inputs_of,
  read,
)
from initjax.model_init._measured import (
  Wanted,
  as_warning,
  can_be_measured,
  strays,
)
from initjax.model_init._models import Making, applying, making
from initjax.model_init._path_keys import by_path, derived, key_test
from initjax.model_init._placement import placements
from initjax.model_init._programs import program_of
from initjax.model_init._progress import watched


def init_variables(
  key_or_rngs: Any,
  model: Any,
  *inputs: Any,
  method: str | Callable[..., Any] | None = None,
  kwargs: dict[str, Any] | None = None,
  shardings: Any = None,
  keys: str = "model",
  progress: bool | None = None,
  check: bool = False,
) -> Any:
  """Runs a model's own initializers, fast and in little memory.

  The init function is traced, not run. Its jaxpr is cut into one slice for each
  leaf, and slices that differ only in keys and numbers share one compilation,
  so extra depth costs no compile time. Values are those of `model.init` bit for
  bit, except that the last place may differ where XLA rounds one program
  differently from several: in a·b + c, quotients, complex products, and draws
  inside a loop (`nn.scan`).

  Elementwise draws from threefry keys (partitionable, as is the default), of
  any distribution, are made in blocks, so no temporary grows with the leaf.
  Other key types and other draws (orthogonal) need the same temporaries as in
  JAX. All leaves that depend on the inputs are computed together, in one
  separate compilation.

  Args:
    key_or_rngs: a key, a dict of keys by name for linen, or an `nnx.Rngs`,
      whose counters advance as they do when the module is built.
    model: a linen module; or a function of the key and the inputs, such as
      `functools.partial(model.init, train=False)`, Haiku's `init` or Equinox's
      `lambda key: Module(key=key)`; or, with `nnx.Rngs`, a function of them
      that builds an NNX module. Leaves that are not JAX arrays stay unchanged.
    *inputs: what the model is initialized on; shapes (`jax.ShapeDtypeStruct`)
      are enough unless a leaf depends on the values of the inputs.
    method: the linen method that initializes the model.
    kwargs: keyword arguments of the model, such as `{"train": False}`.
    shardings: a tree of `NamedSharding` that matches the variables or a prefix
      of them, or a `Mesh`, for the partitioning that the model declares. Each
      device draws its own part, and values do not depend on the mesh. Leaves
      that are not elementwise are drawn with XLA's own partitioning.
    keys: "model", or "path": the n-th key that a leaf draws from is then
      `fold_in(h, n)`, where h is the root key into which 64 bits of SHA-256 of
      the leaf's path are folded. This rules out equal keys (flax#2157), and
      adding a layer elsewhere changes nothing.
    progress: whether to show a progress bar; with None, one appears after 3
      seconds on a terminal.
    check: whether to measure what the initializers of a linen module gave, as
      `auto_init` does: a gradient that explodes or vanishes causes a warning,
      and non-finite values raise a FloatingPointError.

  Returns:
    What `model.init(key_or_rngs, *inputs)`, or the function, would return.

  Raises:
    TypeError: if the model or the keys are of an unsupported type.
    ValueError: if `shardings` do not fit the variables, or a leaf depends on an
      input of which only the shape is given.

  >>> import flax.linen as nn, jax.numpy as jnp
  >>> model = nn.Dense(8)
  >>> variables = init_variables(jax.random.key(0), model, jnp.ones((1, 3)))
  >>> variables["params"]["kernel"].shape
  (3, 8)

  Reference: flax#2157 and jax#19893, the issues that this function addresses.
  """
  check_choice("keys", keys, ("model", "path"))
  made = making(key_or_rngs, model, inputs, method, kwargs or {})
  where = placements(shardings, made.tree, made.paths)
  parts, places = _distinct_parts(made.jaxpr, len(made.keys), where)
  drawn: list[jax.Array] = []
  wanted = [value for part in parts for value in part.keys]
  given = derived(wanted if keys == "model" else (), made.keys)
  for part in watched(parts, progress):
    known = given
    if keys == "path":
      known = given | by_path(part.keys, made.paths[part.place], made.keys)
    drawn += part.draw(*(_argument(x, known, made) for x in part.arguments))
  variables = made.finish([drawn[i] for i in places])
  if check:
    fn = applying(key_or_rngs, model, method, kwargs or {})
    said = _strays(trace(fn, variables, *inputs), variables, inputs)
    if said:
      warnings.warn(as_warning("init_variables", said), stacklevel=2)
  return variables


def _strays(traced: Trace, variables: Any, inputs: Any) -> list[str]:
  """Sizes are the model's own matter, but for what makes gradients stray."""
  if not can_be_measured(traced, variables, inputs):
    return []
  nothing = np.full(len(traced.graph.rows), np.nan)
  wanted = Wanted("init_variables", nothing, lambda row: "")
  return strays(traced, variables, inputs, wanted)


class _Part(NamedTuple):
  """Leaves that one call draws."""

  draw: Callable[..., list[jax.Array]]
  arguments: tuple[Expression, ...]
  keys: list[Expression]
  """those of the arguments that it draws from"""
  place: int
  """the first leaf that it makes"""


_Leaf = tuple[Expression, NamedSharding | None]
"""its value, and where it shall live"""


def _distinct_parts(
  jaxpr: Any, num_keys: int, where: list[NamedSharding | None]
) -> tuple[list[_Part], list[int]]:
  """Each distinct value by itself; those that read an input together.

  Also, for each leaf, its place in what the parts give.
  """
  inputs = [Input(i) for i in range(len(open_jaxpr(jaxpr).jaxpr.invars))]
  values = list(zip(read(jaxpr, inputs), where, strict=True))
  is_key = key_test([value for value, _ in values], num_keys)
  alone: list[list[_Leaf]] = []
  together: list[_Leaf] = []
  for leaf in dict.fromkeys(values):
    if all(map(is_key, inputs_of([leaf[0]], stop=is_key))):
      alone.append([leaf])
    else:
      together.append(leaf)
  groups = alone + [together] * bool(together)
  parts = [_part(group, is_key, values.index(group[0])) for group in groups]
  order = {leaf: i for i, leaf in enumerate(itertools.chain(*groups))}
  return parts, [order[value] for value in values]


def _part(group: list[_Leaf], is_key: Test, place: int) -> _Part:
  program, arguments = program_of([value for value, _ in group], is_key)
  shardings = tuple(sharding for _, sharding in group)
  settled = None if all(x is None for x in shardings) else shardings
  keys = [value for value in arguments if is_key(value)]
  if not program.steps:  # a leaf that is one of the keys given stays that
    keys = [value for value in keys if not isinstance(value, Input)]
  return _Part(compiled(program, settled), arguments, keys, place)


def _argument(
  value: Expression, known: dict[Expression, jax.Array], made: Making
) -> np.ndarray | jax.Array:
  if isinstance(value, Constant):
    return value.value
  if value in known:
    return known[value]
  assert isinstance(value, Input)
  array = made.arrays[value.place - len(made.keys)]
  if isinstance(array, jax.ShapeDtypeStruct):
    raise ValueError(
      "a variable depends on the values of an input of which only the shape "
      f"{array.shape} is given; pass an array."
    )
  return array
