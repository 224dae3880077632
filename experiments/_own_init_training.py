"""Drawing models in three ways, and training them, jitted."""

import functools
from typing import Any

import jax
import optax

import initjax
from experiments import _training
from experiments._own_init_tasks import TASKS, Task, apply

WAYS = ("own", "auto_init", "calibrate")
"""the model's own initialization; `auto_init`; its own, calibrated"""

Runs = dict[str, Any]
"""{"batches", "rate": [runs]}"""


def draw(key: jax.Array, inputs: jax.Array, task: Task, way: str) -> Any:
  """A model's variables; `inputs` are a batch."""
  own = initjax.init_variables(key, task.model, inputs)
  if way == "auto_init":
    return initjax.auto_init(key, apply(task), own, inputs)
  if way == "calibrate":
    return initjax.calibrate(apply(task), own, inputs)[0]
  return own


@functools.partial(
  jax.jit, static_argnames=("task", "steps", "batch", "points", "together")
)
def courses(
  given: tuple[Any, Runs],
  data: _training.Labelled,
  *,
  task: str,
  steps: int,
  batch: int,
  points: int,
  together: int,
) -> _training.Course:
  """Training of [runs] models by Adam, `together` of them side by side."""

  def one(given: tuple[Any, Runs]) -> _training.Course:
    params, run = given
    return _training.train(
      apply(TASKS[task]),
      params,
      data,
      optax.adam(run["rate"]),
      run["batches"],
      steps=steps,
      batch=batch,
      points=points,
    )[1]

  return jax.lax.map(one, given, batch_size=together)
