"""Everything that is jitted lowers for CPU, GPU and TPU, though none is here.

Only traced and lowered, never compiled or run.
"""

import functools
import importlib
import inspect
import pkgutil

import jax
import jax.export
import jax.numpy as jnp
import pytest

import experiments
from initjax import initializers

PLATFORMS = ("cpu", "cuda", "tpu")
NO_PROGRAMS = (  # they run others', or measure the library itself
  "reproduce", "tpu_compile", "measuring_cost", "init_cost", "one_pass",
  "false_alarms",
)  # fmt: skip


def found():
  """The experiments of all modules that have one."""
  for module in pkgutil.iter_modules(experiments.__path__):
    if not module.name.startswith("_"):
      content = importlib.import_module(f"experiments.{module.name}")
      if hasattr(content, "EXPERIMENT"):
        yield content.EXPERIMENT


EXPERIMENTS = {experiment.name: experiment for experiment in found()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_program_exports(name):
  experiment = EXPERIMENTS[name]
  programs = experiment.programs(experiment.at_scale("smoke"))
  assert programs or name in NO_PROGRAMS
  for label, program in programs.items():
    arguments = [
      jax.tree.map(lambda x: x, argument) for argument in program.arguments
    ]
    exported = jax.export.export(program.function, platforms=PLATFORMS)(
      *arguments, **program.keywords
    )
    assert exported.platforms == PLATFORMS, label
    text = exported.mlir_module()
    assert "callback" not in text, label


def built():
  """Every public initializer, and a shape that suits it."""
  shapes = {
    "delta_orthogonal": (3, 3, 4, 8), "dirac": (3, 3, 4, 8), "eye": (8, 8),
    "orthogonal": (8, 4), "zero_hadamard": (8, 16),
  }  # fmt: skip
  arguments = {"constant": (0.5,), "activation_scaling": (jnp.tanh,),
               "sparse": (0.5,), "variance_scaling": (1.0, "fan_in", "normal"),
               "torch_linear_bias": (8,), "residual_normal": (8,)}  # fmt: skip
  for name in initializers.__all__:
    value = getattr(initializers, name)
    if inspect.isclass(value) or not callable(value):
      continue
    direct = "key" in list(inspect.signature(value).parameters)[:1]
    init = value if direct else value(*arguments.get(name, ()))
    yield name, init, shapes.get(name, (8, 16))


@pytest.mark.parametrize(("name", "init", "shape"), list(built()))
def test_every_initializer_exports(name, init, shape):
  function = jax.jit(
    functools.partial(init, shape=shape, dtype=jnp.float32)
    if name not in ("zeros", "ones")
    else lambda key: init(key, shape, jnp.float32)
  )
  key = jax.eval_shape(jax.random.key, 0)
  exported = jax.export.export(function, platforms=PLATFORMS)(key)
  assert exported.platforms == PLATFORMS
  assert exported.out_avals[0].shape == shape
