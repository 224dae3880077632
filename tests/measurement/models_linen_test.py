"""`measure` against Flax's own captures, on architectures of flax.linen."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from captures import Captured, assert_report, at_keys, filled, quick_jit
from flax import traverse_util
from small_models import normal

from initjax.measurement import measure

SEEN = ("intermediates", "perturbations")
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
RNGS = {"dropout": jax.random.key(2)}


# By hand: Flax shows outputs and adds zeros to them, the bias is subtracted.
# The gradient is the same before and after the bias.


def linen_captures(model, variables, x, cotangent, *, mutable=(), **options):
  """By `capture_intermediates`, and by `perturb` after every linear layer.

  Collections "intermediates" and "perturbations" must have an axis 0 in scans.
  """

  def apply(variables, *more):
    with nn.intercept_methods(perturb):
      return model.apply(
        variables,
        x,
        mutable=[*mutable, "intermediates", *more],
        capture_intermediates=is_linear,
        **options,
      )

  def run(nudges):
    outputs, seen = apply({**variables, "perturbations": nudges})
    return outputs, seen["intermediates"]

  _, shapes = jax.eval_shape(lambda: apply(variables, "perturbations"))
  nudges = jax.tree.map(jnp.zeros_like, shapes["perturbations"])
  _, pull_back, seen = jax.vjp(run, nudges, has_aux=True)
  (gradients,) = pull_back(cotangent)
  return by_kernel(variables["params"], seen, gradients)


def is_linear(module, method):
  layers = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.Embed)
  return isinstance(module, layers) and method in ("__call__", "attend")


def perturb(call, args, kwargs, context):
  """An interceptor: zeros are added to what a linear layer returns."""
  output = call(*args, **kwargs)
  if is_linear(context.module, context.method_name):
    return context.module.perturb(context.method_name, output)
  return output


def by_kernel(params, seen, gradients):
  """The report's paths, and outputs before their bias."""
  captured = Captured({}, {})
  for (*keys, method), (output,) in traverse_util.flatten_dict(seen).items():
    own = at_keys(params, keys)
    (leaf,) = set(own) - {"bias"}
    if "bias" in own and method == "__call__":
      scanned = any(name.startswith("Scan") for name in keys)
      subtract = jax.vmap(jnp.subtract) if scanned else jnp.subtract
      output = subtract(output, own["bias"])
    path = "/".join(("params", *keys, leaf))
    gradient = at_keys(gradients, (*keys, method))
    captured.outputs.setdefault(path, []).append(output)
    captured.gradients.setdefault(path, []).append(gradient)
  return captured


def check(model, x, *, mutable=(), by_hand=None, **options):
  """Compares every row with what Flax captures; returns the report.

  `by_hand` makes the captures, if not `linen_captures` of the model itself.
  """
  apply = functools.partial(model.apply, **options)
  if mutable:
    apply = functools.partial(apply, mutable=list(mutable))
  variables = filled(jax.eval_shape(model.init, KEYS, x))
  by_hand = by_hand or functools.partial(
    linen_captures, model, mutable=mutable, **options
  )
  outputs = jax.eval_shape(apply, variables, x)
  cotangent = normal(*(outputs[0] if mutable else outputs).shape)

  @quick_jit
  def both(variables, x, cotangent):
    report = measure(
      apply, variables, x, cotangent=cotangent, has_aux=bool(mutable)
    )
    return report, by_hand(variables, x, cotangent)

  report, captured = both(variables, x, cotangent)
  assert_report(report, captured)
  return report


class MLP(nn.Module):
  activation: Callable = nn.relu

  @nn.compact
  def __call__(self, x):
    for width in (16, 12):
      x = self.activation(nn.Dense(width)(x))
    return nn.Dense(3)(x)


def test_mlp():
  report = check(MLP(), normal(6, 8))
  assert len(report.graph) == 3
  assert report.backward[0].zeros > 0  # relu cuts, and they are counted


def test_what_is_not_finite_is_counted():
  """silu'(-inf) is no number, so the gradients of this sample are none."""
  x = normal(6, 8)
  x[2, 3] = np.inf
  report = check(MLP(nn.silu), x)
  assert report.forward[0].nonfinite == 16
  assert report.backward[0].nonfinite > 0


class ResidualBlock(nn.Module):
  width: int
  stride: int

  @nn.compact
  def __call__(self, x):
    norm = functools.partial(nn.BatchNorm, use_running_average=False)
    strides = (self.stride, self.stride)
    y = nn.relu(norm()(nn.Conv(self.width, (3, 3), strides=strides)(x)))
    y = norm()(nn.Conv(self.width, (3, 3))(y))
    if y.shape != x.shape:
      x = norm()(nn.Conv(self.width, (1, 1), strides=strides)(x))
    return nn.relu(x + y)


class ResNet(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(8, (3, 3), use_bias=False)(x)
    x = ResidualBlock(8, 1)(x)
    x = ResidualBlock(12, 2)(x)
    return nn.Dense(3)(x.mean((1, 2)))


def test_resnet_with_batch_norm_in_train_mode():
  report = check(ResNet(), normal(4, 8, 8, 3), mutable=("batch_stats",))
  assert len(report.graph) == 7
  assert [op.strides for op in report.graph].count((2, 2)) == 2


class TransformerBlock(nn.Module):
  @nn.compact
  def __call__(self, x):
    drop = nn.Dropout(0.2, deterministic=False)
    y = nn.MultiHeadDotProductAttention(
      2, dropout_rate=0.1, deterministic=False
    )(nn.LayerNorm()(x))
    x = x + drop(y)
    y = nn.Dense(16)(nn.LayerNorm()(x))
    return x + drop(nn.Dense(8)(nn.gelu(y)))


class Transformer(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(11, 8)
    x = embed(tokens)
    for _ in range(2):
      x = TransformerBlock()(x)
    return embed.attend(nn.LayerNorm()(x))


def test_transformer_with_dropout_and_a_tied_embedding():
  tokens = np.arange(10).reshape(2, 5) % 7
  report = check(Transformer(), tokens, rngs=RNGS)
  assert len(report.graph) == 14
  assert len({op.path for op in report.graph}) == 13  # the embedding twice


def test_lstm_has_a_row_for_every_step():
  model = nn.RNN(nn.LSTMCell(8), variable_axes=dict.fromkeys(SEEN, 0))
  report = check(model, normal(3, 5, 6))
  assert [op.repeats for op in report.graph] == [(5,)] * 8


def fused(captured):
  """The four gates side by side, one operation for x and one for h."""

  def fuse(arrays):
    return {
      ", ".join(paths): [jnp.concatenate([arrays[p][0] for p in paths], -1)]
      for side in "hi"
      for paths in [[f"params/cell/{side}{gate}/kernel" for gate in "ifgo"]]
    }

  return Captured(fuse(captured.outputs), fuse(captured.gradients))


def test_lstm_of_fused_gates():
  twin = nn.RNN(nn.LSTMCell(8), variable_axes=dict.fromkeys(SEEN, 0))

  def by_hand(variables, x, cotangent):
    return fused(linen_captures(twin, variables, x, cotangent))

  model = nn.RNN(nn.OptimizedLSTMCell(8))
  report = check(model, normal(3, 5, 6), by_hand=by_hand)
  assert [op.fan_in for op in report.graph] == [8, 6]


class Block(nn.Module):
  @nn.compact
  def __call__(self, h, _):
    y = nn.Dense(16)(nn.LayerNorm()(h))
    return h + nn.Dense(8)(nn.silu(y)), None


class Stack(nn.Module):
  @nn.compact
  def __call__(self, x):
    blocks = nn.scan(
      nn.remat(Block, prevent_cse=False),
      variable_axes=dict.fromkeys(("params", *SEEN), 0),
      split_rngs={"params": True},
      length=4,
    )
    return nn.Dense(3)(blocks()(nn.Dense(8)(x), None)[0])


def test_scanned_and_rematerialised_stack():
  report = check(Stack(), normal(6, 5))
  assert [op.repeats for op in report.graph] == [(), (4,), (4,), ()]
