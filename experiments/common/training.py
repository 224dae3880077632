"""Training a network for a fixed budget, and watching it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Apply = Callable[[Any, jax.Array], jax.Array]
"""(params, inputs [batch, ...]) -> logits [batch, classes]"""


class Labelled(NamedTuple):
  """A data set: what is learnt from, and what is tested on."""

  inputs: jax.Array
  """[samples, features], or [samples, height, width, channels]"""
  labels: jax.Array
  """[samples] int32"""
  test_inputs: jax.Array
  test_labels: jax.Array

  def first(self, samples: int) -> "Labelled":
    """So many samples to learn from, and a quarter as many to test on."""
    few = max(1, samples // 4)
    sizes = (samples, samples, few, few)
    return Labelled(*(x[:n] for x, n in zip(self, sizes, strict=True)))


class Budget(NamedTuple):
  """How long a network is trained, and how often it is looked at."""

  steps: int
  """updates, a multiple of `points`"""
  batch: int
  """samples of each, drawn with replacement"""
  points: int = 20
  """how often the course is noted, beside the start"""


class Course(NamedTuple):
  """What was seen along the way: before the first step, then every so often."""

  loss: jax.Array
  """[points]: mean cross-entropy of the training data, nats"""
  accuracy: jax.Array
  """[points]: of the training data; NaN once the loss is no number"""
  test_accuracy: jax.Array
  """[points]: likewise"""
  probe: Any
  """what `probe(params)` gave, [points, ...]"""


def cross_entropy(
  apply: Apply, params: Any, inputs: jax.Array, labels: jax.Array
) -> jax.Array:
  """Mean cross-entropy, in nats."""
  losses = optax.softmax_cross_entropy_with_integer_labels(
    apply(params, inputs), labels
  )
  return losses.mean()


def train(
  apply: Apply,
  params: Any,
  data: Labelled,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  budget: Budget,
  probe: Callable[[Any], Any] = lambda params: (),
) -> Course:
  """Updates on random batches; pure, for `jit` and `vmap`.

  Losses that are no number stay so: a network that diverges is not stopped.

  Args:
    apply: the network.
    params: where it starts.
    data: all of it on the device.
    optimizer: its rate may be a traced number.
    key: for the choice of batches.
    budget: which is static.
    probe: whatever else is to be noted of the parameters.
  """
  steps, batch, points = budget
  if steps % points:
    raise ValueError(
      f"steps ({steps}) must be a multiple of points ({points})."
    )

  def update(carry: Any, step_key: jax.Array) -> tuple[Any, None]:
    params, state = carry
    rows = jax.random.randint(step_key, (batch,), 0, len(data.labels))
    gradients = jax.grad(cross_entropy, 1)(
      apply, params, data.inputs[rows], data.labels[rows]
    )
    changes, state = optimizer.update(gradients, state, params)
    return (optax.apply_updates(params, changes), state), None

  def block(carry: Any, keys: jax.Array) -> tuple[Any, Course]:
    carry, _ = jax.lax.scan(update, carry, keys)
    return carry, note(carry[0])

  def note(params: Any) -> Course:
    return observe(apply, params, data)._replace(probe=probe(params))

  start = note(params)
  keys = jax.random.split(key, (points, steps // points))
  carry = params, optimizer.init(params)
  joined = lambda one, many: jnp.concatenate([one[None], many])
  return jax.tree.map(joined, start, jax.lax.scan(block, carry, keys)[1])


def best_rate(loss: np.ndarray) -> int:
  """The rate with the least final loss, of [rates, seeds, points].

  Those that became no number come last.
  """
  final = loss[..., -1].mean(-1)
  return int(np.argmin(np.where(np.isfinite(final), final, np.inf)))


def observe(apply: Apply, params: Any, data: Labelled) -> Course:
  """One point of a course."""
  logits = apply(params, data.inputs)
  loss = optax.softmax_cross_entropy_with_integer_labels(
    logits, data.labels
  ).mean()

  def share_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
    right = (logits.argmax(-1) == labels).mean()
    return jnp.where(jnp.isfinite(loss), right, jnp.nan)

  test = share_right(apply(params, data.test_inputs), data.test_labels)
  return Course(loss, share_right(logits, data.labels), test, ())
