"""Why a signal or a gradient grows or shrinks, and which weights fix it.

The typical layer of a chain is compared with theory, at infinite width and unit
variance: σ_w² = 1/E[φ²] preserves the signal, χ₁ = σ_w²E[φ'²] is the factor of
the gradient, and the slope of the length map says whether the signal stays.

Reference: Poole et al. 2016; Schoenholz et al. 2017; He et al. 2015.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from initjax._activations import known_name
from initjax.diagnosis._fixes import fix, initializer
from initjax.diagnosis._recurrent import in_time
from initjax.gains import length, moments
from initjax.graph import LinearOp, Row, Stream
from initjax.meanfield import THEORY_FAILS
from initjax.measurement import Leaves, mean_square
from initjax.typing import Activation

_SHORT = 4.0  # log₂ of what a gradient may change in all


class TypicalLayer(NamedTuple):
  """What theory says of the typical operation of a chain."""

  name: str
  """of its activation"""
  op: LinearOp
  """one of them"""
  sigma_w2: float
  """variance of its kernel times fan_in"""
  needed: float
  """σ_w² that keeps the signal at unit variance, 1/E[φ²]"""
  slope: float
  """E[φ'²]"""
  length_slope: float
  """of the length map q → σ_w²E[φ(√q z)²] at q = 1 and σ_w² = `needed`"""

  @property
  def chi_1(self) -> float:
    """The gradient's factor, σ_w²E[φ'²], with these weights."""
    return self.sigma_w2 * self.slope


def typical(ops: Sequence[LinearOp], leaves: Leaves) -> TypicalLayer | None:
  """The layer with the activation that most of these operations share."""
  scale = _scale_of(ops, leaves)
  groups: dict[str, list[LinearOp]] = {}
  for op in ops:
    if scale(op) > 0 and _feeding_name(op):
      groups.setdefault(_feeding_name(op), []).append(op)
  if not groups:
    return None
  name, shared = max(groups.items(), key=lambda group: len(group[1]))
  scales = sorted(map(scale, shared))
  phi = shared[0].usual_feed.activation
  assert phi is not None  # it has a name
  at_one = _at_one(phi)
  if at_one is None or not 0 < at_one[1] < math.inf:
    return None  # theory is silent; or a step: no gradient at all, or infinite
  second_moment, slope, length_slope = at_one
  return TypicalLayer(
    name,
    shared[-1],
    sigma_w2=scales[len(scales) // 2],
    needed=1 / second_moment,
    slope=slope,
    length_slope=length_slope,
  )


@functools.lru_cache(maxsize=256)
def _at_one(phi: Activation) -> tuple[float, float, float] | None:
  """E[φ²], E[φ'²] and the slope of the length map at unit variance, if any."""
  try:
    found, slope = moments(phi), float(length(phi).slope)
  except THEORY_FAILS:
    return None
  second = float(found.second_moment)
  return second, float(found.derivative_second_moment), slope / second


def _scale_of(
  ops: Sequence[LinearOp], leaves: Leaves
) -> Callable[[LinearOp], float]:
  """σ_w² = variance × fan_in of an operation; 0 if its kernel is not known.

  Each leaf is read once, however many operations use it.
  """
  paths = {op.path for op in ops} & set(leaves)
  squares = {path: mean_square(leaves[path]) for path in paths}
  return lambda op: squares.get(op.path, 0.0) * op.multiplier**2 * op.fan_in


def _feeding_name(op: LinearOp) -> str:
  """Name of the activation; empty if theory does not say what it is fed."""
  feed = op.usual_feed
  known = feed.reason in ("linear", "normalization", "residual sum")
  if feed.activation is None or not known:
    return ""
  return known_name(feed.activation) or "the activation"


_UNEXPLAINED = (
  "Theory does not predict this for these activations and variances: look for "
  "kernels or biases with nonzero mean, and for scale factors between layers."
)
_CRITICAL_AT_ONE = ("tanh", "soft_sign", "erf", "hard_tanh", "sin")


class Shape(NamedTuple):
  """What a piece of a model has already, as its graph says."""

  depth: int
  has_norms: bool = False
  """whether a normalization feeds any of its operations"""
  has_sums: bool = False
  """whether a sum of operations does, as residual branches make"""
  in_time: bool = False
  """whether its operations are one, at several time steps"""
  paths: tuple[str, ...] = ()
  """of its kernels"""

  @property
  def remedies(self) -> str:
    """What it does not have, and what would mend it."""
    norms = "normalization before each activation (nn.LayerNorm, nn.BatchNorm)"
    offered = [norms] * (not self.has_norms)
    offered += ["residual branches"] * (not self.has_sums)
    return ", ".join((*offered, "or relu with he_normal()")).removeprefix("or ")


def shape_of(rows: Sequence[Row], in_time: bool) -> Shape:
  """Asks the rows of a piece."""
  reasons = {row.feed.reason for row in rows}
  sums = (row.feed.stream for row in rows)
  return Shape(
    len(rows),
    "normalization" in reasons,
    any(_is_sum(stream) for stream in sums if stream),
    in_time,
    tuple(dict.fromkeys(path for row in rows for path in row.op.paths)),
  )


def _is_sum(stream: Stream) -> bool:
  """Of several signals, as it is or normalized."""
  signals = [term for term in stream if term.kind not in ("bias", "constant")]
  inside = (term.inner for term in signals if term.kind == "normalized")
  return len(signals) > 1 or any(_is_sum(each) for each in inside)


def explain(
  direction: str, growth: float, layer: TypicalLayer | None, shape: Shape
) -> tuple[str, str]:
  """The cause of a growth, in log₂ per operation, and its fix."""
  if shape.in_time:
    return in_time(direction, growth, shape.paths)
  if layer is None:
    silent = (
      "No known activation feeds these operations, so theory cannot explain "
      "this."
    )
    shows = "initjax.signal_graph(fn, params, *inputs) shows what feeds each"
    return silent, fix("", shows)
  off = math.log2(layer.sigma_w2 / layer.needed)
  expected = math.log2(layer.chi_1)
  is_cause = abs(off) > 0.25 or abs(off - growth) < abs(growth) / 3
  if is_cause and off * growth > 0:
    cause = (
      f"The kernels are too {'large' if off > 0 else 'small'} for "
      f"{layer.name}: their variance × fan_in is {layer.sigma_w2:.3g}, "
      f"{2**off:.3g} times the {layer.needed:.3g} that keeps its signal."
    )
  elif direction == "forward" and layer.length_slope > 1:
    cause = (
      f"With these weights {layer.name} keeps unit variance, but any "
      f"deviation from it grows by a factor of {layer.length_slope:.3f} per "
      "layer."
    )
  elif direction == "backward" and abs(expected - growth) < abs(growth) / 2:
    verb = "explodes" if expected > 0 else "vanishes"
    cause = (
      f"Theory predicts this: with these weights the gradient of {layer.name} "
      f"{verb}, by a factor of {layer.chi_1:.3f} per layer. Another seed will "
      "not help."
    )
  else:
    return _UNEXPLAINED, fix("", shape.remedies)
  return cause, _mended(layer, shape)


def _mended(layer: TypicalLayer, shape: Shape) -> str:
  """The initializer that holds both directions over this depth, if one does."""
  if layer.name == "relu":
    return initializer("he_normal", "", layer.op)
  if layer.name == "leaky_relu":
    return initializer("kaiming_normal", "negative_slope=0.01", layer.op)
  drift = shape.depth * abs(math.log2(layer.needed * layer.slope))
  if drift < _SHORT and layer.length_slope <= 1:
    return initializer("activation_scaling", _written(layer.name), layer.op)
  if layer.name in _CRITICAL_AT_ONE:
    chaos = (
      f"a variance of 1/fan_in puts {layer.name} at the edge of chaos; or use"
    )
    return initializer(
      "lecun_normal", "", layer.op, f"{chaos} {shape.remedies}"
    )
  return fix(
    "",
    f"no kernel variance keeps {layer.name} stable at this depth; use "
    f"{shape.remedies}",
  )


def _written(name: str) -> str:
  """How an activation is written in code."""
  inside = {
    "the activation": "φ",
    "tanh": "jnp.tanh",
    "sin": "jnp.sin",
    "erf": "jax.lax.erf",
  }
  if name == "exact gelu":
    return "functools.partial(jax.nn.gelu, approximate=False)"
  return inside.get(name, f"jax.nn.{name}")
