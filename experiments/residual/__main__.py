"""Why do residual networks train?

Question: how do signal and gradient grow through skip connections, which
initial branches let deep networks learn, and do they make the identity easier
to learn?

    python -m experiments.residual

measures random ReLU networks of up to 1000 layers, and trains seven schemes and
the identity on digits: a minute and a half on 2 CPU cores. Expect a signal of
2^l after l plain blocks, and l + 1 with pre-norm; at 64 blocks, plain networks
that learn nothing, He-residual ones that diverge, and 94 to 97 % for the rest;
and first updates that are alike at all depths L if W₁ starts scaled by L^-½
(Fixup: L^(-1/(2m - 2)) for m = 2 layers per block).

Reference: He et al. 2016; De and Smith 2020 (SkipInit); Zhang et al. 2019
(Fixup); Bachlechner et al. 2021 (ReZero).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import training
from experiments.data import datasets
from experiments.residual.claims import claims, tables
from experiments.residual.measurements import first_updates, gradients, signals
from experiments.residual.networks import Scheme, schemes
from experiments.residual.show import figure
from experiments.residual.theory import CHAINS, theory
from experiments.residual.training import courses, draw, identities
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job, at, divided
from experiments.runtime.launch import launch


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to measure and to train."""

  forward_blocks: int = option(50, "Blocks whose signal is measured.", low=2)
  forward_width: int = option(256, "Units of each.", low=2)
  gradient_depths: tuple[int, ...] = option(
    (10, 30, 100, 300, 1000), "Layers of which gradients are measured.", low=2
  )
  gradient_width: int = option(64, "Units of each.", low=2)
  update_blocks: tuple[int, ...] = option(
    (4, 64), "Blocks whose first update is measured: least and most.", low=1
  )
  draws: int = option(16, "Random networks of each kind.", low=2)
  blocks: tuple[int, ...] = option(
    (8, 64), "Blocks of two layers that are trained.", low=1
  )
  identity_blocks: tuple[int, ...] = option(
    (1, 4, 16), "Likewise, on the identity.", low=1
  )
  width: int = option(32, "Units of each trained block.", low=1)
  seeds: int = option(3, "Trained networks of each kind.", low=2)
  rates: tuple[float, ...] = option(
    (0.01, 0.03, 0.1), "Learning rates of SGD; the best counts.", low=0
  )
  identity_rates: tuple[float, ...] = option(
    (0.001, 0.003, 0.01), "Learning rates of Adam; the best counts.", low=0
  )
  steps: int = option(300, "Updates, a multiple of 20.", low=20, multiple=20)
  batch: int = option(32, "Images of each update.", low=1)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)


Runs = dict[str, Any]


def _stacked(records: Any) -> Any:
  """NamedTuples of numbers as one of arrays."""
  return jax.tree.map(lambda *v: jnp.array(v), *records)


def _chain_runs(config: Config) -> Runs:
  """Every chain with every draw."""
  count = len(CHAINS) * config.draws
  chains = [chain for chain in CHAINS.values() for _ in range(config.draws)]
  keys = jax.random.split(jax.random.key(config.seed), count)
  return {"key": keys, "chain": _stacked(chains)}


def _training_runs(
  config: Config, kinds: list[Scheme], rates: tuple[float, ...]
) -> Runs:
  """Every scheme with every rate and seed; a seed has the same random draws."""
  each = len(rates) * config.seeds
  keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
  repeats = len(kinds) * len(rates)
  rate = jnp.repeat(jnp.array(rates, jnp.float32), config.seeds)
  return {
    "key": jnp.tile(keys[0], repeats),
    "batches": jnp.tile(keys[1], repeats),
    "rate": jnp.tile(rate, len(kinds)),
    "scheme": _stacked([kind for kind in kinds for _ in range(each)]),
  }


def identity_schemes(blocks: int) -> dict[str, Scheme]:
  """With and without skips; branches of 1/√blocks, so neither starts there."""
  return {"plain": Scheme(skip=0.0), "residual": Scheme(alpha=blocks**-0.5)}


def run(config: Config, job: Job) -> Result:
  """Signals, gradients, training, and the identity."""
  data = datasets.load_labelled(config.dataset, config.seed)
  images = jnp.asarray(datasets.load_inputs("digits", 1024, config.seed))
  sizes = config.forward_blocks, config.gradient_depths, config.gradient_width
  return {
    "config": dataclasses.asdict(config),
    "theory": theory(*sizes),
    **_measured(config, job, data, images),
    **_learnt(config, job, data, images),
  }


def _measured(
  config: Config, job: Job, data: training.Labelled, images: jax.Array
) -> Result:
  """Signals and gradients of random networks, and their first updates."""
  chains = _chain_runs(config)

  def forward(blocks: int) -> Any:
    sizes = {"blocks": blocks, "width": config.forward_width}
    function = functools.partial(signals, **sizes)
    return job.spread(function, chains, images[:32])

  def backward(depth: int) -> Any:
    sizes = {"depth": depth, "width": config.gradient_width}
    return job.spread(functools.partial(gradients, **sizes), chains)

  def update(blocks: int) -> Any:
    key = jax.random.fold_in(jax.random.key(config.seed), blocks)
    sizes = {"blocks": blocks, "width": config.width}
    keys = jax.random.split(key, config.draws)
    function = functools.partial(first_updates, **sizes)
    return job.spread(function, keys, data.first(64))

  (signal,) = job.map(forward, [config.forward_blocks])
  gradient = np.stack(job.map(backward, config.gradient_depths), -1)
  updates = job.map(update, config.update_blocks)
  return {
    "signal": _by_chain(signal, config),
    "gradient": _by_chain(gradient, config),
    "updates": np.stack(updates),
  }


def _learnt(
  config: Config, job: Job, data: training.Labelled, images: jax.Array
) -> Result:
  """By task and blocks, then by kind: courses [rates, seeds, points]."""
  features = data.inputs.shape[1]

  def train(item: tuple[str, int]) -> Any:
    task, blocks = item
    if task == "identity":
      kinds, rates = identity_schemes(blocks), config.identity_rates
      sizes = {"features": 64, "width": 64, "blocks": blocks}
      return _train(config, job, kinds, rates, sizes, identities, images)
    sizes = {"features": features, "width": config.width, "blocks": blocks}
    kinds, rates = schemes(blocks), config.rates
    course = _train(config, job, kinds, rates, sizes, courses, data)
    return {"loss": course.loss, "test_accuracy": course.test_accuracy}

  tasks = {"digits": config.blocks, "identity": config.identity_blocks}
  names = {"digits": schemes(1), "identity": identity_schemes(1)}
  items = [(task, n) for task, blocks in tasks.items() for n in blocks]
  found: Result = {task: {} for task in tasks}
  for (task, blocks), values in zip(items, job.map(train, items), strict=True):
    rows = {name: at(values, row) for row, name in enumerate(names[task])}
    found[task][str(blocks)] = rows
  return found


def _train(
  config: Config,
  job: Job,
  kinds: dict[str, Scheme],
  rates: tuple[float, ...],
  sizes: dict[str, int],
  function: Any,
  target: Any,
) -> Any:
  """What `function` gives of trained networks: [kinds, rates, seeds, ...]."""
  runs = _training_runs(config, list(kinds.values()), rates)
  params = job.spread(functools.partial(draw, **sizes), runs)
  budget = training.Budget(config.steps, config.batch)
  function = functools.partial(function, budget=budget)
  found = job.spread(function, (params, runs), target)
  return divided(found, len(kinds), len(rates), config.seeds)


def _by_chain(found: np.ndarray, config: Config) -> dict[str, np.ndarray]:
  """Arrays [draws, blocks or depths] of what has a row for each run."""
  rows = found.reshape(len(CHAINS), config.draws, -1)
  return dict(zip(CHAINS, rows, strict=True))


EXPERIMENT = Experiment(
  "residual",
  Config,
  {"smoke": {"forward_blocks": 10, "forward_width": 128, "draws": 8,
             "gradient_depths": (100,), "blocks": (16,), "seeds": 2,
             "update_blocks": (2, 16), "identity_blocks": (4,),
             "rates": (0.03,), "identity_rates": (0.003,), "steps": 60,
             "width": 16},
   "tpu": {"forward_width": 2048, "gradient_width": 256, "draws": 64,
           "width": 256, "seeds": 16, "steps": 2000}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
