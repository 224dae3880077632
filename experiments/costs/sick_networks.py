"""Networks with one sickness each, which should be found."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.costs.healthy_networks import (
  Network,
  drawn,
  gaussians,
  list_of,
  mlp,
  plain,
  residual,
  residual_init,
  scaled,
)

_SQUARES = [(64, 64)] * 12


def _changed(
  init: Callable[[jax.Array], Any], change: Callable[[Any], Any]
) -> Callable[[jax.Array], Any]:
  return lambda key: change(init(key))


def _factors(factors: dict[int, float]) -> Callable[[Any], Any]:
  return lambda kernels: [
    kernel * factors.get(at, 1.0) for at, kernel in enumerate(kernels)
  ]


def _all(factor: float) -> Callable[[Any], Any]:
  return lambda params: jax.tree.map(lambda leaf: factor * leaf, params)


def _derivative(kernels: Any, x: jax.Array) -> jax.Array:
  """u + u' of a network of tanh, as in a physics-informed loss."""

  def u(x: jax.Array) -> jax.Array:
    h = x @ kernels[0]
    for kernel in kernels[1:]:
      h = jnp.tanh(h) @ kernel
    return h.sum()

  return jax.vmap(lambda x: u(x) + jax.grad(u)(x).sum())(x)


def _towers(params: Any, x: jax.Array) -> jax.Array:
  one, other = plain(params["a"], x), plain(params["b"], x[::-1])
  return (one * other).sum(-1)


def _two(key: jax.Array) -> Any:
  first, second = jax.random.split(key)
  init = list_of(_SQUARES[:6])
  return {"a": init(first), "b": _all(0.3)(init(second))}


def _adapted(params: Any, x: jax.Array) -> jax.Array:
  """A low-rank adapter beside the first layer."""
  h = x @ params["kernel"] + x @ params["a"] @ params["b"]
  return jax.nn.relu(h) @ params["out"]


def _adapter(key: jax.Array) -> Any:
  kernel, out = list_of(_SQUARES[:2])(key)
  a, b = jnp.zeros((64, 4)), jnp.zeros((4, 64))
  return {"kernel": kernel, "a": a, "b": b, "out": out}


def _beside(params: Any, x: jax.Array) -> jax.Array:
  """A branch that is never on."""
  off = jax.nn.relu(x @ params["u"] - 50.0) @ params["v"]
  return plain(params["kernels"], x) + off


def _branch(key: jax.Array) -> Any:
  u, v, *kernels = list_of(_SQUARES[:5])(key)
  return {"u": u, "v": v, "kernels": kernels}


def _reused(key: jax.Array) -> Any:
  """Two layers of other shapes and laws, drawn with one key."""
  kernels = list_of([(64, 64), (64, 64), (64, 48), (48, 64)])(key)
  kernels[1] = scaled(2.0)(key, (64, 64))
  limit = (2 / 64 * 3) ** 0.5
  kernels[2] = jax.random.uniform(key, (64, 48), minval=-limit, maxval=limit)
  return kernels


def _experts(params: Any, x: jax.Array) -> jax.Array:
  h = jnp.einsum("bi,eio->beo", x, params["in"])
  return jnp.einsum("beo,eok->bk", jax.nn.relu(h), params["out"])


def _equal_experts(key: jax.Array) -> Any:
  first, second = list_of(_SQUARES[:2])(key)
  return {"in": jnp.stack([first] * 4), "out": jnp.stack([second] * 4)}


def _unit(kernels: Any, x: jax.Array) -> jax.Array:
  h = plain(kernels[:-1], x)
  return (h / jnp.linalg.norm(h, axis=-1, keepdims=True)) @ kernels[-1]


def _biased(key: jax.Array) -> Any:
  params = drawn(scaled(2.0), 12, 64)(key)
  return {**params, "biases": params["biases"] - 9.0}


def _bad_block(params: Any) -> Any:
  return {**params, "out": params["out"].at[9].multiply(30.0)}


def sick_networks() -> dict[str, Network]:
  """The 16 kinds; the words by which verdicts tell of each."""
  x, he = gaussians(16, 64), list_of(_SQUARES)
  lecun = list_of(_SQUARES[:8], scaled(1.0))
  network = lambda change, *signs: Network(
    plain, _changed(he, change), (x,), signs
  )
  return {
    "layer × 10": network(_factors({5: 10.0}), "odd layer"),
    "layer / 10": network(_factors({5: 0.1}), "odd layer"),
    "× 10, / 10": network(_factors({5: 10.0, 6: 0.1}), "odd layer"),
    "block × 30": Network(
      residual, _changed(residual_init, _bad_block), (x,), ("odd", "expl")
    ),
    "all × 0.3": network(_all(0.3), "vanishing"),
    "all × 3": network(_all(3.0), "exploding"),
    "derivative": Network(
      _derivative, _changed(lecun, _all(0.3)), (x,), ("vanishing",)
    ),
    "one tower": Network(_towers, _two, (x,), ("vanishing",)),
    "adapter 0": Network(_adapted, _adapter, (x,)),
    "branch off": Network(_beside, _branch, (x,)),
    "key reused": Network(plain, _reused, (x,)),
    "equal experts": Network(_experts, _equal_experts, (x,)),
    "input zeros": Network(plain, he, (0 * x,)),
    "norm of 0": Network(_unit, he, (x.at[0].set(0.0),), ("non-finite", "NaN")),
    "input NaN": Network(plain, he, (x.at[0, 0].set(jnp.nan),)),
    "biases -9": Network(mlp(jax.nn.relu), _biased, (x,), ("dead",)),
  }
