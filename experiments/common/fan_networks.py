"""Fully connected networks of any widths, and what their fans make of them."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import plots
from experiments.common.networks import UNIT
from experiments.runtime.experiment import Claim
from initjax import initializers
from initjax.typing import Activation, Initializer

MODE_NAMES = {
  "fan_in": "n_in",
  "fan_out": "n_out",
  "fan_avg": "(n_in + n_out)/2",
  "fan_geo_avg": "√(n_in·n_out)",
}
"""what the variance is divided by"""
MODES = tuple(MODE_NAMES)


class Seen(NamedTuple):
  """One pass through a network, forward and backward."""

  signals: list[jax.Array]
  """pre-activations of each layer, [batch, width]"""
  gradients: list[jax.Array]
  """of the loss with respect to them, likewise"""


def draw(
  key: jax.Array, widths: Sequence[int], init: Initializer
) -> list[jax.Array]:
  """Kernels from each width to the next; those of one shape in one go."""
  shapes = list(itertools.pairwise(widths))
  keys = jax.random.split(key, len(shapes))
  found: dict[int, jax.Array] = {}
  for shape in dict.fromkeys(shapes):
    layers = [i for i, each in enumerate(shapes) if each == shape]
    kernels = jax.vmap(lambda key, shape=shape: init(key, shape, jnp.float32))(
      keys[np.array(layers)]
    )
    found |= dict(zip(layers, kernels, strict=True))
  return [found[i] for i in range(len(shapes))]


def see(
  phi: Activation,
  kernels: Sequence[jax.Array],
  x: jax.Array,
  loss: Callable[[jax.Array], jax.Array],
) -> Seen:
  """z₁ = x·W₁, z_l = φ(z_{l-1})·W_l; `loss` is a number made of the last."""

  def run(nudges: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    found: list[jax.Array] = []
    for kernel, nudge in zip(kernels, nudges, strict=True):
      found.append((phi(found[-1]) if found else x) @ kernel + nudge)
    return loss(found[-1]), found

  nudges = [jnp.zeros((len(x), kernel.shape[1])) for kernel in kernels]
  gradients, signals = jax.grad(run, has_aux=True)(nudges)
  return Seen(signals, gradients)


def second_moments(arrays: Sequence[jax.Array]) -> jax.Array:
  """E[z²] of each: [layers]."""
  return jnp.stack([(array**2).mean() for array in arrays])


Kind = tuple[Any, Any]
"""mode and distribution of `variance_scaling`"""


@functools.partial(jax.jit, static_argnames=("widths", "scale", "kinds"))
def draw_kinds(
  keys: jax.Array,
  *,
  widths: tuple[int, ...],
  scale: float,
  kinds: tuple[Kind, ...],
) -> list[list[jax.Array]]:
  """Kernels of Var W = scale/fan for each kind, [runs, n_in, n_out] each.

  The first layer, from data of widths[0] features, keeps their second moment;
  it is scaled by 1/n_in for all kinds. Modes are drawn apart; distributions of
  one mode share their random numbers, so that they can be compared in pairs.
  """
  modes = list(dict.fromkeys(mode for mode, _ in kinds))

  def one(key: jax.Array) -> list[list[jax.Array]]:
    keys = dict(zip(modes, jax.random.split(key, len(modes)), strict=True))

    def kernels(mode: Any, distribution: Any) -> list[jax.Array]:
      first_key, key = jax.random.split(keys[mode])
      init = initializers.variance_scaling(scale, mode, distribution)
      first = draw(first_key, widths[:2], UNIT)
      return first + draw(key, widths[1:], init)

    return [kernels(*kind) for kind in kinds]

  return jax.vmap(one)(keys)


@functools.partial(jax.jit, static_argnames=("activation",))
def through(
  networks: tuple[list[jax.Array], jax.Array],
  x: jax.Array,
  *,
  activation: Activation,
) -> dict[str, jax.Array]:
  """Second moments in [runs] networks, given their kernels, and keys.

  White noise is sent back from the last layer. "forward" and "backward" are
  [runs, layers]; "last" is of the last layer, by input: [runs, batch].
  """

  def one(kernels: list[jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    cotangent = jax.random.normal(key, (len(x), kernels[-1].shape[1]))
    seen = see(activation, kernels, x, lambda z: (z * cotangent).sum())
    return {
      "forward": second_moments(seen.signals),
      "backward": second_moments(seen.gradients),
      "last": (seen.signals[-1] ** 2).mean(-1),
    }

  return jax.vmap(one)(*networks)


def fan(mode: str, n_in: Any, n_out: Any) -> Any:
  """What the variance of the weights is divided by."""
  return {
    "fan_in": n_in,
    "fan_out": n_out,
    "fan_avg": (n_in + n_out) / 2,
    "fan_geo_avg": np.sqrt(n_in * n_out),
  }[mode]


def law(widths: Sequence[int], mode: str) -> dict[str, np.ndarray]:
  """What `through` gives in expectation, exactly: "forward" q and "backward" g.

  For linear layers with scale 1 and ReLU layers with scale 2, of any width;
  1 where they start, [widths]:

      q_l = q_{l-1}·n_{l-1}/fan_l,   g_{l-1} = g_l·n_l/fan_l
  """
  n = np.array(widths, np.float64)
  fans = fan(mode, n[:-1], n[1:])
  forward = np.cumprod([1.0, *n[:-1] / fans])
  backward = np.cumprod([1.0, *(n[1:] / fans)[::-1]])[::-1]
  return {"forward": forward, "backward": backward}


def unit_rows(inputs: Any) -> jax.Array:
  """Each input, flat, divided by its root mean square."""
  flat = jnp.reshape(inputs, (len(inputs), -1))
  return flat / jnp.sqrt((flat**2).mean(1, keepdims=True))


ENDS = {"forward": -1, "backward": 0}
"""where each direction ends"""


def ends(found: dict[str, Any]) -> dict[str, tuple[float, float]]:
  """log₂ of the mean over pyramids at each end, and two errors.

  Second moments themselves obey the law in expectation, logarithms do not; the
  standard error of the mean is carried over to its logarithm.
  """
  result = {}
  for direction, index in ENDS.items():
    mean, error = plots.mean_and_two_errors(found[direction][:, index])
    result[direction] = float(np.log2(mean)), error / mean / float(np.log(2))
  return result


def log2_ends(law: dict[str, Any]) -> dict[str, float]:
  """The same of `law`."""
  return {name: float(np.log2(law[name][i])) for name, i in ENDS.items()}


def claims_at_ends(
  name: str, source: str, found: dict[str, Any], law: dict[str, Any]
) -> list[Claim]:
  """One of each direction; both see the same kernels, so one of them counts."""
  laws, seen = log2_ends(law), ends(found)
  names = {way: f"{name}: log₂ {way} second moment at its end" for way in ENDS}
  forward, backward = (
    Claim(source, names[way], laws[way], *seen[way]) for way in ENDS
  )
  return [forward, backward._replace(shares=names["forward"])]


def cells_at_ends(found: dict[str, Any], law: dict[str, Any]) -> list[str]:
  """Of a table: measured (theory), forward and backward."""
  laws = log2_ends(law)
  return [
    f"{value:+.2f} ± {error:.2f} ({laws[way]:+.2f})"
    for way, (value, error) in ends(found).items()
  ]


def draw_by_layer(
  axis: Any, found: dict[str, Any], laws: dict[str, Any], direction: str
) -> None:
  """Second moments by layer, of each mode; theory dashed."""
  for (mode, seen), color in plots.colored(found.items()):
    layers = np.arange(seen[direction].shape[1])
    plots.points(axis, layers, seen[direction], color, MODE_NAMES[mode])
    plots.law(axis, layers, laws[mode][direction], color=color)
  plots.law(axis, [], [], label="theory", color="gray")
  axis.set_yscale("log", base=2)
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.set_xlabel("layer")
  what = "signal" if direction == "forward" else "gradient"
  axis.set_ylabel(f"second moment of the {what}")
