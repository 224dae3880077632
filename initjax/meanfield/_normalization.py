"""Normalized deep networks: how much the gradient grows in each layer."""

import math

import numpy as np

from initjax._activations import evaluator, in_float64, name_of, trace
from initjax._checks import check_integer
from initjax.gains import moments
from initjax.typing import Activation

_ORDERS = 400
_PANELS, _NODES = 400, 12
_REACH = 13.0  # in units of the coordinate's standard deviation


def batch_norm_gradient_growth(
  activation: Activation, batch: int | None = None
) -> float:
  """Returns the growth of squared gradients per layer of a BatchNorm network.

  For x_{l+1} = φ(BN(W·x_l)) of infinite width, deep in the network, the second
  moment of the gradient grows from one layer to the layer before by

      batch -> ∞    E[φ'(z)²]/Var φ(z),  z ~ N(0, 1)
      linear φ      (B - 2)/(B - 3)

  whatever the variance of the weights: by π/(π - 1) = 1.467 for ReLU. It is
  above 1 for any φ: BatchNorm networks explode without skip connections.
  At batch B a unit's normalized values are √B·u, with u uniform on the sphere
  orthogonal to (1, ..., 1) in B dimensions, and the factor is

      B/((B - 1)(B - 3)) · E[tr(P·D·G·D)] / (E[φ_1²] - E[φ_1·φ_2])

  with D = diag φ'(√B·u), G = I - 11ᵀ/B and P = G - u·uᵀ.

  Args:
    activation: φ, any elementwise JAX function.
    batch: B >= 4 examples over which statistics are taken; None means many.

  Raises:
    ValueError: for batch < 4, where the mean growth is infinite; for a φ that
      is constant or jumps; and as for `moments`.

  The error is below 1e-9 (finite batch: 1e-5, for kinks away from 0).

  >>> import jax
  >>> round(batch_norm_gradient_growth(jax.nn.relu), 9), round(
  ...     batch_norm_gradient_growth(lambda x: x, batch=8), 9)
  (1.466942207, 1.2)

  Reference: Yang et al. 2019, "A Mean Field Theory of Batch Normalization",
  Theorems 3.9 and 3.10 and Appendix; the average at batch B as derived here.
  """
  m = moments(activation)
  spread = moments(lambda x: activation(x) - m.mean).second_moment
  if not math.isfinite(m.derivative_second_moment):
    raise ValueError(
      f"{name_of(activation)} jumps: its gradient under BatchNorm is infinite."
    )
  if spread <= 1e-20 * m.second_moment:
    raise ValueError(
      f"{name_of(activation)} is constant where BatchNorm puts its argument, "
      "so nothing is left to normalize in the next layer."
    )
  if batch is None:
    return float(m.derivative_second_moment / spread)
  check_integer("batch", batch, low=4)
  return _finite_batch_growth(activation, int(batch))


def _finite_batch_growth(activation: Activation, batch: int) -> float:
  """The same for B examples, from moments of one and two of them."""
  u, weights, polynomials, opposed = _sphere(batch)

  def evaluate() -> tuple[np.ndarray, np.ndarray]:
    return evaluator(trace(activation))(math.sqrt(batch) * u)

  value, slope = in_float64(evaluate)

  def single(f: np.ndarray) -> float:
    return float(weights @ f)

  def pair(f: np.ndarray) -> float:
    """E[f(u_1)·f(u_2)], by the addition theorem."""
    return float(opposed @ (polynomials @ (weights * f)) ** 2)

  centered = value - single(value)
  kernel = single(centered**2) - pair(centered)
  square, moment = single(slope**2), single((u * slope) ** 2)
  pairs = batch * (batch - 1)
  # v = diag D: tr(P·D·G·D) = Σ P_ii·v_i² - vᵀPv/B
  own = batch * ((1 - 1 / batch) * square - moment)
  total = batch * square + pairs * pair(slope)
  along = batch * moment + pairs * pair(u * slope)
  trace_ = own - (batch * square - total / batch - along) / batch
  return batch * trace_ / ((batch - 1) * (batch - 3) * kernel)


def _sphere(
  batch: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """One coordinate of a centred unit vector of B dimensions, and two.

  u = √(d/B)·t where t is a coordinate of the unit sphere in d = B - 1
  dimensions, of density (1 - t²)^((d-3)/2). Two of them are 1/d opposed, so
  E[f(u_1)·f(u_2)] = Σ_k f_k²·P_k(-1/d) over the orthonormal p_k = P_k/|P_k|.

  Returns:
    u [nodes], weights [nodes], p_k [orders, nodes], P_k(-1/d) [orders].
  """
  d = batch - 1
  reach = min(math.pi / 2, _REACH / math.sqrt(d))
  nodes, mass = np.polynomial.legendre.leggauss(_NODES)
  edges = np.linspace(-reach, reach, _PANELS + 1)
  half = np.diff(edges)[:, None] / 2
  angle = (edges[:-1, None] + half * (1 + nodes)).ravel()
  weights = (half * mass).ravel() * np.cos(angle) ** (d - 2)
  t = np.sin(angle)
  polynomials, opposed = [np.ones_like(t), t * math.sqrt(d)], [1.0, -1 / d]
  for k in range(1, _ORDERS - 1):
    before, here = opposed[-2:]
    opposed.append((-(2 * k + d - 2) / d * here - k * before) / (k + d - 2))
    low, high = _jacobi(k, d), _jacobi(k + 1, d)
    polynomials.append((t * polynomials[k] - low * polynomials[k - 1]) / high)
  scaled = math.sqrt(d / batch) * t
  return (
    scaled,
    weights / weights.sum(),
    np.stack(polynomials),
    np.array(opposed),
  )


def _jacobi(k: int, d: int) -> float:
  """a_k in t·p_k = a_{k+1}·p_{k+1} + a_k·p_{k-1}."""
  return math.sqrt(k * (k + d - 3) / ((2 * k + d - 4) * (2 * k + d - 2)))
