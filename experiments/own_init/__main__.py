"""Does a model learn as well from `auto_init` as from its own initialization?

Question: where is what `auto_init` draws, or what `calibrate` makes of the
model's own draw, worse or better after training than what the authors of the
architecture chose?

    python -m experiments.own_init

trains ten small models with Adam, each from three initializations at three
rates. The best rate of each is chosen on two seeds, and six others are compared
in pairs, with the same data, batches and keys. It takes some 15 minutes on 2
CPU cores. Expect: `auto_init` is nowhere worse than two standard errors or 2 %
of the loss's drop. It is better for a tied GPT (0.70 against 1.14), a GPT on
Python source (2.07, 2.34), a ViT (0.19, 1.50), VGG (0.26, 1.58) and 40 layers
of tanh (1.38, 1.49), and equal for ResNets, U-Net, LSTM and 40 layers of GELU,
which hardly learn. `calibrate` is worse for tanh (1.92), whose gradient it lets
grow.

Reference: Glorot and Bengio 2010; He et al. 2015; Radford et al. 2019 (GPT-2);
Dosovitskiy et al. 2021 (ViT).
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.own_init.show import best_rates, claims, figure, tables
from experiments.own_init.tasks import TASKS
from experiments.own_init.training import WAYS, courses, draw
from experiments.runtime.experiment import (
  Experiment,
  Result,
  check,
  option,
)
from experiments.runtime.job import Job
from experiments.runtime.launch import launch


@dataclasses.dataclass(frozen=True)
class Config:
  """What to train, and how long."""

  tasks: tuple[str, ...] = option(
    tuple(TASKS), "What is learnt, and by what.", choices=TASKS
  )
  choosing: int = option(2, "Seeds on which the rate is chosen.", low=1)
  seeds: int = option(6, "Others, that are compared.", low=2)
  rates: int = option(3, "Rates of Adam that are tried.", low=1, high=3)
  steps: int = option(100, "Updates, a multiple of 5.", low=5, multiple=5)
  batch: int = option(16, "Samples of each update.", low=1)
  samples: int = option(256, "That are learnt.", low=1)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    check(self)


def run(config: Config, job: Job) -> Result:
  """Courses of every way of every task, at its best rate."""

  def choose(name: str) -> Any:
    seeds = range(config.choosing)
    rates = [TASKS[name].rates[: config.rates]] * len(WAYS)
    return _trained(config, job, name, seeds, rates)

  def compare(item: tuple[str, tuple[float, ...]]) -> Any:
    name, rates = item
    seeds = range(config.choosing, config.choosing + config.seeds)
    found = _trained(config, job, name, seeds, [(rate,) for rate in rates])
    return jax.tree.map(lambda leaf: leaf[:, 0], found)

  rates = {name: TASKS[name].rates[:1] * len(WAYS) for name in config.tasks}
  tried = config.tasks if config.rates > 1 else ()
  chosen = dict(zip(tried, job.map(choose, tried), strict=True))
  for name, found in chosen.items():
    rates[name] = best_rates(TASKS[name].rates, found["loss"])
  compared = job.map(compare, list(rates.items()))
  return {
    "config": dataclasses.asdict(config),
    "rates": {n: dict(zip(WAYS, r, strict=True)) for n, r in rates.items()},
    "choosing": _by_way(tried, chosen.values()),
    "compared": _by_way(config.tasks, compared),
  }


def _by_way(names: Iterable[str], found: Iterable[Any]) -> dict[str, Any]:
  """By task, then by way."""
  return {
    name: {
      way: {key: values[row] for key, values in each.items()}
      for row, way in enumerate(WAYS)
    }
    for name, each in zip(names, found, strict=True)
  }


def _trained(
  config: Config, job: Job, name: str, seeds: range, rates: Any
) -> dict[str, np.ndarray]:
  """[ways, rates, seeds, points] of one task; `rates` are those of each way."""
  task = TASKS[name]
  data = task.data(config.samples, config.seed)
  keys = {
    seed: jax.random.split(
      jax.random.fold_in(jax.random.key(config.seed), seed)
    )
    for seed in seeds
  }
  drawn = {
    seed: draw(keys[seed][0], data.inputs[: config.batch], task)
    for seed in seeds
  }
  runs = [
    (drawn[seed][way], {"batches": keys[seed][1], "rate": jnp.float32(rate)})
    for way, own_rates in zip(WAYS, rates, strict=True)
    for rate in own_rates
    for seed in seeds
  ]
  batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
  found = job.spread(_program(config, name), batch, data)
  shape = (len(WAYS), -1, len(seeds), found.loss.shape[-1])
  named = {"loss": found.loss, "test_accuracy": found.test_accuracy}
  return {key: np.reshape(values, shape) for key, values in named.items()}


def _program(config: Config, name: str) -> Any:
  return functools.partial(courses, **_options(config, name))


def _options(config: Config, name: str) -> dict[str, Any]:
  return {
    "task": name, "steps": config.steps, "batch": config.batch, "points": 5,
  }  # fmt: skip


EXPERIMENT = Experiment(
  "own_init",
  Config,
  {"smoke": {"tasks": ("MLP, 40 layers, tanh", "GPT, tied, sums"),
             "seeds": 2, "rates": 1, "steps": 50, "samples": 64},
   "tpu": {"seeds": 16, "choosing": 8, "steps": 2000}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
