"""Does the best learning rate of a narrow network serve a wide one?

Question: how does the best rate of Adam move with width, in the standard
parametrization and in the one that `initjax.mup` reads from two graphs?

    python -m experiments.mu_transfer

trains MLPs of 64 to 1024 units on digits and GPTs of two layers and 32 to 256
units on the source text of Python's standard library, at rates a factor 2
apart, from the same draws and batches. It takes about half an hour on 2 CPU
cores; a run that was stopped resumes. The best rate is the vertex of a parabola
through the best rate of the grid and its neighbours, fitted to the mean loss of
the last fifth of training. Intervals are 95 % intervals over redrawn seeds,
widened for small numbers of seeds. Expect: the standard best rate falls as
width^-0.64 for MLPs (-0.79 to -0.50) and as 1/width for GPTs (-1.16 to -0.97);
that of μP stays constant, as width^-0.03 for MLPs (-0.09 to +0.05) and as
width^0.13 for GPTs (-0.00 to +0.21). μP written by hand, with its multipliers
and rates, gives width^0.12 (-0.02 to +0.22).

With `--scale=tpu`, it also trains GPTs of 2 to 32 layers, by CompleteP.

Reference: Yang et al. 2022, "Tensor Programs V: Tuning Large Neural Networks
via Zero-Shot Hyperparameter Transfer"; Dey et al. 2025, "Don't be lazy:
CompleteP enables compute-efficient deep transformers".
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common.training import Labelled
from experiments.data import datasets
from experiments.data.byte_text import source_text
from experiments.mu_transfer.fit import optima, slope_and_interval
from experiments.mu_transfer.networks import Model, drawn, losses
from experiments.mu_transfer.show import WAYS, claims, figure, tables
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
  """What to train; the first width of each is the base."""

  mlp_widths: tuple[int, ...] = option(
    (64, 128, 256, 512, 1024), "Units of the MLP's layers.", low=2
  )
  mlp_layers: int = option(3, "Hidden layers of the MLP.", low=2)
  mlp_slowest: int = option(-13, "log₂ of its least rate.")
  mlp_rates: int = option(9, "Rates, each twice the last.", low=3)
  mlp_seeds: int = option(8, "MLPs of each kind.", low=2)
  mlp_steps: int = option(100, "Updates.", low=5)
  mlp_batch: int = option(64, "Images of each.", low=1)
  gpt_widths: tuple[int, ...] = option(
    (32, 64, 128, 256), "Units of the GPT's stream.", low=4, multiple=4
  )
  gpt_depths: tuple[int, ...] = option(
    (2,), "Layers of the GPT; the first is that of all widths.", low=1
  )
  gpt_slowest: int = option(-11, "log₂ of its least rate.")
  gpt_rates: int = option(7, "Rates, each twice the last.", low=3)
  gpt_seeds: int = option(6, "GPTs of each kind.", low=2)
  gpt_steps: int = option(150, "Updates.", low=5)
  gpt_batch: int = option(16, "Samples of 32 bytes of each.", low=1)
  samples: int = option(4096, "Of source text.", low=4)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    check(self)
    for name in ("mlp_widths", "gpt_widths", "gpt_depths"):
      sizes = getattr(self, name)
      if list(sizes) != sorted(sizes):
        raise ValueError(f"{name} must increase; got {sizes}.")


class Training(NamedTuple):
  """How one family is trained."""

  rates: tuple[float, ...]
  seeds: int
  steps: int
  batch: int


class Sweep(NamedTuple):
  """Models that differ in one size."""

  name: str
  models: tuple[Model, ...]
  """the first is the base"""
  sizes: tuple[int, ...]


def training(config: Config, family: str) -> Training:
  """Of a family's models."""
  named = lambda name: getattr(config, f"{family}_{name}")
  rates = (2.0 ** (named("slowest") + at) for at in range(named("rates")))
  return Training(tuple(rates), named("seeds"), named("steps"), named("batch"))


def sweeps(config: Config) -> list[Sweep]:
  """Widths of both, and depths if there are several."""
  shallow = config.gpt_depths[0]
  mlps = [Model("mlp", n, config.mlp_layers) for n in config.mlp_widths]
  gpts = [Model("gpt", n, shallow) for n in config.gpt_widths]
  found = [
    Sweep("MLP by width", tuple(mlps), config.mlp_widths),
    Sweep("GPT by width", tuple(gpts), config.gpt_widths),
  ]
  if len(config.gpt_depths) > 1:
    narrow = config.gpt_widths[0]
    deep = tuple(Model("gpt", narrow, layers) for layers in config.gpt_depths)
    found.append(Sweep("GPT by depth", deep, config.gpt_depths))
  return found


class Item(NamedTuple):
  """One training of all rates and seeds."""

  model: Model
  base: Model
  way: str


def _items(config: Config) -> dict[str, Item]:
  """By name; at the base both ways are one."""
  items = (
    Item(model, sweep.models[0], way)
    for sweep in sweeps(config)
    for model in sweep.models
    for way in (WAYS if model != sweep.models[0] else WAYS[:1])
  )
  return {_label(item): item for item in items}


def _label(item: Item) -> str:
  family, width, layers = item.model
  return f"{family}, width {width}, depth {layers}, {item.way}"


def _data(config: Config, family: str) -> Labelled:
  if family == "mlp":
    return datasets.load_labelled("digits", config.seed)
  return source_text(config.samples, config.seed)


def _rows(config: Config, how: Training, samples: int) -> np.ndarray:
  """Of each batch, with replacement: [seeds, steps, batch]."""
  random = np.random.default_rng(config.seed)
  shape = how.seeds, how.steps, how.batch
  return random.integers(0, samples, shape, np.int32)


def run(config: Config, job: Job) -> Result:
  """Losses of all models at all rates; then the best rates and slopes."""
  data = {family: _data(config, family) for family in ("mlp", "gpt")}
  items = _items(config)
  train = lambda label: _trained(config, job, data, items[label])
  found = dict(zip(items, job.map(train, items), strict=True))
  results = {s.name: _result(config, s, found) for s in sweeps(config)}
  return {"config": dataclasses.asdict(config), "sweeps": results}


def _trained(
  config: Config,
  job: Job,
  data: dict[str, Labelled],
  item: Item,
) -> np.ndarray:
  """[rates, seeds] of one model."""
  model, base, way = item
  how = training(config, model.family)
  seeds = range(config.seed, config.seed + how.seeds)
  params = drawn(seeds, model, base, scaled=way != WAYS[0])
  rows = _rows(config, how, len(data[model.family].labels))
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
  stacked, rows = jax.tree.map(
    lambda leaf: np.concatenate([leaf] * len(how.rates)), (stacked, rows)
  )
  rates = np.repeat(np.array(how.rates, np.float32), how.seeds)
  runs = {"rows": rows, "rate": rates}
  given = functools.partial(losses, **_options(item))
  loss = job.spread(given, (stacked, runs), data[model.family])
  return np.reshape(loss, (len(how.rates), how.seeds))


def _options(item: Item) -> dict[str, Any]:
  model, base, way = item
  return {"model": model, "base": base, "scaled": way != WAYS[0]}


def _result(config: Config, sweep: Sweep, found: Any) -> dict[str, Any]:
  """All of a sweep: losses [sizes, rates, seeds], optima [sizes], slopes."""
  base = sweep.models[0]
  rates = training(config, base.family).rates
  result: dict[str, Any] = {"sizes": sweep.sizes, "rates": rates}
  result |= {"loss": {}, "optimum": {}, "slope": {}}
  for way in WAYS:
    loss = np.stack(_of_way(found, sweep.models, way)).astype(np.float64)
    line = slope_and_interval(sweep.sizes, rates, loss, config.seed)
    result["loss"][way] = loss
    result["optimum"][way] = optima(rates, loss)
    result["slope"][way] = tuple(line)
  return result


def _of_way(
  found: dict[str, np.ndarray], models: Sequence[Model], way: str
) -> list[np.ndarray]:
  base = models[0]
  ways = (way if model != base else WAYS[0] for model in models)
  items = map(Item, models, itertools.repeat(base), ways)
  return [found[_label(item)] for item in items]


EXPERIMENT = Experiment(
  "mu_transfer",
  Config,
  {"smoke": {"mlp_widths": (64, 256), "mlp_seeds": 2, "mlp_steps": 100,
             "mlp_rates": 6, "mlp_slowest": -10, "gpt_widths": (32, 64),
             "gpt_rates": 3, "gpt_slowest": -8, "gpt_steps": 20, "gpt_seeds": 2,
             "gpt_batch": 4},
   "tpu": {"mlp_widths": (64, 128, 256, 512, 1024, 2048), "mlp_seeds": 32,
           "gpt_widths": (64, 128, 256, 512), "gpt_seeds": 8,
           "gpt_depths": (2, 4, 8, 16, 32), "gpt_steps": 1000,
           "gpt_batch": 64}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
