"""From package.module:object to a function, and parameters from each seed."""

import difflib
import functools
import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from initjax._cli._errors import CallError
from initjax.graph import functional, is_model, is_unbound

_WANTED = (
  "expected a linen, NNX or Equinox module, a pair (fn, params), or a "
  "function or class that returns one of these"
)


class Model(NamedTuple):
  """A model as `initjax.diagnose` takes it."""

  fn: Callable[..., Any]
  params: Any
  has_aux: bool = False
  seeded: bool = False
  """whether another seed would have given other parameters"""


_Draw = Callable[[int], Model]
"""From a seed to a model, initialized with it if it can be."""


def load(path: str) -> Any:
  """The object that PACKAGE.MODULE:OBJECT names.

  Raises:
    CallError: if there is no such module or object.
  """
  name, _, attribute = path.partition(":")
  if name.endswith(".py"):
    module = os.path.normpath(name)[:-3].replace(os.sep, ".")
    raise CallError(
      f"{path!r} names a file; expected a module: {module}:{attribute or 'f'}."
    )
  if not all(
    part.isidentifier() for part in (name + "." + attribute).split(".")
  ):
    raise CallError(
      f"{path!r} names no object; expected PACKAGE.MODULE:OBJECT, such as "
      "my_models.mlp:model."
    )
  found = _import(name)
  for part in attribute.split("."):
    if not hasattr(found, part):
      raise CallError(f"{path!r}: {name} has no {part!r}{_near(found, part)}.")
    found = getattr(found, part)
  return found


def _import(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    missing = error.name or name
    if not f"{name}.".startswith(f"{missing}."):  # the module imports it
      raise
    raise CallError(
      f"there is no module {missing!r} in {os.getcwd()} or on Python's path."
    ) from error


def _near(module: Any, name: str) -> str:
  """Names of the module that the user may have meant."""
  public = [each for each in vars(module) if not each.startswith("_")]
  close = difflib.get_close_matches(name, public, n=3) or public[:8]
  return f"; it has {', '.join(close)}" if close else ""


def build(
  path: str,
  inputs: Sequence[jax.Array],
  seeds: int,
  keywords: Mapping[str, Any],
) -> Model:
  """The model at `path`, with parameters from seeds 0 ... seeds - 1.

  If there are several, they are stacked along a new first axis.

  Raises:
    CallError: if the object is none of those wanted, or has no seed.
  """
  draw = _drawing(path, load(path), inputs, keywords)
  first = draw(0)
  if seeds == 1:
    return first
  if not first.seeded:
    raise CallError(
      f"--seeds={seeds} needs different parameters for each seed, but {path!r} "
      "has one set; expected a linen module, or a function or class with an "
      "argument named key, seed or rngs."
    )
  others = [draw(seed) for seed in range(1, seeds)]
  return first._replace(params=_stack([first, *others]))


def _stack(models: Sequence[Model]) -> Any:
  """Their parameters along a new first axis."""
  leaves = [jax.tree.leaves(model.params) for model in models]
  shapes = [[jnp.shape(leaf) for leaf in each] for each in leaves]
  if any(each != shapes[0] for each in shapes):
    raise CallError("the parameters of different seeds have different shapes.")
  stacked = [jnp.stack(each) for each in zip(*leaves, strict=True)]
  return jax.tree.unflatten(jax.tree.structure(models[0].params), stacked)


def _drawing(
  path: str,
  found: Any,
  inputs: Sequence[jax.Array],
  keywords: Mapping[str, Any],
) -> _Draw:
  """Draws the model that `found` is, or that it returns."""
  draw = _draws(found, inputs, keywords)
  if draw is not None:
    return draw
  if not callable(found):
    raise CallError(f"{path!r} is {_kind(found)}; {_WANTED}.")
  makers = _makers(path, found)

  def call(seed: int) -> Model:
    given = found(**{name: make(seed) for name, make in makers.items()})
    draw = _draws(given, inputs, keywords)
    if draw is None:
      raise CallError(f"{path!r} gives {_kind(given)}; {_WANTED}.")
    model = draw(seed)
    return model._replace(seeded=model.seeded or bool(makers))

  return call


def _draws(
  found: Any, inputs: Sequence[jax.Array], keywords: Mapping[str, Any]
) -> _Draw | None:
  """Draws `found` as a model; None if it is none."""
  if is_unbound(found):
    return _from_linen(found, inputs, keywords)
  if isinstance(found, tuple):
    is_pair = len(found) == 2 and callable(found[0])
    if not is_pair or hasattr(found, "init"):  # Haiku's (init, apply)
      return None
    fn, params = found
    fn = functools.partial(fn, **keywords) if keywords else fn
    return lambda _: Model(fn, params)
  if not is_model(found):
    return None
  model = Model(*functional(found, **keywords))
  return lambda _: model


def _from_linen(
  module: Any, inputs: Sequence[jax.Array], keywords: Mapping[str, Any]
) -> _Draw:
  """Collections beside the parameters, as batch statistics, may change."""
  # Compiled once for all seeds.
  init = jax.jit(functools.partial(module.init, **keywords))

  def draw(seed: int) -> Model:
    key = jax.random.key(seed)
    variables = init(key, *inputs)
    others = [name for name in variables if name != "params"]
    options: dict[str, Any] = {"mutable": others} if others else {}
    options |= {"rngs": key, **keywords}  # a key for dropout
    model = functional(module, variables, **options)
    return Model(*model, has_aux=bool(others), seeded=True)

  return draw


def _makers(path: str, function: Any) -> dict[str, Callable[[int], Any]]:
  """Which of key, seed and rngs `function` has, and how to make them."""
  start = function.__init__ if inspect.isclass(function) else function
  parameters = list(inspect.signature(start).parameters.values())
  several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
  named = {
    parameter.name: parameter
    for parameter in parameters[inspect.isclass(function) :]  # without self
    if parameter.kind not in several
  }
  unknown = [
    name
    for name, parameter in named.items()
    if parameter.default is parameter.empty and name not in _MAKERS
  ]
  if unknown:
    raise CallError(
      f"{path!r} needs arguments {', '.join(unknown)}; expected a function or "
      "class whose only required arguments are key, seed or rngs."
    )
  return {name: _MAKERS[name] for name in named if name in _MAKERS}


_MAKERS: dict[str, Callable[[int], Any]] = {
  "key": jax.random.key,
  "seed": int,
  "rngs": lambda seed: importlib.import_module("flax.nnx").Rngs(seed),
}


def _kind(found: Any) -> str:
  """Names `found` in an error."""
  if hasattr(found, "init") and hasattr(found, "apply"):  # of Haiku
    return "a pair of init and apply"
  return f"an object of type {type(found).__name__}"
