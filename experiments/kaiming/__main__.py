"""Why half, and why not average for ReLU?

Question: what does ReLU do to signals and gradients, which variance compensates
for it, by which fan, and what happens with Xavier's instead?

    python -m experiments.kaiming

measures random networks and trains others, dense and convolutional, on digits:
two minutes on 2 CPU cores. Expect that a leaky ReLU layer of Var W = 1/n keeps
(1 + a²)/2 of the signal; that 30 layers learn with He's weights and stay at
ln 10 with Xavier's; that 60 layers, narrow and wide in turn, learn by n_in and
by n_out but not by their average, which loses a factor in each layer; and that
weights of 0.01 shrink a gradient from conv10 to conv2 by 1.7·10⁴.

Reference: He et al. 2015, "Delving deep into rectifiers", Eqs. 10, 14, 15,
§2.2 and Fig. 3.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import fan_networks, training
from experiments.data import datasets
from experiments.kaiming import networks
from experiments.kaiming.networks import INITS, KINDS
from experiments.kaiming.show import claims, figure, tables
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job, divided
from experiments.runtime.launch import launch
from initjax import gains, initializers, stacks

MODES = ("fan_in", "fan_out", "fan_avg")
POINTS = 10


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to measure and to train."""

  slopes: tuple[float, ...] = option(
    (0.0, 0.25, 0.5, 0.75, 1.0), "Slopes of leaky ReLU below 0.", low=0
  )
  wide: int = option(256, "Width of measured networks.", low=2)
  narrow: int = option(64, "Every other layer's, where fans differ.", low=2)
  layers: int = option(15, "Layers of measured networks.", low=2)
  networks: int = option(64, "Measured networks of each kind.", low=2)
  kinds: tuple[str, ...] = option(KINDS, "What to train.", choices=KINDS)
  depths: tuple[int, ...] = option((10, 30), "Layers of each.", low=3)
  width: int = option(64, "Units of a layer.", low=1)
  turns: int = option(
    30, "Pairs of trained layers, narrow and wide in turn.", low=1
  )
  trained_narrow: int = option(48, "Their narrow layers.", low=1)
  trained_wide: int = option(384, "Their wide ones.", low=1)
  filters: tuple[int, ...] = option(
    (64, 64, 128, 128, 256, 256, 512, 512, 512, 512),
    "Of a convolutional network with weights of 0.01: conv1, conv2, ...",
    low=1,
    repeats=True,
  )
  channels: int = option(16, "Channels of a convolution.", low=1)
  seeds: int = option(4, "Trained networks of each kind.", low=2)
  steps: int = option(
    400, "Updates, a multiple of 10.", low=10, multiple=POINTS
  )
  rate: float = option(0.003, "Learning rate of SGD.", low=0)
  momentum: float = option(0.9, "Its momentum.", low=0)
  batch: int = option(32, "Images of each update; images measured.", low=2)
  dataset: str = option("digits", "What is learnt.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  @property
  def distinct_images(self) -> int:
    """Different training images that are wanted."""
    return self.batch


Runs = dict[str, jax.Array]


@functools.partial(jax.jit, static_argnames=("depth", "width"))
def leaky(runs: Runs, x: jax.Array, *, depth: int, width: int) -> Runs:
  """What a layer keeps if Var W = 1/n, forward and backward: [runs, depth-1].

  By the ratio of second moments from one layer to the next.
  """

  def one(run: Runs) -> Runs:
    key, cotangent_key = jax.random.split(run["key"])
    stack = stacks.mlp(
      depth=depth,
      width=width,
      activation=functools.partial(
        jax.nn.leaky_relu, negative_slope=run["slope"]
      ),
      kernel_init=initializers.lecun_normal(),
    )
    cotangent = jax.random.normal(cotangent_key, (len(x), width))
    params = stack.init(key, x.shape)
    signals = stacks.propagate(stack, params, x, cotangent)
    forward = jnp.diff(signals.forward.log2_second_moment)
    backward = -jnp.diff(signals.backward.log2_second_moment)
    return {"forward": 2**forward, "backward": 2**backward}

  return jax.vmap(one)(runs)


@functools.partial(
  jax.jit, static_argnames=("kind", "depth", "width", "init", "image")
)
def draw(keys: jax.Array, **options: Any) -> networks.Params:
  """[runs] networks, before training."""
  return jax.vmap(lambda key: networks.draw(key, **options))(keys)


@functools.partial(jax.jit, static_argnames=("config",))
def courses(
  drawn: tuple[networks.Params, jax.Array],
  data: training.Labelled,
  *,
  config: Config,
) -> training.Course:
  """Trains [runs] networks, from (parameters, keys for batches)."""

  def one(params: networks.Params, key: jax.Array) -> Any:
    optimizer, budget = _sgd(config)
    return training.train(networks.apply, params, data, optimizer, key, budget)

  return jax.vmap(one)(*drawn)


@functools.partial(jax.jit, static_argnames=("config",))
def alternating(
  runs: Runs, data: training.Labelled, *, config: Config
) -> training.Course:
  """Trains [runs] networks that are narrow and wide in turn."""
  features = math.prod(data.inputs.shape[1:])
  widths = config.trained_narrow, config.trained_wide
  sizes = (features, *widths, config.turns)

  def one(run: Runs) -> Any:
    key, batches = jax.random.split(run["key"])
    params = networks.draw_alternating(key, run["gains"], sizes)
    apply, (optimizer, budget) = networks.apply_alternating, _sgd(config)
    return training.train(apply, params, data, optimizer, batches, budget)

  return jax.vmap(one)(runs)


def _sgd(config: Config) -> tuple[Any, training.Budget]:
  budget = training.Budget(config.steps, config.batch, POINTS)
  return optax.sgd(config.rate, config.momentum), budget


def _turns(config: Config) -> Runs:
  """Every mode with every seed; gains of variance, up and down, over He's."""
  n, m = config.trained_narrow, config.trained_wide
  fan = fan_networks.fan
  gains = [(n / fan(mode, n, m), m / fan(mode, m, n)) for mode in MODES]
  return {
    "key": _keys(config, len(MODES) * config.seeds),
    "gains": jnp.repeat(jnp.array(gains, jnp.float32), config.seeds, 0),
  }


@functools.partial(jax.jit, static_argnames=("filters",))
def shrinkage(keys: jax.Array, *, filters: tuple[int, ...]) -> jax.Array:
  """Of [runs] networks with weights of 0.01."""
  one = functools.partial(networks.shrinkage, filters=filters, std=0.01, size=4)
  return jax.lax.map(one, keys)


def _slopes(config: Config) -> Runs:
  """Every slope with every network: arrays [slopes · networks]."""
  return {
    "key": _keys(config, config.networks * len(config.slopes)),
    "slope": jnp.repeat(jnp.array(config.slopes, jnp.float32), config.networks),
  }


def _keys(config: Config, count: int) -> jax.Array:
  return jax.random.split(jax.random.key(config.seed), count)


def _widths(config: Config) -> tuple[int, ...]:
  """Narrow and wide in turn."""
  pair = (config.narrow, config.wide)
  return tuple(pair[i % 2] for i in range(config.layers + 1))


def _data(config: Config) -> tuple[training.Labelled, jax.Array, Any]:
  """Images; some of them flat, of unit second moment; the shape of one."""
  data = datasets.load_labelled(config.dataset, config.seed, flat=False)
  x = fan_networks.unit_rows(data.inputs[: config.batch])
  return data, x, (1, *data.inputs.shape[1:])


_relu = functools.partial(fan_networks.through, activation=jax.nn.relu)


def run(config: Config, job: Job) -> Result:
  """Random networks by slope and by fan, then training."""
  data, x, image = _data(config)
  counts = np.bincount(np.asarray(data.labels))
  return {
    "config": dataclasses.asdict(config),
    "widths": _widths(config),
    **_learnt(config, job, data, image),
    **_measured(config, job, x),
    "classes": counts / counts.sum(),
    "theory": theory(config),
  }


def _measured(config: Config, job: Job, x: jax.Array) -> Result:
  """Random networks by slope and by fan, and with weights of 0.01."""

  def by_slope(_: str) -> Any:
    function = functools.partial(leaky, depth=config.layers, width=config.wide)
    found = job.spread(function, _slopes(config), x)
    return divided(found, len(config.slopes), config.networks)

  def by_fan(_: str) -> Any:
    keys, widths = _keys(config, config.networks), _widths(config)
    kinds = tuple((mode, "normal") for mode in MODES)
    given = {"widths": (x.shape[1], *widths), "scale": 2.0, "kinds": kinds}
    drawn = job.spread(
      functools.partial(fan_networks.draw_kinds, **given), keys
    )
    return {
      mode: job.spread(_relu, (kernels, keys), x)
      for mode, kernels in zip(MODES, drawn, strict=True)
    }

  def shrink(_: str) -> Any:
    function = functools.partial(shrinkage, filters=config.filters)
    return job.spread(function, _keys(config, config.seeds))

  (slopes,), (fans,) = job.map(by_slope, ["slopes"]), job.map(by_fan, ["fans"])
  (shrunk,) = job.map(shrink, ["weights of 0.01"])
  return {"slopes": slopes, "fans": fans, "shrunk": shrunk}


def _learnt(config: Config, job: Job, data: Any, image: Any) -> Result:
  """Courses by kind, depth and initializer, and of layers that take turns."""
  keys = _keys(config, config.seeds)

  def train(item: tuple[str, int]) -> Any:
    kind, depth = item
    width = config.width if kind == "mlp" else config.channels
    given = {"kind": kind, "depth": depth, "width": width, "image": image}
    found = {}
    for init in INITS:
      drawn = job.spread(functools.partial(draw, init=init, **given), keys)
      function = functools.partial(courses, config=config)
      course = job.spread(function, (drawn, keys), data)
      found[init] = course._replace(probe=())._asdict()
    return found

  def take_turns(_: str) -> Any:
    function = functools.partial(alternating, config=config)
    found = job.spread(function, _turns(config), data).loss
    rows = found.reshape(len(MODES), config.seeds, -1)
    return dict(zip(MODES, rows, strict=True))

  items = list(itertools.product(config.kinds, config.depths))
  found: dict[str, Any] = {kind: {} for kind in config.kinds}
  for (kind, depth), course in zip(items, job.map(train, items), strict=True):
    found[kind][str(depth)] = course
  (turns,) = job.map(take_turns, ["narrow and wide in turn"])
  return {"courses": found, "turns": turns}


def theory(config: Config) -> dict[str, Any]:
  """What a layer keeps and the gain for it, by slope; products of fans."""
  moments = [
    gains.moments(functools.partial(jax.nn.leaky_relu, negative_slope=a))
    for a in config.slopes
  ]
  return {
    "forward": np.array([m.second_moment for m in moments]),
    "backward": np.array([m.derivative_second_moment for m in moments]),
    "fans": {mode: fan_networks.law(_widths(config), mode) for mode in MODES},
  }


EXPERIMENT = Experiment(
  "kaiming",
  Config,
  {"smoke": {"wide": 64, "narrow": 32, "layers": 7, "networks": 16, "seeds": 8,
             "slopes": (0.0, 0.5, 1.0), "kinds": ("mlp",), "width": 32,
             "depths": (30,), "steps": 60, "rate": 0.02, "turns": 2,
             "trained_narrow": 8, "trained_wide": 16, "filters": (16, 32, 64)},
   "tpu": {"wide": 1024, "networks": 256, "width": 512, "channels": 64,
           "seeds": 16, "steps": 2000}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
