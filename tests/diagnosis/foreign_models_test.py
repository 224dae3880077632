"""Models nobody here wrote: from Equinox and Haiku, where they are installed.

Equinox models are written out by hand; Haiku shows the outputs of its modules
to an interceptor.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captures import assert_report, captures, filled, quick_jit
from small_models import normal

from initjax.graph import functional
from initjax.measurement import measure

pytestmark = pytest.mark.slow


def package(name):
  """A package, or the reason why there is none."""
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    pytest.skip(f"needs a model of {name}: {error}")
  except Exception as error:  # made for another jax
    pytest.skip(f"{name} does not import with jax {jax.__version__}: {error!r}")


@pytest.fixture
def eqx():
  return package("equinox")


@pytest.fixture
def hk():
  return package("haiku")


def check(fn, params, x, by_hand, *, has_aux=False):
  """Compares every row; every parameter is used, and none of it hidden."""
  outputs = jax.eval_shape(fn, params, x)
  cotangent = normal(*(outputs[0] if has_aux else outputs).shape)

  @quick_jit
  def both(params, cotangent):
    report = measure(fn, params, x, cotangent=cotangent, has_aux=has_aux)
    return report, captures(functools.partial(by_hand, params), cotangent)

  report, captured = both(params, cotangent)
  assert_report(report, captured)
  graph = report.graph
  used = {op.path for op in graph} | set(graph.elementwise)
  assert len(used) == len(jax.tree.leaves(params))
  assert not graph.unused
  return {op.path: (op.fan_in, op.fan_out) for op in graph}


def built(eqx, make):
  """An Equinox module with numbers filled in, as a function of a batch."""
  module = eqx.filter_eval_shape(make, jax.random.key(0))
  is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
  shapes, others = eqx.partition(module, is_shape)
  fn, params = functional(eqx.combine(filled(shapes), others))
  return lambda p, *x: jax.vmap(functools.partial(fn, p))(*x), params


def test_equinox_mlp(eqx):
  fn, params = built(eqx, lambda key: eqx.nn.MLP(5, 3, 8, 2, key=key))
  x = normal(6, 5)

  def by_hand(params, see):
    h = x
    for index, layer in enumerate(params.layers):
      z = see(f"layers/{index}/weight", h @ layer.weight.T)
      h = jax.nn.relu(z + layer.bias)
    return z + layer.bias

  fans = check(fn, params, x, by_hand)
  assert list(fans.values()) == [(5, 8), (8, 8), (8, 3)]


def test_equinox_attention(eqx):
  make = lambda key: eqx.nn.MultiheadAttention(2, 8, key=key)
  attend, params = built(eqx, make)
  x = normal(3, 5, 8)  # [batch, time, features]

  def by_hand(params, see):
    def project(name, x):
      return see(f"{name}/weight", x @ getattr(params, name).weight.T)

    names = ("query_proj", "key_proj", "value_proj")
    q, k, v = (project(name, x).reshape(3, 5, 2, 4) for name in names)
    scores = jnp.einsum("bshd,bthd->bhst", q, k) / np.sqrt(4)
    mixed = jnp.einsum("bhst,bthd->bshd", jax.nn.softmax(scores), v)
    return project("output_proj", mixed.reshape(3, 5, 8))

  fans = check(lambda p, x: attend(p, x, x, x), params, x, by_hand)
  assert set(fans.values()) == {(8, 8)}


def test_equinox_convolution(eqx):
  def make(key):
    return eqx.nn.Sequential(
      [
        eqx.nn.Conv2d(3, 6, 3, stride=2, key=key),
        eqx.nn.Lambda(jax.nn.gelu),
        eqx.nn.Conv2d(6, 4, 3, groups=2, key=key),
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.Linear(4, 3, key=key),
      ]
    )

  fn, params = built(eqx, make)
  x = normal(2, 3, 7, 7)

  def by_hand(params, see):
    first, _, second, _, last = params.layers
    path = "layers/{}/weight".format
    conv = jax.lax.conv_general_dilated
    z = see(path(0), conv(x, first.weight, (2, 2), "VALID"))
    h = jax.nn.gelu(z + first.bias)
    z = conv(h, second.weight, (1, 1), "VALID", feature_group_count=2)
    h = (see(path(2), z) + second.bias).reshape(2, 4)
    return see(path(4), h @ last.weight.T) + last.bias

  fans = check(fn, params, x, by_hand)
  assert list(fans.values()) == [(27, 13.5), (27, 18), (4, 3)]


def haiku_captures(hk, apply, params, see):
  """What `hk.Linear` and `hk.ConvND` return, minus the bias."""

  def show(call, args, kwargs, context):
    output = call(*args, **kwargs)
    linear = isinstance(context.module, (hk.Linear, hk.ConvND))
    if not linear or context.method_name != "__call__":
      return output
    name = context.module.module_name
    bias = params[name].get("b", 0)
    return see(f"{name}/w", output - bias) + bias

  with hk.intercept_methods(show):
    return apply()


def test_haiku_mlp(hk):
  net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP((8, 6, 3))(x)))
  x = normal(6, 5)
  params = filled(jax.eval_shape(net.init, jax.random.key(0), x))

  def by_hand(params, see):
    return haiku_captures(hk, lambda: net.apply(params, x), params, see)

  fans = check(net.apply, params, x, by_hand)
  assert list(fans.values()) == [(5, 8), (8, 6), (6, 3)]


def test_haiku_resnet_with_batch_norm_in_train_mode(hk):
  def forward(x):
    net = hk.nets.ResNet(
      (1, 1, 1, 1),
      num_classes=3,
      bn_config={"decay_rate": 0.9},
      initial_conv_config={"output_channels": 4},
      bottleneck=False,
      channels_per_group=(4, 4, 8, 8),
      use_projection=(False, False, True, False),
      strides=(1, 1, 2, 1),
    )
    return net(x, is_training=True)

  net = hk.transform_with_state(forward)
  x = normal(2, 16, 16, 3)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  params, state = filled(shapes)

  def fn(params, x):
    return net.apply(params, state, None, x)

  def by_hand(params, see):
    return haiku_captures(hk, lambda: fn(params, x)[0], params, see)

  fans = check(fn, params, x, by_hand, has_aux=True)
  assert len(fans) == 11
  assert fans["res_net/~/initial_conv/w"] == (147, 49)  # 7 · 7, stride 2
  shortcut = "res_net/~/block_group_2/~/block_0/~/shortcut_conv/w"
  assert fans[shortcut] == (4, 2)
