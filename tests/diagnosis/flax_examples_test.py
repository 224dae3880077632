"""Flax's own example models: nobody here wrote them.

They come with Flax's sources, not with the package: FLAX_EXAMPLES names the
folder that holds them, and without it these tests are skipped. The fans are
those of each architecture, by hand; the statistics are compared with what
Flax's own layers return.
"""

import importlib.util
import os
import pathlib
import sys
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captures import assert_row, quick_jit, rounding
from flax import linen as nn
from flax import nnx
from small_models import normal

from initjax import model_init
from initjax.diagnosis import diagnose
from initjax.graph import functional, signal_graph
from initjax.measurement import measure

FOLDER = os.environ.get("FLAX_EXAMPLES")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    FOLDER is None, reason="FLAX_EXAMPLES names no folder of Flax's examples"
  ),
]
PEERS = (  # of data pipelines and annotations, which no model needs
  "tensorflow",
  "tensorflow_datasets",
  "ml_collections",
  "flax.metrics.tensorboard",
  "jaxtyping",
)


@pytest.fixture
def load(monkeypatch):
  """Imports one file of the examples."""

  def example(path):
    for peer in PEERS:
      monkeypatch.setitem(sys.modules, peer, mock.MagicMock(name=peer))
    file = pathlib.Path(FOLDER) / path
    monkeypatch.syspath_prepend(file.parent)
    name = path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # for its dataclasses
    spec.loader.exec_module(module)
    return module

  return example


def integers(*shape, low=2, high=64):
  return jnp.asarray(np.random.default_rng(2).integers(low, high, shape))


class Case(NamedTuple):
  """A model as a function of parameters and inputs, and what it returns."""

  fn: Any
  params: Any
  inputs: tuple
  has_aux: bool = False
  """aux: outputs of linear layers, by the path of the kernel"""


def linen(model, *inputs, see=True, **options):
  """The model with its own initial parameters, in training mode."""
  names = ("params", "dropout", "lstm")
  keys = dict(zip(names, jax.random.split(jax.random.key(0), 3), strict=True))
  init = quick_jit(lambda keys, *inputs: model.init(keys, *inputs, **options))
  params = nn.meta.unbox(init(keys, *inputs))["params"]

  def fn(params, *inputs):
    with_keys = {"rngs": keys, **options}
    if not see:
      return model.apply({"params": params}, *inputs, **with_keys)
    return watched(model, {"params": params}, *inputs, **with_keys)

  return Case(fn, params, inputs, see)


def watched(model, variables, *inputs, **options):
  """The outputs, and what each linear layer returned before its bias."""
  seen = {}
  linear = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvLocal)

  def show(call, args, kwargs, context):
    output, module = call(*args, **kwargs), context.module
    if isinstance(module, linear) and context.method_name == "__call__":
      path = "/".join((*module.path, "kernel"))
      seen[path] = output - module.variables["params"].get("bias", 0)
    return output

  with nn.intercept_methods(show):
    return model.apply(variables, *inputs, **options), seen


def check(case, fans, verdicts=()):
  """Reads, measures and judges; `fans` in the order of execution."""
  graph = signal_graph(case.fn, case.params, *case.inputs)
  ops = [op for op in graph if op.kind != "embedding"]
  assert [(op.fan_in, op.fan_out) for op in ops] == fans
  used = {path for op in graph for path in op.paths} | set(graph.elementwise)
  assert len(used) == len(jax.tree.leaves(case.params))
  assert not graph.unused
  assert not graph.opaque
  report = diagnose(case.fn, case.params, *case.inputs, has_aux=case.has_aux)
  assert {verdict.kind for verdict in report.verdicts} == set(verdicts), report
  if case.has_aux:
    _, seen = quick_jit(case.fn)(case.params, *case.inputs)
    rows = {op.path: row for op, row in zip(graph, report.forward, strict=True)}
    assert set(seen) == {op.path for op in ops if "embedding" not in op.path}
    for path, output in seen.items():
      assert_row(rows[path], output, ulps=rounding(graph.ops))


def block(width, hidden, attentions=1):
  """Queries, keys, values and outputs; then two layers."""
  attention = [(width, width)] * 4
  return attention * attentions + [(width, hidden), (hidden, width)]


def test_vae(load):
  model = load("vae/models.py").VAE()
  images = jnp.asarray(np.random.default_rng(0).random((16, 784)), jnp.float32)
  fans = [(784, 500), (500, 20), (500, 20), (20, 500), (500, 784)]
  check(linen(model, images, jax.random.key(3)), fans)


def test_actor_critic_keeps_half_of_its_signal_at_each_relu(load):
  model = load("ppo/models.py").ActorCritic(4)
  frames = integers(8, 84, 84, 4, low=0, high=256).astype(jnp.uint8)
  convolutions = [(8 * 8 * 4, 8 * 8 * 32 / 16), (512, 4 * 4 * 64 / 4)]
  fans = [*convolutions, (576, 576), (7744, 512), (512, 4), (512, 1)]
  drifts = [f"slow drift of the {noun}" for noun in ("signal", "gradient")]
  check(linen(model, frames), fans, drifts)


def resnet(load, block, conv):
  """Of two stages, under the axis name that its batch norms sum over."""
  module = load("imagenet/models.py")
  options = {"num_classes": 10, "num_filters": 16, "conv": conv}
  model = module.ResNet([1, 1], getattr(module, block), **options)
  x = normal(8, 32, 32, 3)
  init = quick_jit(lambda x: model.init(jax.random.key(0), x, train=False))
  params, statistics = (init(x)[name] for name in ("params", "batch_stats"))

  def fn(params, x):
    def shard(x):
      variables = {"params": params, "batch_stats": statistics}
      (y, _), seen = watched(model, variables, x, mutable=["batch_stats"])
      return y, seen

    return jax.vmap(shard, axis_name="batch")(x.reshape(2, 4, 32, 32, 3))

  return Case(fn, params, (x,), True)


def test_resnet_in_train_mode(load):
  first, last = (7 * 7 * 3, 7 * 7 * 16 / 4), (128, 10)
  one = [(16, 16), (144, 144), (16, 64), (16, 64)]
  two = [(64, 32), (288, 288 / 4), (32, 128), (64, 128 / 4)]
  case = resnet(load, "BottleneckResNetBlock", nn.Conv)
  check(case, [first, *one, *two, last])


def test_local_convolutions_count_wrong_fans(load):
  first, last = (7 * 7 * 3, 7 * 7 * 16 / 4), (32, 10)
  one = [(144, 144), (144, 144)]
  two = [(144, 288 / 4), (288, 288), (16, 32 / 4)]
  case = resnet(load, "ResNetBlock", nn.ConvLocal)
  check(case, [first, *one, *two, last], ["wrong fan"])


@pytest.mark.parametrize("teacher_force", [True, False])
def test_sequence_to_sequence(load, teacher_force):
  model = load("seq2seq/models.py").Seq2seq(teacher_force, 32, 14)
  ended = [integers(8, time, high=14).at[:, -1].set(1) for time in (6, 5)]
  words = [jax.nn.one_hot(tokens, 14) for tokens in ended]
  cell = [(14, 32), (32, 32)] * 4
  # what was predicted comes back as the one-hot row of a word: a look-up
  decoder = cell if teacher_force else [(32, 32)] * 4
  check(linen(model, *words, see=False), [*cell, *decoder, (32, 14)])


SMALL = {"emb_dim": 64, "num_heads": 4, "qkv_dim": 64, "mlp_dim": 128}
SMALL |= {"num_layers": 2, "max_len": 32}


@pytest.mark.parametrize("options", [{}, {"dtype": jnp.bfloat16}])
def test_language_model(load, options):
  module = load("lm1b/models.py")
  config = module.TransformerConfig(64, 64, **SMALL, **options)
  case = linen(module.TransformerLM(config), integers(8, 16), see=not options)
  check(case, block(64, 128) * 2 + [(64, 64)])


def test_translation_with_one_embedding_for_all(load):
  module = load("wmt/models.py")
  tied = {"share_embeddings": True, "logits_via_embedding": True}
  model = module.Transformer(module.TransformerConfig(64, 64, **SMALL, **tied))
  fans = block(64, 128) * 2 + block(64, 128, attentions=2) * 2 + [(64, 64)]
  check(linen(model, integers(8, 16), integers(8, 12)), fans)


def test_tagger(load):
  module = load("nlp_seq/models.py")
  model = module.Transformer(module.TransformerConfig(64, 20, **SMALL))
  call = lambda model, x: model(inputs=x, train=True)
  case = linen(model, integers(8, 16), method=call)
  check(case, block(64, 128) * 2 + [(64, 20)])


def test_sentiment(load):
  model = load("sst2/models.py").TextClassifier(
    48, 32, 64, 1, dropout_rate=0.5, word_dropout_rate=0.1
  )
  inputs = integers(16, 10), integers(16, low=3, high=11)
  cell = [(32, 128), (48, 128)]  # four kernels side by side
  fans = [*cell, *cell, (64, 32), (32, 1), (64, 32), (32, 1)]
  case = linen(model, *inputs, see=False, deterministic=False)
  check(case, fans, ["small embedding"])


@pytest.mark.parametrize("name", ["GraphNet", "GraphConvNet"])
def test_graphs(load, name):
  """The last normalizations of nodes and edges reach no output."""
  jraph = pytest.importorskip("jraph")
  nodes, ends = np.array([5, 7, 4, 6]), np.array([8, 10, 6, 9])
  owner = np.repeat(np.arange(4), ends)
  first = np.cumsum(nodes) - nodes
  picks = np.random.default_rng(0).integers(0, nodes[owner], (2, 33))
  senders, receivers = jnp.asarray(first[owner] + picks)
  graph = jraph.GraphsTuple(
    normal(22, 9),
    normal(33, 3),
    receivers,
    senders,
    normal(4, 5),
    jnp.asarray(nodes),
    jnp.asarray(ends),
  )
  options = {"dropout_rate": 0.1, "deterministic": False}
  model = getattr(load("ogbg_molpcba/models.py"), name)(32, 2, 2, 12, **options)
  globals_of = lambda model, graph: model(graph).globals
  two, inner = [(9, 32), (3, 32), (5, 32)], (32, 32)
  step = [(128, 32), inner, (128, 32), inner, (96, 32), inner]
  fans = [*two, *step, *step, (32, 12)]
  if name == "GraphConvNet":
    fans = [(9, 32), *[inner] * 4, (32, 12)]
  idle = ["no gradient"] if name == "GraphNet" else []
  check(linen(model, graph, method=globals_of), fans, idle)


def test_mnist(load):
  run, params = functional(load("mnist/train.py").CNN(nnx.Rngs(0)))
  fn = lambda params, x, key: run(params, x, nnx.Rngs(dropout=key))
  case = Case(fn, params, (normal(16, 28, 28, 1), jax.random.key(0)))
  check(case, [(9, 288), (288, 576), (3136, 256), (256, 10)])


def gemma(load, kv_heads):
  """Two layers, one of them with a sliding window."""
  load("gemma/transformer_cfg.py")
  transformer = load("gemma/transformer.py")
  import transformer_cfg  # beside it

  kinds = transformer_cfg.AttentionType
  types = (kinds.LOCAL_SLIDING, kinds.GLOBAL)
  sizes = (2, 64, 64, 128, 4, 16, kv_heads, 30.0, True, True, types)
  options = {"sliding_window_size": 8, "use_qk_norm": True}
  config = transformer_cfg.TransformerConfig(*sizes, **options)
  run, params = functional(transformer.Transformer(config, rngs=nnx.Rngs(0)))
  places = jnp.broadcast_to(jnp.arange(16), (4, 16))
  mask = transformer.make_causal_attn_mask(jnp.ones((4, 16), bool))
  fn = lambda params, tokens: run(params, tokens, places, None, mask)[0]
  return Case(fn, params, (integers(4, 16),))


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_gemma_counts_heads_as_inputs(load, kv_heads):
  """Its Einsum kernels [heads, width, head] are 4 to 12 times too small."""
  inputs = [(64, 192)] if kv_heads == 4 else [(64, 64), (64, 2 * 16)]
  mlp = [(64, 64), (64, 128), (64, 128), (128, 64)]
  fans = [*inputs, *mlp, *inputs, *mlp, (64, 64)]
  check(gemma(load, kv_heads), fans, ["wrong fan"])


def test_variables_are_those_of_the_models_own_init(load):
  """Bit for bit those of eager `init`, two layers compiled as one."""
  module = load("lm1b/models.py")
  config = module.TransformerConfig(64, 64, **SMALL)
  model, tokens = module.TransformerLM(config), integers(8, 16)
  found = model_init.init_variables(jax.random.key(1), model, tokens)
  expected = model.init(jax.random.key(1), tokens)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_calibrated_every_operation_has_unit_size(load):
  """Gemma's kernels for each head, which Flax draws too small."""
  fn, params, (tokens,), _ = gemma(load, 4)
  params = model_init.auto_init(jax.random.key(0), fn, params, tokens)
  params, info = model_init.calibrate(fn, params, tokens)
  skipped = {path for path, *_ in info.skipped}
  rows = measure(fn, params, tokens).to_records()
  sizes = [
    row["forward_log2_second_moment"]
    for row in rows
    if row["path"] not in skipped
  ]
  assert len(sizes) == 10  # all but the embedding, which reads out as well
  # 2·operations·(n + 8)·u of a relative error, n <= 128 terms in a sum
  bound = 2 * len(rows) * (128 + 8) * np.finfo(np.float32).eps / 2
  np.testing.assert_allclose(np.exp2(sizes), 1, atol=bound)
