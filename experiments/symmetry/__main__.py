"""Why not start with equal weights?

Question: what do units that start equal learn, what is the accuracy of such a
network, and how much noise, for how long, does it take to tell them apart?

    python -m experiments.symmetry

trains 2-layer tanh networks on 256 handwritten digits by full-batch gradient
descent, in 15 seconds on 2 CPU cores. Expect units that stay equal to the last
bit, kernels of rank 1 and an accuracy of 23 % (random weights: 100 %). Noise of
1e-6 breaks the symmetry after 589 ± 12 updates; the linearised path predicts
608 ± 4, and a time that is linear in log(1/ε).

With learning rates n·η in the first layer, η in the middle and η/n in the last,
a network of n equal units equals, at every update, one of a single unit with
rate η.

Reference: Rumelhart et al. 1986, §"Symmetry breaking"; Goodfellow et al. 2016,
§8.4; Fukumizu and Amari 2000 (equal units are a saddle).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from jax.sharding import NamedSharding, PartitionSpec

from experiments.common import plots
from experiments.common.training import Labelled
from experiments.data import datasets
from experiments.runtime.experiment import (
  Claim,
  Experiment,
  Result,
  Settings,
  option,
)
from experiments.runtime.job import AXIS, Job, at, divided, joined
from experiments.runtime.launch import launch
from experiments.symmetry import networks
from experiments.symmetry.show import break_times, figure, slopes, tables

FLOAT32 = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to train."""

  constants: tuple[float, ...] = option(
    (0.0, 0.5, 1.0, 2.0), "Equal weights times fan_in; 1 among them.", low=0
  )
  noises: tuple[float, ...] = option(
    (1e-2, 1e-3, 1e-4, 1e-5, 1e-6), "ε: noise over the weights.", low=1e-30
  )
  hidden: int = option(1, "Hidden layers.", low=1)
  width: int = option(16, "Units of each, a multiple of the devices.", low=2)
  seeds: int = option(4, "Networks of each noise, and random ones.", low=2)
  images: int = option(256, "Images that are learnt.", low=10)
  rate: float = option(
    0.2, "η: n·η in the first layer, η/n in the last.", low=0
  )
  steps: int = option(1500, "Updates.", low=10)
  threshold: float = option(
    0.03, "Asymmetry at which the symmetry counts as broken.", low=1e-6
  )
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if 1.0 not in self.constants:
      raise ValueError(f"constants must contain 1.0; got {self.constants}.")

  @property
  def distinct_images(self) -> int:
    """Different training images that are wanted."""
    return self.images


def _data(config: Config) -> Labelled:
  data = datasets.load_labelled(config.dataset, config.seed)
  return data._replace(
    inputs=data.inputs[: config.images], labels=data.labels[: config.images]
  )


def _starts(config: Config) -> dict[str, networks.Start]:
  """By name: [runs]."""
  keys = jax.random.split(jax.random.key(config.seed), config.seeds)

  def starts(count: Any, *numbers: Any) -> Any:
    each = [jnp.full(count, jnp.asarray(x, jnp.float32)) for x in numbers]
    return networks.Start(jnp.tile(keys, count // len(keys) + 1)[:count], *each)

  seeds, noises = config.seeds, jnp.array(config.noises)
  noise = jnp.repeat(noises, seeds)
  return {
    "constant": starts(len(config.constants), config.constants, 0, 0),
    "noisy": starts(len(noise), 1, noise, 0),
    "random": starts(seeds, 0, 0, 1),
    "symmetric": starts(seeds, 1, 0, 0),
    "noise": starts(seeds, 0, 1, 0),
  }


def _shapes(config: Config) -> dict[str, Any]:
  """Units of the network and of the one it is equal to; their rates."""
  layers, n, rate = config.hidden, config.width, config.rate
  features = datasets.FEATURES[config.dataset]
  return {
    "wide": (features, *[n] * layers, 10),
    "narrow": (features, *[1] * layers, 10),
    "wide_rates": (rate * n, *[rate] * (layers - 1), rate / n),
    "narrow_rates": (rate,) * (layers + 1),
  }


def as_one_unit(params: networks.Params) -> networks.Params:
  """The network of one unit a layer that equals one of equal units: [runs]."""
  first, *others = params
  return [first[..., :1]] + [
    kernel.sum(-2, keepdims=True)[..., : 1 if i < len(others) - 1 else None]
    for i, kernel in enumerate(others)
  ]


def run(config: Config, job: Job) -> Result:
  """Constant, noisy and random starts; one unit; units over the devices.

  Raises:
    app.UsageError: if the units cannot be cut evenly over the devices.
  """
  devices = job.mesh.size
  if config.width % devices:
    told = f"width ({config.width}) must be a multiple of {devices}"
    raise app.UsageError(f"{told}, the number of devices.")
  data, starts, shapes = _data(config), _starts(config), _shapes(config)
  draw = functools.partial(networks.draw, shape=shapes["wide"])
  params = {name: draw(start) for name, start in starts.items()}
  options = {"rates": shapes["wide_rates"], "steps": config.steps}
  descend = functools.partial(networks.descend, **options)
  parallel = f"parallel on {devices}"  # an item kept for each number
  everyone = joined(params[name] for name in ("constant", "noisy", "random"))

  def measure(name: str) -> Any:
    if name == "alone":
      seen, kernels = job.spread(descend, everyone, data)
      return seen, networks.singular_values(kernels)
    if name == "one unit":
      narrow = functools.partial(descend, rates=shapes["narrow_rates"])
      return job.spread(narrow, as_one_unit(params["constant"]), data)[0]
    if name == parallel:
      return descend(_units_spread(job, params["constant"]), data)[0]
    pairs = params["symmetric"], params["noise"]
    return job.spread(
      functools.partial(networks.linearized, **options), pairs, data
    )

  names = ("alone", "one unit", parallel, "linearized")
  found = dict(zip(names, job.map(measure, names), strict=True))
  found["parallel"] = found.pop(parallel)
  return _result(config, job, found)


def _units_spread(job: Job, params: networks.Params) -> networks.Params:
  """Units of every layer over the devices: sums over them are partial sums."""
  first, other = (None, None, AXIS), (None, AXIS, None)
  axes = [first, *[other] * (len(params) - 1)]
  return [
    jax.device_put(kernel, NamedSharding(job.mesh, PartitionSpec(*axis)))
    for kernel, axis in zip(params, axes, strict=True)
  ]


def _parts(
  config: Config, alone: tuple[networks.Descent, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
  """Cuts runs into constant [constants], noisy [noises, seeds], random."""
  first = len(config.constants)
  last = first + len(config.noises) * config.seeds
  cut = {
    "constant": slice(0, first),
    "noisy": slice(first, last),
    "random": slice(last, None),
  }
  everything = alone[0]._asdict() | {"singular_values": alone[1]}
  parts = {name: at(everything, runs) for name, runs in cut.items()}
  parts["noisy"] = divided(parts["noisy"], len(config.noises), config.seeds)
  return parts


def _result(config: Config, job: Job, found: dict[str, Any]) -> Result:
  """All that was seen, and what follows from it."""
  parts = _parts(config, found["alone"])
  linear = found["linearized"]
  log_noise = np.log(config.noises)[:, None, None]
  grown = np.exp(np.minimum(linear + log_noise, 50))
  return {
    "constants": config.constants,
    "noises": config.noises,
    "width": config.width,
    "kernels": config.hidden + 1,
    "threshold": config.threshold,
    "devices": job.mesh.size,
    "one_unit_loss": found["one unit"].loss,
    "one_unit_accuracy": found["one unit"].accuracy,
    "parallel_spread": found["parallel"].spread,
    "parallel_loss": found["parallel"].loss,
    "log_linear": linear,
    **parts,
    "observed": break_times(parts["noisy"]["asymmetry"], config.threshold),
    "predicted": break_times(grown, config.threshold),
    "ranks": _ranks(parts["constant"]["singular_values"], config),
    "random_ranks": _ranks(parts["random"]["singular_values"], config),
  }


def _ranks(singular_values: np.ndarray, config: Config) -> np.ndarray:
  """Numerical ranks, [runs, kernels]: above rounding of the larger size."""
  size = max(config.width, datasets.FEATURES[config.dataset])
  return (singular_values > size * FLOAT32).sum(-1)


def claims(result: Result) -> list[Claim]:
  """Units stay equal, ranks stay 1, one unit does as well; time to break."""
  return [*_equal(result), _one_unit(result), *_breaking(result)]


def _equal(result: Result) -> list[Claim]:
  source, devices = "Goodfellow et al. 2016, §8.4", result["devices"]
  alone, over = (
    float(spread.max())
    for spread in (result["constant"]["spread"], result["parallel_spread"])
  )
  name = "difference of equal units after training, one device"
  same = f"the same with units over devices: {devices} (over a weight)"
  of_one, of_all = (
    Claim(source, quantity, 0.0, ours, 0.0)
    for quantity, ours in ((name, alone), (same, over))
  )
  updates, rank = result["parallel_spread"].shape[-1], result["ranks"].max()
  highest = "greatest rank of a kernel, equal weights"
  ranks = Claim("the symmetry", highest, 1.0, float(rank), 0.0, shares=name)
  rounding = "a rounding for each update, in sums over devices"
  return [
    of_one.allowing(0.0, "equal sums, term by term: to the last bit"),
    of_all.allowing(FLOAT32 * updates, rounding),
    ranks.allowing(0.0, "a whole number"),
  ]


def _one_unit(result: Result) -> Claim:
  one = result["constants"].index(1.0)
  loss = result["constant"]["loss"][one]
  early = len(loss) // 4  # later, descent may amplify roundings
  away = np.abs(loss - result["one_unit_loss"][one])[:early].max()
  name = "loss of equal units minus that of one unit, nats"
  claim = Claim("the symmetry", name, 0.0, float(away), 0.0)
  why = "a rounding of 2.3 nats for each update"
  return claim.allowing(2.3 * FLOAT32 * early, why)


def _breaking(result: Result) -> list[Claim]:
  """What the path leaves out, beside two errors of the paired differences.

  Both start from the same noise. By the time units differ the path is wrong by
  about the asymmetry itself (second order), and, relative to ε, by the random
  walk of t roundings of float32, √(t/12)·2^-23/ε; in factors e of growth, by
  the logarithm.
  """
  observed, predicted = (
    slopes(result["noises"], result[name]) for name in ("observed", "predicted")
  )
  difference, error = plots.mean_and_two_errors(observed - predicted)
  if not np.isfinite(error):
    return []
  noises = np.array(result["noises"])
  x = np.log(noises) - np.log(noises).mean()
  walk = np.sqrt(result["observed"].mean(1) / 12) * FLOAT32 / noises
  left_out = np.abs(x) @ np.log1p(walk + result["threshold"]) / (x @ x)
  law = float(predicted.mean())
  source = "linearised descent, along this run's path"
  name = "updates to break the symmetry, by ln(1/ε)"
  claim = Claim(source, name, law, law + difference, error)
  why = "what is linearised is this network; second order and rounding allowed"
  claim = claim.allowing(float(left_out * law), why)
  return [claim._replace(kind="consistency")]


EXPERIMENT = Experiment(
  "symmetry",
  Config,
  {"smoke": {"constants": (0.0, 1.0), "noises": (1e-2, 1e-4), "seeds": 2,
             "images": 128, "steps": 300},
   "tpu": {"seeds": 32, "width": 512, "images": 1024}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
