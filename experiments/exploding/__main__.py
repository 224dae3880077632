"""What makes gradients explode, and does clipping help?

Question: how fast does a gradient grow with the scale of the weights, and with
depth; at which learning rate does the loss diverge though the gradient does
not; and which of the three does gradient clipping rescue?

    python -m experiments.exploding

measures random ReLU networks of 100 layers, descends from He's weights at
rates around 2/λ_max (λ_max of the loss's Hessian by Lanczos), and trains on
handwritten digits with one misplaced decimal point, clipped in three ways:
about a minute on 2 CPU cores. Expect: ½·log₂(σ_w²/2) bits a layer within
0.01; a quadratic loss that diverges from 1.02·2/λ_max on and not at 0.98; a
deep one that survives 10·2/λ_max. Any clipping rescues a rate ten times too
large (one network of 8 diverges without; 98 % of test images), none quite
rescues weights ten times too large (64–73 %; without it 7 of 8 diverge) or a
net that is too deep for them (27–40 %; all diverge); at a rate a hundred times
too large clipping by norm keeps numbers finite and learns nothing, clipping by
value reaches some 70 %.

2/λ_max is exact where the loss is quadratic (linear regression). In a deep
network it is the limit of stability at the start alone: λ_max falls within a
few updates, so that the loss may fall all the same, or rise first and be caught
where it is flatter (the catapult of Lewkowycz et al. 2020), at rates up to
several times 2/λ_max; it always ends where λ_max < 2/rate.

Reference: Pascanu et al. 2013; LeCun et al. 1998, §5.1 (2/λ_max); Lewkowycz et
al. 2020; Cohen et al. 2021.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.data import datasets
from experiments.exploding import networks
from experiments.exploding.show import figure, tables
from experiments.runtime.experiment import (
  Claim,
  Experiment,
  Result,
  check,
  option,
)
from experiments.runtime.job import Job, joined
from experiments.runtime.launch import launch
from initjax import gains, meanfield

LANCZOS = 1e-4
"""Error of λ_max, over itself: 400 roundings of float32 in X·v"""


@dataclasses.dataclass(frozen=True)
class Config:
  """What to measure and to train."""

  variances: tuple[float, ...] = option(
    (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0), "σ_w² of random networks.", low=0.01
  )
  depth: int = option(100, "Linear layers of random networks.", low=3)
  width: int = option(64, "Units of each.", low=2)
  seeds: int = option(8, "Networks of each kind.", low=2)
  inputs: int = option(
    32, "Digits sent through random networks.", low=1, high=1797
  )
  factors: tuple[float, ...] = option(
    (0.05, 0.5, 0.9, 0.98, 1.02, 1.1, 1.5, 2.0, 3.0, 5.0, 10.0),
    "Rates of descent over 2/λ_max.",
    low=0.001,
  )
  hidden: tuple[int, ...] = option(
    (32, 32),
    "Units of the layers of the descending network.",
    low=1,
    repeats=True,
  )
  descent_steps: int = option(300, "Updates of descent.", low=20)
  lanczos_steps: int = option(40, "Products with a Hessian.", low=2)
  shallow: int = option(4, "Layers where weights or rate are wrong.", low=3)
  deep: int = option(40, "Layers where depth is wrong.", low=3)
  deep_variance: float = option(2.6, "σ_w² of those.", low=0.01)
  rate: float = option(0.1, "Learning rate of SGD, the good one.", low=0)
  limit: float = option(1.0, "Global norm that clipping allows.", low=1e-9)
  steps: int = option(
    400, "Updates of SGD, a multiple of 20.", low=20, multiple=20
  )
  batch: int = option(64, "Images of each update.", low=1)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    check(self)


def causes(config: Config) -> dict[str, tuple[float, float, int]]:
  """σ_w², rate and depth; each but the first is wrong in one of them."""
  good, shallow = config.rate, config.shallow
  return {
    "nothing wrong": (2.0, good, shallow),
    "weights × 10": (200.0, good, shallow),
    "depth": (config.deep_variance, good, config.deep),
    "rate × 10": (2.0, 10 * good, shallow),
    "rate × 100": (2.0, 100 * good, shallow),
  }


def _calls(config: Config) -> dict[str, tuple[Any, Any, Any]]:
  """By name: a jitted function, its runs, and what all runs share."""
  keys = jax.random.split(jax.random.key(config.seed), config.seeds)
  inputs = jnp.asarray(
    datasets.load_inputs("digits", config.inputs, config.seed)
  )
  data = datasets.load_labelled(config.dataset, config.seed)
  calls: dict[str, tuple[Any, Any, Any]] = {
    "sizes": (
      functools.partial(networks.sizes, depth=config.depth, width=config.width),
      joined(_runs(keys, sigma_w2=w) for w in config.variances),
      inputs,
    )
  }
  rates = joined(_runs(keys, factor=factor) for factor in config.factors)
  for name, widths in (("quadratic", ()), ("deep", config.hidden)):
    descents = functools.partial(
      networks.descents, widths=widths, steps=config.descent_steps,
      lanczos_steps=config.lanczos_steps,
    )  # fmt: skip
    calls[name] = descents, rates, data
  for name, (variance, rate, depth) in causes(config).items():
    courses = functools.partial(
      networks.courses, depth=depth, width=config.width, steps=config.steps,
      batch=config.batch,
    )  # fmt: skip
    runs = joined(
      _runs(
        keys, sigma_w2=variance, rate=rate, limit=config.limit, clipping=kind
      )
      for kind in range(len(networks.CLIPPING))
    )
    calls[name] = courses, runs, data
  return calls


def _runs(keys: jax.Array, **options: float) -> networks.Run:
  same = {name: jnp.full(len(keys), value) for name, value in options.items()}
  return {"key": keys, **same}


def run(config: Config, job: Job) -> Result:
  """The three causes apart, then clipping against each."""
  found = job.spread_all(_calls(config), config.seeds)
  slopes = gains.moments(jax.nn.relu).derivative_second_moment
  return {
    "variances": config.variances,
    "chi_1": [w * slopes for w in config.variances],
    "width": config.width,
    "log2_size": found["sizes"],
    "log2_size_std": [_std(config, w) for w in config.variances],
    "factors": config.factors,
    "exact_lambdas": _exact_lambdas(config),
    "descents": {name: found[name]._asdict() for name in ("quadratic", "deep")},
    "clipping": networks.CLIPPING,
    "limit": config.limit,
    "steps": np.linspace(0, config.steps, 21),
    "causes": {
      name: _cause(found[name], *numbers)
      for name, numbers in causes(config).items()
    },
  }


def _std(config: Config, variance: float) -> float:
  """Of log₂ of the gradient at the first layer, over networks, by theory."""
  first = meanfield.Layer(None, variance, width=config.width)
  other = meanfield.Layer(jax.nn.relu, variance, width=config.width)
  path = meanfield.trajectory([first] + [other] * (config.depth - 1))
  return float(path.backward_std[0] / 2)


def _exact_lambdas(config: Config) -> np.ndarray:
  """Of linear regression: the spectrum of XᵀX/N in float64, largest first."""
  data = datasets.load_labelled(config.dataset, config.seed)
  x = np.asarray(data.inputs, np.float64)
  return np.linalg.eigvalsh(x.T @ x / len(x))[::-1]


def _cause(course: Any, variance: float, rate: float, depth: int) -> Result:
  """[clipping, seeds, points]; losses that are no number stay so."""
  return {
    "sigma_w2": variance,
    "rate": rate,
    "depth": depth,
    "loss": course.loss,
    "test_accuracy": course.test_accuracy,
    "finite": course.probe,
  }


def claims(result: Result) -> list[Claim]:
  """Growth by layer; λ_max; where descent diverges, and how fast."""
  found = [_growth(result, index) for index in range(len(result["variances"]))]
  quadratic, exact = result["descents"]["quadratic"], result["exact_lambdas"][0]
  found.append(
    Claim(
      "linear algebra", "λ_max of linear regression, by Lanczos",
      exact, float(quadratic["start"].mean()),
      LANCZOS * exact,
    )
  )  # fmt: skip
  if bracket := threshold(result, "quadratic"):
    low, high = bracket
    found.append(
      Claim(
        "LeCun et al. 1998, §5.1", "rate of divergence over 2/λ_max, quadratic",
        1.0, (low + high) / 2, (high - low) / 2,
      )
    )  # fmt: skip
  found += _speeds(result)
  return found


def _growth(result: Result, index: int) -> Claim:
  """½·log₂(σ_w²/2) bits a layer; fluctuations and drift of width n."""
  size = result["log2_size"][index]
  layers = size.shape[-1] - 1
  drift = 2.5 / result["width"] / 2 / math.log(2)
  error = 2 * result["log2_size_std"][index] / math.sqrt(len(size)) / layers
  return Claim(
    "Schoenholz et al. 2017, Eq. 15",
    f"log₂ of gradient a layer, σ_w² = {result['variances'][index]:g}",
    0.5 * math.log2(result["variances"][index] / 2),
    float((size[:, -1] - size[:, 0]).mean() / layers), error + drift,
  )  # fmt: skip


def threshold(result: Result, name: str) -> tuple[float, float] | None:
  """Neighbouring factors: below the second, no seed ends above its start.

  None if the factors hold no such pair: all diverge, or none does.
  """
  loss = result["descents"][name]["loss"]
  kept = np.isfinite(loss).all(-1) & (loss[..., -1] <= loss[..., 0])
  factors = np.array(result["factors"])
  order = np.argsort(factors)
  alive = kept[order].all(-1)
  first = int(np.argmin(alive))
  if alive.all() or first == 0:
    return None
  return float(factors[order][first - 1]), float(factors[order][first])


def _speeds(result: Result) -> list[Claim]:
  """Quadratic: each update multiplies the loss by (2·factor - 1)².

  That is what the direction of λ_max does; errors: two standard errors, and
  what the others add, as if all had started with the same part of the loss; and
  the error of λ_max, by which rates are chosen.
  """
  loss = result["descents"]["quadratic"]["loss"].astype(np.float64)
  lambdas = result["exact_lambdas"] / result["exact_lambdas"][0]
  found = []
  for factor, curves in zip(result["factors"], loss, strict=True):
    if not 1.4 <= factor <= 5:
      continue
    curves = np.where(np.isfinite(curves) & (curves < 1e30), curves, np.nan)
    last = np.flatnonzero(np.isfinite(curves).all(0))[-1]
    rate = np.log(curves[:, last] / curves[:, last - 4]) / 4
    mean, error = plots.mean_and_error(rate)
    powers = np.abs(2 * factor * lambdas - 1) ** (2 * (last - 4))
    others = powers[1:].sum() / powers[0] / 4
    rates = 4 * factor / (2 * factor - 1) * LANCZOS
    found.append(
      Claim(
        "linear algebra", f"growth of log loss an update, {factor:g}·2/λ_max",
        2 * math.log(2 * factor - 1), float(mean),
        float(2 * error + others + rates),
      )
    )  # fmt: skip
  return found


EXPERIMENT = Experiment(
  "exploding",
  Config,
  {"smoke": {"seeds": 2, "steps": 40, "width": 32, "depth": 30, "deep": 12,
             "variances": (1.0, 2.0, 4.0), "hidden": (8,),
             "factors": (0.5, 0.9, 1.1, 3.0), "descent_steps": 60,
             "lanczos_steps": 30},
   "tpu": {"seeds": 64, "width": 512, "steps": 2000}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
