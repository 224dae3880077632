"""Do leaky ReLU and ELU cure dying ReLU?

Question: what share of the units is dead (no gradient on any sample) while a
network trains, by activation and learning rate, and do dead units come back?

    python -m experiments.rectifiers

trains 5-layer networks of width 64 on handwritten digits with SGD, 8 seeds for
each of 4 activations and 5 learning rates: about TODO on 2 CPU cores. Expect:
TODO.

Reference: Lu et al. 2020, "Dying ReLU and initialization"; Maas et al. 2013;
Clevert et al. 2016.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _datasets, _plots, _training
from experiments._experiment import (
  Claim,
  Experiment,
  Program,
  Result,
  abstract,
  check,
  option,
)
from experiments._job import Job
from experiments._launch import launch
from initjax import initializers
from initjax.typing import Activation

ACTIVATIONS: dict[str, Activation] = {
  "relu": jax.nn.relu,
  "leaky_relu": jax.nn.leaky_relu,
  "elu": jax.nn.elu,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What to train."""

  activations: tuple[str, ...] = option(
    tuple(ACTIVATIONS), "Which activations.", choices=ACTIVATIONS
  )
  rates: tuple[float, ...] = option(
    (0.01, 0.1, 0.3, 1.0), "Learning rates of SGD.", low=0
  )
  depth: int = option(5, "Linear layers.", low=2)
  width: int = option(64, "Units of each.", low=1)
  seeds: int = option(8, "Networks of each kind.", low=2)
  steps: int = option(400, "Updates, a multiple of 20.", low=20)
  batch: int = option(64, "Images of each update.", low=1)
  dataset: str = option("digits", "What is learnt.", choices=("digits",))
  seed: int = option(0, "Of all random numbers.")

  def __post_init__(self) -> None:
    check(self)


Params = list[tuple[jax.Array, jax.Array]]


def hidden(phi: Activation, params: Params, x: jax.Array) -> list[jax.Array]:
  """Pre-activations of the hidden layers: [batch, width] each."""
  found: list[jax.Array] = []
  for kernel, bias in params[:-1]:
    found.append((phi(found[-1]) if found else x) @ kernel + bias)
  return found


def apply(phi: Activation, params: Params, x: jax.Array) -> jax.Array:
  """Logits."""
  kernel, bias = params[-1]
  return phi(hidden(phi, params, x)[-1]) @ kernel + bias


def draw(config: Config, features: int, key: jax.Array) -> Params:
  """He-normal kernels, biases 0."""
  sizes = [features, *[config.width] * (config.depth - 1), 10]
  init = initializers.he_normal()
  return [
    (init(key, (n_in, n_out), jnp.float32), jnp.zeros(n_out))
    for key, n_in, n_out in zip(
      jax.random.split(key, config.depth), sizes[:-1], sizes[1:], strict=True
    )
  ]


@functools.partial(jax.jit, static_argnames=("config", "activation"))
def courses(
  runs: dict[str, jax.Array],
  data: _training.Labelled,
  *,
  config: Config,
  activation: str,
) -> _training.Course:
  """Training of [runs] networks; the probe is the share of dead units."""
  phi = ACTIVATIONS[activation]
  slope = jax.vmap(jax.vmap(jax.grad(lambda z: phi(z))))

  def dead(params: Params) -> jax.Array:
    layers = hidden(phi, params, data.inputs)
    return jnp.stack([(slope(z) == 0).all(0).mean() for z in layers]).mean()

  def one(run: dict[str, jax.Array]) -> _training.Course:
    key, batches = jax.random.split(run["key"])
    return _training.train(
      functools.partial(apply, phi),
      draw(config, data.inputs.shape[1], key),
      data,
      optax.sgd(run["rate"]),
      batches,
      steps=config.steps,
      batch=config.batch,
      probe=dead,
    )[1]

  return jax.vmap(one)(runs)


def _runs(config: Config) -> dict[str, jax.Array]:
  """Every rate with every seed: arrays [rates · seeds]."""
  keys = jax.random.split(jax.random.key(config.seed), config.seeds)
  return {
    "key": jnp.tile(keys, len(config.rates)),
    "rate": jnp.repeat(jnp.array(config.rates), config.seeds),
  }


def run(config: Config, job: Job) -> Result:
  """Accuracy and dead units by activation: [rates, seeds, points]."""
  data = _datasets.load_labelled(config.dataset, config.seed)

  def train(activation: str) -> Any:
    function = functools.partial(courses, config=config, activation=activation)
    course = job.spread(function, _runs(config), data)
    shape = (len(config.rates), config.seeds, -1)
    return {
      "dead": course.probe.reshape(shape),
      "test_accuracy": course.test_accuracy.reshape(shape),
    }

  found = job.map(train, config.activations)
  return {
    "rates": config.rates,
    "steps": np.linspace(0, config.steps, found[0]["dead"].shape[-1]),
    "activations": dict(zip(config.activations, found, strict=True)),
  }


def tables(result: Result) -> list[Any]:
  """Dead units and accuracy at the end."""
  import rich.table

  table = rich.table.Table(title="after training: dead units, test accuracy")
  table.add_column("activation")
  for rate in result["rates"]:
    table.add_column(f"rate {rate:g}", justify="right")
  for name, found in result["activations"].items():
    dead, _ = _plots.mean_and_error(found["dead"][..., -1], 1)
    right, _ = _plots.mean_and_error(found["test_accuracy"][..., -1], 1)
    cells = (f"{d:.1%}, {r:.1%}" for d, r in zip(dead, right, strict=True))
    table.add_row(name, *cells)
  return [table]


def figure(result: Result) -> Any:
  """Dead units over training, a panel for each rate."""
  drawn, axes = _plots.grid(1, len(result["rates"]), sharey=True)
  for column, (axis, rate) in enumerate(
    zip(axes[0], result["rates"], strict=True)
  ):
    axis.set_title(f"learning rate {rate:g}")
    axis.set_xlabel("updates")
    for (name, found), color in zip(
      result["activations"].items(), _plots.COLORS, strict=False
    ):
      _plots.line_with_band(
        axis, result["steps"], found["dead"][column], color, name
      )
  axes[0, 0].set_ylabel("share of dead units")
  axes[0, 0].legend()
  return drawn


def claims(result: Result) -> list[Claim]:
  """Leaky ReLU has a slope everywhere, so no unit of it can be dead."""
  found = result["activations"].get("leaky_relu")
  if found is None:
    return []
  most = float(np.max(found["dead"]))
  return [Claim("Maas et al. 2013", "dead leaky ReLU units", 0.0, most, 0.0)]


def programs(config: Config) -> dict[str, Program]:
  """Training, for each activation."""
  data = _datasets.load_labelled(config.dataset, config.seed)
  given = abstract((_runs(config), data))
  return {
    f"courses, {name}": Program(
      courses, given, {"config": config, "activation": name}
    )
    for name in config.activations
  }


EXPERIMENT = Experiment(
  "rectifiers",
  Config,
  {"smoke": {"seeds": 2, "steps": 40, "width": 16, "rates": (0.1,)},
   "tpu": {"seeds": 64, "width": 512}},
  run, tables, figure, claims, programs,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
