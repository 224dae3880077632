"""How deep can it train?

Question: which plain tanh networks learn anything within a fixed budget,
depending on the variance of their weights and on their depth, and does theory's
depth scale 6·ξ_c, computed before any training, tell them from the rest?

    python -m experiments.trainability

trains some 360 networks on handwritten digits, in four minutes on 2 CPU cores.
Expect half-way accuracy up to a depth of 6.4·ξ_c, as ξ_c^(0.96 ± 0.11). This is
fitted up to half of the critical network's frontier, which the budget sets. The
factor is a matter of choice: 3.9 after a third of the updates, 3.7 if accuracy
0.85 counts as training. Orthogonal linear networks learn in 42 updates at 16
layers and in 44 at 64; Gaussian ones of 64 layers never do.

Reference: Schoenholz et al. 2017, "Deep information propagation", §5, Fig. 5;
Saxe et al. 2014, §3.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import networks, training
from experiments.data import datasets
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job
from experiments.runtime.launch import launch
from experiments.trainability import linear
from experiments.trainability.fit import (
  HALF_WAY,
  THRESHOLDS,
  Line,
  fit_line,
  frontiers,
)
from experiments.trainability.show import claims, figure, tables
from initjax import initializers, meanfield, stacks

THIRDS = 3
"""How often accuracy is noted: budgets of a third, two thirds, and all"""


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to train."""

  sigma_w2: tuple[float, ...] = option(
    (0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.76, 2.2, 2.6, 3.0, 3.5, 4.0),
    "Variances of weights times fan_in.",
    low=0.01,
    high=1e6,
  )
  sigma_b2: float = option(0.05, "Variance of biases.", low=0)
  depths: tuple[int, ...] = option(
    (4, 6, 9, 13, 19, 28, 40, 57, 80, 113), "Linear layers, increasing.", low=3
  )
  width: int = option(64, "Units of each.", low=1)
  seeds: int = option(4, "Networks of each kind.", low=2)
  reach: float = option(
    8.0, "Depths up to so many ξ_c are trained, and the next.", low=1
  )
  rate: float = option(0.0033, "Learning rate of SGD.", low=0)
  steps: int = option(
    1200, "Updates, the budget; a multiple of 3.", low=3, multiple=3
  )
  batch: int = option(32, "Images of each update.", low=1)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    for name in ("depths", "sigma_w2"):
      values = getattr(self, name)
      if list(values) != sorted(set(values)):
        raise ValueError(f"{name} must increase; got {values}.")
    super().__post_init__()
    if len(self.depths) < 2:
      raise ValueError(
        "depths must hold two or more, for a frontier lies between two; got "
        f"{self.depths}."
      )


def network(config: Config, depth: int, sigma_w2: Any) -> stacks.Stack:
  """z_l = tanh(z_{l-1})·W_l + b_l; `sigma_w2` may be traced."""
  return stacks.mlp(
    depth=depth,
    width=config.width,
    activation=jnp.tanh,
    kernel_init=networks.truncated(sigma_w2),
    bias_init=initializers.normal(config.sigma_b2**0.5),
  )


Params = tuple[stacks.StackParams, jax.Array]
"""All layers but the last, and the readout [width, 10]"""


@functools.partial(jax.jit, static_argnames=("config", "features"))
def draw(
  runs: dict[str, jax.Array], *, config: Config, features: int
) -> Params:
  """[runs] networks of the greatest depth; others are their first layers."""

  def one(run: dict[str, jax.Array]) -> Params:
    key, readout_key = jax.random.split(run["key"])
    stack = network(config, config.depths[-1] - 1, run["sigma_w2"])
    readout = initializers.lecun_normal()(
      readout_key, (config.width, 10), jnp.float32
    )
    return stack.init(key, (1, features)), readout

  return jax.vmap(one)(runs)


def first_layers(params: Params, depth: int) -> Params:
  """A network of `depth` layers, the readout among them."""
  stack, readout = params
  kept = stack._replace(
    kernels=stack.kernels[:, : depth - 2], biases=stack.biases[:, : depth - 2]
  )
  return kept, readout


@functools.partial(jax.jit, static_argnames=("config", "depth"))
def accuracies(
  drawn: tuple[Params, jax.Array],
  data: training.Labelled,
  *,
  config: Config,
  depth: int,
) -> dict[str, jax.Array]:
  """Trains [runs] networks of a depth, from (parameters, keys for batches).

  Returns:
    Accuracies after each third of the updates, [runs, 3] each.
  """
  stack = network(config, depth - 1, 1.0)

  def apply(params: Params, x: jax.Array) -> jax.Array:
    return jnp.tanh(stack.apply(params[0], x)) @ params[1]

  def one(params: Params, key: jax.Array) -> dict[str, jax.Array]:
    budget = training.Budget(config.steps, config.batch, THIRDS)
    sgd = optax.sgd(config.rate)
    course = training.train(apply, params, data, sgd, key, budget)
    return {
      "accuracy": course.accuracy[1:],
      "test_accuracy": course.test_accuracy[1:],
    }

  return jax.vmap(one)(*drawn)


def _runs(config: Config) -> dict[str, jax.Array]:
  """Every variance with every seed: arrays [variances · seeds]."""
  keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
  count = len(config.sigma_w2)
  return {
    "key": jnp.tile(keys[0], count),
    "batches": jnp.tile(keys[1], count),
    "sigma_w2": jnp.repeat(jnp.array(config.sigma_w2), config.seeds),
  }


def run(config: Config, job: Job) -> Result:
  """Accuracy [budgets, depths, variances, seeds], frontier, ξ_c from theory."""
  point = functools.partial(meanfield.fixed_point, jnp.tanh)
  xi_c = np.array([point(w, config.sigma_b2).xi_c for w in config.sigma_w2])
  critical = meanfield.critical_point(jnp.tanh, config.sigma_b2)
  data = datasets.load_labelled(config.dataset, config.seed)
  accuracy, test_accuracy = _accuracies(config, job, data, xi_c)
  ordered = np.array(config.sigma_w2) < critical.sigma_w2
  line = functools.partial(_line, config, xi_c, ordered)
  return {
    "sigma_w2": config.sigma_w2,
    "sigma_b2": config.sigma_b2,
    "depths": config.depths,
    "width": config.width,
    "updates": [config.steps * (i + 1) // THIRDS for i in range(THIRDS)],
    "accuracy": accuracy,
    "test_accuracy": test_accuracy,
    "xi_c": xi_c,
    "ordered": ordered,
    "frontier": frontiers(accuracy[-1], config.depths),
    "line": line(accuracy[-1])._asdict(),
    "by_budget": [line(found).factor for found in accuracy],
    "thresholds": THRESHOLDS,
    "by_threshold": [line(accuracy[-1], level).factor for level in THRESHOLDS],
    "linear": linear.measure(job, data, config.seed, config.seeds),
  }


def _accuracies(
  config: Config, job: Job, data: training.Labelled, xi_c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Of training and test images, [budgets, depths, variances, seeds] each."""
  runs, features = _runs(config), data.inputs.shape[1]
  deepest = job.spread(
    functools.partial(draw, config=config, features=features), runs
  )

  def train(depth: int) -> Any:
    function = functools.partial(accuracies, config=config, depth=depth)
    near = np.repeat(trained(config, xi_c, depth), config.seeds)
    drawn = first_layers(deepest, depth), runs["batches"]
    found = job.spread(function, jax.tree.map(lambda x: x[near], drawn), data)
    return {name: _placed(x, near, config.seeds) for name, x in found.items()}

  by_depth = job.map(train, config.depths)
  together = lambda name: np.stack([found[name] for found in by_depth], axis=1)
  return together("accuracy"), together("test_accuracy")


def trained(config: Config, xi_c: np.ndarray, depth: int) -> np.ndarray:
  """Which variances are trained at a depth: deeper ones are far out of reach.

  Up to `reach`·ξ_c, and one depth of the grid more, since a frontier lies
  between two; at least to the second depth.
  """
  index = config.depths.index(depth)
  return config.depths[max(index - 1, 0)] <= np.maximum(
    config.reach * xi_c, config.depths[0]
  )


def _placed(found: np.ndarray, near: np.ndarray, seeds: int) -> np.ndarray:
  """[trained, budgets] to [budgets, variances, seeds], NaN where untrained."""
  whole = np.full((len(near), THIRDS), np.nan)
  whole[near] = found
  return np.moveaxis(whole.reshape(-1, seeds, THIRDS), -1, 0)


def _line(
  config: Config,
  xi_c: np.ndarray,
  ordered: np.ndarray,
  accuracy: np.ndarray,
  threshold: float = HALF_WAY,
) -> Line:
  frontier = frontiers(accuracy, config.depths, threshold)
  return fit_line(xi_c, frontier, ordered)


EXPERIMENT = Experiment(
  "trainability",
  Config,
  {"smoke": {"sigma_w2": (0.4, 1.76), "depths": (4, 16), "seeds": 2,
             "steps": 150, "rate": 0.03, "reach": 100.0},
   "tpu": {"sigma_w2": tuple(0.2 + 0.2 * i for i in range(20)), "width": 256,
           "seeds": 16, "steps": 1200,
           "depths": (4, 6, 9, 13, 19, 28, 40, 57, 80, 113, 160, 226)}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
