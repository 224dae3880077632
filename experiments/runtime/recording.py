"""The programs of a run, without running them: for compiling elsewhere."""

import functools
import itertools
import types
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runtime.experiment import Experiment
from experiments.runtime.job import Job


class Program(NamedTuple):
  """A jitted function of an experiment, and what it is called with."""

  function: Any
  """from `jax.jit`"""
  arguments: tuple[Any, ...]
  """`jax.ShapeDtypeStruct`s, keys included; static ones as values"""
  keywords: Mapping[str, Any] = types.MappingProxyType({})


def programs(experiment: Experiment, config: Any) -> dict[str, Program]:
  """Every jitted function that `run` spreads over devices, by name.

  The run goes from its first line to its last, but what it spreads is recorded
  with the shapes of its arguments, and answered by ones of the right shapes.

  >>> from experiments.runtime.experiment import script
  >>> vanishing = script("vanishing").EXPERIMENT
  >>> sorted(programs(vanishing, vanishing.at_scale("smoke")))[0][:7]
  'courses'
  """
  found: dict[str, Program] = {}

  def record(function: Any, batch: Any, *shared: Any) -> Any:
    program = program_of(function, batch, *shared)
    if not any(map(functools.partial(_equal, program), found.values())):
      found[_label(program, found)] = program
    return jax.tree.map(_ones, jax.eval_shape(function, batch, *shared))

  with warnings.catch_warnings(), np.errstate(all="ignore"):
    warnings.simplefilter("ignore")
    experiment.run(config, Job(instead=record))
  return found


def program_of(function: Any, *given: Any) -> Program:
  """The jitted function itself, with what a `partial` holds as arguments.

  >>> double = jax.jit(lambda x, factor: x * factor)
  >>> program_of(functools.partial(double, factor=2.0), np.ones(3)).keywords
  {'factor': 2.0}
  """
  arguments = jax.eval_shape(lambda tree: tree, given)
  keywords: dict[str, Any] = {}
  while isinstance(function, functools.partial):
    arguments = (*function.args, *arguments)
    keywords = {**function.keywords, **keywords}
    function = function.func
  return Program(function, arguments, keywords)


def _equal(one: Program, other: Program) -> bool:
  """Whether they compile to the same."""
  return one.function is other.function and repr(one[1:]) == repr(other[1:])


def _label(program: Program, taken: dict[str, Program]) -> str:
  """Its name and its options; a number where these do not tell it apart."""
  words = [
    *(str(x) for x in program.arguments if isinstance(x, str | int)),
    *(f"{name}={value}" for name, value in sorted(program.keywords.items())
      if isinstance(value, str | int | float)),
  ]  # fmt: skip
  label = ", ".join([program.function.__name__, *words])
  numbered = (f"{label} ({number})" for number in itertools.count(2))
  return next(
    name for name in itertools.chain([label], numbered) if name not in taken
  )


def _ones(leaf: Any) -> Any:
  """Of that shape, without the memory; keys where keys are wanted."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.numpy.broadcast_to(jax.random.key(0), leaf.shape)
  return np.broadcast_to(np.ones((), leaf.dtype), leaf.shape)
