"""Why do deep sigmoid nets not learn?

Question: how does a gradient, a product of one Jacobian per layer, shrink; at
which layer does it become exactly zero in float32, bfloat16 and float16; and
what is left of learning?

    python -m experiments.vanishing

measures random networks of 100 layers, and trains networks of 10 layers and
saturated ones of 3 on handwritten digits: a minute on 2 CPU cores. Expect that
sigmoid's gradient shrinks by √χ₁ = 0.236 (2.09 bits) per layer and is 0 in
float32 62 layers below the output (theory: 61.4); that sigmoid stays at chance
where tanh and ReLU reach 97 and 96 %; and that saturated units stay saturated.

Reference: Hochreiter 1991; Bengio et al. 1994; Glorot and Bengio 2010;
Schoenholz et al. 2017, §3 (χ₁); Pennington et al. 2017.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.common.training import Budget, best_rate
from experiments.data import datasets
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job, at, joined
from experiments.runtime.launch import launch
from experiments.vanishing import networks, theory
from experiments.vanishing.claims import claims
from experiments.vanishing.networks import DTYPES, KINDS
from experiments.vanishing.show import figure, tables
from initjax import gains, meanfield

BINS = 20
SATURATING = ("sigmoid", "tanh")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to measure and to train."""

  depth: int = option(100, "Linear layers of random networks.", low=12)
  width: int = option(64, "Units of each layer.", low=2)
  seeds: int = option(8, "Networks of each kind.", low=2)
  inputs: int = option(
    64, "Digits sent through random networks.", low=2, high=1797
  )
  isometry_depth: int = option(10, "Layers of products to compare.", low=2)
  isometry_width: int = option(64, "Units of each.", low=4)
  isometry_networks: int = option(32, "Of each kind.", low=2)
  variances: tuple[float, ...] = option(
    (1.0, 16.0, 256.0), "σ_w² of networks that saturate.", low=0.01
  )
  saturated_rate: float = option(0.1, "Learning rate of those.", low=0)
  train_depth: int = option(10, "Linear layers of trained networks.", low=3)
  rates: tuple[float, ...] = option(
    (0.03, 0.1, 0.3, 1.0), "Learning rates of SGD.", low=0
  )
  steps: int = option(600, "Updates, a multiple of 20.", low=20, multiple=20)
  batch: int = option(64, "Images of each update.", low=1)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)


def _calls(config: Config) -> dict[str, tuple[Any, Any, Any]]:
  """By name: a jitted function, its runs, and what all runs share."""
  keys = jax.random.split(jax.random.key(config.seed), (3, config.seeds))
  digits = datasets.load_inputs("digits", config.inputs, config.seed)
  inputs = jnp.asarray(digits)
  data = datasets.load_labelled(config.dataset, config.seed)
  kinds = joined(networks.runs_of(name, keys[0]) for name in KINDS)
  steep = joined(
    networks.runs_of(name, keys[1], variance)
    for name in SATURATING
    for variance in config.variances
  )
  rates = jnp.repeat(jnp.array(config.rates), len(kinds["kind"]))
  trained = {**joined([kinds] * len(config.rates)), "rate": rates}
  fixed = {"rate": jnp.full(len(steep["kind"]), config.saturated_rate)}
  shape = {"depth": config.depth, "width": config.width}
  few = {"width": config.width, "depth": 12, "bins": BINS}
  budget = Budget(config.steps, config.batch)
  course = {"width": config.width, "budget": budget}
  deep = {**course, "depth": config.train_depth}
  few_layers = {**course, "depth": 3}
  call = functools.partial
  calls: dict[str, tuple[Any, Any, Any]] = {
    "spectra": (call(networks.spectra, **shape), kinds, inputs),
    "slope_shares": (call(networks.slope_shares, **few), steep, inputs),
    "courses": (call(networks.courses, **deep), trained, data),
    "saturated": (call(networks.courses, **few_layers), steep | fixed, data),
  }
  for dtype in DTYPES:
    sizes = call(networks.gradients, dtype=dtype, **shape)
    calls[f"gradients, {dtype}"] = sizes, kinds, inputs
  return calls


def _isometry(config: Config, job: Job) -> Result:
  """By kind: relative variance of squared singular values, and its error."""
  depth, width = config.isometry_depth, config.isometry_width
  count, kinds = config.isometry_networks, len(networks.ISOMETRY)
  keys = jax.random.split(jax.random.key(config.seed + 1), kinds * count)
  runs = {"key": keys, "kind": jnp.repeat(jnp.arange(kinds), count)}
  traces = functools.partial(networks.traces, depth=depth, width=width)
  alone = job.undivided()
  (found,) = alone.map(lambda _: alone.spread(traces, runs), ["isometry"])
  first, second = (
    np.float64(trace).reshape(kinds, count, depth) for trace in found
  )
  square = (first**2).mean(1)
  ratio = second.mean(1) / square
  rest = (second - ratio[:, None] * first**2) / square[:, None]
  error = plots.few_errors(count) * plots.mean_and_error(rest, 1)[1]
  slopes = networks.ISOMETRY.values()
  return {
    "width": width,
    "measured": width * ratio - 1,
    "error": width * error,
    "theory": [theory.relative_variance(width, depth, s) for s in slopes],
  }


def run(config: Config, job: Job) -> Result:
  """Everything measured, each beside what theory says of it."""
  calls = _calls(config)
  jacobians = {"spectra": calls.pop("spectra")}
  found = job.undivided().spread_all(jacobians, config.seeds)
  found |= job.spread_all(calls, config.seeds)
  return {
    "depth": config.depth,
    "width": config.width,
    "seeds": config.seeds,
    "train_depth": config.train_depth,
    "kinds": {
      name: _kind(config, name, at(found["spectra"], i))
      for i, name in enumerate(KINDS)
    },
    "isometry": _isometry(config, job),
    "underflow": {
      dtype: _underflow(config, dtype, *found[f"gradients, {dtype}"])
      for dtype in DTYPES
    },
    "saturation": _saturation(config, found),
    "steps": np.linspace(0, config.steps, 21),
    "rates": config.rates,
    "courses": {
      name: _course(config, at(found["courses"], slice(i, None, len(KINDS))))
      for i, name in enumerate(KINDS)
    },
  }


def _kind(config: Config, name: str, spectrum: networks.Spectrum) -> Result:
  """Jacobians and gradients of an activation; k counts from the output."""
  kind = KINDS[name]
  point = meanfield.fixed_point(kind.activation, kind.sigma_w2, 0.0)
  layers = theory.layers_of(kind, config.depth, config.width)
  path = meanfield.trajectory(layers)
  return {
    "sigma_w2": kind.sigma_w2,
    "q": point.q,
    "chi_1": point.chi_1,
    "spectrum": jax.tree.map(lambda leaf: leaf[:, ::-1], spectrum)._asdict(),
    "log2_size_theory": path.backward[::-1] / 2,
    "log2_size_std": path.backward_std[::-1] / 2,
  }


def _underflow(
  config: Config, dtype: str, sizes: np.ndarray, zeros: np.ndarray
) -> Result:
  """What the device rounds to 0, and where gradients become 0."""
  alive = networks.halvings(jnp.ones(()), dtype=dtype)
  floor = theory.floor_of(np.asarray(alive), dtype)
  kinds: Result = {}
  for i, (name, kind) in enumerate(KINDS.items()):
    dead = zeros[i, :, ::-1] == 1
    entries = config.inputs * config.width
    sizes_of = config.depth, config.width, entries, floor.threshold
    kinds[name] = {
      "log2_size": sizes[i, :, ::-1],
      "zeros": zeros[i, :, ::-1],
      "observed": np.where(dead.any(1), dead.argmax(1), np.inf),
      "predicted": theory.underflow(kind, *sizes_of)._asdict(),
    }
  return {**floor._asdict(), "threshold": floor.threshold, "kinds": kinds}


def _saturation(config: Config, found: dict[str, Any]) -> Result:
  """By activation and variance: slopes at birth, and while it learns."""
  result: Result = {}
  pairs = [(name, w) for name in SATURATING for w in config.variances]
  for i, (name, variance) in enumerate(pairs):
    q = meanfield.fixed_point(KINDS[name].activation, variance, 0.0).q
    moments = gains.moments(KINDS[name].activation, q)
    steepest = {"sigmoid": 0.25, "tanh": 1.0}[name]
    slopes, course = (at(found[x], i) for x in ("slope_shares", "saturated"))
    result[f"{name}, σ_w² = {variance:g}"] = {
      "activation": name,
      "q": q,
      "measured": slopes.shares,
      "theory": theory.slope_shares(name, q, BINS),
      "let_through": slopes.let_through,
      "let_through_theory": moments.derivative_second_moment / steepest**2,
      "saturated": course.probe,
      "test_accuracy": course.test_accuracy,
    }
  return result


def _course(config: Config, course: Any) -> Result:
  """From [rates, seeds, points], that at the rate with the least final loss."""
  best = best_rate(course.loss)
  return {
    "rate": config.rates[best],
    "loss": course.loss[best],
    "accuracy": course.accuracy[best],
    "test_accuracy": course.test_accuracy[best],
    "test_accuracy_by_rate": course.test_accuracy[:, :, -1],
  }


EXPERIMENT = Experiment(
  "vanishing",
  Config,
  {"smoke": {"seeds": 2, "steps": 40, "width": 32, "depth": 72, "inputs": 16,
             "isometry_width": 32, "isometry_depth": 4,
             "isometry_networks": 16, "rates": (0.1,),
             "variances": (1.0, 256.0)},
   "tpu": {"seeds": 64, "width": 512, "steps": 2000}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
