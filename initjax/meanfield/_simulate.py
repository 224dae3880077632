"""Exact draws of the sizes of signals in a deep stack of finite width.

Once a Gaussian matrix W has been applied to X, with the result Y = W·X, it is
known on the span of X and still random on its complement. So Y is drawn from
the Gram matrix of X alone, and the backward pass draws

    WᵀΔ = X·(XᵀX)⁻¹·YᵀΔ + (1 - X·(XᵀX)⁻¹·Xᵀ)·Z,  Z with the Gram matrix of Δ

without forming W. Arrays are [draws, inputs, units]: rows are columns of X.
"""

import concurrent.futures
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from initjax._activations import TracedActivation, identity, in_float64, trace
from initjax._checks import check_choice, check_integer, check_key
from initjax.meanfield._steps import Layer
from initjax.meanfield._trajectory import check_layers

Weights = Literal["gaussian", "orthogonal"]

_MOST = 1 << 24  # normal numbers of a kind that are held at a time
_RANK = 1e-12  # eigenvalues of a Gram matrix below this part of the largest: 0


class Simulation(NamedTuple):
  """Sizes in each draw of a stack: log₂ of second moments over units and batch.

  They are -inf where all units are 0.
  """

  forward: np.ndarray
  """[draws, depth]: of h_l, what layer l hands on"""
  backward: np.ndarray
  """[draws, depth]: of an element of the gradient with respect to h_l, relative
  to that of the last layer"""


def simulate(
  key: jax.Array,
  layers: Sequence[Layer],
  draws: int,
  *,
  second_moment: float = 1.0,
  correlation: float = 0.0,
  batch: int = 1,
  cotangent_correlation: float = 0.0,
  weights: Weights = "gaussian",
) -> Simulation:
  """Draws the sizes of signals and gradients in stacks of finite width.

  The sizes follow the law of real matrices, to all orders in depth/width, if
  each is Gaussian or, for "orthogonal", a Haar matrix or a corner of one, and
  is used once; `trajectory` gives the leading order. B inputs cost
  O(B²·width + B³) per layer instead of O(width²). Uniform weights follow the
  Gaussian law to leading order only. Tied and recurrent weights, convolutions,
  attention and Jacobian spectra are not covered.

  Args:
    key: a PRNG key.
    layers: first to last, each with its width. Normalization is over the
      units of an input for "layer" and "rms", over the inputs for "batch".
    draws: number of stacks to draw, >= 1.
    second_moment: of the data, > 0. The data are Gaussian, but their size and
      correlation are exact; they have as many features as the first layer has
      units, or as there are inputs.
    correlation: between two inputs, in [-1, 1]: x_a·x_b/|x|².
    batch: number of inputs B over which second moments are averaged.
    cotangent_correlation: correlation of the last layer's gradients, which
      are drawn at random.
    weights: "gaussian" or "orthogonal", with variance σ_w²/fan_in.

  Raises:
    ValueError: as for `trajectory`; for layers without widths, correlations
      impossible for B inputs, or a residual layer narrower than the batch.
    TypeError: if `key` is not a key, or an activation is not a function.

  >>> he = Layer(jax.nn.relu, 2.0, width=64)
  >>> found = simulate(jax.random.key(0), [Layer(width=64)] + 50 * [he], 1000)
  >>> round(float(found.forward[:, -1].mean()))
  -3

  Reference: Bolthausen 2014, §3.
  """
  check_key(key)
  check_layers(layers, second_moment, correlation, batch, cotangent_correlation)
  check_integer("draws", draws, low=1)
  check_choice("weights", weights, ("gaussian", "orthogonal"))
  units = _units(layers, batch)
  start = _root_of("correlation", correlation, batch)
  start = start * math.sqrt(second_moment * units[0])
  end = _root_of("cotangent_correlation", cotangent_correlation, batch)
  biased = any(layer.sigma_b2 for layer in layers)
  noises = _noises(key, draws, (len(layers), batch, max(units)), biased)

  def run() -> list[Any]:
    functions = [layer.activation or identity for layer in layers]
    traced = {phi: trace(phi) for phi in dict.fromkeys(functions)}
    before = [
      _Before(traced[phi], *_read_of(layer))
      for phi, layer in zip(functions, layers, strict=True)
    ]
    kinds = tuple(dict.fromkeys(before))
    program = _program(kinds, weights, max(units))
    stack = _stack(layers, units, [kinds.index(each) for each in before])
    return [jax.device_get(program(stack, start, end, n)) for n in noises]

  forward, backward = zip(*in_float64(run), strict=True)
  return Simulation(
    np.concatenate(forward)[:draws], np.concatenate(backward)[:draws]
  )


def _units(layers: Sequence[Layer], batch: int) -> list[int]:
  """Of the data, and of each layer."""
  widths = [layer.width for layer in layers if layer.width is not None]
  if len(widths) < len(layers):
    raise ValueError("layers must have widths to be simulated; some have none.")
  if layers[0].skip != 0 and widths[0] < batch:
    raise ValueError(
      f"layers[0] keeps data of {widths[0]} features, too few for the exact "
      f"correlations of {batch} inputs; remove its skip, or make it wider."
    )
  features = max(widths[0], batch)
  return [features + features % 2 if layers[0].gated else features, *widths]


def _root_of(name: str, correlation: float, batch: int) -> np.ndarray:
  """[inputs, inputs]: a root of the matrix of correlations."""
  if correlation * (batch - 1) < -1:
    raise ValueError(
      f"{name} of {batch} inputs is at least {-1 / (batch - 1):.3g}; got "
      f"{correlation}."
    )
  wanted = np.eye(batch) * (1 - correlation) + correlation
  values, vectors = np.linalg.eigh(wanted)
  return vectors * np.sqrt(np.maximum(values, 0.0))


class _Stack(NamedTuple):
  """The layers as arrays [depth]."""

  before: np.ndarray
  """what comes before the weights"""
  units: np.ndarray
  """of the stream"""
  inputs: np.ndarray
  """of the weights: half as many where there is a gate"""
  outputs: np.ndarray
  sigma_w2: np.ndarray
  sigma_b: np.ndarray
  skip: np.ndarray
  branch: np.ndarray


def _stack(
  layers: Sequence[Layer], units: Sequence[int], before: Sequence[int]
) -> _Stack:
  rows = [
    (layer.sigma_w2, math.sqrt(layer.sigma_b2), layer.skip, layer.branch)
    for layer in layers
  ]
  numbers = np.array(rows, float).T
  before_it, after_it = np.array(units[:-1]), np.array(units[1:])
  inputs = before_it // np.array([1 + layer.gated for layer in layers])
  return _Stack(np.array(before), before_it, inputs, after_it, *numbers)


class _Before(NamedTuple):
  """What a layer does before its weights."""

  phi: TracedActivation
  first: str
  """normalization before φ"""
  then: str
  """and after it"""
  gated: bool

  def read(self, h: jax.Array, units: jax.Array) -> jax.Array:
    """What the weights are applied to, of a stream of so many units."""
    here = jnp.arange(h.shape[-1])
    h = _normalized(self.first, h, here < units)
    inside = here < (units // 2 if self.gated else units)
    x = self.phi.function(jnp.where(inside, h, 0.0))
    if self.gated:
      x = x * jnp.roll(h, -(units // 2), axis=-1)
    return _normalized(self.then, jnp.where(inside, x, 0.0), inside)


def _read_of(layer: Layer) -> tuple[str, str, bool]:
  names = (layer.normalization, "none")
  return *(names[::-1] if layer.normalize_after else names), layer.gated


class _Noise(NamedTuple):
  """Independent N(0, 1), [depth, draws, inputs, units]."""

  forward: np.ndarray
  backward: np.ndarray
  bias: np.ndarray | None
  """[depth, draws, 1, units]: one for all inputs; None without biases"""
  ends: np.ndarray
  """[2, draws, inputs, units]: for the data and the gradient"""


def _noises(
  key: jax.Array, draws: int, shape: tuple[int, int, int], biased: bool
) -> Iterator[_Noise]:
  """For some draws at a time; NumPy is three times as fast as threefry."""
  depth, batch, units = shape
  data = key if key.dtype == np.uint32 else jax.random.key_data(key)
  seeds = np.random.SeedSequence(np.asarray(data).ravel().tolist()).spawn(2)
  generators = [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]
  parts = -(-draws * math.prod(shape) // _MOST)
  each = -(-draws // parts)

  def normal(number: int, length: int, inputs: int) -> np.ndarray:
    size = (length, each, inputs, units)
    return generators[number].standard_normal(size, np.float32)

  with concurrent.futures.ThreadPoolExecutor(1) as beside:
    for _ in range(parts):
      forward = beside.submit(normal, 0, depth, batch)
      backward, ends = normal(1, depth, batch), normal(1, 2, batch)
      bias = normal(1, depth, 1) if biased else None
      yield _Noise(forward.result(), backward, bias, ends.astype(float))


class _Kind(NamedTuple):
  """What a program is compiled for."""

  fed: Callable[[_Stack, jax.Array], jax.Array]
  """(layer, h) -> x, what its weights are applied to"""
  forth: Callable[..., jax.Array]
  """the law of what weights make of it"""
  back: Callable[..., jax.Array]
  """the law of what they make of a gradient, given that"""
  here: jax.Array
  """[units]: 0, 1, 2, ..."""


@functools.lru_cache(maxsize=32)
def _program(
  kinds: tuple[_Before, ...], weights: Weights, units: int
) -> Callable[..., Any]:
  """(stack, start, end, noise) -> log₂ sizes [draws, depth], both ways."""
  here = jnp.arange(units)
  reads = [kind.read for kind in kinds]

  def fed(at: _Stack, h: jax.Array) -> jax.Array:
    return jax.lax.switch(at.before, reads, h, at.units)

  return jax.jit(functools.partial(_run, _Kind(fed, *_LAWS[weights], here)))


def _run(
  kind: _Kind, stack: _Stack, start: jax.Array, end: jax.Array, noise: _Noise
) -> tuple[jax.Array, jax.Array]:
  """One pass up and one down, layer by layer."""
  data = start @ _frame(noise.ends[0] * (kind.here < stack.units[0]))
  _, (h, y, sizes) = jax.lax.scan(
    functools.partial(_up, kind), data, (stack, noise.forward, noise.bias)
  )
  delta = end @ noise.ends[1] * (kind.here < stack.outputs[-1])
  _, gradients = jax.lax.scan(
    functools.partial(_down, kind),
    (delta, jnp.zeros(delta.shape[0])),
    (stack, h, y, noise.backward),
    reverse=True,
  )
  return sizes.T, (gradients - gradients[-1]).T


def _up(kind: _Kind, h: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
  """The stream after a layer; what going back needs, and its size."""
  at, noise, bias = layer
  x, scale = _by_largest(kind.fed(at, h))
  y = kind.forth(at, x, noise.astype(h.dtype), kind.here)
  signal = scale * y + (0.0 if bias is None else at.sigma_b * bias)
  after = at.skip * h + at.branch * signal * (kind.here < at.outputs)
  return after, (h, y.astype(noise.dtype), _log2_size(after, at.outputs))


def _down(kind: _Kind, state: Any, layer: Any) -> tuple[Any, jax.Array]:
  """The gradient before a layer, with its scale apart; its size after it."""
  delta, log2_scale = state
  at, h, y, noise = layer
  delta, scale = _by_largest(delta)
  log2_scale += jnp.log2(scale)[:, 0, 0]
  size = _log2_size(delta, at.outputs) + 2 * log2_scale
  x, pull_back = jax.vjp(functools.partial(kind.fed, at), h)
  y, noise = y.astype(h.dtype), noise.astype(h.dtype)
  returned = kind.back(at, _by_largest(x)[0], y, delta, noise, kind.here)
  (through,) = pull_back(at.branch * returned * (kind.here < at.inputs))
  return (at.skip * delta + through, log2_scale), size


def _normalized(name: str, h: jax.Array, inside: jax.Array) -> jax.Array:
  """Of the units inside; the others are 0."""
  if name == "none":
    return h
  over_inputs = name == "batch"
  axis, count = (1, h.shape[1]) if over_inputs else (2, inside.sum())
  if name != "rms":
    h = (h - h.sum(axis, keepdims=True) / count) * inside
  square = (h**2).sum(axis, keepdims=True) / count
  return h * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def _by_largest(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Each draw by its largest magnitude, so that squares stay in range."""
  largest = abs(x).max(axis=(1, 2), keepdims=True)
  largest = jnp.where(largest > 0, largest, 1.0)
  return x / largest, largest


def _log2_size(x: jax.Array, units: jax.Array) -> jax.Array:
  """[draws]: log₂ of the second moment of the units, the rest being 0."""
  scaled, largest = _by_largest(x)
  total = (scaled**2).sum(axis=(1, 2)) / (units * x.shape[1])
  return jnp.log2(total) + 2 * jnp.log2(largest[:, 0, 0])


def _gaussian(at: _Stack, x: Any, noise: Any, here: Any) -> jax.Array:
  gram = _dot(x, x) * at.sigma_w2 / at.inputs
  return _power(gram, 0.5) @ noise * (here < at.outputs)


def _gaussian_back(
  at: _Stack, x: Any, y: Any, delta: Any, noise: Any, here: Any
) -> jax.Array:
  gram = _dot(delta, delta) * at.sigma_w2 / at.inputs
  fresh = _power(gram, 0.5) @ noise * (here < at.inputs)
  known = _dot(delta, y) - _dot(fresh, x)
  return fresh + known @ _power(_dot(x, x), -1) @ x


def _orthogonal(at: _Stack, x: Any, noise: Any, here: Any) -> jax.Array:
  """s·Q·x with a Haar matrix Q as wide as the wider side; not yet cut."""
  side = jnp.maximum(at.inputs, at.outputs)
  scale = jnp.sqrt(at.sigma_w2 * side / at.inputs)
  return scale * _turned(_dot(x, x), noise * (here < side))


def _orthogonal_back(
  at: _Stack, x: Any, y: Any, delta: Any, noise: Any, here: Any
) -> jax.Array:
  side = jnp.maximum(at.inputs, at.outputs)
  square = at.sigma_w2 * side / at.inputs
  along = _dot(delta, y) @ _power(_dot(y, y), -1)
  rest = delta - along @ y
  noise = noise * (here < side)
  beside = noise - _dot(noise, x) @ _power(_dot(x, x), -1) @ x
  fresh = _turned(_dot(rest, rest), beside)
  return square * along @ x + jnp.sqrt(square) * fresh


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
  """[draws, inputs, inputs]: of all pairs."""
  return a @ b.mT


def _turned(gram: jax.Array, noise: jax.Array) -> jax.Array:
  """Vectors of this Gram matrix, in random directions."""
  values, vectors = _eigen(gram)
  root = vectors * jnp.sqrt(values)[:, None, :]
  return root @ _frame(noise * (values > 0)[:, :, None])


def _frame(noise: jax.Array) -> jax.Array:
  """Orthonormal rows of random directions; those that are 0 stay so."""
  return _power(_dot(noise, noise), -0.5) @ noise


def _power(gram: jax.Array, exponent: float) -> jax.Array:
  """Of a Gram matrix; eigenvalues that are 0 stay so."""
  values, vectors = _eigen(gram)
  powers = jnp.where(values > 0, values, 1.0) ** exponent
  return (vectors * (powers * (values > 0))[:, None, :]) @ vectors.mT


def _eigen(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
  if gram.shape[-1] == 1:
    return gram[:, :, 0], jnp.ones_like(gram)
  values, vectors = jnp.linalg.eigh(gram)
  return jnp.where(values > _RANK * values[:, -1:], values, 0.0), vectors


_LAWS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
  "gaussian": (_gaussian, _gaussian_back),
  "orthogonal": (_orthogonal, _orthogonal_back),
}
