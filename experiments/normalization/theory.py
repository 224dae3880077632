"""What theory says of normalized ReLU networks at infinite width."""

import jax
import numpy as np

from initjax import gains, meanfield


def forward_with_epsilon(
  kind: str, sigma_w: np.ndarray, x: np.ndarray, depth: int, epsilon: float
) -> np.ndarray:
  """log₂ E[φ(norm(z_L))²], by σ_w [scales]; independent of it but for ε.

  With v the variance that the normalization sees, its output has the variance
  r = v/(v + ε), and the next layer sees σ_w²·r·E[φ²] over units ("layer"),
  σ_w²·r·Var φ over a batch of inputs that are unlike ("batch").
  """
  m = gains.moments(jax.nn.relu)
  if kind == "batch":
    first, share = x.var(0).mean(), m.second_moment - m.mean**2
  else:
    first, share = (x**2).mean(), m.second_moment
  r = first * sigma_w**2 / (first * sigma_w**2 + epsilon)
  for _ in range(depth - 1):
    v = sigma_w**2 * share * r
    r = v / (v + epsilon)
  return np.log2(m.second_moment * r)


def plain_forward(sigma_w: np.ndarray, x: np.ndarray, depth: int) -> np.ndarray:
  """log₂ E[φ(z_L)²] without normalization: (σ_w²/2)^L·E[x²]."""
  half = float(gains.moments(jax.nn.relu).second_moment)
  return depth * np.log2(half * sigma_w**2) + np.log2((x**2).mean())


def gradient_growth(kind: str, batch: int | None) -> float:
  """Growth of squared gradients per layer, from one layer to that before it.

  π/(π - 1) for BatchNorm and a large batch, (B - 2)/(B - 3) if linear; 1 for
  LayerNorm, and without normalization at He's scale.
  """
  if kind == "linear":
    return meanfield.batch_norm_gradient_growth(lambda z: z, batch)
  if kind == "batch":
    return meanfield.batch_norm_gradient_growth(jax.nn.relu, batch)
  layer = meanfield.Layer(jax.nn.relu, 2.0)
  if kind == "layer":
    layer = layer._replace(normalization="layer")
  backward = meanfield.trajectory([layer] * 3).backward
  return float(2 ** (backward[0] - backward[1]))


def measured_growth(log2_gradient: np.ndarray) -> np.ndarray:
  """The factor per layer [seeds], in the middle of a stack: [seeds, depth].

  The first and the last eight layers are left out: there correlations between
  inputs, and the random gradient that was put in, still settle.
  """
  middle = log2_gradient[:, 8:-8]
  slope = (middle[:, 0] - middle[:, -1]) / (middle.shape[1] - 1)
  return np.exp2(slope)
