"""What is learnt by which model: images, bytes of source text, sums."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.training import Labelled
from experiments.data import datasets
from experiments.data.byte_text import source_text
from experiments.own_init.networks import Lstm, Mlp, ResNet, UNet, Vgg
from experiments.own_init.transformers import Gpt, Vit

WORDS, TOKENS = 24, 24
"""of sums of token and position"""
FAST = (3e-3, 1e-3, 1e-2)
"""rates of what learns slowly"""


class Task(NamedTuple):
  """A model, and what it learns: integers, one or more for each sample."""

  model: nn.Module
  data: Callable[[int, int], Labelled]
  """of a number of samples and a seed"""
  rates: tuple[float, ...] = (1e-3, 3e-4, 3e-3)
  """of Adam; the first is that of a single one"""


def digits(samples: int, seed: int) -> Labelled:
  """Images of handwritten digits, [samples, 8, 8, 1]."""
  data = datasets.load_labelled("digits", seed, flat=False)
  return data.first(samples)


def masks(samples: int, seed: int) -> Labelled:
  """Digits under noise twice as large; which of their pixels are ink."""
  clean = digits(samples, seed)
  noise = np.random.default_rng(seed)

  def seen(images: jax.Array) -> jax.Array:
    noisy = images + 2 * noise.standard_normal(images.shape)
    return jnp.asarray(noisy, jnp.float32) / 5**0.5

  def ink(images: jax.Array) -> jax.Array:
    return (images[..., 0] > 0).astype(jnp.int32)

  inputs, _, test, _ = clean
  return Labelled(seen(inputs), ink(inputs), seen(test), ink(test))


def sums(samples: int, seed: int) -> Labelled:
  """Token plus position, modulo the number of words."""
  shape = (2, samples, TOKENS)
  ids = np.random.default_rng(seed).integers(0, WORDS, shape, np.int32)
  found = np.asarray((ids + np.arange(TOKENS)) % WORDS, np.int32)
  arrays = map(jnp.asarray, (ids[0], found[0], ids[1], found[1]))
  return Labelled(*arrays).first(samples)


TASKS: dict[str, Task] = {
  "MLP, 40 layers, tanh": Task(Mlp(jnp.tanh), digits),
  "MLP, 40 layers, gelu": Task(Mlp(nn.gelu), digits),
  "VGG": Task(Vgg(), digits),
  "ResNet-18, no norm": Task(ResNet(normalized=False), digits),
  "ResNet-18, BatchNorm": Task(ResNet(normalized=True), digits),
  "GPT, tied, sums": Task(Gpt(WORDS, tied=True), sums, FAST),
  "GPT, bytes": Task(
    Gpt(128, tied=False, layers=3, width=32), source_text, FAST
  ),
  "ViT": Task(Vit(), digits),
  "LSTM": Task(Lstm(), digits, FAST),
  "U-Net": Task(UNet(), masks),
}


def apply(task: Task) -> Callable[[Any, jax.Array], jax.Array]:
  """The model as a function; what it notes of its batches is left out."""

  def logits(variables: Any, inputs: jax.Array) -> jax.Array:
    found, _ = task.model.apply(variables, inputs, mutable=["batch_stats"])
    return found

  return logits
