"""Deep stacks, layer by layer: signal, gradient, correlation, and spread."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from initjax._checks import check_choice, check_integer, check_number
from initjax.meanfield._finite_width import check_correlation
from initjax.meanfield._fluctuations import Chance, chance_of
from initjax.meanfield._steps import Layer, steps_of

_BIT = math.log(2)


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
  """What theory predicts for each layer, as log₂ of second moments."""

  forward: np.ndarray
  """[depth], width -> ∞: of h_l, what layer l hands on"""
  backward: np.ndarray
  """[depth], width -> ∞: of an element of the gradient with respect to h_l,
  relative to that of the last layer; inf where φ jumps"""
  correlation: np.ndarray
  """[depth]: E[h_a·h_b]/E[h²] of two inputs a and b (no logarithm)"""
  forward_drift: np.ndarray
  """[depth]: at finite width, the mean over networks minus `forward`"""
  backward_drift: np.ndarray
  """[depth]: likewise"""
  forward_std: np.ndarray
  """[depth]: standard deviation over networks"""
  backward_std: np.ndarray
  """[depth]: likewise"""
  _chance: Chance

  def __repr__(self) -> str:
    """Short: both ends."""
    ends = f"signal 2^{self.forward[-1]:.2f}, gradient 2^{self.backward[0]:.2f}"
    return f"Trajectory({len(self.forward)} layers: {ends})"

  @property
  def drift_apart(self) -> np.ndarray:
    """[2, depth]: both drifts, if inputs collapse no sooner than in theory.

    Where drifts are NaN because inputs do collapse sooner, the true ones lie
    between these and the drifts of a single input.
    """
    return self._chance.apart / _BIT

  @functools.cached_property
  def forward_covariance(self) -> np.ndarray:
    """[depth, depth]: over networks, computed on first use."""
    return self._chance.forward_covariance() / _BIT**2

  @functools.cached_property
  def backward_covariance(self) -> np.ndarray:
    """[depth, depth]: the same for gradients."""
    return self._chance.backward_covariance() / _BIT**2


def trajectory(
  layers: Sequence[Layer],
  *,
  second_moment: float = 1.0,
  correlation: float = 0.0,
  batch: int = 1,
  cotangent_correlation: float = 0.0,
) -> Trajectory:
  """Predicts signal, gradient and correlation in every layer of a stack.

  At infinite width, with q_l = E[h_l²], K = σ_w²·E[φ(z)²] + σ_b² and
  χ = σ_w²·E[φ'(z)²], where z ~ N(0, q_l), or N(0, 1) if normalized:

      q_{l+1} = skip²·q_l + branch²·K
      g_l     = (skip² + branch²·χ/s·n_{l+1}/n_l)·g_{l+1}

  Here s is 1, or what a normalization divides by: q_l ("layer", "rms") or
  q_l·(1 - c_l) ("batch"). When normalizing after φ, it is Var φ, E[φ²] or
  E[φ²] - E[φ_a·φ_b], and K is σ_w² + σ_b². With a gate, E[φ²]·q_l and
  E[φ'²]·q_l + E[φ²] replace E[φ²] and E[φ'²]. At width n, log₂ q_l and log₂ g_l
  deviate at random, with the mean and covariance given here to first order in
  depth/n: each layer adds what `fluctuation` says, and later ones pass it on
  with the slopes d log K/d log q and d log χ/d log q. A std is then off by a
  fraction of 2/n (ReLU) up to depth/(2n), at most about a quarter where it is
  not NaN, and a mean by about a fifth of a std. Over a batch, random changes
  of correlations are neglected too: inputs that stay nearly uncorrelated in
  theory scatter together up to three times as much.

  Args:
    layers: first to last. The data count as a Gaussian stream: give the first
      layer no activation unless the data really are pre-activations.
    second_moment: the second moment of the data, > 0.
    correlation: between two inputs, in [-1, 1]: E[x_a·x_b]/E[x²].
    batch: number of inputs over which second moments are averaged; it affects
      drift and covariance.
    cotangent_correlation: correlation of their gradients in the last layer,
      in [-1, 1]; 0 if these are drawn at random.

  Drift, deviation and covariance are 0 without widths, and NaN (unknown) where
  first order is not enough: after a batch normalization, a gate or a
  normalization after φ; where slopes vary too much over the random range of q,
  as for GELU at its gain from the tenth layer on; where gradients depend too
  strongly on their weights (softplus at width 32) or layers are too narrow for
  their number (ReLU at width 16 from depth 50 on); and over a batch whose
  inputs collapse sooner than in theory. Use `simulate` in these cases.

  Raises:
    ValueError: for an empty stack, numbers out of range, or residual layers
      whose width changes; and in the same cases as `initjax.gains.moments`.

  >>> import jax
  >>> first, he = Layer(width=128), Layer(jax.nn.relu, 2.0, width=128)
  >>> t = trajectory([first] + 100 * [he])
  >>> f"{t.forward[-1]:.2f} {t.forward_std[-1] * math.log(2):.2f}"
  '0.00 1.98'

  Reference: Schoenholz et al. 2017; Yang and Schoenholz 2017; Hanin and Nica
  2020; Roberts, Yaida and Hanin 2022, §4 and §9.
  """
  check_layers(layers, second_moment, correlation, batch, cotangent_correlation)
  steps = steps_of(layers, math.log2(second_moment), correlation)
  gains = steps.log2_gradient[1:] + _log2_width_ratios(layers)
  backward = np.concatenate([np.cumsum(gains[::-1])[::-1], [0.0]])
  chance = chance_of(layers, steps, batch, cotangent_correlation)
  forward_drift, backward_drift = chance.mean / _BIT
  forward_std, backward_std = np.sqrt(chance.variance) / _BIT
  return Trajectory(
    steps.log2_out,
    backward,
    steps.correlation_out,
    forward_drift,
    backward_drift,
    forward_std,
    backward_std,
    chance,
  )


def _log2_width_ratios(layers: Sequence[Layer]) -> np.ndarray:
  """[depth - 1]: of the outputs of the next layer over those of this one."""
  widths = np.log2([layer.width or 1.0 for layer in layers])
  return np.diff(widths)


def check_layers(
  layers: Sequence[Layer],
  second_moment: float,
  correlation: float,
  batch: int,
  cotangent_correlation: float,
) -> None:
  if not layers:
    raise ValueError("layers must hold at least one Layer; got none.")
  check_number("second_moment", second_moment, low=0, open_low=True)
  check_correlation("correlation", correlation)
  check_correlation("cotangent_correlation", cotangent_correlation)
  check_integer("batch", batch, low=1)
  for index, layer in enumerate(layers):
    _check_layer(index, layer)
  widths = [layer.width for layer in layers]
  if None in widths and any(widths):
    raise ValueError(
      f"widths must be given for all layers or for none; got {widths}."
    )
  _check_widths(layers, widths)


def _check_widths(
  layers: Sequence[Layer], widths: Sequence[int | None]
) -> None:
  for index in range(1, len(layers)):
    if layers[index].gated and (widths[index - 1] or 0) % 2:
      raise ValueError(
        f"layers[{index}] multiplies the halves of {widths[index - 1]} units; "
        "give the layer before it an even width."
      )
    if layers[index].skip != 0 and widths[index] != widths[index - 1]:
      raise ValueError(
        f"layers[{index}] adds to a stream of width {widths[index - 1]}, so "
        f"must have that width; got {widths[index]}. Set skip=0 there."
      )


def _check_layer(index: int, layer: Layer) -> None:
  name = f"layers[{index}]"
  if layer.activation is not None and not callable(layer.activation):
    raise TypeError(
      f"{name}.activation must be a function or None; got {layer.activation!r}."
    )
  check_number(f"{name}.sigma_w2", layer.sigma_w2, low=0, open_low=True)
  check_number(f"{name}.sigma_b2", layer.sigma_b2, low=0)
  check_number(f"{name}.skip", layer.skip)
  check_number(f"{name}.branch", layer.branch)
  choices = ("none", "layer", "rms", "batch")
  check_choice(f"{name}.normalization", layer.normalization, choices)
  if layer.width is not None:
    check_integer(f"{name}.width", layer.width, low=1)
  if layer.skip == 0 and layer.branch == 0:
    raise ValueError(
      f"{name} is 0, because both its skip and its branch are 0."
    )
