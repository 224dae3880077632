"""What makes a model's variables, as a function of keys and arrays alone."""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from initjax._checks import check_key, is_key
from initjax._paths import leaves_by_path


class Making(NamedTuple):
  """An initialization, traced."""

  jaxpr: Any
  keys: list[jax.Array]
  arrays: list[jax.Array | np.ndarray | jax.ShapeDtypeStruct]
  """what it reads besides: the inputs, concrete or shapes"""
  tree: Any
  """the result with a shape for each array"""
  paths: list[str]
  finish: Callable[[Iterable[Any]], Any]
  """from the arrays of the tree to what the caller gets"""


def making(
  key_or_rngs: Any,
  model: Any,
  inputs: Sequence[Any],
  method: str | Callable[..., Any] | None,
  kwargs: dict[str, Any],
) -> Making:
  """Traces the initialization of a linen module, or of any function."""
  nnx, linen = map(sys.modules.get, ("flax.nnx", "flax.linen"))
  if nnx is not None and isinstance(key_or_rngs, nnx.Rngs):
    _check_function(model, method)
    return _of_rngs(nnx, key_or_rngs, model, inputs, kwargs)
  for key in jax.tree.leaves(key_or_rngs) or [None]:
    check_key(key)
  if linen is not None and isinstance(model, linen.Module):
    init = functools.partial(model.init, method=method, **kwargs)
  else:
    _check_function(model, method)
    init = functools.partial(model, **kwargs)
  every_leaf = lambda _: True
  keys, arrays = _apart(key_or_rngs, every_leaf), _apart(inputs, _is_array)
  return _traced(init, keys, arrays)


def applying(
  key_or_rngs: Any,
  model: Any,
  method: str | Callable[..., Any] | None,
  kwargs: dict[str, Any],
) -> Callable[..., Any]:
  """A linen module as a function of its variables and inputs."""
  linen = sys.modules.get("flax.linen")
  if linen is None or not isinstance(model, linen.Module):
    raise ValueError(
      "check=True works for linen modules only, whose variables and inputs "
      f"are known; got {type(model).__name__}: pass fn, parameters and inputs "
      "to diagnose."
    )
  rngs = (
    key_or_rngs if isinstance(key_or_rngs, dict) else {"params": key_or_rngs}
  )

  def fn(variables: Any, *inputs: Any) -> Any:
    options = {"rngs": rngs, "mutable": linen.DenyList("params"), **kwargs}
    return model.apply(variables, *inputs, method=method, **options)[0]

  return fn


class _Apart(NamedTuple):
  """Some leaves of a tree, and the way back."""

  leaves: list[Any]
  filled: Callable[[Iterable[Any]], Any]
  """the tree with others in their places"""


def _apart(tree: Any, is_wanted: Callable[[object], bool]) -> _Apart:
  leaves, structure = jax.tree.flatten(tree)
  wanted = list(map(is_wanted, leaves))
  found = [leaf for leaf, own in zip(leaves, wanted, strict=True) if own]
  rest = [leaf for leaf, own in zip(leaves, wanted, strict=True) if not own]

  def filled(new: Iterable[Any]) -> Any:
    given, others = iter(new), iter(rest)
    every = [next(given if own else others) for own in wanted]
    return jax.tree.unflatten(structure, every)

  return _Apart(found, filled)


def _traced(init: Callable[..., Any], keys: _Apart, arrays: _Apart) -> Making:
  made: dict[str, Any] = {}

  def make(new_keys: list[jax.Array], new_arrays: list[jax.Array]) -> Any:
    result = init(keys.filled(new_keys), *arrays.filled(new_arrays))
    drawn = _apart(result, _is_jax)
    named = leaves_by_path(result).items()
    made["paths"] = [path for path, leaf in named if _is_jax(leaf)]
    made["filled"] = drawn.filled
    return drawn.leaves

  traced = jax.jit(make).trace(keys.leaves, arrays.leaves)
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in traced.out_info]
  paths, filled = made["paths"], made["filled"]
  tree = filled(shapes)
  return Making(traced.jaxpr, keys.leaves, arrays.leaves, tree, paths, filled)


def _of_rngs(
  nnx: Any, rngs: Any, model: Any, inputs: Sequence[Any], kwargs: dict[str, Any]
) -> Making:
  """The module's state, and that of the Rngs it was drawn from."""
  structure, state = nnx.split(rngs)
  kept: dict[str, Any] = {}

  def init(state: Any) -> Any:
    copy = nnx.merge(structure, state)
    module = model(copy, *inputs, **kwargs)
    if not isinstance(module, nnx.Module):
      raise TypeError(_NO_MODULE.format(name=type(module).__name__))
    kept["graph"], whole = nnx.split((module, copy))
    return whole

  done = _traced(init, _apart(state, is_key), _apart((), is_key))

  def finish(arrays: Iterable[Any]) -> Any:
    module, after = nnx.merge(kept["graph"], done.finish(arrays))
    nnx.update(rngs, nnx.state(after))
    return module

  paths = [path.removeprefix("0/") for path in done.paths]  # of the module
  return done._replace(paths=paths, finish=finish)


_NO_MODULE = (
  "with an nnx.Rngs the model must be a function that builds an NNX module "
  "from it, such as lambda rngs: Model(rngs=rngs); it returned {name}."
)


def _is_array(leaf: object) -> bool:
  return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _is_jax(leaf: object) -> bool:
  return isinstance(leaf, jax.Array)


def _check_function(
  model: object, method: str | Callable[..., Any] | None
) -> None:
  """Raises unless it may be a function that makes variables."""
  if method is not None:
    raise ValueError("method= is for linen modules only.")
  if not callable(model) or isinstance(model, jax.Array):
    raise TypeError(
      "the model must be a linen module, or a function of a key (or of an "
      f"nnx.Rngs) that makes its variables; got {type(model).__name__}."
    )
  nnx = sys.modules.get("flax.nnx")
  if nnx is not None and isinstance(model, nnx.Module):
    raise TypeError(
      "an NNX module already has its parameters: pass the function that "
      f"builds it, such as lambda rngs: {type(model).__name__}(rngs=rngs)."
    )
