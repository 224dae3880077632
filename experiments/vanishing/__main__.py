"""Why do deep sigmoid nets not learn?

Question: how does a gradient, a product of one Jacobian a layer, shrink; at
which layer does it become exactly zero in float32, bfloat16 and float16; and
what is left of learning?

    python -m experiments.vanishing

measures random networks of 100 layers against mean-field theory, then trains
networks of 10 layers on handwritten digits with SGD, each activation with the
rate that is best for it: 40 seconds on 2 CPU cores. Expect: the gradient of
sigmoid networks (√χ₁ = 0.236) loses 2.08 bits a layer and is exactly 0 in
float32 and bfloat16 62 layers below the output, in float16 13 layers (theory:
61.4 and 12.9; XLA on CPUs flushes subnormal numbers of the first two, keeps
those of the third); with 10 layers sigmoid stays at chance, tanh and ReLU reach
97 % and 96 % of test images.

Reference: Hochreiter 1991; Bengio et al. 1994; Glorot and Bengio 2010;
Schoenholz et al. 2017, §3 (χ₁); Pennington et al. 2017.
"""

import dataclasses
import functools
import math
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.common.training import best_rate
from experiments.data import datasets
from experiments.runtime.experiment import (
  Claim,
  Experiment,
  Result,
  check,
  option,
)
from experiments.runtime.job import Job, joined
from experiments.runtime.launch import launch
from experiments.vanishing import networks, theory
from experiments.vanishing.networks import DTYPES, KINDS
from experiments.vanishing.show import figure, tables
from initjax import meanfield

BINS = 20


@dataclasses.dataclass(frozen=True)
class Config:
  """What to measure and to train."""

  depth: int = option(100, "Linear layers of random networks.", low=12)
  width: int = option(64, "Units of each layer.", low=2)
  seeds: int = option(8, "Networks of each kind.", low=2)
  inputs: int = option(
    64, "Digits sent through random networks.", low=2, high=1797
  )
  variances: tuple[float, ...] = option(
    (1.0, 16.0, 256.0), "σ_w² of sigmoid networks, for saturation.", low=0.01
  )
  train_depth: int = option(10, "Linear layers of trained networks.", low=3)
  rates: tuple[float, ...] = option(
    (0.03, 0.1, 0.3, 1.0), "Learning rates of SGD.", low=0
  )
  steps: int = option(600, "Updates, a multiple of 20.", low=20, multiple=20)
  batch: int = option(64, "Images of each update.", low=1)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    check(self)


def _calls(config: Config) -> dict[str, tuple[Any, Any, Any]]:
  """By name: a jitted function, its runs, and what all runs share."""
  keys = jax.random.split(jax.random.key(config.seed), config.seeds)
  shape = {"depth": config.depth, "width": config.width}
  inputs = jnp.asarray(
    datasets.load_inputs("digits", config.inputs, config.seed)
  )
  kinds = joined(networks.runs_of(name, keys) for name in KINDS)
  steep = joined(networks.runs_of("sigmoid", keys, w) for w in config.variances)
  rates = jnp.repeat(jnp.array(config.rates), len(kinds["kind"]))
  trained = {**joined([kinds] * len(config.rates)), "rate": rates}
  spectra = functools.partial(networks.spectra, **shape)
  shares = functools.partial(
    networks.slope_shares, bins=BINS, **{**shape, "depth": 12}
  )
  courses = functools.partial(
    networks.courses, depth=config.train_depth, width=config.width,
    steps=config.steps, batch=config.batch,
  )  # fmt: skip
  calls: dict[str, tuple[Any, Any, Any]] = {
    "spectra": (spectra, kinds, inputs),
    "slope_shares": (shares, steep, inputs),
    "courses": (
      courses, trained, datasets.load_labelled(config.dataset, config.seed)
    ),
  }  # fmt: skip
  for dtype in DTYPES:
    call = functools.partial(networks.gradients, dtype=dtype, **shape)
    calls[f"gradients, {dtype}"] = call, kinds, inputs
  return calls


def run(config: Config, job: Job) -> Result:
  """Everything measured, each beside what theory says of it."""
  calls = _calls(config)
  jacobians = {"spectra": calls.pop("spectra")}
  found = job.undivided().spread_all(jacobians, config.seeds)
  found |= job.spread_all(calls, config.seeds)
  return {
    "depth": config.depth,
    "width": config.width,
    "train_depth": config.train_depth,
    "kinds": {
      name: _kind(config, name, _at(found["spectra"], i))
      for i, name in enumerate(KINDS)
    },
    "underflow": {
      dtype: _underflow(config, dtype, *found[f"gradients, {dtype}"])
      for dtype in DTYPES
    },
    "saturation": {
      f"{variance:g}": _saturation(variance, measured)
      for variance, measured in zip(
        config.variances, found["slope_shares"], strict=True
      )
    },
    "steps": np.linspace(0, config.steps, 21),
    "rates": config.rates,
    "courses": {
      name: _course(config, _at(found["courses"], slice(i, None, len(KINDS))))
      for i, name in enumerate(KINDS)
    },
  }


def _at(tree: Any, index: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf[index], tree)


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
    kinds[name] = {
      "log2_size": sizes[i, :, ::-1],
      "zeros": zeros[i, :, ::-1],
      "observed": np.where(dead.any(1), dead.argmax(1), np.inf),
      "predicted": theory.underflow(
        kind, config.depth, config.width, config.inputs * config.width,
        floor.threshold,
      )._asdict(),
    }  # fmt: skip
  return {**floor._asdict(), "threshold": floor.threshold, "kinds": kinds}


def _saturation(variance: float, measured: np.ndarray) -> Result:
  q = meanfield.fixed_point(jax.nn.sigmoid, variance, 0.0).q
  shares = theory.sigmoid_slope_shares(q, BINS)
  return {"q": q, "measured": measured, "theory": shares}


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


def claims(result: Result) -> list[Claim]:
  """Decay by layer, layers of underflow, saturation, and what is learnt.

  Where gradients become 0: a layer for rounding, two standard errors of theory.
  """
  found = [_decay(result, name) for name in ("sigmoid", "relu")]
  seeds = len(result["courses"]["sigmoid"]["loss"])
  for dtype, numbers in result["underflow"].items():
    sigmoid = numbers["kinds"]["sigmoid"]
    layer = sigmoid["predicted"]["by_trajectory"]
    if math.isfinite(layer):
      found.append(
        Claim(
          "Schoenholz et al. 2017, χ₁",
          f"layers below the output where all of a gradient is 0, {dtype}",
          layer, float(sigmoid["observed"].mean()),
          1 + 2 * sigmoid["predicted"]["std"] / math.sqrt(seeds),
        )
      )  # fmt: skip
  found += _saturated(result)
  final = result["courses"]["sigmoid"]["loss"][:, -1]
  found.append(
    Claim(
      "Glorot and Bengio 2010, §3.1",
      f"loss of {result['train_depth']} sigmoid layers, nats (chance)",
      math.log(10), float(final.mean()), 0.01,  # SGD's noise in the readout
    )
  )  # fmt: skip
  return found


def _saturated(result: Result) -> list[Claim]:
  """Where theory expects any; width n moves q by O(1/n) of itself."""
  found = []
  normal = statistics.NormalDist()
  for variance, shares in result["saturation"].items():
    mean, error = plots.mean_and_error(shares["measured"][:, :2].sum(-1))
    published = float(shares["theory"][:2].sum())
    if published < 1e-3:  # none was seen, and none would be
      continue
    edge = normal.inv_cdf(published / 2)
    slope = -edge * normal.pdf(edge)  # of the share over ln q
    drift = 2.5 / result["width"] * slope
    name = f"share with 4σ' < 0.1 at σ_w² = {variance}"
    found.append(
      Claim("Poole et al. 2016, q*", name, published, float(mean),
            float(2 * error + drift))
    )  # fmt: skip
  return found


def _decay(result: Result, name: str) -> Claim:
  """Bits a layer of the product of Jacobians, from k = 5 to half the depth.

  Over networks of width n the mean of log₂ is off by O(1/n) a layer: for ReLU
  -5/(2n) nats of the square of one vector, which bounds that of the whole.
  """
  kind = result["kinds"][name]
  size = kind["spectrum"]["mean"]
  stop = result["depth"] // 2
  mean, error = plots.mean_and_error((size[:, stop] - size[:, 5]) / (stop - 5))
  published = math.log2(kind["chi_1"]) / 2
  drift = 2.5 / result["width"] / 2 / math.log(2)
  return Claim(
    "Schoenholz et al. 2017, Eq. 15",
    f"log₂ of singular values (root mean square) a layer, {name}",
    published, float(mean), float(2 * error + drift),
  )  # fmt: skip


EXPERIMENT = Experiment(
  "vanishing",
  Config,
  {"smoke": {"seeds": 2, "steps": 40, "width": 32, "depth": 72, "inputs": 16,
             "rates": (0.1,), "variances": (1.0, 256.0)},
   "tpu": {"seeds": 64, "width": 512, "steps": 2000}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
