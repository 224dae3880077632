"""Models that the command line is asked for, by `cli_test`."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx

flags.DEFINE_integer("seeds", 3, "A flag of the user's own, of our name.")
WIDTH = flags.DEFINE_integer("width", 16, "Of the hidden layer.")


class Linen(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=False)(nn.Dense(16)(x))
    x = nn.Dropout(0.5, deterministic=False)(nn.relu(x))
    return nn.Dense(4)(x)


linen = Linen()
plain = nn.Dense(4)


class Plain(nn.Dense):
  features: int = 4


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.layer = nnx.Linear(8, 4, rngs=rngs)

  def __call__(self, x):
    return nnx.relu(self.layer(x))


module = Nnx(nnx.Rngs(0))
pair = (lambda params, x: x @ params["w"], {"w": jnp.ones((8, 4))})


def from_key(key):
  return pair[0], {"w": jax.random.normal(key, (8, WIDTH.value))}


from_seed = lambda *, seed=0: from_key(jax.random.key(seed))
from_rngs = lambda rngs: Nnx(rngs)
without_arguments = lambda: plain
wide = lambda width, depth=2: plain
broken = lambda: {}["depth"]


def wrong_shape(params, x):
  return x @ jnp.ones((3, 3)) + params


class Flagged(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(4)(x)


flagged = Flagged()
wrong_pair = (wrong_shape, jnp.ones(()))
number = 3


class Holder:
  model = plain


class Transform(NamedTuple):  # as Haiku's
  init: Callable
  apply: Callable


transform = Transform(pair[0], pair[0])
