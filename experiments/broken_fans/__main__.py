"""What happens when an initializer reads the wrong fans from a shape?

Question: how far does a signal get through a Flax model whose kernels have more
than two axes, with its own initializers, with `auto_init`, and after
`calibrate`?

    python -m experiments.broken_fans

sends real images through 12 blocks of layers whose default fans are wrong: half
a minute on 2 CPU cores. Expect that the signal ends at 2^-121 with Flax's own
He initializers and keeps its size with `auto_init`, apart from chance; after
`calibrate`, every operation has second moment 1, by construction.

Reference: He et al. 2015; Mishkin and Matas 2016.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import initjax
from experiments.common import plots
from experiments.common.tables import new_table
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

WAYS = ("he_normal", "auto_init", "calibrate")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What to send through which model."""

  blocks: int = option(12, "Of four layers each.", low=1)
  heads: int = option(8, "Parts of each layer.", low=1)
  width: int = option(64, "Features of each head.", low=1)
  seeds: int = option(8, "Draws of each.", low=2)
  batch: int = option(64, "Images.", low=1)
  dataset: str = option("digits", "What goes in.", choices=datasets.INPUTS)
  seed: int = option(0, "Of all random numbers.", low=0, high=2**31 - 1)


class Heads(nn.Module):
  """Blocks of layers, each a number of heads side by side."""

  blocks: int
  heads: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, features] → [batch, 10]."""
    he, width = nn.initializers.he_normal(), self.width
    square = (self.heads, width, width)
    x = nn.relu(nn.DenseGeneral((self.heads, width), kernel_init=he)(x))
    for block in range(self.blocks):
      x = nn.Einsum(square, "bhd,hdk->bhk", kernel_init=he, use_bias=False)(x)
      x = jnp.moveaxis(nn.relu(x), 1, 0)
      x = nn.DenseGeneral(width, batch_dims=(0,), kernel_init=he)(x)
      x = jnp.moveaxis(nn.relu(x), 0, 1)
      x = nn.ConvTranspose(width, (4,), strides=(2,), kernel_init=he)(x)
      x = nn.relu(x)[:, ::2]
      stack = self.param(f"stack_{block}", he, square)
      x = nn.relu(jnp.einsum("bhd,hdk->bhk", x, stack))
    return nn.DenseGeneral(10, axis=(-2, -1))(x)


@functools.partial(jax.jit, static_argnames=("config", "way"))
def second_moments(
  keys: jax.Array, inputs: jax.Array, *, config: Config, way: str
) -> jax.Array:
  """log₂ second moment of every operation's output: [seeds, operations]."""
  model = Heads(config.blocks, config.heads, config.width)
  shapes = jax.eval_shape(model.init, keys[0], inputs)
  blank = jax.tree.map(_zeros, shapes)

  def one(key: jax.Array) -> jax.Array:
    if way == "he_normal":
      params = model.init(key, inputs)
    else:
      params = initjax.auto_init(key, model.apply, blank, inputs)
    if way == "calibrate":
      params, _ = initjax.calibrate(model.apply, params, inputs)
    report = initjax.measure(model.apply, params, inputs)
    return jnp.stack([op.log2_second_moment for op in report.forward])

  return jax.vmap(one)(keys)


def _zeros(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
  """A value: of biases it stays, kernels are drawn."""
  return np.zeros(leaf.shape, leaf.dtype)


def run(config: Config, job: Job) -> Result:
  """Signals of all three: [seeds, operations]."""
  inputs = datasets.load_inputs(config.dataset, config.batch, config.seed)
  keys = jax.random.split(jax.random.key(config.seed), config.seeds)

  def measured(way: str) -> Any:
    function = functools.partial(second_moments, config=config, way=way)
    return job.spread(function, keys, inputs)

  found = job.map(measured, WAYS)
  return {
    "blocks": config.blocks,
    "width": config.width,
    "heads": config.heads,
    "log2_second_moment": dict(zip(WAYS, found, strict=True)),
  }


def tables(result: Result) -> list[Any]:
  """Sizes at the end of the model."""
  title = "log₂ second moment of the signal"
  headings = "first block", "last block", "± std", "least", "most"
  table = new_table(title, "initializer", *headings, left=1, box=None)
  for way, sizes in result["log2_second_moment"].items():
    last = np.asarray(sizes)[:, -2]
    numbers = (sizes[:, 4].mean(), last.mean(), last.std(ddof=1))
    extremes = np.asarray(sizes)[:, :-1]
    cells = (*numbers, extremes.min(), extremes.max())
    table.add_row(way, *(f"{cell + 0.0:.2f}" for cell in cells))
  return [table]


def figure(result: Result) -> Any:
  """Size by operation; unit second moment is what all three aim at."""
  drawn, ((axis,),) = plots.grid(1, 1)
  drawn.set_size_inches(7.5, 3.6)
  for (way, sizes), color in plots.colored(
    result["log2_second_moment"].items()
  ):
    layers = np.arange(1, sizes.shape[1] + 1)
    label = {
      "he_normal": "Flax's he_normal()",
      "calibrate": "auto_init, then calibrate",
    }.get(way, way)
    plots.line_with_band(axis, layers, sizes, color, label)
  plots.level(axis, 0, "unit second moment")
  axis.set_xlabel("linear operation")
  axis.set_ylabel("log₂ second moment of the signal")
  axis.legend()
  plots.setting(drawn, f"{len(sizes)} models; band: two standard errors")
  return drawn


def claims(result: Result) -> list[Claim]:
  """What a block keeps, by the fans that were read, but for chance.

  Three kernels for h heads lose a factor of h each where h is read into their
  fans, and the convolution its stride, 2.
  Calibrated, every operation has second moment 1 by construction: no claim.
  """
  width, blocks = result["width"], result["blocks"]
  drift = 4 * 2.5 / width / float(np.log(2))
  laws = {
    "he_normal": -1 - 3 * float(np.log2(result["heads"])),
    "auto_init": 0.0,
  }
  found = []
  for way, law in laws.items():
    sizes = np.asarray(result["log2_second_moment"][way], np.float64)
    mean, error = plots.mean_and_two_errors(
      (sizes[:, -2] - sizes[:, 0]) / blocks
    )
    found.append(
      Claim(
        "He et al. 2015, Eq. 10",
        f"{way}: log₂ of the signal, a block",
        law,
        mean,
        error + drift,
        "allowance",
        f"width {width} shifts four layers by up to {drift:.2g}",
      )
    )
  return found


EXPERIMENT = Experiment(
  "broken_fans",
  Config,
  {
    "smoke": {"blocks": 1, "seeds": 2, "batch": 8, "width": 16},
    "tpu": {"seeds": 64},
  },
  run, tables, figure, claims,
)  # fmt: skip

if __name__ == "__main__":
  launch(EXPERIMENT)
