"""Networks that start with equal weights, and what becomes of their units."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import training
from initjax import initializers

Params = list[jax.Array]
"""Kernels of a tanh network without biases, first to last; a leading axis of
runs where so said"""


class Start(NamedTuple):
  """Kernels are (constant + noise·N(0, 1))/fan_in + random·N(0, 1/fan_in)."""

  key: jax.Array
  constant: jax.Array
  noise: jax.Array
  random: jax.Array


@functools.partial(jax.jit, static_argnames=("shape",))
def draw(starts: Start, *, shape: tuple[int, ...]) -> Params:
  """[runs] networks; `shape` names features, units of each layer, classes."""
  unit = initializers.normal(1.0)
  lecun = initializers.lecun_normal()

  def one(start: Start) -> Params:
    params = []
    keys = jax.random.split(start.key, len(shape))
    for key, pair in zip(keys, itertools.pairwise(shape), strict=False):
      noise_key, random_key = jax.random.split(key)
      noise = start.noise * unit(noise_key, pair, jnp.float32)
      kernel = (start.constant + noise) / pair[0]
      params.append(kernel + start.random * lecun(random_key, pair))
    return params

  return jax.vmap(one)(starts)


def apply(params: Params, x: jax.Array) -> jax.Array:
  """Logits."""
  for kernel in params[:-1]:
    x = jnp.tanh(x @ kernel)
  return x @ params[-1]


def spread(params: Params) -> jax.Array:
  """By how much units of one layer differ: 0 if they are equal to the last bit.

  The greatest difference of a weight from that of the layer's first unit, of
  weights into units and out of them, over the kernel's largest.
  """
  found = []
  for index, kernel in enumerate(params):
    largest = jnp.maximum(jnp.abs(kernel).max(), jnp.finfo(kernel.dtype).tiny)
    if index < len(params) - 1:
      found.append(jnp.abs(kernel - kernel[:, :1]).max() / largest)
    if index > 0:
      found.append(jnp.abs(kernel - kernel[:1]).max() / largest)
  return jnp.stack(found).max()


def apart(params: Params) -> Params:
  """What tells units apart: kernels minus their means over the units."""
  found = []
  for index, kernel in enumerate(params):
    mean = kernel
    if index < len(params) - 1:
      mean = jnp.broadcast_to(mean.mean(1, keepdims=True), kernel.shape)
    if index > 0:
      mean = jnp.broadcast_to(mean.mean(0, keepdims=True), kernel.shape)
    found.append(kernel - mean)
  return found


def norm(params: Params) -> jax.Array:
  """Euclidean, of all kernels together."""
  return jnp.sqrt(jnp.stack([(kernel**2).sum() for kernel in params]).sum())


class Descent(NamedTuple):
  """Gradient descent on all data: [runs, steps + 1], but for the last."""

  loss: jax.Array
  accuracy: jax.Array
  spread: jax.Array
  asymmetry: jax.Array
  """over the norm of everything"""
  test_accuracy: jax.Array
  """[runs], at the end"""


@functools.partial(jax.jit, static_argnames=("rates", "steps"))
def descend(
  params: Params,
  data: training.Labelled,
  *,
  rates: tuple[float, ...],
  steps: int,
) -> tuple[Descent, Params]:
  """Trains [runs] networks, kernel l with the learning rate rates[l]."""

  def one(params: Params) -> tuple[Descent, Params]:
    def step(params: Params, _: None) -> tuple[Params, Any]:
      seen = _seen(params, data)
      return _update(params, data, rates), seen

    params, seen = jax.lax.scan(step, params, length=steps)
    seen = jax.tree.map(
      lambda many, last: jnp.append(many, last), seen, _seen(params, data)
    )
    right = apply(params, data.test_inputs).argmax(-1) == data.test_labels
    loss, accuracy, spread, relative = seen
    descent = Descent(loss, accuracy, spread, relative, right.mean())
    return descent, params

  return jax.vmap(one)(params)


def _update(
  params: Params, data: training.Labelled, rates: tuple[float, ...]
) -> Params:
  gradients = jax.grad(_loss)(params, data)
  return [p - r * g for p, r, g in zip(params, rates, gradients, strict=True)]


def _loss(params: Params, data: training.Labelled) -> jax.Array:
  return training.cross_entropy(apply, params, data.inputs, data.labels)


def _seen(
  params: Params, data: training.Labelled
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  right = apply(params, data.inputs).argmax(-1) == data.labels
  relative = norm(apart(params)) / jnp.maximum(norm(params), 1e-30)
  return _loss(params, data), right.mean(), spread(params), relative


def singular_values(kernels: Sequence[Any]) -> np.ndarray:
  """[runs, kernels, k] over the largest of each; padded by 0.

  By numpy, since XLA can hang where several CPU devices decompose batches.
  """
  longest = max(min(kernel.shape[1:]) for kernel in kernels)
  rows = []
  for kernel in kernels:
    kernel = np.asarray(kernel, np.float64)
    values = np.linalg.svd(kernel, compute_uv=False)
    values = values / np.maximum(values[:, :1], 1e-30)
    rows.append(np.pad(values, ((0, 0), (0, longest - values.shape[1]))))
  return np.stack(rows, axis=1)


@functools.partial(jax.jit, static_argnames=("rates", "steps"))
def linearized(
  pairs: tuple[Params, Params],
  data: training.Labelled,
  *,
  rates: tuple[float, ...],
  steps: int,
) -> jax.Array:
  """ln of the asymmetry that unit noise would grow to, [runs, steps + 1].

  Noise v of each symmetric network follows the derivative of the update along
  its path, v ← (1 - rates·H)·v, scaled down each time: nothing saturates it.
  Its symmetric part is apart from it in theory, and is removed each time.
  """

  def one(params: Params, noise: Params) -> jax.Array:
    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
      params, noise, log_scale = carry
      noise = apart(noise)
      size = norm(noise)
      log_scale += jnp.log(size)
      seen = log_scale - jnp.log(norm(params))
      noise = [leaf / size for leaf in noise]
      params, noise = jax.jvp(
        lambda params: _update(params, data, rates), (params,), (noise,)
      )
      return (params, noise, log_scale), seen

    start = params, noise, jnp.zeros(())
    return jax.lax.scan(step, start, length=steps + 1)[1]

  return jax.vmap(one)(*pairs)
