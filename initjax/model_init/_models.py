"""What makes a model's variables, as a function of keys and arrays alone."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._checks import check_key, is_key
from initjax._paths import paths_of


class Making(NamedTuple):
  """An initialization, traced."""

  jaxpr: Any
  keys: list[jax.Array]
  arrays: list[Any]
  """what it reads besides: the inputs, concrete or shapes"""
  tree: Any
  """the result with a shape for each array"""
  paths: list[str]
  finish: Callable[[Any], Any]
  """from the tree of arrays to what the caller gets"""


def making(
  key_or_rngs: Any,
  model: Any,
  inputs: Sequence[Any],
  method: Any,
  kwargs: dict[str, Any],
) -> Making:
  """Traces the initialization of a linen module, or of any function."""
  nnx = sys.modules.get("flax.nnx")
  if nnx is not None and isinstance(key_or_rngs, nnx.Rngs):
    _no_method(method)
    return _of_rngs(nnx, key_or_rngs, model, inputs, kwargs)
  keys, structure = jax.tree.flatten(key_or_rngs)
  for key in keys or [None]:
    check_key(key)
  leaves, outer = jax.tree.flatten(list(inputs))
  places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
  arrays = [leaves[i] for i in places]
  rest = tuple(None if _is_array(x) else x for x in leaves)
  calls = (structure, outer, tuple(places), rest)
  linen = sys.modules.get("flax.linen")
  if linen is not None and isinstance(model, linen.Module):
    init = functools.partial(model.init, method=method, **kwargs)
    make = _function(init, calls)
  else:
    _no_method(method)
    _check_callable(model)
    make = _function(functools.partial(model, **kwargs), calls)
  traced = make.jitted.trace(keys, arrays)
  return _finished(traced, keys, arrays, make.statics)


class _Make(NamedTuple):
  jitted: Any
  """of (keys, arrays), to the list of the result's arrays"""
  statics: dict[str, Any]
  """filled by tracing: what else the result holds, and its structure"""


def _function(init: Callable[..., Any], calls: Any) -> _Make:
  structure, outer, places, rest = calls
  statics: dict[str, Any] = {}

  def make(keys: list[Any], arrays: list[Any]) -> list[Any]:
    leaves = list(rest)
    for place, array in zip(places, arrays, strict=True):
      leaves[place] = array
    key = jax.tree.unflatten(structure, keys)
    result = init(key, *jax.tree.unflatten(outer, leaves))
    return _split_off(result, statics)

  return _Make(jax.jit(make), statics)


def _split_off(result: Any, statics: dict[str, Any]) -> list[Any]:
  """The result's JAX arrays; all other leaves are remembered."""
  leaves, statics["structure"] = jax.tree.flatten(result)
  drawn = [isinstance(leaf, jax.Array) for leaf in leaves]
  statics["drawn"] = drawn
  statics["paths"] = paths_of(result)
  pairs = list(zip(drawn, leaves, strict=True))
  statics["leaves"] = [None if own else leaf for own, leaf in pairs]
  return [leaf for own, leaf in pairs if own]


def _finished(
  traced: Any, keys: list[Any], arrays: list[Any], statics: dict[str, Any]
) -> Making:
  drawn = statics["drawn"]

  def filled(arrays: Sequence[Any]) -> Any:
    leaves, new = list(statics["leaves"]), iter(arrays)
    for place, own in enumerate(drawn):
      leaves[place] = next(new) if own else leaves[place]
    return jax.tree.unflatten(statics["structure"], leaves)

  paths = [
    path for path, own in zip(statics["paths"], drawn, strict=True) if own
  ]
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in traced.out_info]
  return Making(traced.jaxpr, keys, arrays, filled(shapes), paths, filled)


def _of_rngs(
  nnx: Any, rngs: Any, model: Any, inputs: Sequence[Any], kwargs: dict[str, Any]
) -> Making:
  """The module's state, and that of the Rngs it was drawn from."""
  _check_callable(model)
  structure, state = nnx.split(rngs)
  leaves, outer = jax.tree.flatten(state)
  places = [i for i, leaf in enumerate(leaves) if is_key(leaf)]
  kept: dict[str, Any] = {}

  def init(keys: list[Any]) -> Any:
    filled = list(leaves)
    for place, key in zip(places, keys, strict=True):
      filled[place] = key
    copy = nnx.merge(structure, jax.tree.unflatten(outer, filled))
    module = _checked_module(nnx, model(copy, *inputs, **kwargs))
    kept["graph"], whole = nnx.split((module, copy))
    return whole

  keys = [leaves[place] for place in places]
  calls = (jax.tree.structure(keys), jax.tree.structure([]), (), ())
  make = _function(init, calls)
  done = _finished(make.jitted.trace(keys, []), keys, [], make.statics)

  def finish(arrays: Any) -> Any:
    module, after = nnx.merge(kept["graph"], done.finish(arrays))
    nnx.update(rngs, nnx.state(after))
    return module

  paths = [path.removeprefix("0/") for path in done.paths]  # of the module
  return done._replace(paths=paths, finish=finish)


def _checked_module(nnx: Any, module: Any) -> Any:
  if isinstance(module, nnx.Module):
    return module
  raise TypeError(
    "with an nnx.Rngs the model must be a function that builds an NNX module "
    "from it, such as lambda rngs: Model(rngs=rngs); it gave "
    f"{type(module).__name__}."
  )


def _is_array(leaf: Any) -> bool:
  kinds = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)
  return isinstance(leaf, kinds)


def _check_callable(model: Any) -> None:
  if not callable(model) or isinstance(model, jax.Array):
    raise TypeError(
      "the model must be a linen module, or a function of a key (or of an "
      f"nnx.Rngs) that makes its variables; got {type(model).__name__}."
    )
  nnx = sys.modules.get("flax.nnx")
  if nnx is not None and isinstance(model, nnx.Module):
    raise TypeError(
      "an NNX module has its parameters already: pass the function that "
      f"builds it, such as lambda rngs: {type(model).__name__}(rngs=rngs)."
    )


def _no_method(method: Any) -> None:
  if method is not None:
    raise ValueError("method= is for linen modules only.")
