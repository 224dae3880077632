"""What JAX accepts, as Flax itself and public code ask for it."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax_parity_test import assert_same_trace

from initjax import initializers as ours


def rebuilt(default):
  """Ours with the arguments that a function of JAX closes over."""
  name = default.__qualname__.split(".")[0]
  if name == default.__qualname__:
    return getattr(ours, name)
  cells = (cell.cell_contents for cell in default.__closure__)
  arguments = dict(zip(default.__code__.co_freevars, cells, strict=True))
  return getattr(ours, name)(**arguments)


def test_every_default_initializer_of_flax_rebuilt():
  found = {}
  for library in (nn, nnx):
    for layer in filter(inspect.isclass, vars(library).values()):
      for option in inspect.signature(layer.__init__).parameters.values():
        init = option.default
        module = getattr(init, "__module__", None) or ""
        if inspect.isfunction(init) and module.endswith("nn.initializers"):
          found.setdefault(option.name, {})[library, layer] = init
  assert {"kernel_init", "recurrent_kernel_init", "embedding_init", "bias_init",
          "scale_init", "a_initializer"} <= found.keys()  # fmt: skip
  assert len(found["kernel_init"]) > 20
  assert len(found["embedding_init"]) == 2
  for init in {init for layers in found.values() for init in layers.values()}:
    assert_same_trace(
      *(functools.partial(f, shape=(4, 6)) for f in (rebuilt(init), init))
    )


def glorot_of_experts(i, key):
  """MaxText's and T5X's: axes set at the call, kernels flat, then unfolded."""
  axes = (np.arange(2), np.arange(2, 4))
  init = i.variance_scaling(1.0, "fan_avg", "truncated_normal", *axes)
  return init(key, (3, 2, 2, 4), jnp.float32).reshape(3, 2, 8)


def halved(init):
  return lambda *args: init(*args) / 2.0


def for_haiku(init, key):
  return lambda shape, dtype: init(key, shape, dtype)


# As public code calls them; `i` is the module of the initializers.
IDIOMS = {
  # Flax's own layers and examples, BERT, GPT-2, ViT, big_vision, scenic
  "kernel": lambda i, k: i.lecun_normal()(k, (4, 6), jnp.float32),
  "by name": lambda i, k: i.he_normal()(key=k, shape=(4, 6), dtype="float32"),
  "embedding": lambda i, k: i.variance_scaling(
    1.0, "fan_in", "normal", out_axis=0
  )(k, (9, 4)),
  "mask token": lambda i, k: i.variance_scaling(
    1.0, "fan_in", "normal", out_axis=0
  )(k, (1, 4)),
  "GPT-2": lambda i, k: i.normal(stddev=0.02)(k, (9, 4)),
  "GPT-2 residual": lambda i, k: i.normal(0.02 / np.sqrt(24))(k, (4, 6)),
  "BERT": lambda i, k: i.truncated_normal(stddev=0.02)(k, (1, 4)),
  "BERT, jnp": lambda i, k: i.truncated_normal(1 / jnp.sqrt(4))(k, (4, 6)),
  "ViT bias": lambda i, k: i.normal(stddev=1e-6)(k, (6,)),
  "ViT positions": lambda i, k: i.normal(stddev=1 / np.sqrt(4))(k, (1, 9, 4)),
  "MAP probe": lambda i, k: i.xavier_uniform()(k, (1, 1, 4)),
  "ViT's packed QKV": lambda i, k: functools.partial(
    i.variance_scaling, 0.5, "fan_avg", "uniform"
  )()(k, (4, 12)),
  "head": lambda i, k: i.zeros(k, (4, 3)),
  "head bias": lambda i, k: i.constant(-np.log(999.0))(k, (3,)),
  "adaLN": lambda i, k: i.constant(0)(k, (4, 24)),
  "norm scale": lambda i, k: i.ones_init()(k, (4,)),
  "last norm of a block": lambda i, k: i.zeros_init()(k, (4,)),
  "complex zeros": lambda i, k: functools.partial(i.zeros, dtype=jnp.complex64)(
    k, (4,)
  ),
  "an integer": lambda i, k: i.zeros(k, 4),
  "a list": lambda i, k: i.ones(k, [4, 2], dtype=jnp.int32),
  # ResNet, EfficientNet, scenic
  "ResNet": lambda i, k: i.variance_scaling(
    2.0, mode="fan_out", distribution="normal"
  )(k, (3, 3, 4, 8)),
  "EfficientNet head": lambda i, k: i.variance_scaling(
    scale=1 / 3, mode="fan_out", distribution="uniform"
  )(k, (4, 6)),
  "as PyTorch": lambda i, k: i.variance_scaling(1 / 3, "fan_in", "uniform")(
    k, (3, 3, 4, 8)
  ),
  "score_sde": lambda i, k: i.variance_scaling(
    1e-10, "fan_avg", "uniform", in_axis=1, out_axis=0
  )(k, (4, 6)),
  "one row as a bias": lambda i, k: i.lecun_uniform()(k, (1, 1, 4, 6))[0, 0, 0],
  "delta": lambda i, k: i.delta_orthogonal()(k, (3, 3, 4, 4)),
  # T5X, MaxText, Gemma, jax-llm-examples: axes of heads and experts
  "T5X relative positions": lambda i, k: i.variance_scaling(
    1.0, "fan_avg", "uniform"
  )(k, (2, 8)),
  "T5X query": lambda i, k: halved(i.normal())(k, (4, 6), jnp.float32),
  "MaxText": glorot_of_experts,
  "query heads": lambda i, k: i.he_normal(in_axis=0, out_axis=(1, 2))(
    k, (6, 2, 4)
  ),
  "output heads": lambda i, k: i.he_normal(in_axis=(0, 1), out_axis=2)(
    k, (2, 4, 6)
  ),
  "Gemma QKV": lambda i, k: i.lecun_normal(-2, -1, batch_axis=(0, 1))(
    k, (3, 2, 6, 4)
  ),
  "Gemma gating": lambda i, k: i.lecun_normal(
    in_axis=-2, out_axis=-1, batch_axis=(0,)
  )(k, (2, 4, 6), jnp.float32),
  "experts": lambda i, k: i.variance_scaling(
    1.0, "fan_in", "truncated_normal", 1, 2, 0
  )(k, (3, 4, 6)),
  "LoRA": lambda i, k: i.he_uniform()(k, (4, 2)) @ i.zeros(k, (2, 6)),
  "layers under scan": lambda i, k: jax.vmap(
    i.glorot_uniform(), in_axes=(0, None, None)
  )(jax.random.split(k, 3), (4, 6), jnp.float32),
  "annotated": lambda i, k: nn.unbox(
    nn.with_logical_partitioning(i.he_normal(), ("embed", "mlp"))(k, (4, 6))
  ),
  # brax, PureJaxRL, Acme, EvoJAX, DDPG
  "brax": lambda i, k: i.lecun_uniform()(k, (4, 6)),
  "PPO hidden": lambda i, k: i.orthogonal(np.sqrt(2))(k, (4, 6)),
  "PPO hidden, jnp": lambda i, k: i.orthogonal(jnp.sqrt(2))(k, (4, 6)),
  "PPO policy": lambda i, k: i.orthogonal(scale=0.01)(k, (4, 2)),
  "PPO bias": lambda i, k: i.constant(0.0)(k, (2,)),
  "EvoJAX bias": lambda i, k: i.uniform(0.05)(k, (6,)),
  "DDPG head": lambda i, k: i.uniform(scale=3e-3)(k, (4, 1)),
  # Haiku and stax (init of key, or of shape, alone), Equinox ([out, in])
  "Haiku": lambda i, k: for_haiku(i.he_normal(), k)((4, 6), jnp.float32),
  "stax": lambda i, k: functools.partial(i.glorot_normal(), dtype=jnp.float32)(
    k, (4, 6)
  ),
  "Equinox Linear": lambda i, k: functools.partial(
    i.variance_scaling, in_axis=1, out_axis=0, batch_axis=()
  )(2.0, "fan_in", "uniform")(k, (6, 4), jnp.float32),
  "Equinox Conv": lambda i, k: i.he_normal(in_axis=1, out_axis=0)(
    k, (8, 4, 3, 3), jnp.float32
  ),
  "Equinox attention": lambda i, k: i.glorot_uniform(-1, -2)(k, (6, 4)),
  # state spaces, NetKet
  "S5": lambda i, k: i.lecun_normal()(k, (4, 8, 2)),
  "NetKet": lambda i, k: i.normal(stddev=0.01, dtype=jnp.complex64)(k, (4, 6)),
  "a gain for each": lambda i, k: i.orthogonal(np.arange(4.0))(k, (3, 4)),
  "a variance for each": lambda i, k: i.variance_scaling(
    np.arange(4.0), "fan_avg", "uniform"
  )(k, (3, 4)),
  "a scale for each": lambda i, k: i.normal(np.array([0.1, 0.2]))(k, (3, 2)),
}


@pytest.mark.parametrize("use", IDIOMS.values(), ids=IDIOMS)
def test_idioms_of_public_code(use):
  assert_same_trace(
    *(functools.partial(use, i) for i in (ours, nn.initializers))
  )
