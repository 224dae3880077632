"""What is learnt by which model: images, bytes of source text, sums."""

import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import _datasets
from experiments._own_init_networks import Lstm, Mlp, ResNet, UNet, Vgg
from experiments._own_init_transformers import Gpt, Vit
from experiments._training import Labelled

WORDS, TOKENS = 24, 24
"""of sums of token and position"""
MODULES = ("argparse", "ast", "inspect", "pathlib", "subprocess", "tarfile")
"""of Python's standard library, whose text is learnt"""
LENGTH = 32
"""bytes of a sample"""
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
  data = _datasets.load_labelled("digits", seed, flat=False)
  return _cut(data, samples)


def _cut(data: Labelled, samples: int) -> Labelled:
  """So many that are learnt, and a quarter as many to test."""
  inputs, labels, test, test_labels = data
  few = max(1, samples // 4)
  return Labelled(
    inputs[:samples], labels[:samples], test[:few], test_labels[:few]
  )


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
  return _cut(Labelled(*arrays), samples)


def source_text(samples: int, seed: int) -> Labelled:
  """The next byte of Python source; what is not ASCII is 127."""
  data = np.frombuffer(_text(), np.uint8).clip(max=127).astype(np.int32)
  starts = np.random.default_rng(seed).integers(
    0, len(data) - LENGTH - 1, 2 * samples
  )
  rows = data[starts[:, None] + np.arange(LENGTH + 1)]
  first, second = jnp.asarray(rows[:samples]), jnp.asarray(rows[samples:])
  parts = first[:, :-1], first[:, 1:], second[:, :-1], second[:, 1:]
  return _cut(Labelled(*parts), samples)


@functools.cache
def _text() -> bytes:
  found = [importlib.util.find_spec(name) for name in MODULES]
  paths = [spec.origin for spec in found if spec and spec.origin]
  return b"".join(pathlib.Path(path).read_bytes() for path in paths)


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
