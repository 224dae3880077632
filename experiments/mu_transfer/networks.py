"""An MLP and a small GPT of any width and depth, standard and scaled by μP."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import initjax
from experiments.common import training

FEATURES, CLASSES = 64, 10
"""of digits"""
BYTES, LENGTH = 128, 32
"""that the GPT tells apart, and sees at once"""
HEADS = 4
Params = dict[str, Any]


class Model(NamedTuple):
  """A network of one size."""

  family: str
  """"mlp" or "gpt" """
  width: int
  layers: int


def _mlp_shapes(width: int, layers: int) -> Params:
  return {
    "in": (FEATURES, width),
    "hidden": [(width, width)] * (layers - 1),
    "bias": [(width,)] * layers,
    "out": (width, CLASSES),
  }


def _mlp(params: Params, x: jax.Array) -> jax.Array:
  """[batch, features] → [batch, classes]."""
  kernels = [params["in"], *params["hidden"]]
  for kernel, bias in zip(kernels, params["bias"], strict=True):
    x = jax.nn.relu(x @ kernel + bias)
  return x @ params["out"]


def _gpt_shapes(width: int, layers: int) -> Params:
  block: Params = dict.fromkeys(("q", "k", "v", "o"), (width, width))
  block |= {"up": (width, 4 * width), "down": (4 * width, width)}
  block |= {"scale_1": (width,), "scale_2": (width,)}
  return {
    "tokens": (BYTES, width),
    "positions": (LENGTH, width),
    "blocks": [block] * layers,
    "scale": (width,),
    "out": (width, BYTES),
  }


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
  mean_square = (x * x).mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(mean_square + 1e-6) * scale


def _attention(block: Params, x: jax.Array) -> jax.Array:
  split = lambda h: h.reshape(*h.shape[:-1], HEADS, -1)
  q, k, v = (split(x @ block[name]) for name in ("q", "k", "v"))
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
  seen = np.tril(np.ones(scores.shape[-2:], bool))
  weights = jax.nn.softmax(jnp.where(seen, scores, -1e9))
  mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
  return mixed.reshape(x.shape) @ block["o"]


def _gpt(params: Params, ids: jax.Array) -> jax.Array:
  """[batch, tokens] → [batch, tokens, bytes]."""
  x = params["tokens"][ids] + params["positions"][: ids.shape[1]]
  for block in params["blocks"]:
    x = x + _attention(block, _norm(x, block["scale_1"]))
    up = _norm(x, block["scale_2"]) @ block["up"]
    x = x + jax.nn.gelu(up) @ block["down"]
  return _norm(x, params["scale"]) @ params["out"]


_FAMILIES: dict[str, Any] = {
  "mlp": (_mlp, _mlp_shapes),
  "gpt": (_gpt, _gpt_shapes),
}


def apply(model: Model) -> training.Apply:
  """The function of parameters and inputs."""
  return _FAMILIES[model.family][0]


def shapes(model: Model) -> Params:
  """Of the parameters, abstract."""
  is_shape = lambda node: isinstance(node, tuple)
  return jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    _FAMILIES[model.family][1](model.width, model.layers),
    is_leaf=is_shape,
  )


def draw(seed: int, model: Model) -> Params:
  """The standard parametrization: variance 1/fan_in, 2/fan_in between ReLUs.

  Tables are N(0, 1), scales 1; biases and the readout 0, which spares small
  widths a function that they start with (Yang et al. 2022, App. D.2).
  """
  random = np.random.default_rng((seed, model.width, model.layers))

  def leaf(path: Any, shape: Any) -> np.ndarray:
    name = jax.tree_util.keystr(path)
    if len(shape.shape) == 1 or name == "['out']":
      return np.full(shape.shape, "scale" in name, np.float32)
    is_table = "tokens" in name or "positions" in name
    gain = 2.0 if "hidden" in name else 1.0
    std = 1.0 if is_table else (gain / shape.shape[0]) ** 0.5
    return np.float32(std) * random.standard_normal(shape.shape, np.float32)

  return jax.tree_util.tree_map_with_path(leaf, shapes(model))


@functools.cache
def plan(model: Model, base: Model) -> initjax.parametrization.Parametrization:
  """How a model follows from its base."""
  features = {"mlp": (FEATURES, jnp.float32), "gpt": (LENGTH, jnp.int32)}
  size, dtype = features[model.family]
  inputs = jax.ShapeDtypeStruct((2, size), dtype)
  fn = apply(model)
  return initjax.mup(
    fn, shapes(model), inputs, base=(fn, draw(0, base), inputs)
  )


def drawn(
  seeds: range, model: Model, base: Model, *, scaled: bool
) -> list[Params]:
  """Initial parameters of each seed; those of the base are standard ones."""
  found = [draw(seed, model) for seed in seeds]
  if not scaled or model == base:
    return found
  return [plan(model, base).rescale(params) for params in found]


@functools.partial(jax.jit, static_argnames=("model", "base", "scaled"))
def losses(
  given: tuple[Params, dict[str, jax.Array]],
  data: training.Labelled,
  *,
  model: Model,
  base: Model,
  scaled: bool,
) -> jax.Array:
  """[runs]: mean training loss of the last fifth of the updates by Adam.

  Args:
    given: initial parameters; "rate" [runs], and the "rows" of each batch
      [runs, steps, batch].
    data: what is learnt.
    model: the network.
    base: of the plan.
    scaled: whether rates are those of the plan.
  """
  function = apply(model)

  def one(params: Params, run: dict[str, jax.Array]) -> jax.Array:
    tx = optax.adam(run["rate"])
    if scaled and model != base:
      tx = plan(model, base).optimizer(tx, kind="adam")

    def update(carry: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
      params, state = carry
      loss, gradients = jax.value_and_grad(training.cross_entropy, 1)(
        function, params, data.inputs[rows], data.labels[rows]
      )
      changes, state = tx.update(gradients, state, params)
      return (optax.apply_updates(params, changes), state), loss

    start = params, tx.init(params)
    course = jax.lax.scan(update, start, run["rows"])[1]
    return course[4 * len(course) // 5 :].mean()

  return jax.vmap(one)(*given)
