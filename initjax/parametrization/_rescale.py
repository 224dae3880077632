"""Initial weights of the right size: base std × init × c, leaf by leaf."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from initjax._paths import is_float, leaves_by_path, map_floats
from initjax._statistics import wide
from initjax.parametrization._optimizer import factor_of, shifted, times
from initjax.parametrization._scaling import Scaling
from initjax.typing import Numbers

_SURE = 4.0
"""Standard errors within which a size is taken to follow a law, or to be what
is wanted already: one leaf in 16,000 is further off by chance."""


def sizes(params: Any) -> dict[str, float]:
  """Root mean square of each leaf of floats, by path, in one program."""
  with jax.ensure_compile_time_eval():  # also where a plan is made under jit
    return {p: float(size) for p, size in _sizes(_floats(params)).items()}


def _floats(params: Any) -> dict[str, Any]:
  leaves = leaves_by_path(params).items()
  return {path: leaf for path, leaf in leaves if is_float(leaf)}


@jax.jit
def _sizes(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {path: _size(leaf) for path, leaf in leaves.items()}


def sizes_of_draw(init: Any, key: jax.Array) -> dict[str, float]:
  """The same of `init(key)`, of which no more than sizes is kept."""
  draw = lambda key: map_floats(lambda _, leaf: _size(leaf), init(key))
  return sizes(jax.jit(draw)(key))


def _size(leaf: jax.Array) -> jax.Array:
  if leaf.size == 0:
    return jnp.zeros(())
  return jnp.sqrt(jnp.mean(jnp.abs(wide(leaf)) ** 2))


def rescaled(
  params: Any, table: Mapping[str, Scaling], *, again: bool = False
) -> Any:
  """Parameters of the wanted size.

  Args:
    params: all leaves.
    table: of the plan, by path.
    again: whether parameters may have the wanted size already.

  Raises:
    ValueError: if parameters have no values, or other shapes; if a size is
      unknown; if all leaves that would change have the wanted size already.
  """
  if not measurable(params):
    raise ValueError(
      "rescale measures parameters, so they must be concrete: call it outside "
      "of jit, with arrays; or let the plan draw them, by mup(..., init=key → "
      "parameters) and plan.init(key), which works inside of jit and vmap."
    )
  found = _known(params, table)
  measured = sizes(params)
  if not again and _is_done(found, measured, params):
    raise ValueError(
      "these parameters already have the std that the plan wants: rescale was "
      "applied before, and must not be applied twice. Use them as they are."
    )

  _warn_of_trained(found, measured)

  def visit(path: str, leaf: Any) -> Any:
    row, size = found[path], measured[path]
    if size:
      leaf = times(leaf, row.init_total / law_of(row, size, leaf.size))
    return shifted(leaf, {".": -row.shift})

  return map_floats(visit, params)


def rescaled_draw(params: Any, table: Mapping[str, Scaling]) -> Any:
  """`rescaled` of what an init returns, also within jit or vmap."""
  if measurable(params):
    return rescaled(params, table, again=True)
  return _rescaled_in_trace(params, table)


def _rescaled_in_trace(params: Any, table: Mapping[str, Scaling]) -> Any:
  """The same of an init's parameters within jit or vmap, without checks.

  A leaf that starts at 0 in the base becomes 0.

  Raises:
    ValueError: for other shapes, or a size of the base that is unknown.
  """
  found = _known(params, table)

  def visit(path: str, leaf: Any) -> Any:
    row = found[path]
    factor = _traced_factor(row, _size(leaf), leaf.size).astype(leaf.dtype)
    return shifted(times(leaf, row.init_total) * factor, {".": -row.shift})

  return map_floats(visit, params)


def _traced_factor(row: Scaling, size: jax.Array, entries: int) -> jax.Array:
  """1/`law_of`; 1 for a leaf of zeros."""
  if not row.std:
    return jnp.zeros(())
  ratio = jnp.where(size > 0, size, row.std) / row.std
  laws = jnp.asarray(_laws(row), ratio.dtype)
  law = laws[jnp.argmin(abs(jnp.log(ratio / laws)))]
  is_law = abs(ratio / law - 1) <= _SURE * error(row, entries)
  return jnp.where(is_law, 1 / law, 1 / ratio)


def _known(params: Any, table: Mapping[str, Scaling]) -> dict[str, Scaling]:
  """The rows of all leaves; raises where a size is not known."""
  found = {path: of_path(path, table) for path in _floats(params)}
  for path, leaf in _floats(params).items():
    if tuple(leaf.shape) != tuple(found[path].shape):
      raise ValueError(
        f"the plan is of {path} with shape {tuple(found[path].shape)}; got "
        f"{tuple(leaf.shape)}: give parameters of the model, not of the base."
      )
  unknown = [path for path, row in found.items() if row.std is None]
  if unknown:
    listed = ", ".join(unknown[:4])
    raise ValueError(
      f"the base's std of {listed} is unknown: pass mup concrete base "
      "parameters, or base_init=key → parameters of the base."
    )
  return found


def _warn_of_trained(
  found: Mapping[str, Scaling], measured: Mapping[str, float]
) -> None:
  """Scales that are 1 in the base start at 1 here, too, or were trained."""
  moved = [
    path
    for path, row in found.items()
    if row.std == 1 and row.role == "vector" and abs(measured[path] - 1) > 1e-3
  ]
  if moved:
    warnings.warn(
      f"{', '.join(moved[:4])} starts at 1 in the base, and here it does not: "
      "are these resumed or pretrained parameters? rescale is for initial "
      "ones; train others with plan.optimizer alone.",
      stacklevel=4,
    )


def of_path(path: str, table: Mapping[str, Scaling]) -> Scaling:
  """A leaf's row, with or without the collection before it."""
  factor_of(path, dict.fromkeys(table, 1.0))  # raises where there is none
  return table[path] if path in table else table[f"params/{path}"]


def law_of(row: Scaling, size: float, entries: int) -> float:
  """Size of a leaf against the base's, as its own initializer makes it.

  That goes with width by one of a few laws, up to chance: then it is exact.

  Raises:
    ValueError: if it starts at 0 in the base alone.
  """
  assert row.std is not None
  if row.std == 0:
    raise ValueError(
      f"{row.path} starts at 0 in the base, and here it does not: give both "
      "the same initializers. Trained parameters are not to be rescaled."
    )
  ratio = size / row.std
  law = min(_laws(row), key=lambda law: abs(math.log(ratio / law)))
  chance = _SURE * error(row, entries)
  return law if abs(ratio / law - 1) <= chance else ratio


def _laws(row: Scaling) -> tuple[float, ...]:
  """What common initializers make of a std: fixed, by fan_in, by fan_out."""
  growths = row.growth_in, row.growth_out
  return 1.0, *(1 / f for g in growths for f in (math.sqrt(g), g))


def error(row: Scaling, entries: int) -> float:
  """Standard error of the ratio of two measured sizes: (1/2n + 1/2n₀)^½."""
  base = max(1, math.prod(row.base_shape))
  return math.sqrt(0.5 / max(1, entries) + 0.5 / base)


def _is_done(
  found: Mapping[str, Scaling], measured: Mapping[str, float], params: Any
) -> bool:
  """Whether all leaves that would be changed have the wanted size already."""
  done: list[bool] = []

  def visit(path: str, leaf: Any) -> Any:
    row, size = found[path], measured[path]
    # of hidden kernels most initializers have the wanted size
    changes = row.role in ("output", "bottleneck") or _varies(row.absorbed)
    if changes and size and row.std:
      done.append(_has_size(row, size, leaf))
    return leaf

  map_floats(visit, params)
  return bool(done) and all(done)


def _varies(factor: Numbers) -> bool:
  return bool(np.any(np.asarray(factor) != 1))


def _has_size(row: Scaling, size: float, leaf: Any) -> bool:
  """Whether a leaf has what is wanted, part by part."""
  assert row.std is not None
  parts = np.asarray(row.init_total)
  values = np.unique(parts)
  own = np.array([size])
  if len(values) > 1:
    own = np.array([_size_where(leaf, parts == value) for value in values])
  wanted = row.std * values
  chance = _SURE * error(row, int(leaf.size))
  return bool(np.all(abs(own / wanted - 1) <= chance))


def _size_where(leaf: jax.Array, mask: np.ndarray) -> float:
  """Root mean square of some entries."""
  squares = jnp.abs(wide(leaf)) ** 2
  where = jnp.broadcast_to(mask, squares.shape)
  return float(jnp.sqrt(jnp.mean(squares, where=where)))


def measurable(tree: Any) -> bool:
  """Whether all leaves of floats have values."""
  abstract = jax.ShapeDtypeStruct, jax.core.Tracer
  leaves = [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]
  return bool(leaves) and not any(isinstance(x, abstract) for x in leaves)
