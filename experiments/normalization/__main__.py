"""How does normalization change signals, gradients and learning?

Question: with BatchNorm or LayerNorm, does the scale of the initial weights
still matter, how do gradients grow, and which networks learn?

    python -m experiments.normalization

measures random ReLU networks and trains others on digits: a minute and a half
on 2 CPU cores. Expect that signals forget the scale σ_w (0.2 % over three
decades) while gradients of kernels go as 1/σ_w, which acts on the learning
rate; and that squared gradients grow per layer by 1.788 with BatchNorm at batch
8 and by π/(π - 1) = 1.467 in the limit, by (B - 2)/(B - 3) without a
nonlinearity, and not at all with LayerNorm. At 30 layers BatchNorm leads with
64 %; deeper networks do not learn, since 1.48^60 is 10^10.

Reference: Ioffe and Szegedy 2015; Ba et al. 2016; Yang et al. 2019, "A mean
field theory of batch normalization".
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import training
from experiments.data import datasets
from experiments.normalization import networks
from experiments.normalization.claims import claims, tables
from experiments.normalization.networks import KINDS, MEASURED
from experiments.normalization.show import figure
from experiments.normalization.theory import (
  forward_with_epsilon,
  gradient_growth,
  plain_forward,
)
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job, divided
from experiments.runtime.launch import launch
from initjax.measurement import log2_second_moment

HE = 2**0.5
"""σ_w that keeps the second moment of ReLU layers"""


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to measure and to train."""

  scales: tuple[float, ...] = option(
    (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "Standard deviation of the weights over He's; 1 among them.",
    low=1e-6,
  )
  kinds: tuple[str, ...] = option(KINDS, "Which networks.", choices=KINDS)
  batches: tuple[int, ...] = option(
    (8, 32, 64), "Batch sizes of which gradients are measured.", low=4
  )
  gradient_depth: int = option(40, "Layers of which they are.", low=24)
  gradient_width: int = option(512, "Units of each.", low=2)
  depths: tuple[int, ...] = option(
    (10, 30), "Hidden layers that train; all scales at the first.", low=2
  )
  width: int = option(64, "Units of each.", low=2)
  draws: int = option(8, "Untrained networks of each kind.", low=2)
  seeds: int = option(4, "Trained ones.", low=2)
  rate: float = option(0.03, "Learning rate of SGD.", low=0)
  steps: int = option(400, "Updates, a multiple of 20.", low=20, multiple=20)
  batch: int = option(64, "Images of each update.", low=4)
  epsilon: float = option(1e-5, "ε of the normalizations.", low=0)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if 1.0 not in self.scales:
      raise ValueError(f"scales must hold 1; got {self.scales}.")
    large = [scale for scale in self.scales if scale >= 0.1]
    if len(large) < 2 and set(self.kinds) != {"none"}:
      raise ValueError(
        "scales must hold two of at least 0.1, between which normalized "
        f"networks are compared; got {self.scales}."
      )

  @property
  def distinct_images(self) -> int:
    """Different training images that are wanted."""
    return max(self.batch, *self.batches)


Runs = dict[str, jax.Array]


@functools.partial(jax.jit, static_argnames=("features", "depth", "width"))
def draw(
  runs: Runs, *, features: int, depth: int, width: int
) -> networks.Params:
  """[runs] networks."""
  return jax.vmap(
    lambda key, scale: networks.draw(
      key, features=features, depth=depth, width=width, sigma_w=HE * scale
    )
  )(runs["key"], runs["scale"])


@functools.partial(jax.jit, static_argnames=("config",))
def at_scales(
  drawn: tuple[networks.Params, jax.Array],
  x: jax.Array,
  kind: jax.Array,
  *,
  config: Config,
) -> dict[str, jax.Array]:
  """log₂ second moments, [runs]: last activations, kernels' gradients."""

  def one(params: networks.Params, key: jax.Array) -> dict[str, jax.Array]:
    h, pull_back = jax.vjp(
      lambda params: networks.hidden(kind, params, x, config.epsilon), params
    )
    (gradient,) = pull_back(jax.random.normal(key, h.shape))
    return {
      "forward": log2_second_moment(h),
      "kernel_gradient": log2_second_moment(gradient.others),
    }

  return jax.vmap(one)(*drawn)


@functools.partial(jax.jit, static_argnames=("config",))
def gradients(
  drawn: tuple[networks.Params, jax.Array],
  x: jax.Array,
  kind: jax.Array,
  *,
  config: Config,
) -> jax.Array:
  """log₂ second moment of the gradient at each layer: [runs, depth]."""
  shape = (config.gradient_depth, len(x), config.gradient_width)

  def one(params: networks.Params, key: jax.Array) -> jax.Array:
    _, pull_back = jax.vjp(
      lambda nudges: networks.hidden(kind, params, x, config.epsilon, nudges),
      jnp.zeros(shape),
    )
    (gradient,) = pull_back(jax.random.normal(key, shape[1:]))
    return log2_second_moment(gradient, 0)

  return jax.vmap(one)(*drawn)


@functools.partial(jax.jit, static_argnames=("config",))
def courses(
  drawn: tuple[networks.Params, jax.Array],
  data: training.Labelled,
  kind: jax.Array,
  *,
  config: Config,
) -> training.Course:
  """Training of [runs] networks."""

  def apply(params: networks.Params, x: jax.Array) -> jax.Array:
    h = networks.hidden(kind, params, x, config.epsilon)
    return h @ params.readout

  def one(params: networks.Params, key: jax.Array) -> training.Course:
    budget = training.Budget(config.steps, config.batch)
    sgd = optax.sgd(config.rate)
    return training.train(apply, params, data, sgd, key, budget)

  return jax.vmap(one)(*drawn)


def _runs(
  config: Config, scales: tuple[float, ...], seeds: int, part: int = 0
) -> Runs:
  """Every scale with every seed: arrays [scales · seeds].

  Other parts of the run have other random numbers.
  """
  key = jax.random.fold_in(jax.random.key(config.seed), part)
  keys = jax.random.split(key, (2, seeds))
  return {
    "key": jnp.tile(keys[0], len(scales)),
    "rest": jnp.tile(keys[1], len(scales)),
    "scale": jnp.repeat(jnp.array(scales, jnp.float32), seeds),
  }


def _sizes(config: Config, features: int) -> tuple[dict[str, int], ...]:
  """Of networks that train, but for their depth; and of deep ones."""
  depth, width = config.gradient_depth, config.gradient_width
  return (
    {"features": features, "width": config.width},
    {"features": features, "depth": depth, "width": width},
  )


def run(config: Config, job: Job) -> Result:
  """Random networks by scale and by layer, then training."""
  data = datasets.load_labelled(config.dataset, config.seed)
  trained, deep = _sizes(config, data.inputs.shape[1])
  spread = functools.partial(_spread, config, job)

  def by_scale(kind: str) -> Any:
    sizes = {**trained, "depth": config.depths[0]}
    x, part = data.inputs[: config.batch], 1 + MEASURED.index(kind)
    return spread(at_scales, sizes, config.scales, x, kind, part)

  def by_layer(item: tuple[str, int]) -> Any:
    x, part = data.inputs[: item[1]], 10 + pairs.index(item)
    return spread(gradients, deep, (1.0,), x, item[0], part)[0]

  def train(item: tuple[str, int]) -> Any:
    kind, depth = item
    scales = config.scales if depth == config.depths[0] else (1.0,)
    course = spread(courses, {**trained, "depth": depth}, scales, data, kind)
    return {"loss": course.loss, "test_accuracy": course.test_accuracy}

  kinds, pairs = config.kinds, _pairs(config)
  items = list(itertools.product(kinds, config.depths))
  return {
    "config": dataclasses.asdict(config),
    "scales": dict(zip(kinds, job.map(by_scale, kinds), strict=True)),
    "gradients": _by_kind(pairs, job.map(by_layer, pairs)),
    "courses": _by_kind(items, job.map(train, items)),
    "theory": theory(config, np.asarray(data.inputs[: config.batch])),
  }


def _spread(
  config: Config,
  job: Job,
  function: Any,
  sizes: dict[str, int],
  scales: Any,
  x: Any,
  kind: str,
  part: int = 0,
) -> Any:
  """A function of networks drawn at some scales: [scales, seeds, ...]."""
  seeds = config.seeds if function is courses else config.draws
  runs = _runs(config, scales, seeds, part)
  params = job.spread(functools.partial(draw, **sizes), runs)
  function = functools.partial(function, config=config)
  index = jnp.int32(MEASURED.index(kind))
  found = job.spread(function, (params, runs["rest"]), x, index)
  return divided(found, len(scales), seeds)


def _pairs(config: Config) -> list[tuple[str, int]]:
  """Kind and batch of which gradients are measured.

  One batch is enough where it does not matter; (B - 2)/(B - 3) is seen best
  where B is least.
  """
  least, most = min(config.batches), max(config.batches)
  found = [
    (kind, batch)
    for kind in config.kinds
    for batch in (config.batches if kind == "batch" else (most,))
  ]
  return found + [("linear", least)] * ("batch" in config.kinds)


def _by_kind(items: list[tuple[str, int]], found: list[Any]) -> dict[str, Any]:
  result: dict[str, Any] = {kind: {} for kind, _ in items}
  for (kind, other), value in zip(items, found, strict=True):
    result[kind][str(other)] = value
  return result


def theory(config: Config, x: np.ndarray) -> dict[str, Any]:
  """What should come out, by kind: log₂ of second moments, growth."""
  sigma_w = HE * np.array(config.scales)
  forward = {
    kind: plain_forward(sigma_w, x, config.depths[0])
    if kind == "none"
    else forward_with_epsilon(
      kind, sigma_w, x, config.depths[0], config.epsilon
    )
    for kind in config.kinds
  }
  pairs = _pairs(config)
  growth = _by_kind(pairs, [gradient_growth(*pair) for pair in pairs])
  limit = {kind: gradient_growth(kind, None) for kind in growth}
  return {"forward": forward, "growth": growth, "limit": limit}


EXPERIMENT = Experiment(
  "normalization",
  Config,
  {"smoke": {"scales": (0.01, 0.1, 1.0, 100.0), "batches": (16,),
             "depths": (6,), "gradient_width": 128, "width": 32,
             "draws": 4,
             "seeds": 2, "steps": 40},
   "tpu": {"width": 512, "gradient_width": 1024, "draws": 64,
           "seeds": 32, "steps": 2000}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
