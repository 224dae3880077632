"""An experiment of a few seconds, for tests of how experiments run.

The environment says where it waits: `PAUSE` seconds before every item, and for
ever at item `HOLD`, with the devices at work if there is `BUSY`. With `DEAF`
that item ignores an exception, as Python's destructors do, and goes on.
"""

import dataclasses
import functools
import os
import signal
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.data import datasets
from experiments.runtime.experiment import (
  Claim,
  Experiment,
  check,
  option,
)
from experiments.runtime.launch import launch


@dataclasses.dataclass(frozen=True)
class Config:
  """Sums of random walks."""

  items: int = option(6, "How many.", low=1)
  runs: int = option(5, "Of each; no multiple of the devices.", low=1)
  dataset: str = option("synthetic", "Not used.", choices=datasets.INPUTS)
  batch: int = option(4, "Not used.", low=1)
  seed: int = option(0, "Of all random numbers.")

  def __post_init__(self):
    check(self)


class Walk(NamedTuple):
  end: jax.Array
  course: jax.Array


@functools.partial(jax.jit, static_argnames="steps")
def walk(runs, kernel, *, steps):
  def one(run):
    key, scale = run

    def step(x, key):
      x = jnp.tanh(scale * x @ kernel + jax.random.normal(key, x.shape))
      return x, jnp.mean(x**2)

    return Walk(*jax.lax.scan(step, kernel[0], jax.random.split(key, steps)))

  return jax.vmap(one)(runs)


def _runs(config, item):
  keys = jax.random.split(jax.random.key(config.seed + item), config.runs)
  return keys, jnp.linspace(0.5, 1.5, config.runs)


def _hold(runs, kernel):
  if "BUSY" in os.environ:
    walk.lower(runs, kernel, steps=10**8).compile()(runs, kernel)
  try:
    print("held", flush=True)
    time.sleep(600)
  except BaseException:
    if "DEAF" not in os.environ:
      raise


def run(config, job):
  """A first list whose items are empty, and a second."""
  kernel = jax.random.normal(jax.random.key(7), (16, 16)) / 4

  def at(item):
    print(f"item {item}", flush=True)
    time.sleep(float(os.environ.get("PAUSE", "0")))
    if os.environ.get("HOLD") == str(item):
      _hold(_runs(config, item), kernel)
    function = functools.partial(walk, steps=20)
    return job.spread(function, _runs(config, item), kernel)

  nothing = job.map(lambda item: (np.zeros((0, 3)), {}), range(1))
  short = job.part("short") if "PART" in os.environ else job
  first = max(config.items - 2, 0)
  found = job.map(at, range(first))
  found += short.map(at, range(first, config.items))
  return {"nothing": nothing, "ends": [walk.end for walk in found],
          "courses": [walk.course for walk in found]}  # fmt: skip


def figure(result):
  """The courses."""
  drawn, ((axis,),) = plots.grid(1, 1)
  axis.plot(np.mean(result["courses"], axis=1).T)
  return drawn


def claims(result):
  """Tanh is at most 1."""
  return [Claim("tanh", "most", 1.0, float(np.max(result["ends"])), 1.0)]


EXPERIMENT = Experiment(
  "small", Config, {}, run, lambda result: [], figure, claims
)

if __name__ == "__main__":
  # Shells start background jobs with Ctrl-C ignored, and children inherit it.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  launch(EXPERIMENT)
