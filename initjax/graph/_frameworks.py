"""Stateful modules as pure functions of their parameters."""

import sys
from collections.abc import Callable
from typing import Any


def functional(module: Any) -> tuple[Callable[..., Any], Any]:
  """An NNX or Equinox module as `(fn, params)`, `fn(params, *inputs)`.

  For NNX the parameters are the `nnx.State` of all `nnx.Param`s; counters,
  keys and batch statistics stay behind and keep their values, also when `fn`
  changes them. `nnx.update(module, params)` writes parameters back. For
  Equinox they are the module with everything but its floating-point arrays
  taken away, as `equinox.partition` gives it; `equinox.combine` undoes it.

  Linen modules are functions already: `fn = module.apply`, and the parameters
  are its variables.

  Args:
    module: an NNX module or an Equinox module.

  Raises:
    TypeError: for anything else.

  >>> from flax import nnx
  >>> fn, params = functional(nnx.Linear(3, 8, rngs=nnx.Rngs(0)))
  >>> import jax.numpy as jnp
  >>> fn(params, jnp.ones((2, 3))).shape
  (2, 8)
  """
  nnx = sys.modules.get("flax.nnx")
  if nnx is not None and isinstance(module, nnx.Module):
    return _from_nnx(nnx, module)
  equinox = sys.modules.get("equinox")
  if equinox is not None and isinstance(module, equinox.Module):
    return _from_equinox(equinox, module)
  raise TypeError(
    "functional takes an NNX or an Equinox module, got "
    f"{type(module).__name__}; for a linen module use fn = module.apply and "
    "params = its variables, for a Haiku transform its apply and params."
  )


def _from_nnx(nnx: Any, module: Any) -> tuple[Callable[..., Any], Any]:
  structure, params, others = nnx.split(module, nnx.Param, ...)

  def fn(params: Any, *inputs: Any) -> Any:
    return nnx.merge(structure, params, others, copy=True)(*inputs)

  return fn, params


def _from_equinox(equinox: Any, module: Any) -> tuple[Callable[..., Any], Any]:
  params, others = equinox.partition(module, equinox.is_inexact_array)

  def fn(params: Any, *inputs: Any) -> Any:
    return equinox.combine(params, others)(*inputs)

  return fn, params
