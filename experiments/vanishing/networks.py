"""Random and trained networks whose gradient vanishes or does not."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.common import networks, training
from experiments.common.training import Budget
from initjax import initializers, stacks
from initjax.typing import Activation


class Kind(NamedTuple):
  """An activation, and the weights that are usual with it."""

  activation: Activation
  sigma_w2: float
  """fan_in times the variance of the weights: 1 is Xavier's, 2 is He's"""


KINDS = {
  "sigmoid": Kind(jax.nn.sigmoid, 1.0),
  "tanh": Kind(jnp.tanh, 1.0),
  "relu": Kind(jax.nn.relu, 2.0),
}
DTYPES = {
  "float32": jnp.float32,
  "bfloat16": jnp.bfloat16,
  "float16": jnp.float16,
}
SATURATED = 0.1
"""A unit whose slope is below this part of φ'(0)"""
RELATIVE_RESOLUTION = 1e-6
"""Singular values below this part of the largest are noise in float32"""


Run = dict[str, jax.Array]
"""Of one network: key, kind (its place in KINDS), sigma_w2; rate if trained"""


def runs_of(name: str, keys: jax.Array, sigma_w2: float | None = None) -> Run:
  """[seeds] networks of a kind."""
  variance = KINDS[name].sigma_w2 if sigma_w2 is None else sigma_w2
  return {
    "key": keys,
    "kind": jnp.full(len(keys), list(KINDS).index(name)),
    "sigma_w2": jnp.full(len(keys), variance),
  }


def activation_of(run: Run) -> Activation:
  """That of a traced kind: one program serves all of them."""

  def phi(z: jax.Array) -> jax.Array:
    return jax.lax.select_n(
      run["kind"], *(kind.activation(z) for kind in KINDS.values())
    )

  return phi


def network(run: Run, depth: int, width: int) -> stacks.Stack:
  """z₁ = x·W₁, z_l = φ(z_{l-1})·W_l, with W of variance σ_w²/fan_in."""
  return stacks.mlp(
    depth=depth,
    width=width,
    activation=activation_of(run),
    kernel_init=networks.truncated(run["sigma_w2"]),
  )


class Spectrum(NamedTuple):
  """Singular values of the product of the last k Jacobians: [runs, depth-1].

  Row k - 1 is of J_L ⋯ J_{L-k+1}, J = W·diag(φ'(z)): log₂ of them.
  """

  mean: jax.Array
  """half of log₂ of the mean squared one"""
  largest: jax.Array
  quartiles: jax.Array
  """[..., 3]: upper quartile, median, lower; NaN where float32 cannot tell"""


@functools.partial(jax.jit, static_argnames=("depth", "width"))
def spectra(
  runs: Run, inputs: jax.Array, *, depth: int, width: int
) -> Spectrum:
  """One network [runs] each, at one input each."""

  def one(run: Run) -> Spectrum:
    net_key, row = jax.random.split(run["key"])
    params = network(run, depth, width).init(net_key, inputs.shape)
    x = inputs[jax.random.randint(row, (), 0, len(inputs))]
    return _products(activation_of(run), params, x)

  return jax.vmap(one)(runs)


def _products(
  activation: Activation, params: stacks.StackParams, x: jax.Array
) -> Spectrum:
  """Multiplies from the output down; divides by the largest value each time."""

  def forward(z: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    return activation(z) @ kernel, z

  def backward(
    carry: tuple[jax.Array, jax.Array], layer: tuple[jax.Array, jax.Array]
  ) -> tuple[tuple[jax.Array, jax.Array], Spectrum]:
    product, log2_scale = carry
    z, kernel = layer
    slope = jax.grad(lambda z: activation(z).sum())(z)
    product = (slope[:, None] * kernel) @ product
    size = jnp.abs(product).max()
    size = jnp.where(size > 0, size, 1.0)
    product, log2_scale = product / size, log2_scale + jnp.log2(size)
    return (product, log2_scale), _describe(product, log2_scale)

  _, zs = jax.lax.scan(forward, x @ params.first_kernel, params.kernels)
  start = jnp.eye(params.kernels.shape[-1]), jnp.zeros(())
  return jax.lax.scan(backward, start, (zs, params.kernels), reverse=True)[1]


def _describe(product: jax.Array, log2_scale: jax.Array) -> Spectrum:
  values = jnp.linalg.svd(product, compute_uv=False)
  mean = (values**2).mean()
  quartiles = jnp.quantile(values, jnp.array([0.75, 0.5, 0.25]))
  seen = quartiles > RELATIVE_RESOLUTION * values[0]
  return Spectrum(
    jnp.log2(mean) / 2 + log2_scale,
    jnp.log2(values[0]) + log2_scale,
    jnp.where(seen, jnp.log2(quartiles) + log2_scale, jnp.nan),
  )


@functools.partial(jax.jit, static_argnames=("depth", "width", "dtype"))
def gradients(
  runs: Run, inputs: jax.Array, *, depth: int, width: int, dtype: str
) -> tuple[jax.Array, jax.Array]:
  """log₂ rms of gradients, and the share of exact zeros: [runs, depth] each.

  All of the backward pass is in `dtype`, from unit-normal cotangents for each
  input. The same key draws the same network, whatever the dtype.
  """

  def one(run: Run) -> tuple[jax.Array, jax.Array]:
    net_key, cotangent_key = jax.random.split(run["key"])
    stack = network(run, depth, width)
    cotangent = jax.random.normal(cotangent_key, (len(inputs), width))
    given = stack.init(net_key, inputs.shape), inputs, cotangent
    found = stacks.propagate(
      stack, *jax.tree.map(lambda leaf: leaf.astype(DTYPES[dtype]), given)
    ).backward
    return found.log2_second_moment / 2, found.zeros / found.size

  return jax.vmap(one)(runs)


@functools.partial(jax.jit, static_argnames="dtype")
def halvings(start: jax.Array, *, dtype: str) -> jax.Array:
  """[200]: `start`, 1, halved once and again, until it is 0 on this device."""

  def halve(x: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
    return x * x.dtype.type(0.5), x > 0

  return jax.lax.scan(halve, start.astype(DTYPES[dtype]), length=200)[1]


def relative_slopes(activation: Activation, z: jax.Array) -> jax.Array:
  """φ'(z)/φ'(0)."""
  slope_of = jax.grad(lambda z: activation(z).sum())
  return slope_of(z) / slope_of(jnp.zeros(()))


class Slopes(NamedTuple):
  """Of all units and inputs, relative to φ'(0)."""

  shares: jax.Array
  """[runs, bins]: how many are in each bin, from 0 to 1"""
  let_through: jax.Array
  """[runs]: mean square, the part of a gradient's power that passes"""


@functools.partial(jax.jit, static_argnames=("depth", "width", "bins"))
def slope_shares(
  runs: Run, inputs: jax.Array, *, depth: int, width: int, bins: int
) -> Slopes:
  """In the upper half of the layers, where the length map has settled."""

  def one(run: Run) -> Slopes:
    params = network(run, depth, width).init(run["key"], inputs.shape)
    activation = activation_of(run)

    def layer(z: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Slopes]:
      z = activation(z) @ kernel
      slopes = relative_slopes(activation, z)
      place = jnp.clip((slopes * bins).astype(jnp.int32), 0, bins - 1).ravel()
      shares = jnp.zeros(bins).at[place].add(1 / z.size)
      return z, Slopes(shares, (slopes**2).mean())

    found = jax.lax.scan(layer, inputs @ params.first_kernel, params.kernels)[1]
    return jax.tree.map(lambda x: x[(depth - 1) // 2 :].mean(0), found)

  return jax.vmap(one)(runs)


ISOMETRY = {"linear": 1.0, "relu": 2.0, "orthogonal": 0.0}
"""What the variance of squared singular values gains a layer, n → ∞"""


@functools.partial(jax.jit, static_argnames=("depth", "width"))
def traces(runs: Run, *, depth: int, width: int) -> tuple[jax.Array, jax.Array]:
  """tr Q and tr Q² after each layer, [runs, depth], of Q = JᵀJ.

  J is the product of Jacobians of linear or ReLU layers that keep its size, or
  of orthogonal ones, by the place of `kind` in ISOMETRY.
  """

  def one(run: Run) -> tuple[jax.Array, jax.Array]:
    start, key = jax.random.split(run["key"])

    def layer(carry: Any, key: jax.Array) -> tuple[Any, Any]:
      h, product = carry
      shape = (width, width)
      unit = networks.UNIT(key, shape, jnp.float32)
      kernel = jax.lax.select_n(
        run["kind"], unit, 2**0.5 * unit, initializers.orthogonal()(key, shape)
      )
      z = h @ kernel
      on = (z > 0) | (run["kind"] != 1)
      product = jnp.where(on[None, :], product @ kernel, 0.0)
      gram = product.T @ product
      return (jnp.where(on, z, 0.0), product), (
        jnp.trace(gram),
        (gram**2).sum(),
      )

    h = jax.random.normal(start, (width,))
    keys = jax.random.split(key, depth)
    return jax.lax.scan(layer, (h, jnp.eye(width)), keys)[1]

  return jax.vmap(one)(runs)


@functools.partial(jax.jit, static_argnames=("depth", "width", "budget"))
def courses(
  runs: Run, data: training.Labelled, *, depth: int, width: int, budget: Budget
) -> training.Course:
  """Training of [runs] networks of `depth` layers, the readout among them.

  The probe is the share of units of the last hidden layer that are saturated.
  """
  readout = initializers.lecun_normal()

  def one(run: Run) -> training.Course:
    net_key, last_key, batches = jax.random.split(run["key"], 3)
    stack = network(run, depth - 1, width)
    last = readout(last_key, (width, 10), jnp.float32)
    params = stack.init(net_key, data.inputs.shape), last
    phi = activation_of(run)
    apply = lambda params, x: phi(stack.apply(params[0], x)) @ params[1]
    hidden = lambda params: stack.apply(params[0], data.inputs)
    saturated = lambda p: (relative_slopes(phi, hidden(p)) < SATURATED).mean()
    sgd = optax.sgd(run["rate"])
    return training.train(apply, params, data, sgd, batches, budget, saturated)

  return jax.vmap(one)(runs)
