"""`measure` against Flax's own captures, on architectures of flax.nnx."""

import contextlib
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from captures import (
  Captured,
  assert_report,
  at_keys,
  filled,
  quick_jit,
  stacked,
)
from flax import nnx
from small_models import normal

from initjax.graph import functional
from initjax.measurement import measure


def built(make):
  """A module with numbers filled in."""
  structure, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  return nnx.merge(structure, filled(state))


# By hand: Flax shows outputs and adds zeros to them, the bias is subtracted.
# The gradient is the same before and after the bias.


def nnx_captures(module, x, cotangent):
  """By `nnx.capture`, with `perturb` after every linear layer of `module`."""
  structure, state = nnx.split(module)

  def run(nudges):
    forward = nnx.capture(
      lambda module: module(x),
      nnx.Perturbation,
      nnx.Intermediate,
      init=nudges,
      method_outputs=nnx.Intermediate,
    )
    with perturbed_layers():
      outputs, nudges, seen = forward(nnx.merge(structure, state, copy=True))
    return outputs, (nudges, seen)

  _, (shapes, _) = jax.eval_shape(lambda: run(None))
  nudges = jax.tree.map(jnp.zeros_like, shapes)
  _, pull_back, (_, seen) = jax.vjp(run, nudges, has_aux=True)
  (gradients,) = pull_back(cotangent)
  params = nnx.to_pure_dict(nnx.filter_state(state, nnx.Param))
  return by_kernel(params, seen, gradients)


@contextlib.contextmanager
def perturbed_layers():
  """Linear layers add zeros to what they return."""
  layers = (nnx.Linear, nnx.LinearGeneral, nnx.Conv, nnx.Embed)
  with contextlib.ExitStack() as stack:
    for layer, method in itertools.product(layers, ("__call__", "attend")):
      if hasattr(layer, method):
        nudged = perturbed(getattr(layer, method), method)
        stack.enter_context(mock.patch.object(layer, method, nudged))
    yield


def perturbed(call, method):
  def nudged(self, *args, **kwargs):
    return self.perturb(f"after {method}", call(self, *args, **kwargs))

  return nudged


def by_kernel(params, seen, gradients):
  """The report's paths, and outputs before their bias."""
  captured = Captured({}, {})
  outputs = dict(nnx.to_flat_state(seen))
  for (*keys, nudge), gradient in nnx.to_flat_state(gradients):
    own = at_keys(params, keys)
    (leaf,) = set(own) - {"bias"}
    method = nudge.removeprefix("after ")
    (output,) = outputs[(*keys, method)].get_value()
    if method == "__call__":
      output = output - own.get("bias", 0)
    path = "/".join(map(str, (*keys, leaf)))
    captured.outputs.setdefault(path, []).append(output)
    captured.gradients.setdefault(path, []).append(gradient.get_value())
  return captured


def check(module, x, *, by_hand=None):
  """Compares every row with what Flax captures; returns the report.

  `by_hand` makes the captures from a cotangent, where a scan is unrolled.
  """
  fn, params = functional(module)
  cotangent = normal(*jax.eval_shape(fn, params, x).shape)
  if by_hand is None:
    by_hand = functools.partial(nnx_captures, module, x)

  @quick_jit
  def both(params, cotangent):
    return measure(fn, params, x, cotangent=cotangent), by_hand(cotangent)

  report, captured = both(params, cotangent)
  assert_report(report, captured)
  return report


class ResidualBlock(nnx.Module):
  def __init__(self, features, width, stride, rngs):
    conv = functools.partial(nnx.Conv, rngs=rngs)
    norm = functools.partial(nnx.BatchNorm, rngs=rngs)
    self.first = conv(features, width, (3, 3), strides=stride)
    self.second = conv(width, width, (3, 3))
    projected = stride > 1
    self.norms = nnx.List([norm(width) for _ in range(2 + projected)])
    self.skip = (
      conv(features, width, (1, 1), strides=stride) if projected else None
    )

  def __call__(self, x):
    y = nnx.relu(self.norms[0](self.first(x)))
    y = self.norms[1](self.second(y))
    if self.skip is not None:
      x = self.norms[2](self.skip(x))
    return nnx.relu(x + y)


class ResNet(nnx.Module):
  def __init__(self, rngs):
    self.stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
    self.blocks = nnx.List(
      [ResidualBlock(8, 8, 1, rngs), ResidualBlock(8, 12, 2, rngs)]
    )
    self.head = nnx.Linear(12, 3, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for block in self.blocks:
      x = block(x)
    return self.head(x.mean((1, 2)))


def test_resnet_with_batch_norm_in_train_mode():
  report = check(built(ResNet), normal(4, 8, 8, 3))
  assert len(report.graph) == 7
  assert [op.strides for op in report.graph].count((2, 2)) == 2


class TransformerBlock(nnx.Module):
  def __init__(self, rngs, dropout=0.2):
    self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs) for _ in range(2)])
    self.attention = nnx.MultiHeadAttention(
      2, 8, dropout_rate=dropout, deterministic=False, decode=False, rngs=rngs
    )
    self.up = nnx.Linear(8, 16, rngs=rngs)
    self.down = nnx.Linear(16, 8, rngs=rngs)
    self.drop = nnx.Dropout(dropout, deterministic=False, rngs=rngs)

  def __call__(self, x):
    x = x + self.drop(self.attention(self.norms[0](x)))
    return x + self.drop(self.down(nnx.gelu(self.up(self.norms[1](x)))))


class Transformer(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Embed(11, 8, rngs=rngs)
    self.blocks = nnx.List([TransformerBlock(rngs) for _ in range(2)])
    self.norm = nnx.LayerNorm(8, rngs=rngs)

  def __call__(self, tokens):
    x = self.embed(tokens)
    for block in self.blocks:
      x = block(x)
    return self.embed.attend(self.norm(x))


def test_transformer_with_dropout_and_a_tied_embedding():
  tokens = np.arange(10).reshape(2, 5) % 7
  report = check(built(Transformer), tokens)
  assert len(report.graph) == 14
  assert len({op.path for op in report.graph}) == 13  # the embedding twice


class Steps(nnx.Module):
  """A recurrent cell unrolled: a copy for each step."""

  def __init__(self, cell, length):
    self.cell = nnx.List([nnx.clone(cell) for _ in range(length)])

  def __call__(self, x):
    carry = (jnp.zeros((len(x), 8)), jnp.zeros((len(x), 8)))
    hidden = []
    for step, cell in enumerate(self.cell):
      carry, y = cell(carry, x[:, step])
      hidden.append(y)
    return jnp.stack(hidden, axis=1)


def test_lstm_has_a_row_for_every_step():
  model = built(
    lambda rngs: nnx.RNN(nnx.OptimizedLSTMCell(6, 8, rngs=rngs), rngs=rngs)
  )

  def by_hand(cotangent):
    twin = Steps(model.cell, 5)
    return stacked(nnx_captures(twin, x, cotangent))

  x = normal(3, 5, 6)
  report = check(model, x, by_hand=by_hand)
  assert [op.repeats for op in report.graph] == [(5,)] * 2


class Block(nnx.Module):
  def __init__(self, rngs):
    self.norm = nnx.LayerNorm(8, rngs=rngs)
    self.up = nnx.Linear(8, 16, rngs=rngs)
    self.down = nnx.Linear(16, 8, rngs=rngs)

  def __call__(self, h):
    return h + self.down(nnx.silu(self.up(self.norm(h))))


class Stack(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(5, 8, rngs=rngs)
    make = nnx.vmap(Block, in_axes=0, out_axes=0)
    self.blocks = make(rngs.split(4))
    self.last = nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, x):
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    @nnx.remat
    def layer(block, h):
      return block(h)

    return self.last(layer(self.blocks, self.first(x)))


class Unrolled(nnx.Module):
  """The same, in a list."""

  def __init__(self, model, length):
    self.first, self.last = model.first, model.last
    structure, state = nnx.split(model.blocks)
    self.blocks = nnx.List(
      [
        nnx.merge(structure, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        for i in range(length)
      ]
    )

  def __call__(self, x):
    x = self.first(x)
    for block in self.blocks:
      x = block(x)
    return self.last(x)


def test_scanned_and_rematerialised_stack():
  x = normal(6, 5)
  model = built(Stack)

  def by_hand(cotangent):
    twin = Unrolled(nnx.clone(model), 4)
    return stacked(nnx_captures(twin, x, cotangent))

  report = check(model, x, by_hand=by_hand)
  assert [op.repeats for op in report.graph] == [(), (4,), (4,), ()]
