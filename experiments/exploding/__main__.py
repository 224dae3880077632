"""What makes gradients explode, and does clipping help?

Question: how fast does a gradient grow with the scale of the weights, and with
depth; at which learning rate does the loss diverge although the gradient does
not; and which of the three does gradient clipping rescue?

    python -m experiments.exploding

takes a minute on 2 CPU cores. Expect growth of ½·log₂(σ_w²/2) bits per layer,
less 0.028 at this width; a quadratic loss that diverges above 2/λ_max; a rate
ten times too large that makes all networks diverge, unless clipped by norm
(82 %); and a recurrent network that learns to 18 %, clipped to 79 %.

For a deep network 2/λ_max is the limit of stability only at the start: λ_max
falls within a few updates, so that the loss may rise first and be caught where
it is flatter (the catapult of Lewkowycz et al. 2020).

Reference: Pascanu et al. 2013; LeCun et al. 1998, §5.1 (2/λ_max); Lewkowycz et
al. 2020; Cohen et al. 2021.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import training
from experiments.data import datasets
from experiments.exploding import networks
from experiments.exploding.claims import claims
from experiments.exploding.show import figure, tables
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job, joined
from experiments.runtime.launch import launch
from experiments.signal_propagation.theory import typical_correlation
from initjax import gains, meanfield

RECURRENT = "recurrent"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to measure and to train."""

  variances: tuple[float, ...] = option(
    (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0), "σ_w² of random networks.", low=0.01
  )
  depth: int = option(100, "Linear layers of random networks.", low=3)
  width: int = option(64, "Units of each.", low=2)
  seeds: int = option(8, "Networks of each kind.", low=2)
  inputs: int = option(
    1, "Digits sent through each random network.", low=1, high=1797
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
  pause: int = option(12, "Steps after the last row, recurrent.", low=0)
  recurrent_variance: float = option(2.25, "σ_w², recurrent.", low=0.01)
  deep: int = option(40, "Layers where depth is wrong.", low=3)
  deep_variance: float = option(2.6, "σ_w² of those.", low=0.01)
  rate: float = option(0.3, "Learning rate of SGD, the good one.", low=0)
  limit: float = option(1.0, "Global norm that clipping allows.", low=1e-9)
  steps: int = option(
    400, "Updates of SGD, a multiple of 20.", low=20, multiple=20
  )
  batch: int = option(64, "Images of each update.", low=1)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)


def causes(config: Config) -> dict[str, tuple[float, float, int]]:
  """σ_w², rate and depth; each but the first is wrong in one of them."""
  good, shallow, n = config.rate, config.shallow, config.width
  return {
    "nothing wrong": (2.0, good, shallow),
    "normal(0.01)": (n * 1e-4, good, shallow),
    "normal(1.0)": (n, good, shallow),
    "depth": (config.deep_variance, good, config.deep),
    "rate × 10": (2.0, 10 * good, shallow),
  }


def _calls(config: Config) -> dict[str, tuple[Any, Any, Any]]:
  """By name: a jitted function, its runs, and what all runs share."""
  variances, keys = config.variances, jax.random.key(config.seed)
  keys = jax.random.split(keys, (len(variances) + 2, config.seeds))
  inputs = jnp.asarray(
    datasets.load_inputs("digits", config.inputs, config.seed)
  )
  data = datasets.load_labelled(config.dataset, config.seed)
  call = functools.partial
  shape = {"depth": config.depth, "width": config.width}
  random = joined(
    _runs(key, sigma_w2=w) for key, w in zip(keys[2:], variances, strict=True)
  )
  calls: dict[str, tuple[Any, Any, Any]] = {
    "sizes": (call(networks.sizes, **shape), random, inputs)
  }
  rates = joined(_runs(keys[0], factor=factor) for factor in config.factors)
  steps = {"steps": config.descent_steps, "lanczos_steps": config.lanczos_steps}
  for name, widths in (("quadratic", ()), ("deep", config.hidden)):
    calls[name] = call(networks.descents, widths=widths, **steps), rates, data
  sgd = {"budget": training.Budget(config.steps, config.batch)}
  for name, (variance, rate, depth) in causes(config).items():
    courses = call(networks.courses, depth=depth, width=config.width, **sgd)
    runs = _clipped(config, keys[1], sigma_w2=variance, rate=rate)
    calls[name] = courses, runs, data
  recurrent = call(networks.recurrent_courses, pause=config.pause, width=32)
  runs = _clipped(
    config, keys[1], sigma_w2=config.recurrent_variance, rate=config.rate
  )
  calls[RECURRENT] = call(recurrent, **sgd), runs, data
  return calls


def _clipped(config: Config, keys: jax.Array, **options: float) -> networks.Run:
  """With each kind of clipping in turn."""
  kinds = range(len(networks.CLIPPING))
  return joined(
    _runs(keys, limit=config.limit, clipping=kind, **options) for kind in kinds
  )


def _runs(keys: jax.Array, **options: float) -> networks.Run:
  same = {name: jnp.full(len(keys), value) for name, value in options.items()}
  return {"key": keys, **same}


def run(config: Config, job: Job) -> Result:
  """The three causes apart, then clipping against each."""
  found = job.spread_all(_calls(config), config.seeds)
  slopes = gains.moments(jax.nn.relu).derivative_second_moment
  time = 8 + config.pause
  wrong = causes(config) | {
    RECURRENT: (config.recurrent_variance, config.rate, time)
  }
  return {
    "variances": config.variances,
    "chi_1": [w * slopes for w in config.variances],
    "width": config.width,
    "seeds": config.seeds,
    "log2_size": found["sizes"],
    "growth_law": [_growth_law(config, w) for w in config.variances],
    "factors": config.factors,
    "exact_lambdas": _exact_lambdas(config),
    "descents": {name: found[name]._asdict() for name in ("quadratic", "deep")},
    "clipping": networks.CLIPPING,
    "limit": config.limit,
    "steps": np.linspace(0, config.steps, 21),
    "causes": {
      name: _cause(found[name], *numbers) for name, numbers in wrong.items()
    },
  }


def _growth_law(config: Config, variance: float) -> dict[str, float]:
  """Of log₂ of the gradient, first over last layer: mean and std, by theory."""
  inputs = datasets.load_inputs("digits", config.inputs, config.seed)
  first = meanfield.Layer(None, variance, width=config.width)
  other = meanfield.Layer(jax.nn.relu, variance, width=config.width)
  path = meanfield.trajectory(
    [first] + [other] * (config.depth - 1),
    correlation=typical_correlation(inputs),
    batch=config.inputs,
    cotangent_correlation=0.0,  # drawn at random
  )
  size = (path.backward + path.backward_drift) / 2
  return {
    "limit": float(path.backward[0] - path.backward[-1]) / 2,
    "mean": float(size[0] - size[-1]),
    "std": float(path.backward_std[0] / 2),
  }


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
