"""Deep linear networks: orthogonal ones learn as fast at any depth."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.claims import of_mean
from experiments.common.networks import UNIT
from experiments.common.tables import new_table
from experiments.common.training import Labelled
from experiments.runtime.experiment import Claim
from experiments.runtime.job import Job
from initjax import initializers

KINDS = {"orthogonal": initializers.orthogonal(), "Gaussian": UNIT}
WIDTH, CLASSES = 16, 10
DEPTHS = (4, 16, 64)
RATE = 0.1
"""times 1/depth, as the best rate goes"""
STEPS = 400
FASTER = 0.15
"""by which the exponent of the depth may differ from 0: modes of strength u
learn as u^(2 - 2/depth), which tends to its limit only"""


@functools.partial(jax.jit, static_argnames=("kind", "depth"))
def losses(
  keys: jax.Array, data: Labelled, *, kind: str, depth: int
) -> jax.Array:
  """½ mean square error over that of the least squares, [runs, STEPS].

  All layers have 16 units; the images' 16 leading components go in, white, so
  that gradient descent sees classes alone.
  """
  inputs = data.inputs - data.inputs.mean(0, keepdims=True)
  _, _, directions = jnp.linalg.svd(inputs, full_matrices=False)
  x = inputs @ directions[:WIDTH].T
  x = x / jnp.sqrt((x**2).mean(0, keepdims=True))
  targets = jax.nn.one_hot(data.labels, WIDTH) - 1 / CLASSES
  best = x.T @ targets / len(x)  # least squares, of white inputs

  def loss(kernels: jax.Array) -> jax.Array:
    total = jax.lax.scan(lambda p, k: (p @ k, None), jnp.eye(WIDTH), kernels)[0]
    return ((total - best) ** 2).sum() / 2

  def one(key: jax.Array) -> jax.Array:
    draw = lambda key: KINDS[kind](key, (WIDTH, WIDTH), jnp.float32)
    kernels = jax.lax.map(draw, jax.random.split(key, depth))

    def update(kernels: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
      value, gradient = jax.value_and_grad(loss)(kernels)
      return kernels - RATE / depth * gradient, value

    return jax.lax.scan(update, kernels, length=STEPS)[1]

  return jax.lax.map(one, keys)


def times(loss: np.ndarray) -> np.ndarray:
  """Updates until the loss [..., STEPS] is a tenth of the first, or inf.

  Between two updates its logarithm is interpolated.
  """
  over = np.log10(loss / loss[..., :1]) + 1
  last = np.maximum((over < 0).argmax(-1), 1)[..., None]
  before, after = (np.take_along_axis(over, last - i, -1) for i in (1, 0))
  found = (last - 1 + before / (before - after))[..., 0]
  return np.where((over < 0).any(-1), found, np.inf)


def measure(job: Job, data: Labelled, seed: int, seeds: int) -> dict[str, Any]:
  """Updates to learn, by kind: [depths, seeds]."""
  keys = jax.random.split(jax.random.key(seed), (len(DEPTHS), seeds))

  def at(place: tuple[str, int]) -> Any:
    kind, index = place
    call = functools.partial(losses, kind=kind, depth=DEPTHS[index])
    return times(job.undivided().spread(call, keys[index], data))

  places = [(kind, i) for kind in KINDS for i in range(len(DEPTHS))]
  found = np.stack(job.map(at, places)).reshape(len(KINDS), len(DEPTHS), seeds)
  return {"depths": DEPTHS, **dict(zip(KINDS, found, strict=True))}


def claim(found: dict[str, Any]) -> Claim:
  """From 16 layers on, where 2 - 2/depth is all but 2."""
  shallow, deep = np.log(found["orthogonal"][-2:])
  exponent = (deep - shallow) / np.log(DEPTHS[-1] / DEPTHS[-2])
  name = "exponent of depth in updates to learn, orthogonal linear networks"
  claim = of_mean("Saxe et al. 2014, §3", name, 0.0, exponent)
  return claim.allowing(FASTER, "the exponent 2 - 2/depth of its theory")


def table(found: dict[str, Any]) -> Any:
  """Updates until the loss is a tenth of the first."""
  shown = new_table("linear networks: updates to learn", "layers", *KINDS)
  for index, depth in enumerate(DEPTHS):
    medians = (np.median(found[kind][index]) for kind in KINDS)
    cells = (f"{m:.0f}" if np.isfinite(m) else "never" for m in medians)
    shown.add_row(str(depth), *cells)
  return shown
