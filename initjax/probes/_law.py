"""What chance does to a chain of layers, and whether more than that happened.

In a chain each operation is fed by an activation of the one before. Its null
hypothesis: the weights are those that keep the signal at the size that it has
(forward), or for which χ₁ = 1 there (backward). A contracting map, such as that
of tanh, keeps it at any σ_w² above 1/φ'(0)²: there the null has the variance of
the model. Theory at the chain's own widths gives mean and covariance of all
logarithms, and generalized least squares the best estimate of the drift per
layer, with its error: for ReLU that compares the ends, for contracting maps it
averages over layers.

Reference: Hanin and Nica 2020; Roberts, Yaida and Hanin 2022; Aitken 1935.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from initjax.meanfield._tables import response_of
from initjax.meanfield._trajectory import Layer, trajectory
from initjax.probes._leaves import Leaves, kernel_variance, mean_square
from initjax.tracing import LinearOp, SignalGraph
from initjax.tracing._graph import Site, Stream
from initjax.typing import Activation, Record

_FLAT = 1e-3
_SMALL = -60.0  # log₂ of a variance at which φ is linear


class Chain(NamedTuple):
  """Rows that follow each other, and what theory needs to know of them."""

  rows: tuple[int, ...]
  """records, first layer first"""
  activations: tuple[Activation, ...]
  """φ between each of them and the next"""
  widths: tuple[int, ...]
  """units of each"""
  sigma_w2: tuple[float, ...]
  """variance of each kernel × fan_in; NaN if not known"""
  sigma_b2: np.ndarray
  """[rows]: mean square of the biases added to its output"""
  has_positions: bool
  """whether a second moment is an average over positions too"""


class Drift(NamedTuple):
  """One direction of a chain: what was measured, what the null expects."""

  measured: np.ndarray
  """[rows]: log₂ of the second moment, biases included; backward of the sum of
  squares"""
  expected: np.ndarray
  """[rows]: mean over healthy chains that start with the same number"""
  std: np.ndarray
  """[rows]: their standard deviation"""
  unsure: np.ndarray
  """[rows]: by how much that mean may be off, either way"""
  per_layer: float
  """growth in log₂ per layer beyond what is expected, in the direction that
  the signal takes"""
  error: float
  """its standard deviation by chance"""

  @property
  def sigmas(self) -> float:
    """By how many standard deviations it drifts."""
    return self.per_layer / self.error

  def margin(self, sigmas: float) -> np.ndarray:
    """[rows]: how far from `expected` a healthy chain may be."""
    return sigmas * self.std + self.unsure

  def reversed(self) -> "Drift":
    """The rows in the opposite order."""
    measured, expected, std, unsure = (part[::-1] for part in self[:4])
    return Drift(measured, expected, std, unsure, self.per_layer, self.error)


def chain_of(graph: SignalGraph, leaves: Leaves) -> Chain | None:
  """The model as a chain, its readout left out; None if it is none.

  Nobody asks of a last operation of another width that it keeps the size.
  """
  rows = list(graph.rows())
  ops = [graph.ops[index] for index, _ in rows]
  feeds = [
    op.feed_at(repeat) for op, (_, repeat) in zip(ops, rows, strict=True)
  ]
  if len(rows) < 4 or graph.opaque or graph.products:
    return None
  if _shares_kernels(graph):
    return None
  activations, sigma_b2 = [], []
  for before, feed in zip(ops[:-1], feeds[1:], strict=True):
    phi = feed.activation
    if phi is None or not _is_output(feed.stream, before.place.site):
      return None
    activations.append(phi)
    biases = (t for t in feed.stream or () if t.kind == "bias")
    squares = (mean_square(leaves[b.path]) * b.factor**2 for b in biases)
    sigma_b2.append(sum(squares))
  widths = [_units(op) for op in ops]
  count = len(ops) - (widths[-1] != widths[-2])
  return Chain(
    tuple(range(count)),
    tuple(activations[: count - 1]),
    tuple(widths[:count]),
    tuple(
      kernel_variance(op, repeat, leaves) * op.fan_in
      for op, (_, repeat) in zip(ops[:count], rows, strict=False)
    ),
    np.array([*sigma_b2, 0.0][:count]),
    any(op.kind == "convolution" for op in ops),
  )


_PARTS = frozenset(("slice", "dynamic_slice", "gather", "split"))


def _shares_kernels(graph: SignalGraph) -> bool:
  """Whether layers are not independent: recurrent ones, tied kernels."""
  whole = [op.path for op in graph if not _PARTS & set(op.view)]
  slices = (sum(s.startswith("scan[") for s in op.view) for op in graph)
  recurs = (
    n < len(op.place.scans) for op, n in zip(graph, slices, strict=True)
  )
  return len(set(whole)) < len(whole) or any(recurs)


def _is_output(stream: Stream | None, site: Site) -> bool:
  """Whether it is the output of the operation at `site`, plus biases."""
  terms = [term for term in stream or () if term.kind != "bias"]
  if len(terms) != 1 or terms[0].factor ** 2 != 1 or terms[0].scales:
    return False
  return (terms[0].kind, terms[0].site) == ("output", site)


def _units(op: LinearOp) -> int:
  """Features of the output: positions that share a kernel count once."""
  if op.leaf_shape is None or op.out_axes is None:
    return max(1, round(op.fan_out))
  return math.prod(op.leaf_shape[axis] for axis in op.out_axes)


def forward_drift(
  chain: Chain,
  bits: np.ndarray,
  first: Record,
  target: float | None = None,
) -> Drift:
  """Of the second moments.

  Args:
    chain: from `chain_of`.
    bits: log₂ second moments of all records [draws, records], finite.
    first: the record of the chain's first row, with `correlation`.
    target: the second moment, biases included, that the weights should keep;
      if None, that which most layers have.
  """
  measured = _with_biases(chain, bits).mean(axis=0)
  correlation = float(first.get("correlation", math.nan))
  known = math.isfinite(correlation)
  null = _null(
    chain,
    measured,
    target,
    correlation=min(max(correlation, -1.0), 1.0) if known else 0.0,
    batch=int(first["samples"]) if known else 1,
  )
  steps = np.arange(len(measured), dtype=float)
  return _drift(
    measured,
    null.forward,
    null.forward_drift,
    null.forward_covariance / len(bits),
    start=null.kept,
    growth=steps if target is None else null.accumulated,
    averaged=chain.has_positions,
  )


def backward_drift(
  chain: Chain, bits: Mapping[str, np.ndarray], sizes: Sequence[float]
) -> Drift:
  """Of the gradients' sums of squares.

  How the gradients of different samples correlate is not known. Their average
  is taken to scatter like one of them, which is an upper bound.

  Args:
    chain: from `chain_of`.
    bits: by direction, log₂ second moments [draws, records], finite.
    sizes: of each record, the number of entries.
  """
  rows = list(chain.rows)
  gradient = bits["backward"][:, rows]
  measured = gradient.mean(axis=0) + np.log2([max(sizes[at], 1) for at in rows])
  signal = _with_biases(chain, bits["forward"]).mean(axis=0)
  null = _null(chain, signal)
  return _drift(
    measured[::-1],
    null.backward[::-1],
    null.backward_drift[::-1],
    null.backward_covariance[::-1, ::-1] / len(gradient),
    start=np.ones(len(rows)),
    growth=np.arange(len(rows), dtype=float),
    averaged=True,
  ).reversed()


def _with_biases(chain: Chain, bits: np.ndarray) -> np.ndarray:
  with np.errstate(divide="ignore"):
    return np.logaddexp2(bits[:, list(chain.rows)], np.log2(chain.sigma_b2))


def _drift(
  measured: np.ndarray,
  expected: np.ndarray,
  drift: np.ndarray,
  covariance: np.ndarray,
  *,
  start: np.ndarray,
  growth: np.ndarray,
  averaged: bool,
) -> Drift:
  """Least squares: measured - expected = drift + a·start + b·growth + chance.

  Rows stand in the order that the signal takes. `drift` is that of the mean of
  logarithms; the logarithm of an average over more than the law knows of
  (`averaged`) drifts less, down to not at all.
  """
  ridge = 1e-9 * np.trace(covariance) / len(start)  # one row may be certain
  design = np.stack([start, growth], axis=1)
  weighted = np.linalg.solve(covariance + ridge * np.eye(len(start)), design)
  precision = np.linalg.inv(design.T @ weighted)
  since = np.eye(len(start))
  since[:, 0] -= start  # what is left of the first row's deviation is known
  variances = np.einsum("ij,jk,ik->i", since, covariance, since)
  unsure = drift / 2 if averaged else 0 * drift
  middle = expected + drift - unsure
  ends = (
    float((precision @ weighted.T @ (measured - middle + sign * unsure))[1])
    for sign in (-1, 1)
  )
  low, high = sorted(ends)
  return Drift(
    measured,
    measured[0] * start + since @ middle,
    np.sqrt(np.maximum(variances, 0.0)),
    abs(since @ unsure),
    per_layer=max(low, 0.0) + min(high, 0.0),
    error=math.sqrt(precision[1, 1]),
  )


class _Null(NamedTuple):
  """A chain of these widths and activations that keeps its signal's size."""

  forward: np.ndarray
  """[rows]: log₂ second moments, at infinite width"""
  forward_drift: np.ndarray
  """[rows]: what the mean of logarithms is above that"""
  forward_covariance: np.ndarray
  backward: np.ndarray
  """[rows]: log₂ sums of squares of a gradient with χ₁ = 1"""
  backward_drift: np.ndarray
  backward_covariance: np.ndarray
  kept: np.ndarray
  """[rows]: what is left of a deviation in the first"""
  accumulated: np.ndarray
  """[rows]: what one bit of gain too much in every layer adds up to"""


def _null(
  chain: Chain,
  measured: np.ndarray,
  target: float | None = None,
  *,
  correlation: float = 0.0,
  batch: int = 1,
) -> _Null:
  wanted = float(np.median(measured)) if target is None else math.log2(target)
  log2_sigma_w2, level = _keeping(chain, wanted), wanted
  if target is None and _contracts(chain, wanted):
    log2_sigma_w2, level = _of_the_model(chain, log2_sigma_w2)
  layers = [Layer(width=chain.widths[0])] + [
    Layer(phi, float(sigma_w2), float(sigma_b2), width)
    for phi, sigma_w2, sigma_b2, width in zip(
      chain.activations,
      np.exp2(log2_sigma_w2),
      chain.sigma_b2[1:],
      chain.widths[1:],
      strict=True,
    )
  ]
  start = 2 ** float(measured[0])
  t = trajectory(layers, second_moment=start)
  drift = t.forward_drift
  if batch > 1:  # averages of few large samples scatter like one of them
    mean = trajectory(
      layers, second_moment=start, correlation=correlation, batch=batch
    )
    drift = mean.forward_drift
  settled = float(np.median(t.forward)) if math.isnan(level) else level
  slopes = [response(phi)(settled).log2_derivative for phi in chain.activations]
  log2_chi = log2_sigma_w2 + slopes
  later = np.append(np.cumsum(log2_chi[::-1])[::-1], 0.0)
  kept, accumulated = _passed_on(chain, t.forward)
  return _Null(
    t.forward,
    drift,
    t.forward_covariance,
    t.backward + np.log2(chain.widths) - later,
    t.backward_drift,
    t.backward_covariance,
    kept,
    accumulated,
  )


def _keeping(chain: Chain, level: float) -> np.ndarray:
  """[rows - 1]: log₂ σ_w² of weights that keep a signal at that log₂ q."""
  sizes = [response(phi)(level).log2_second_moment for phi in chain.activations]
  signal = np.maximum(1 - chain.sigma_b2[1:] / 2**level, 1e-3)  # not the bias
  return level + np.log2(signal) - sizes


def _contracts(chain: Chain, level: float) -> bool:
  """Whether deviations of a signal of that log₂ q shrink."""
  slopes = (response(phi)(level).slope for phi in chain.activations)
  return max(slopes) < 1 - _FLAT


def _of_the_model(
  chain: Chain, keeping: np.ndarray
) -> tuple[np.ndarray, float]:
  """log₂ σ_w² of the model itself; log₂ q where it settles, NaN if unknown.

  Without biases σ_w² must not be below 1/φ'(0)², or the signal dies fast: on
  that edge it settles at 0.
  """
  ratios = np.log2(chain.sigma_w2[1:]) - keeping
  own = keeping + (ratios.mean() if np.isfinite(ratios).all() else 0.0)
  edge = _keeping(chain, _SMALL)
  if chain.sigma_b2.any() or (own > edge + _FLAT).all():
    return own, math.nan
  return np.maximum(own, edge), _SMALL


def _passed_on(
  chain: Chain, log2_q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """[rows]: of a deviation in the first row; of one in every layer's gain."""
  kept, accumulated = [1.0], [0.0]
  for i, phi in enumerate(chain.activations):
    signal = 1 - chain.sigma_b2[i + 1] / 2 ** log2_q[i + 1]
    slope = signal * response(phi)(log2_q[i]).slope
    kept.append(slope * kept[-1])
    accumulated.append(slope * accumulated[-1] + signal)
  return np.array(kept), np.array(accumulated)


class Moment(NamedTuple):
  """Of φ at one variance q."""

  log2_second_moment: float
  """log₂ E[φ²]"""
  slope: float
  """d log E[φ²]/d log q"""
  log2_derivative: float
  """log₂ E[φ'²]"""


@functools.lru_cache(maxsize=256)
def response(phi: Activation) -> Callable[[float], Moment]:
  """log₂ q -> moments of φ, tabulated once for each function."""
  table = response_of(phi)

  def at(log2_q: float) -> Moment:
    found = table(log2_q)
    return Moment(*(float(getattr(found, name)) for name in Moment._fields))

  return at
