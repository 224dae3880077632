"""Training of residual networks, on labels and on the identity, jitted."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.common import training
from experiments.common.training import Budget
from experiments.residual.networks import Params, logits, stream
from experiments.residual.networks import draw as draw_one

Runs = dict[str, Any]
"""{"key", "batches", "rate": [runs], "scheme": a Scheme of [runs]}"""


@functools.partial(jax.jit, static_argnames=("features", "width", "blocks"))
def draw(runs: Runs, *, features: int, width: int, blocks: int) -> Params:
  """[runs] networks."""
  return jax.vmap(
    lambda key, scheme: draw_one(
      key, scheme, features=features, width=width, blocks=blocks
    )
  )(runs["key"], runs["scheme"])


@functools.partial(jax.jit, static_argnames=("budget",))
def courses(
  given: tuple[Params, Runs], data: training.Labelled, *, budget: Budget
) -> training.Course:
  """Training of [runs] networks on digits."""

  def one(params: Params, run: Runs) -> training.Course:
    apply = functools.partial(logits, run["scheme"])
    sgd, key = optax.sgd(run["rate"]), run["batches"]
    return training.train(apply, params, data, sgd, key, budget)

  return jax.vmap(one)(*given)


@functools.partial(jax.jit, static_argnames=("budget",))
def identities(
  given: tuple[Params, Runs], x: jax.Array, *, budget: Budget
) -> jax.Array:
  """Error of the identity while it is learnt, [runs, 1 + 20].

  The mean squared difference between outputs and inputs, over that of inputs.
  """
  size, (steps, batch, points) = (x**2).mean(), budget

  def one(params: Params, run: Runs) -> jax.Array:
    def loss(params: Params, x: jax.Array) -> jax.Array:
      h = stream(run["scheme"], params, x)
      return ((h - x) ** 2).mean() / size

    optimizer = optax.adam(run["rate"])

    def update(carry: Any, key: jax.Array) -> tuple[Any, None]:
      params, state = carry
      rows = jax.random.randint(key, (batch,), 0, len(x))
      changes, state = optimizer.update(jax.grad(loss)(params, x[rows]), state)
      return (optax.apply_updates(params, changes), state), None

    def block(carry: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
      carry = jax.lax.scan(update, carry, keys)[0]
      return carry, loss(carry[0], x)

    keys = jax.random.split(run["batches"], (points, steps // points))
    start = params, optimizer.init(params)
    later = jax.lax.scan(block, start, keys)[1]
    return jnp.concatenate([loss(params, x)[None], later])

  return jax.vmap(one)(*given)
