"""Do signals get through 100 layers, forward and backward, at initialization?

Question: for which pairs of activation and initializer do activations and
gradients keep their size through a deep network, and does theory agree?

    python -m experiments.signal_propagation

sends 8×8 digits forward, and a random gradient backward, through 100-layer
networks of width 128, for every pair of 7 activations and 8 initializers; it
takes a minute on 2 CPU cores. Expect: Xavier on ReLU halves the second moment
in every layer, and He preserves it; with normal(0.01), signals die; sigmoid's
gradient vanishes under all initializers; tanh at its own gain keeps its
activations while its gradient grows 1.178 times per layer. Each growth is shown
with what theory allows at this width.

Networks that differ only by the scale of their weights share one draw, so that
chance does not blur the comparison.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import datasets
from experiments.runtime.experiment import (
  Claim,
  Experiment,
  Result,
  Settings,
  option,
)
from experiments.runtime.job import Job
from experiments.runtime.launch import launch
from experiments.signal_propagation import extremes, show, theory
from experiments.signal_propagation.records import Record, record
from initjax import initializers, stacks
from initjax.typing import Activation, Initializer

ACTIVATIONS: dict[str, Activation] = {
  "sigmoid": jax.nn.sigmoid,
  "tanh": jnp.tanh,
  "softsign": jax.nn.soft_sign,
  "relu": jax.nn.relu,
  "leaky_relu": jax.nn.leaky_relu,
  "elu": jax.nn.elu,
  "gelu": jax.nn.gelu,
}


XAVIER = "Xavier norm."


class Scheme(NamedTuple):
  """An initializer under test, and the distribution that it rescales."""

  base: str
  build: Callable[[Activation], Initializer]


SCHEMES: dict[str, Scheme] = {
  "normal 0.01": Scheme("normal", lambda _: initializers.normal(0.01)),
  "standard": Scheme("uniform", lambda _: initializers.torch_linear_kernel()),
  "Xavier norm.": Scheme("truncated", lambda _: initializers.xavier_normal()),
  "Xavier unif.": Scheme("uniform", lambda _: initializers.xavier_uniform()),
  "He fan_in": Scheme("truncated", lambda _: initializers.kaiming_normal()),
  "He fan_out": Scheme(
    "truncated", lambda _: initializers.kaiming_normal(mode="fan_out")
  ),
  "own gain": Scheme(
    "truncated", lambda phi: initializers.activation_scaling(phi)
  ),
  "orthogonal": Scheme("orthogonal", lambda _: initializers.orthogonal()),
}

BASES: dict[str, Initializer] = {  # what a Scheme rescales
  "normal": initializers.normal(1.0),
  "uniform": initializers.lecun_uniform(),
  "truncated": initializers.lecun_normal(),
  "orthogonal": initializers.orthogonal(),
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to run; the defaults are the published table."""

  activations: tuple[str, ...] = option(
    tuple(ACTIVATIONS), "Which activations.", choices=ACTIVATIONS
  )
  initializers: tuple[str, ...] = option(
    tuple(SCHEMES), "Which initializers.", choices=SCHEMES
  )
  depth: int = option(100, "Linear layers.", low=2)
  width: int = option(128, "Units of each.", low=2)
  seeds: int = option(16, "Networks of each pair.", low=2)
  batch: int = option(64, "Inputs of each network.", low=1)
  networks: int = option(512, "Whose sizes are compared.", low=4)
  layers: int = option(4000, "Of delta-orthogonal networks.", low=1)
  full: bool = option(False, "Show every number, not a screen of marks.")
  dataset: str = option("digits", "What goes in.", choices=datasets.INPUTS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)


def run(config: Config, job: Job) -> Result:
  """Measures every pair, and compares it with theory."""
  key = jax.random.key(config.seed)
  records = _records(config, key, job)
  other = jax.random.fold_in(key, 1)
  half = (config.depth // 2, config.width // 2)
  sizes = (config.networks, *half, config.layers)
  further = extremes.measure(other, *sizes, job)
  return {
    "conditions": conditions_of(config),
    "full": config.full,
    "extremes": further,
    "band_in_standard_deviations": theory.SIGMAS,
    "records": [
      records[activation, scheme]
      for activation in config.activations
      for scheme in config.initializers
    ],
  }


def _records(
  config: Config, key: jax.Array, job: Job
) -> dict[tuple[str, str], Record]:
  """By activation and initializer."""
  inputs = datasets.load_inputs(config.dataset, config.batch, config.seed)
  cotangent_key, draw_key = jax.random.split(key)
  shape = (config.batch, config.width)
  cotangent = jax.random.normal(cotangent_key, shape)
  measure = functools.partial(
    _measure, config, _drawer(config, draw_key, job), inputs, cotangent, job
  )
  items = itertools.product(_bases(config), config.activations)
  measured = {
    pair: found
    for by_pair in job.map(measure, items)
    for pair, found in by_pair.items()
  }
  records, conditions = {}, conditions_of(config)
  healthy = theory.healthy(conditions)
  for pair, (signals, factor) in measured.items():
    records[pair] = _compare(pair, signals, factor, healthy, conditions)
    job.advance(f"theory of {', '.join(pair)}", len(measured))
  return records


def _drawer(config: Config, key: jax.Array, job: Job) -> Callable[[str], Any]:
  """Networks of a base; those of the last one asked for are remembered."""
  keys = jax.random.split(key, config.seeds)
  shape = config.batch, datasets.FEATURES[config.dataset]

  @functools.lru_cache(maxsize=1)
  def drawn(base: str) -> Any:
    sizes = base, config.depth, config.width, shape
    return job.spread(functools.partial(draw, *sizes), keys)

  return drawn


def _measure(
  config: Config,
  drawn: Callable[[str], Any],
  inputs: np.ndarray,
  cotangent: jax.Array,
  job: Job,
  item: tuple[str, str],
) -> dict[tuple[str, str], tuple[tuple[jax.Array, jax.Array], jax.Array]]:
  """By activation and scheme: signals, and the factor on kernels of a base."""
  base, activation = item
  found = {}
  for scheme in config.initializers:
    if SCHEMES[scheme].base == base:
      factors = _factors(scheme, activation, inputs.shape[-1], config.width)
      function = functools.partial(send, activation, config.width)
      given = drawn(base), factors, inputs, cotangent
      found[activation, scheme] = job.spread(function, *given), factors[1]
  return found


def _compare(
  pair: tuple[str, str],
  signals: tuple[np.ndarray, np.ndarray],
  factor: np.ndarray,
  healthy: tuple[theory.Law, theory.Law],
  conditions: theory.Conditions,
) -> Record:
  """Measured signals [seeds, depth] beside what theory says of the pair."""
  activation, scheme = pair
  base = SCHEMES[scheme].base
  forward, backward = (part.astype(np.float64) for part in signals)
  log2_sigma_w2 = _log2_sigma_w2(base, factor, conditions.width)
  laws = theory.laws(
    ACTIVATIONS[activation], log2_sigma_w2, forward[:, 0].mean(), conditions
  )
  return record(
    activation,
    scheme,
    log2_sigma_w2,
    (forward, backward),
    laws,
    healthy,
    conditions,
    drift_is_bound=base == "orthogonal",
  )


def conditions_of(config: Config) -> theory.Conditions:
  """What theory needs to know of a run, beside the pair."""
  inputs = datasets.load_inputs(config.dataset, config.batch, config.seed)
  return theory.Conditions(
    config.depth,
    config.width,
    config.seeds,
    config.batch,
    theory.typical_correlation(inputs),
  )


@functools.partial(jax.jit, static_argnames=("activation", "width"))
def send(
  activation: str,
  width: int,
  params: stacks.StackParams,
  factors: tuple[jax.Array, jax.Array],
  inputs: jax.Array,
  cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """log₂ second moments [seeds, depth], forward and backward.

  Compiled once per activation: every scheme is the same program with other
  factors on the first kernel and on all others.
  """

  def one_seed(params: stacks.StackParams) -> stacks.Signals:
    scaled = params._replace(
      first_kernel=params.first_kernel * factors[0],
      kernels=params.kernels * factors[1],
    )
    depth = params.kernels.shape[0] + 1
    stack = _mlp(depth, width, ACTIVATIONS[activation], BASES["normal"])
    return stacks.propagate(stack, scaled, inputs, cotangent)

  signals = jax.vmap(one_seed)(params)
  return (
    signals.forward.log2_second_moment,
    signals.backward.log2_second_moment,
  )


def _mlp(
  depth: int, width: int, activation: Activation, kernel_init: Initializer
) -> stacks.Stack:
  return stacks.mlp(
    depth=depth, width=width, activation=activation, kernel_init=kernel_init
  )


@functools.partial(
  jax.jit, static_argnames=("base", "depth", "width", "input_shape")
)
def draw(
  base: str,
  depth: int,
  width: int,
  input_shape: tuple[int, ...],
  keys: jax.Array,
) -> stacks.StackParams:
  """Parameters [seeds, ...] from that distribution."""
  stack = _mlp(depth, width, jnp.tanh, BASES[base])
  # One seed after the other: XLA on CPUs can hang on batched QR.
  return jax.lax.map(
    functools.partial(stack.init, input_shape=input_shape), keys
  )


def _bases(config: Config) -> list[str]:
  """What the schemes are drawn from, each once."""
  return list({SCHEMES[name].base: None for name in config.initializers})


def _factors(
  scheme: str, activation: str, features: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """By what the base must be multiplied to give the scheme, layer by layer.

  Taken from both initializers themselves: for one key their values are
  proportional, so the ratio of norms is the ratio of scales.
  """
  key = jax.random.key(0)
  base, build = BASES[SCHEMES[scheme].base], SCHEMES[scheme].build
  init = build(ACTIVATIONS[activation])

  def ratio(shape: tuple[int, int]) -> jax.Array:
    return jnp.linalg.norm(init(key, shape)) / jnp.linalg.norm(base(key, shape))

  return ratio((features, width)), ratio((width, width))


def _log2_sigma_w2(base: str, factor: np.ndarray, width: int) -> float:
  """log₂ of σ_w² = width · Var W in the hidden layers."""
  unit = width if base == "normal" else 1.0  # the others have Var W = 1/width
  return float(2 * np.log2(float(factor)) + np.log2(unit))


def claims(result: Result) -> list[Claim]:
  """Growth per layer by a law of the literature, at this depth and width.

  What is published is its limit for infinite width, after many layers; our
  number is beside what the law gives for these layers, with the drift and the
  chance of their width, for the gap between the two is no error of measurement.
  """
  found = extremes.claims(result["extremes"])
  pairs = {(pair.activation, pair.initializer) for pair in result["records"]}
  for pair in result["records"]:
    name = (pair.activation, pair.initializer)
    # Xavier's ReLU networks are He's, rescaled
    same = name == ("relu", "He fan_in") and ("relu", XAVIER) in pairs
    courses = {"signal": pair.forward, "gradient": pair.backward}
    for direction, course in courses.items():
      source = _source(*name, direction)
      if source and np.isfinite(course.predicted_band):
        quantity, other = (
          f"{direction} of {', '.join(pair)}: growth per layer"
          for pair in (name, ("relu", XAVIER))
        )
        law, band = course.predicted_growth, course.predicted_band
        claim = Claim(source, quantity, law, course.growth, band, "law")
        found.append(claim._replace(shares=same * other))
  return found


def _source(activation: str, scheme: str, direction: str) -> str:
  """Where the law of a pair is from; empty if nobody wrote of that pair."""
  if activation == "relu" and scheme in (XAVIER, "He fan_in"):
    return "He et al. 2015, Eqs. 10, 14; finite n"
  if (activation, scheme) in (
    ("tanh", "own gain"),
    ("sigmoid", "Xavier norm."),
  ):
    signal = direction == "signal"
    paper = (
      "Poole et al. 2016, Eq. 3" if signal else "Schoenholz et al. 2017, Eq. 15"
    )
    return f"{paper}; finite n"
  return ""


EXPERIMENT = Experiment(
  "signal_propagation",
  Config,
  {
    "smoke": {"depth": 20, "width": 32, "seeds": 4, "batch": 8,
              "networks": 64, "layers": 100,
              "activations": ("relu", "tanh")},
    "tpu": {"width": 512, "seeds": 32, "batch": 256},
  },
  run,
  show.tables,
  show.figure,
  claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
