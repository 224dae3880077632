"""Drawing models in three ways, and training them, jitted."""

import functools
from typing import Any

import jax
import optax

import initjax
from experiments.common import training
from experiments.own_init.tasks import TASKS, Task, apply

WAYS = ("own", "auto_init", "calibrate")
"""the model's own initialization; `auto_init`; its own, calibrated"""

Runs = dict[str, Any]
"""{"batches", "rate": [runs]}"""


def draw(key: jax.Array, inputs: jax.Array, task: Task) -> dict[str, Any]:
  """A model's variables by way; `inputs` are a batch."""
  function = apply(task)
  own = initjax.init_variables(key, task.model, inputs)
  given = function, own, inputs
  return {
    "own": own,
    "auto_init": initjax.auto_init(key, *given, check=False),
    "calibrate": initjax.calibrate(*given, check=False)[0],
  }


@functools.partial(
  jax.jit, static_argnames=("task", "steps", "batch", "points")
)
def courses(
  given: tuple[Any, Runs],
  data: training.Labelled,
  *,
  task: str,
  steps: int,
  batch: int,
  points: int,
) -> training.Course:
  """Training of [runs] models by Adam."""

  def one(params: Any, run: Runs) -> training.Course:
    return training.train(
      apply(TASKS[task]),
      params,
      data,
      optax.adam(run["rate"]),
      run["batches"],
      training.Budget(steps, batch, points),
    )

  return jax.vmap(one)(*given)
