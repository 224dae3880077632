"""What does Xavier balance?

Question: signals require weights of variance 1/n_in, and gradients 1/n_out;
what do each of these, their harmonic mean 2/(n_in + n_out) and their geometric
mean do to networks whose width changes? And for which activations does it work?

    python -m experiments.xavier

sends handwritten digits through random networks, forward and backward: half a
minute on 2 CPU cores. Expect, from 512 units to 32 in 8 linear layers, 2⁰ of
the signal and 2⁻⁴ of the gradient with 1/n_in, the reverse with 1/n_out, and
2^1.83 and 2^-2.17 with Xavier's mean. Through 5 hidden layers Xavier's
gradients shrink by 2^1.8 with tanh, but by 2^16.8 with the sigmoid, whose mean
is ½ and whose slope is ¼. Jacobians of tanh layers have singular values of mean
0.82 (published: 0.8), with standard weights 0.48 (0.5).

Reference: Glorot and Bengio 2010, "Understanding the difficulty of training
deep feedforward neural networks", Eqs. 1, 10-16, §4.2.1 and Fig. 7.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import fan_networks, training
from experiments.common.fan_networks import MODES
from experiments.data import datasets
from experiments.runtime.experiment import Experiment, Result, Settings, option
from experiments.runtime.job import Job
from experiments.runtime.launch import launch
from experiments.xavier.claims import claims, tables
from experiments.xavier.show import figure
from experiments.xavier.theory import ACTIVATIONS, INITS, squashed
from initjax.measurement import correlation

SHAPES = ("narrowing", "widening")
KINDS = (*((mode, "normal") for mode in MODES), ("fan_avg", "uniform"))
IMAGE = 0.1
"""second moment of the images where Jacobians are taken, as of MNIST's pixels
between 0 and 1: with it tanh bends little, as where theirs were"""
GRADIENT_BINS = np.linspace(-12, 0, 97)
"""of log₁₀ |gradient|"""


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to measure."""

  wide: int = option(512, "Width of a pyramid's base.", low=2)
  narrow: int = option(32, "Width of its top.", low=2)
  layers: int = option(8, "Linear layers between them.", low=1)
  pyramids: int = option(128, "Pyramids of each kind.", low=2)
  depth: int = option(5, "Hidden layers of networks that squash.", low=3)
  width: int = option(256, "Units of each.", low=2)
  seeds: int = option(8, "Such networks of each kind.", low=2)
  batch: int = option(256, "Images sent through each.", low=2)
  dataset: str = option("digits", "Which images.", choices=datasets.DATASETS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.narrow >= self.wide:
      raise ValueError(
        f"narrow ({self.narrow}) must be less than wide ({self.wide})."
      )

  @property
  def distinct_images(self) -> int:
    """Different training images that are wanted."""
    return self.batch


def widths_of(config: Config, shape: str) -> tuple[int, ...]:
  """Of a pyramid: each layer has about the same ratio to the last."""
  widths = np.geomspace(config.wide, config.narrow, config.layers + 1)
  found = tuple(round(n) for n in widths)
  return found if shape == "narrowing" else found[::-1]


@functools.partial(jax.jit, static_argnames=("widths",))
def draw(
  keys: jax.Array, *, widths: tuple[int, ...]
) -> dict[str, list[jax.Array]]:
  """Kernels of [runs] networks, by name in `INITS`, each drawn apart."""
  apart = jax.vmap(lambda key: jax.random.split(key, len(INITS)))(keys).T
  return {
    name: jax.vmap(lambda key, i=init: fan_networks.draw(key, widths, i))(one)
    for (name, init), one in zip(INITS.items(), apart, strict=True)
  }


@functools.partial(jax.jit, static_argnames=("activation",))
def squash(
  networks: list[jax.Array], data: training.Labelled, *, activation: str
) -> dict[str, jax.Array]:
  """[runs] networks with the digits' true loss: [runs, depth, ...].

  q is of pre-activations; correlation is that of two images; gradients are
  against the last hidden layer's, those of kernels for the loss of one image.
  """
  phi = ACTIVATIONS[activation]

  def loss(logits: jax.Array) -> jax.Array:
    rows = jnp.arange(len(logits))
    return -jax.nn.log_softmax(logits)[rows, data.labels].mean()

  def one(kernels: list[jax.Array]) -> dict[str, jax.Array]:
    seen = fan_networks.see(phi, kernels, data.inputs, loss)
    z, g = (jnp.stack(arrays[:-1]) for arrays in seen)  # [depth, batch, width]
    h, g2 = phi(z), (g**2).mean(-1)  # g2 [depth, batch]
    h2 = jnp.concatenate([(data.inputs**2).mean(-1)[None], (h**2).mean(-1)])
    return {
      "q": (z**2).mean((1, 2)),
      "mean": h.mean((1, 2)),
      "second_moment": h2[1:].mean(1),
      "correlation": jax.vmap(correlation)(h),
      "log2_gradient": _against_last(g2.mean(1)),
      "log2_kernel_gradient": _against_last((h2[:-1] * g2).mean(1)),
      "sizes": jax.vmap(lambda v: _shares(v, GRADIENT_BINS))(_log10(g)),
    }

  return jax.vmap(one)(networks)


@jax.jit
def singular_values(networks: list[jax.Array], image: jax.Array) -> jax.Array:
  """Of tanh's Jacobians ∂z_{l+1}/∂z_l at an image: [runs, depth - 1, width]."""

  def one(kernels: list[jax.Array]) -> jax.Array:
    z, jacobians = image @ kernels[0], []
    for kernel in kernels[1:-1]:
      h = jnp.tanh(z)
      jacobians.append((1 - h**2)[:, None] * kernel)
      z = h @ kernel
    return jnp.linalg.svd(jnp.stack(jacobians), compute_uv=False)

  return jax.vmap(one)(networks)


def _against_last(moments: jax.Array) -> jax.Array:
  return jnp.log2(moments) - jnp.log2(moments[-1])


def _log10(g: jax.Array) -> jax.Array:
  return jnp.log10(jnp.maximum(jnp.abs(g), 1e-30))


def _shares(values: jax.Array, bins: np.ndarray) -> jax.Array:
  """Share of the values in each bin; those beyond count in the outer ones."""
  inside = jnp.clip(values, bins[0], bins[-1])
  return jnp.histogram(inside, jnp.asarray(bins))[0] / values.size


def _data(config: Config) -> training.Labelled:
  data = datasets.load_labelled(config.dataset, config.seed)
  return data._replace(
    inputs=fan_networks.unit_rows(data.inputs)[: config.batch],
    labels=data.labels[: config.batch],
  )


def _keys(config: Config, count: int, part: int = 0) -> jax.Array:
  """Of networks; other parts of the run have others."""
  key = jax.random.fold_in(jax.random.key(config.seed), part)
  return jax.random.split(key, count)


def _widths(config: Config, features: int) -> tuple[int, ...]:
  """Of networks that squash, data and classes included."""
  return (features, *[config.width] * config.depth, 10)


def linear(z: jax.Array) -> jax.Array:
  """What Xavier's derivation takes an activation to be."""
  return z


_pyramid = functools.partial(fan_networks.through, activation=linear)


def run(config: Config, job: Job) -> Result:
  """Pyramids by shape, mode and distribution; networks that squash."""
  data = _data(config)
  return {
    "config": dataclasses.asdict(config),
    "widths": {shape: widths_of(config, shape) for shape in SHAPES},
    "pyramids": _pyramids(config, job, data.inputs),
    **_squashed(config, job, data),
    "theory": theory(config, np.asarray(data.inputs)),
    "bins": GRADIENT_BINS,
  }


def _pyramids(config: Config, job: Job, inputs: jax.Array) -> Result:
  """By shape, mode and distribution."""
  features = inputs.shape[1]

  def pyramid(shape: str) -> Any:
    keys = _keys(config, config.pyramids, SHAPES.index(shape))
    widths = (features, *widths_of(config, shape))
    given = {"widths": widths, "scale": 1.0, "kinds": KINDS}
    drawn = job.spread(
      functools.partial(fan_networks.draw_kinds, **given), keys
    )
    found: dict[str, Any] = {mode: {} for mode in MODES}
    for (mode, distribution), kernels in zip(KINDS, drawn, strict=True):
      found[mode][distribution] = job.spread(_pyramid, (kernels, keys), inputs)
    return found

  return dict(zip(SHAPES, job.map(pyramid, SHAPES), strict=True))


def _squashed(config: Config, job: Job, data: training.Labelled) -> Result:
  """What networks that squash do, by activation; and Jacobians of tanh's."""
  widths = _widths(config, data.inputs.shape[1])
  draws = functools.partial(draw, widths=widths)

  def squashing(activation: str) -> Any:
    part = len(SHAPES) + list(ACTIVATIONS).index(activation)
    networks = job.spread(draws, _keys(config, config.seeds, part))
    found = {}
    for init, kernels in networks.items():
      function = functools.partial(squash, activation=activation)
      found[init] = job.spread(function, kernels, data)
      found[init]["sizes"] = found[init]["sizes"].mean(0)
    return found

  def jacobians(_: str) -> Any:
    keys = _keys(config, config.seeds, len(SHAPES) + len(ACTIVATIONS))
    image = math.sqrt(IMAGE) * data.inputs[0]
    return {
      init: job.undivided().spread(singular_values, kernels, image)
      for init, kernels in job.spread(draws, keys).items()
    }

  squashes = job.map(squashing, ACTIVATIONS)
  (values,) = job.map(jacobians, ["Jacobians"])
  return {
    "squashed": dict(zip(ACTIVATIONS, squashes, strict=True)),
    "singular_values": values,
  }


def theory(config: Config, inputs: np.ndarray) -> dict[str, Any]:
  """By shape and mode of pyramids; by activation and init of the others."""
  widths = _widths(config, inputs.shape[1])[:-1]
  shared = float(correlation(jnp.asarray(inputs)))
  return {
    "pyramids": {
      shape: {
        mode: fan_networks.law(widths_of(config, shape), mode) for mode in MODES
      }
      for shape in SHAPES
    },
    "squashed": {
      name: {init: squashed(name, init, widths, shared) for init in INITS}
      for name in ACTIVATIONS
    },
  }


EXPERIMENT = Experiment(
  "xavier",
  Config,
  {"smoke": {"wide": 64, "narrow": 16, "layers": 3, "pyramids": 64,
             "width": 64, "seeds": 8, "batch": 64},
   "tpu": {"wide": 2048, "narrow": 128, "pyramids": 256, "width": 1000,
           "seeds": 64, "batch": 1024}},
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
