"""Networks whose gradient or loss explodes, by three causes; and clipping."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from experiments.common import networks, training
from experiments.common.training import Budget
from initjax import initializers, stacks
from initjax.measurement import largest_eigenvalue

Run = dict[str, jax.Array]
"""Of one network: key, sigma_w2; and what the function names"""

CLIPPING = ("none", "by value", "by global norm", "by block")
"""What is done to gradients; "by block": root mean square of each kernel"""


def network(sigma_w2: Any, depth: int, width: int) -> stacks.Stack:
  """z₁ = x·W₁, z_l = relu(z_{l-1})·W_l, with W of variance σ_w²/fan_in."""
  return stacks.mlp(
    depth=depth,
    width=width,
    activation=jax.nn.relu,
    kernel_init=networks.truncated(sigma_w2),
  )


@functools.partial(jax.jit, static_argnames=("depth", "width"))
def sizes(runs: Run, inputs: jax.Array, *, depth: int, width: int) -> jax.Array:
  """log₂ of the gradient's root mean square, [runs, depth], last layer first.

  Of a unit-normal cotangent at the output.
  """

  def one(run: Run) -> jax.Array:
    net_key, cotangent_key = jax.random.split(run["key"])
    stack = network(run["sigma_w2"], depth, width)
    params = stack.init(net_key, inputs.shape)
    cotangent = jax.random.normal(cotangent_key, (len(inputs), width))
    signals = stacks.propagate(stack, params, inputs, cotangent)
    return signals.backward.log2_second_moment[::-1] / 2

  return jax.vmap(one)(runs)


class Descent(NamedTuple):
  """Gradient descent on all data at once, at a rate of factor·2/λ_max."""

  loss: jax.Array
  """[runs, steps + 1]"""
  start: jax.Array
  """[runs]: λ_max of the loss's Hessian before the first update"""
  end: jax.Array
  """[runs]: after the last"""


@functools.partial(
  jax.jit, static_argnames=("widths", "steps", "lanczos_steps")
)
def descents(
  runs: Run,
  data: training.Labelled,
  *,
  widths: tuple[int, ...],
  steps: int,
  lanczos_steps: int,
) -> Descent:
  """ReLU networks of He's weights and half the mean square error.

  No hidden layer (`widths` empty) gives a quadratic loss: linear regression.
  """
  targets = jax.nn.one_hot(data.labels, 10) - 0.1
  init = initializers.variance_scaling(2.0, "fan_in", "normal")
  shape = (data.inputs.shape[1], *widths, 10)

  def loss_of(params: list[jax.Array]) -> jax.Array:
    h = data.inputs
    for kernel in params[:-1]:
      h = jax.nn.relu(h @ kernel)
    return ((h @ params[-1] - targets) ** 2).sum(-1).mean() / 2

  def one(run: Run) -> Descent:
    keys = jax.random.split(run["key"], len(shape))
    params: Any = [
      init(key, pair, jnp.float32)
      for key, pair in zip(keys[1:], itertools.pairwise(shape), strict=True)
    ]
    start = largest_eigenvalue(loss_of, params, keys[0], steps=lanczos_steps)
    rate = run["factor"] * 2 / start

    def update(params: Any, _: None) -> tuple[Any, jax.Array]:
      loss, gradients = jax.value_and_grad(loss_of)(params)
      return jax.tree.map(lambda p, g: p - rate * g, params, gradients), loss

    params, losses = jax.lax.scan(update, params, length=steps)
    losses = jnp.append(losses, loss_of(params))
    end = largest_eigenvalue(loss_of, params, keys[0], steps=lanczos_steps)
    return Descent(losses, start, end)

  return jax.vmap(one)(runs)


def clipped(kind: jax.Array, limit: jax.Array, size: int) -> Any:
  """That at the (traced) place `kind` of CLIPPING, for `size` parameters.

  All allow a global norm of exactly `limit`, "by value" and "by block" as
  limit/√size for each entry.
  """
  each = limit / size**0.5
  by_value, by_block = optax.clip(each), optax.clip_by_block_rms(each)
  by_norm = optax.clip_by_global_norm(limit)
  choices = (optax.identity(), by_value, by_norm, by_block)

  def update(gradients: Any, state: Any, params: Any = None) -> Any:
    found = [
      choice.update(gradients, choice.init(gradients))[0] for choice in choices
    ]
    select = functools.partial(jax.lax.select_n, kind)
    return jax.tree.map(select, *found), state

  return optax.GradientTransformation(lambda params: (), update)


@functools.partial(jax.jit, static_argnames=("depth", "width", "budget"))
def courses(
  runs: Run, data: training.Labelled, *, depth: int, width: int, budget: Budget
) -> training.Course:
  """Training with SGD; a run also has rate, clipping and limit.

  The probe is whether all parameters are finite.
  """

  def one(run: Run) -> training.Course:
    net_key, last_key, batches = jax.random.split(run["key"], 3)
    stack = network(run["sigma_w2"], depth - 1, width)
    scale = jnp.sqrt(run["sigma_w2"] / width)
    params = (
      stack.init(net_key, data.inputs.shape),
      scale * jax.random.normal(last_key, (width, 10)),
    )

    def apply(params: Any, x: jax.Array) -> jax.Array:
      return jax.nn.relu(stack.apply(params[0], x)) @ params[1]

    return _trained(run, apply, params, data, batches, budget)

  return jax.vmap(one)(runs)


def _recurrent(pause: int, params: Any, x: jax.Array) -> jax.Array:
  """Logits after the rows of an image, and a pause of so many steps."""
  recurrent, first, last = params
  rows = jnp.moveaxis(x.reshape(len(x), 8, -1), 1, 0)  # [time, batch, row]
  rows = jnp.concatenate([rows, jnp.zeros((pause, *rows.shape[1:]))])

  def step(h: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
    return jnp.tanh(h @ recurrent + row @ first), None

  return jax.lax.scan(step, jnp.zeros((len(x), len(recurrent))), rows)[0] @ last


@functools.partial(jax.jit, static_argnames=("pause", "width", "budget"))
def recurrent_courses(
  runs: Run, data: training.Labelled, *, pause: int, width: int, budget: Budget
) -> training.Course:
  """The same of recurrent networks, h_t = tanh(h_{t-1}·W + x_t·U).

  They read an image of 64 pixels as eight rows, then wait for `pause` steps
  before they answer; W has variance σ_w²/width.
  """
  apply = functools.partial(_recurrent, pause)

  def one(run: Run) -> training.Course:
    *keys, batches = jax.random.split(run["key"], 4)
    shapes = (width, width), (data.inputs.shape[1] // 8, width), (width, 10)
    scales = jnp.array([run["sigma_w2"], 1.0, 1.0]) ** 0.5
    params = tuple(
      scale * networks.UNIT(key, shape, jnp.float32)
      for key, shape, scale in zip(keys, shapes, scales, strict=True)
    )
    return _trained(run, apply, params, data, batches, budget)

  return jax.vmap(one)(runs)


def _trained(
  run: Run,
  apply: training.Apply,
  params: Any,
  data: training.Labelled,
  key: jax.Array,
  budget: Budget,
) -> training.Course:
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  clip = clipped(run["clipping"], run["limit"], size)

  def finite(params: Any) -> jax.Array:
    return jnp.isfinite(ravel_pytree(params)[0]).all()

  optimizer = optax.chain(clip, optax.sgd(run["rate"]))
  return training.train(apply, params, data, optimizer, key, budget, finite)
