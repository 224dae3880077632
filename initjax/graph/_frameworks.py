"""Modules of Flax and Equinox as pure functions of their parameters.

A framework that is not yet imported cannot have made the given module, so it is
only looked up in `sys.modules` and never imported.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._checks import type_of
from initjax._paths import is_float, paths_of


def functional(
  module: Any,
  variables: Any = None,
  /,
  *,
  method: str | Callable[..., Any] | None = None,
  **kwargs: Any,
) -> tuple[Callable[..., Any], Any]:
  """Returns a module as `(fn, params)`, where `fn(params, *inputs)` calls it.

  Functions such as `initjax.measure` accept modules directly; use this if you
  need more: keywords, another method, other parameters, gradients.

  - NNX: the parameters are the `nnx.State` of all `nnx.Param`s; counters, keys
    and batch statistics stay behind and keep their values, even if `fn`
    changes them. `nnx.update(module, params)` writes the parameters back.
  - Equinox: they are the module with everything removed except its
    floating-point arrays; `equinox.combine` puts it back.
  - linen: they are the variables, in all collections. `fn` is `module.apply`,
    so keywords may include `rngs` and `mutable`: with `mutable`, it returns
    `(outputs, updates)`, so pass `has_aux=True` to `measure` and the like. A
    bound module (`module.bind(variables, rngs=..., mutable=...)`) already has
    its variables, and `fn` then returns the outputs alone.

  An abstract module (from `nnx.eval_shape` or `equinox.filter_eval_shape`) has
  abstract parameters. What stays behind is then as in a fresh module: keys
  are `jax.random.key(0)`, running means and counters 0, all other floats 1.

  Args:
    module: an NNX, Equinox or linen module.
    variables: the variables of an unbound linen module.
    method: what to call instead of the module: "encode" or `Model.encode`.
    **kwargs: keyword arguments, the same for each call.

  Raises:
    TypeError: if `module` is anything else, or cannot be called; if variables
      are missing for a linen module, or given for another kind.
    AttributeError: if the module has no such method.

  >>> from flax import nnx
  >>> fn, params = functional(nnx.Linear(3, 8, rngs=nnx.Rngs(0)))
  >>> import jax.numpy as jnp
  >>> fn(params, jnp.ones((2, 3))).shape
  (2, 8)
  """
  _check_instance(module)
  if is_unbound(module):
    _check_variables(module, variables)
    return functools.partial(module.apply, method=method, **kwargs), variables
  parts = _params_and_others(module)
  if parts is None:
    raise TypeError(
      "functional takes an NNX, Equinox or linen module; got "
      f"{type_of(module)}. For a Haiku transform, fn is its apply."
    )
  if variables is not None:
    raise TypeError(_HOLDS_ITS_OWN.format(name=type_of(module)))
  called = functools.partial(_method(module, method), **kwargs)
  return _of_params(called, parts), parts.params


class Call(NamedTuple):
  """A model as a function, and what it is called with."""

  fn: Callable[..., Any]
  """of parameters and inputs"""
  params: Any
  inputs: tuple[Any, ...]
  as_given: Callable[[Any], Any]
  """from new parameters to what was given with the old ones: a module, bound
  variables, or parameters alone"""


def as_function(fn: Any, params: Any, inputs: tuple[Any, ...]) -> Call:
  """What `verb(fn, params, *inputs)` means.

  - a module that holds its parameters: the others are its inputs;
  - an unbound linen module, and its variables;
  - a function of parameters, which may be such a module too.
  """
  _check_instance(fn)
  if is_model(fn):
    _check_no_parameters(fn, params)
    fn, params, inputs = _method(fn, None), fn, (params, *inputs)
  elif is_unbound(fn):
    _check_variables(fn, params)
    fn = fn.apply
  elif not callable(fn) or hasattr(fn, "apply"):
    raise TypeError(
      "expected a function fn(params, *inputs), such as model.apply, or a "
      f"module; got {type_of(fn)}{_advice(fn)}."
    )
  parts = _params_and_others(params)
  if parts is None:
    return Call(fn, params, inputs, lambda new: new)
  as_given = lambda new: parts.join(new, parts.others)
  return Call(_of_params(fn, parts), parts.params, inputs, as_given)


_HOLDS_ITS_OWN = (
  "{name} holds its own parameters: pass (module, *inputs), without params. "
  "To use other parameters, write fn, params = initjax.functional(module)."
)


def _advice(given: Any) -> str:
  if hasattr(given, "apply") and hasattr(given, "init"):
    return (
      "; for a Haiku transform, pass its apply, the parameters, and then the "
      "key: (transform.apply, params, key, *inputs)"
    )
  return ""


# What each framework has


def _module(framework: str) -> Any:
  """Its class of modules, or an empty tuple, of which nothing is an instance.

  While it is being imported, a framework may not have it yet.
  """
  return getattr(sys.modules.get(framework), "Module", ())


def is_unbound(given: Any) -> bool:
  return isinstance(given, _module("flax.linen")) and given.scope is None


def is_model(given: Any) -> bool:
  """Whether it holds its parameters, so that what comes next are inputs."""
  if isinstance(given, _module("equinox")):
    return any(map(is_float, jax.tree.leaves(given)))
  nnx, linen = _module("flax.nnx"), _module("flax.linen")
  return isinstance(given, nnx) or (
    isinstance(given, linen) and given.scope is not None
  )


class _Parts(NamedTuple):
  """A module taken apart."""

  params: Any
  others: Any
  join: Callable[..., Any]
  """of params and others"""


def _params_and_others(tree: Any) -> _Parts | None:
  """Of a module, or of a tree with Equinox modules; None for anything else."""
  if isinstance(tree, _module("flax.nnx")):
    return _nnx_parts(tree)
  if isinstance(tree, _module("flax.linen")):
    return _linen_parts(tree)
  is_equinox = lambda node: isinstance(node, _module("equinox"))
  if any(map(is_equinox, jax.tree.leaves(tree, is_leaf=is_equinox))):
    equinox = sys.modules["equinox"]
    params, others = equinox.partition(tree, is_float)
    return _Parts(params, others, equinox.combine)
  return None


def _nnx_parts(module: Any) -> _Parts:
  nnx: Any = sys.modules["flax.nnx"]
  structure, params, others = nnx.split(module, nnx.Param, ...)

  def join(params: Any, others: Any) -> Any:
    return nnx.merge(structure, params, others, copy=True)

  return _Parts(params, others, join)


def _linen_parts(module: Any) -> _Parts:
  """Keys and what may change are bound again with the variables."""
  scope = module.scope
  rngs = {name: rng.as_jax_rng() for name, rng in scope.rngs.items()}
  unbound, variables = module.unbind()

  def join(params: Any, others: Any) -> Any:
    return unbound.bind(params, rngs=others, mutable=scope.mutable)

  return _Parts(variables, rngs, join)


def _of_params(fn: Callable[..., Any], parts: _Parts) -> Callable[..., Any]:
  """`fn` of a module, as a function of the module's parameters."""

  def of_params(params: Any, *inputs: Any) -> Any:
    return fn(parts.join(params, _concrete(parts.others)), *inputs)

  return of_params


def _concrete(others: Any) -> Any:
  """With the values of a fresh module where they are abstract."""
  leaves, structure = jax.tree.flatten(others)
  return jax.tree.unflatten(structure, map(_fresh, paths_of(others), leaves))


def _fresh(path: str, leaf: Any) -> Any:
  if not isinstance(leaf, jax.ShapeDtypeStruct):
    return leaf
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jnp.broadcast_to(jax.random.key(0), leaf.shape)
  is_scale = is_float(leaf) and not path.endswith("mean")
  return jnp.full(leaf.shape, 1 if is_scale else 0, leaf.dtype)


def _method(module: Any, method: Any) -> Callable[..., Any]:
  """As a function of the module and its inputs."""
  name = type(module).__name__
  if method is None and not callable(module):
    raise TypeError(
      f"{name} has no __call__; say which method to use: fn, params = "
      "initjax.functional(module, method=...)."
    )
  if callable(method):
    return getattr(method, "__func__", method)
  if not callable(getattr(module, method or "__call__", None)):
    raise AttributeError(f"{name} has no method {method!r}.")

  def called(module: Any, *inputs: Any, **kwargs: Any) -> Any:
    return getattr(module, method or "__call__")(*inputs, **kwargs)

  return called


# Checks


def _check_instance(given: Any) -> None:
  kinds = map(_module, ("flax.nnx", "flax.linen", "equinox"))
  modules = tuple(kind for kind in kinds if kind != ())
  if isinstance(given, type) and issubclass(given, modules):
    name = given.__name__
    raise TypeError(
      f"expected a module, got the class {name}; pass {name}(...)."
    )


def _check_variables(module: Any, variables: Any) -> None:
  """Raises unless these are collections by name."""
  collections = variables.values() if isinstance(variables, Mapping) else [None]
  if not all(isinstance(each, Mapping) for each in collections):
    raise TypeError(
      f"{type_of(module)} is a linen module that holds no variables; pass "
      "(module, variables, *inputs), where variables = module.init(key, "
      f"*inputs), or module.bind(variables); got {type_of(variables)} for them."
    )


def _check_no_parameters(module: Any, given: Any) -> None:
  parts = _params_and_others(module)
  own = paths_of(parts.params) if parts is not None else []
  if own and paths_of(given) == own:
    raise TypeError(_HOLDS_ITS_OWN.format(name=type_of(module)))
